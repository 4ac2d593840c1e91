"""Pictures and masks as tensors."""

import numpy as np
import torch
from torch import Tensor

from sdserver.jobs.events import Picture


def to_pixels(picture: Picture, device: str) -> Tensor:
    """The picture as (3, height, width) in -1..1, float32."""
    levels = np.frombuffer(picture.pixels, dtype=np.uint8).reshape(picture.height, picture.width, 3)
    shares = torch.from_numpy(levels.astype(np.float32) / 255).permute(2, 0, 1).contiguous()
    return (shares * 2 - 1).to(device)


def to_plane(values: bytes, width: int, height: int, device: str) -> Tensor:
    """Bytes 0..255 as (1, height, width) in 0..1, float32."""
    plane = np.frombuffer(values, dtype=np.uint8).reshape(1, height, width)
    return torch.from_numpy(plane.astype(np.float32) / 255).to(device)
