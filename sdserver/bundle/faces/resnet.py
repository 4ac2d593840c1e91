"""ResNet-50 without its classifier, He et al. (2015): what the detector of faces sees a picture by."""

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

_STAGES: Final = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_EXPANSION: Final = 4


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut around them.

    Args:
        given: channels in.
        width: channels between; 4 times as many come out.
        stride: of the 3x3 convolution.
    """

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        made = width * _EXPANSION
        self.conv1 = nn.Conv2d(given, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, made, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or given != made:
            self.downsample = nn.Sequential(
                nn.Conv2d(given, made, 1, stride, bias=False), nn.BatchNorm2d(made)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet50(nn.Module):
    """Features of the last three stages; parameters are named as torchvision names them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        given = 64
        for number, (width, blocks, stride) in enumerate(_STAGES, 1):
            stage = nn.Sequential()
            for place in range(blocks):
                stage.append(Bottleneck(given, width, stride if place == 0 else 1))
                given = width * _EXPANSION
            self.add_module(f"layer{number}", stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        found = []
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
            found.append(x)
        return found[1:]
