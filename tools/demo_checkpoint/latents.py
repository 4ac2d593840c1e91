"""The demo checkpoint's latent space, fixed by design instead of learned.

A latent cell holds four linear measures of its 8x8 pixels: brightness, two opponent colours and a
brightness gradient. Flat-coloured scenes survive this almost unharmed: the mean colours of
neighbouring cells give the area covered on each side of an edge, and so the edge (the volume-of-
fluid argument); a trained decoder draws it. The UNet, in turn, has an easy space to learn: latents
are whitened thumbnails.
"""

import torch
import torch.nn.functional as F

CELL = 8
SCALE_FACTOR = 0.18215

# Centre and spread of each measure over the training scenes.
CENTRE = (-0.04, 0.25, -0.06, 0.0)
SPREAD = (0.47, 0.97, 0.50, 0.06)


def measures() -> torch.Tensor:
    """The four linear measures as a convolution kernel (4, 3, 8, 8) on pixels in [-1, 1]."""
    flat = torch.full((CELL, CELL), 1.0 / CELL**2)
    ramp = (torch.arange(CELL) - (CELL - 1) / 2) / (CELL / 2)
    tilt = (ramp[None, :] + 0.5 * ramp[:, None]) / CELL**2
    mixes = ((1 / 3, 1 / 3, 1 / 3), (1.0, 0.0, -1.0), (-0.5, 1.0, -0.5))
    rows = [torch.stack([weight * flat for weight in mix]) for mix in mixes]
    return torch.stack([*rows, torch.stack([tilt / 3] * 3)])


def encode(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (n, 3, h, w) in [-1, 1] to whitened latents (n, 4, h/8, w/8)."""
    raw = F.conv2d(pixels, measures(), stride=CELL)
    centre, spread = (torch.tensor(v).view(1, 4, 1, 1) for v in (CENTRE, SPREAD))
    return (raw - centre) / spread
