"""Networks for faces in the layouts of the known files; each tensor is one number, so the files are small."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sdserver.bundle.faces.parsenet import ParseNet
from sdserver.bundle.faces.retinaface import RetinaFace
from sdserver.bundle.upscaler import torchvision_stood_in

with torchvision_stood_in():
    from spandrel.architectures.GFPGAN.__arch.gfpganv1_clean_arch import GFPGANv1Clean

DETECTOR, PARSER = "detection_Resnet50_Final.pth", "parsing_parsenet.pth"
GFPGAN, CODEFORMER = "GFPGANv1.4.pth", "codeformer-v0.1.0.pth"
COARSEST_SIDE = 512
FIRST_CENTRE = 16.0
GAIN = 0.3
SKIN = 1


def constant(network: type[nn.Module], gain: float = 0.0) -> dict[str, Tensor]:
    """Parameters by name; those with more than one axis let about `gain` of their input through."""
    with torch.device("meta"):
        tensors = network().state_dict()
    return {name: _constant(name, tensor, gain) for name, tensor in tensors.items()}


def _constant(name: str, like: Tensor, gain: float) -> Tensor:
    if like.ndim >= 2:
        value = gain / math.prod(like.shape[1:])
    else:
        value = 0.0 if name.endswith(("bias", "mean")) else 1.0
    return torch.full((), value).to(like.dtype).expand(like.shape)


def detector(landmarks: Iterable[tuple[float, float]] = ()) -> dict[str, Tensor]:
    """A detector that sees one face, with these landmarks in pixels of what it is given, or none."""
    tensors = constant(RetinaFace)
    points = [(value - FIRST_CENTRE) / (0.1 * COARSEST_SIDE) for point in landmarks for value in point]
    for level in range(3):
        classes, boxes, marks = torch.zeros(2, 2), torch.zeros(2, 4), torch.zeros(2, 10)
        classes[:, 0] = 9.0
        if points and level == 2:
            # Only the largest anchors, whose boxes are then so large that one is left.
            classes[1], boxes[1, 2:], marks[1] = torch.tensor([0.0, 9.0]), 20.0, torch.tensor(points)
        for name, values in (("ClassHead", classes), ("BboxHead", boxes), ("LandmarkHead", marks)):
            tensors[f"{name}.{level}.conv1x1.bias"] = values.flatten()
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def parser() -> dict[str, Tensor]:
    """Takes all of a face for skin."""
    tensors = constant(ParseNet)
    parts = torch.zeros(19)
    parts[SKIN] = 1.0
    return {**tensors, "out_mask_conv.conv2d.bias": parts}


def gfpgan() -> Mapping[str, object]:
    """Makes every face one shade, bright and without colour."""
    return {"params_ema": constant(GFPGANv1Clean, GAIN)}


def write_faces(models: Path, landmarks: Iterable[tuple[float, float]] = ()) -> Path:
    """Write models/GFPGAN with all that GFPGAN takes; its folder."""
    folder = models / "GFPGAN"
    folder.mkdir(parents=True)
    torch.save(detector(landmarks), folder / DETECTOR)
    torch.save(parser(), folder / PARSER)
    torch.save(gfpgan(), folder / GFPGAN)
    return folder
