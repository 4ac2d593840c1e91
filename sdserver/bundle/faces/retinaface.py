"""RetinaFace, Deng et al. (2019), on ResNet-50: the network of detection_Resnet50_Final.pth."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.faces.resnet import ResNet50

ANCHORS = 2
LEVELS = 3
_WIDTH = 256
_GIVEN = (512, 1024, 2048)


class RetinaFace(nn.Module):
    """Finds faces. Parameters are named as in the file.

    It takes pictures (n, 3, h, w): blue, green, red, 0 to 255, less `MEAN`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet50()
        self.fpn = Pyramid()
        for level in range(1, LEVELS + 1):
            self.add_module(f"ssh{level}", Context())
        self.ClassHead = _heads(2)
        self.BboxHead = _heads(4)
        self.LandmarkHead = _heads(10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is said of each anchor, from the finest level to the coarsest, row by row.

        Returns:
            Of every picture and anchor the probability that there is a face (n, anchors), how the anchor's
            box is to be moved and sized (n, anchors, 4), and where landmarks are (n, anchors, 10).
        """
        levels = self.fpn(self.body(x))
        features = [self.get_submodule(f"ssh{place}")(level) for place, level in enumerate(levels, 1)]
        classes = _said(self.ClassHead, features, 2)
        boxes = _said(self.BboxHead, features, 4)
        return functional.softmax(classes, -1)[..., 1], boxes, _said(self.LandmarkHead, features, 10)


class Pyramid(nn.Module):
    """Features of three levels, each with what the coarser ones saw."""

    def __init__(self) -> None:
        super().__init__()
        for level, given in enumerate(_GIVEN, 1):
            self.add_module(f"output{level}", _convolution(given, _WIDTH, 1, is_rectified=True))
        self.merge1 = _convolution(_WIDTH, _WIDTH, 3, is_rectified=True)
        self.merge2 = _convolution(_WIDTH, _WIDTH, 3, is_rectified=True)

    def forward(self, given: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = (
            self.get_submodule(f"output{level}")(features) for level, features in enumerate(given, 1)
        )
        middle = self.merge2(middle + functional.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + functional.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return fine, middle, coarse


class Context(nn.Module):
    """The head's context module (SSH): fields of view of 3, 5 and 7 cells."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _WIDTH // 2, _WIDTH // 4
        self.conv3X3 = _convolution(_WIDTH, half, 3)
        self.conv5X5_1 = _convolution(_WIDTH, quarter, 3, is_rectified=True)
        self.conv5X5_2 = _convolution(quarter, quarter, 3)
        self.conv7X7_2 = _convolution(quarter, quarter, 3, is_rectified=True)
        self.conv7x7_3 = _convolution(quarter, quarter, 3)

    def forward(self, x: Tensor) -> Tensor:
        wider = self.conv5X5_1(x)
        widest = self.conv7x7_3(self.conv7X7_2(wider))
        return functional.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(wider), widest], dim=1))


class Head(nn.Module):
    """Values of every anchor in every cell."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(_WIDTH, ANCHORS * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv1x1(x).permute(0, 2, 3, 1)
        return result


def _convolution(given: int, made: int, size: int, *, is_rectified: bool = False) -> nn.Sequential:
    parts: list[nn.Module] = [
        nn.Conv2d(given, made, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(made),
    ]
    return nn.Sequential(*parts, *([nn.ReLU()] if is_rectified else []))


def _heads(values: int) -> nn.ModuleList:
    return nn.ModuleList(Head(values) for _ in range(LEVELS))


def _said(heads: nn.ModuleList, features: Sequence[Tensor], values: int) -> Tensor:
    said = [head(level) for head, level in zip(heads, features, strict=True)]
    return torch.cat([each.reshape(each.shape[0], -1, values) for each in said], dim=1)
