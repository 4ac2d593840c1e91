"""What latents look like, at once: each cell is a colour, a linear map of its channels."""

import math
from types import MappingProxyType
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sdserver.bundle.vae import Autoencoder
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Family

ROWS, COLUMNS = 8, 8
CELLS_A_PATCH: Final = 2
SPREAD: Final = 1.5
CHANNELS: Final = 4


class Colours(NamedTuple):
    """What each channel of a latent adds to red, green and blue, of -1..1, and what they are without."""

    factors: tuple[tuple[float, float, float], ...]
    base: tuple[float, float, float]


# Published by K. Turner for Stable Diffusion 1 ("Decoding latents to RGB without upscaling"), whose
# autoencoder is that of Stable Diffusion 2 too.
_SD: Final = Colours(
    ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473)),
    (0.0, 0.0, 0.0),
)
# Published by T. A. Vass ("Explaining the SDXL latent space"), there in levels of 0..255.
_SDXL: Final = Colours(
    (
        (60 / 127.5, 60 / 127.5, 60 / 127.5),
        (-60 / 127.5, -5 / 127.5, 10 / 127.5),
        (25 / 127.5, 15 / 127.5, -5 / 127.5),
        (-70 / 127.5, -50 / 127.5, -35 / 127.5),
    ),
    (150 / 127.5 - 1, 140 / 127.5 - 1, 130 / 127.5 - 1),
)
COLOURS: Final = MappingProxyType({"sd1": _SD, "sd2": _SD, "sdxl": _SDXL})


def cheap(latents: Tensor, colours: Colours) -> list[Picture | Exception]:
    """Pictures of the latents' size, one per latent (n, 4, h, w)."""
    factors = torch.tensor(colours.factors, device=latents.device)
    base = torch.tensor(colours.base, device=latents.device)
    values = torch.einsum("nchw,cr->nhwr", latents.float(), factors) + base
    levels = (((values + 1) / 2).clamp(0, 1) * 255).nan_to_num().to(torch.uint8).cpu()
    _, height, width, _ = levels.shape
    return [Picture(width, height, rows.numpy().tobytes()) for rows in levels]


class Palettes:
    """The colours of autoencoders: their family's, or found out where a VAE is of another size and so has
    latents of its own.
    """

    def __init__(self) -> None:
        self._fitted: WeakKeyDictionary[Autoencoder, Colours] = WeakKeyDictionary()

    def of(self, vae: Autoencoder, family: Family) -> Colours:
        """The colours of a VAE's latents."""
        if vae.is_original:
            return COLOURS[family]
        if vae not in self._fitted:
            self._fitted[vae] = fitted(vae) or COLOURS[family]
        return self._fitted[vae]


def fitted(vae: Autoencoder, channels: int = CHANNELS) -> Colours | None:
    """The linear map that comes nearest to what the VAE makes of many latents, None if it makes nothing."""
    # Multiples of irrational numbers fill a space evenly (a Kronecker sequence).
    steps = torch.arange(1, ROWS * COLUMNS + 1, dtype=torch.float64)[:, None]
    shares = (steps * torch.arange(2, 2 + channels, dtype=torch.float64).mul(math.pi).sqrt()).remainder(1)
    patches = ((shares * 2 - 1) * SPREAD).T.reshape(channels, ROWS, COLUMNS)
    latent = patches.repeat_interleave(CELLS_A_PATCH, 1).repeat_interleave(CELLS_A_PATCH, 2).float()
    (picture,) = vae.look(latent[None])
    if not isinstance(picture, Picture):
        return None
    levels = torch.frombuffer(bytearray(picture.pixels), dtype=torch.uint8)
    shown = levels.reshape(1, picture.height, picture.width, 3).permute(0, 3, 1, 2).double() / 127.5 - 1
    wanted = adaptive_avg_pool2d(shown, (ROWS, COLUMNS))[0].flatten(1).T
    known = torch.cat([patches.flatten(1).T, torch.ones(ROWS * COLUMNS, 1)], dim=1)
    found = torch.linalg.lstsq(known, wanted).solution
    *factors, base = [(float(red), float(green), float(blue)) for red, green, blue in found]
    return Colours(tuple(factors), base)
