"""Upscaling networks: what A1111 lists known files as."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

REAL_ESRGAN: Final[Mapping[str, tuple[str, int]]] = {
    "realesr-general-x4v3": ("R-ESRGAN General 4xV3", 4),
    "realesr-general-wdn-x4v3": ("R-ESRGAN General WDN 4xV3", 4),
    "realesr-animevideov3": ("R-ESRGAN AnimeVideo", 4),
    "RealESRGAN_x4plus": ("R-ESRGAN 4x+", 4),
    "RealESRGAN_x4plus_anime_6B": ("R-ESRGAN 4x+ Anime6B", 4),
    "RealESRGAN_x2plus": ("R-ESRGAN 2x+", 2),
}
"""Name and factor by file name, in A1111's order; they hold in the folders of Real-ESRGAN alone."""

FACTOR: Final = 4
"""What A1111 shows for every other network, whatever its factor is."""


def real_esrgan_name(path: Path) -> str:
    """The name a file in Real-ESRGAN's folder is listed under."""
    return REAL_ESRGAN.get(path.stem, (path.stem, FACTOR))[0]


def listed_factor(name: str) -> int:
    """The factor that a network of that name is listed with."""
    return next((factor for shown, factor in REAL_ESRGAN.values() if shown == name), FACTOR)


def is_real_esrgan(name: str) -> bool:
    """Whether a network has one of Real-ESRGAN's names."""
    return any(shown == name for shown, _ in REAL_ESRGAN.values())
