"""What an inpainting checkpoint takes beside the latent: a mask, and the latent of a masked picture."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sdserver.calls import Encode
from sdserver.jobs.job import Size
from sdserver.jobs.model import ModelFacts


def all_to_paint(model: ModelFacts, size: Size) -> Generator[Encode, Any, Tensor]:
    """That all is to be painted and nothing of a picture is given, (5, h, w): ones, and grey encoded."""
    grey = torch.zeros(3, size.height, size.width, device=model.device)
    latent: Tensor = yield Encode(model.model, grey)
    return torch.cat([torch.ones_like(latent[:1]), latent])


def masked_picture(
    model: ModelFacts, pixels: Tensor, mask: Tensor, weight: float
) -> Generator[Encode, Any, Tensor]:
    """The mask in the latent's size, and the latent of the picture with a hole, (5, h, w).

    Args:
        model: that encodes.
        pixels: (3, height, width) in -1..1.
        mask: (1, height, width), 1 where to paint.
        weight: how grey the hole is, 0 to 1; at 0 there is none.
    """
    holed = torch.lerp(pixels, pixels * (1.0 - mask), weight)
    # Whatever else encodes the job's pictures: A1111's way.
    latent: Tensor = yield Encode(replace(model.model, encoder="full"), holed)
    small = interpolate(mask[None], size=latent.shape[-2:])[0]
    return torch.cat([small, latent])
