"""Soft inpainting: original and painted latents blended by the mask's shade, as in AUTOMATIC1111."""

from typing import Final

import torch
from torch import Tensor

from sdserver.images.soft import changed
from sdserver.jobs.job import SoftInpainting

_TINY: Final = 1e-5


def shade(paint: Tensor, level: float, soft: SoftInpainting) -> Tensor:
    """The mask for one evaluation: the noisier, the more is kept where it is between 0 and 1.

    Args:
        paint: (1, h, w), 1 where to paint.
        level: the sigma, or the timestep for samplers that walk those.
        soft: the job's.
    """
    return torch.pow(paint, level**soft.power * soft.scale)


def interpolated(original: Tensor, painted: Tensor, share: Tensor, detail: float) -> Tensor:
    """Each cell's vectors mixed, with a magnitude that is mixed on its own: a mean of the power `detail`.

    Args:
        original: (channels, h, w).
        painted: likewise.
        share: (1, h, w): of the painted one.
        detail: above 1 the magnitude is nearer to the larger one.
    """
    # Large powers overflow in fp32; Apple's devices have nothing wider.
    wide = torch.float32 if original.device.type == "mps" else torch.float64
    mixed = original * (1 - share) + painted * share
    present = _magnitude(mixed).to(wide) + _TINY
    first = _magnitude(original).to(wide) ** detail * (1 - share)
    second = _magnitude(painted).to(wide) ** detail * share
    wanted = (first + second) ** (1 / detail)
    return mixed * (wanted / present).to(mixed.dtype)


def new_parts(painted: Tensor, original: Tensor, paint: Tensor, soft: SoftInpainting) -> bytes:
    """How much of each cell's picture is new, 0 to 255: see `images.soft.changed`."""
    distance = _magnitude(painted - original)[0]
    return changed(distance.cpu().numpy(), paint[0].cpu().numpy(), soft)


def _magnitude(latent: Tensor) -> Tensor:
    return latent.square().sum(0, keepdim=True).sqrt()
