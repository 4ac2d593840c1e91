"""ParseNet, of Chen et al. (2021), which tells parts of faces: the network of parsing_parsenet.pth."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTS: Final = 19
_FACE_PARTS: Final = frozenset(range(PARTS)) - {0, 14, 16, 17, 18}
"""All but the background, the neck, the necklace, clothes and hair are a face's own."""

_DOWN: Final = ((64, 128), (128, 256), (256, 256), (256, 256))
_UP: Final = ((256, 256), (256, 256), (256, 128), (128, 64))
_DEPTH: Final = 10
_SLOPE: Final = 0.2


class ParseNet(nn.Module):
    """Tells parts of faces. Parameters are named as in the file.

    It takes faces (n, 3, 512, 512), -1 to 1, and says of every pixel how likely each part is.
    """

    def __init__(self) -> None:
        super().__init__()
        first = Convolution(3, 64)
        self.encoder = nn.Sequential(first, *(Residual(*widths, down=True) for widths in _DOWN))
        self.body = nn.Sequential(*(Residual(256, 256) for _ in range(_DEPTH)))
        self.decoder = nn.Sequential(*(Residual(*widths, up=True) for widths in _UP))
        # The file has it; the picture that it would make is not asked for.
        self.out_img_conv = Convolution(64, 3)
        self.out_mask_conv = Convolution(64, PARTS)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        result: Tensor = self.out_mask_conv(self.decoder(features + self.body(features)))
        return result

    def own(self, x: Tensor) -> Tensor:
        """Which pixels belong to the face itself, (n, h, w), true or false."""
        likeliest: Tensor = self(x).argmax(dim=1)
        table = torch.tensor([part in _FACE_PARTS for part in range(PARTS)], device=x.device)
        return table[likeliest]


class Convolution(nn.Module):
    """A 3x3 convolution whose edges mirror the picture.

    Args:
        given, made: channels.
        stride: 2 halves the sides.
        up: whether the sides are doubled before.
        is_normed: whether batch normalisation follows, and stands for the bias.
        is_rectified: whether a leaky ReLU does.
    """

    def __init__(
        self,
        given: int,
        made: int,
        *,
        stride: int = 1,
        up: bool = False,
        is_normed: bool = False,
        is_rectified: bool = False,
    ) -> None:
        super().__init__()
        self._up, self._is_rectified = up, is_rectified
        self.conv2d = nn.Conv2d(given, made, 3, stride, bias=not is_normed)
        self.norm: nn.Module = nn.Identity()
        if is_normed:
            self.norm = Norm(made)

    def forward(self, x: Tensor) -> Tensor:
        if self._up:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.norm(self.conv2d(functional.pad(x, (1, 1, 1, 1), mode="reflect")))
        return functional.leaky_relu(x, _SLOPE) if self._is_rectified else x


class Norm(nn.Module):
    """Batch normalisation, by the name that the file has it under."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x)
        return result


class Residual(nn.Module):
    """Two convolutions and a shortcut around them, which has one where sides or channels change."""

    def __init__(self, given: int, made: int, *, down: bool = False, up: bool = False) -> None:
        super().__init__()
        stride = 2 if down else 1
        self.shortcut_func: nn.Module = nn.Identity()
        if down or up or given != made:
            self.shortcut_func = Convolution(given, made, stride=stride, up=up)
        self.conv1 = Convolution(given, made, up=up, is_normed=True, is_rectified=True)
        self.conv2 = Convolution(made, made, stride=stride, is_normed=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut_func(x) + self.conv2(self.conv1(x))
        return result
