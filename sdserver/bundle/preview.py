"""What latents look like to the small autoencoder TAESD, where its file is there."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from safetensors import SafetensorError
from torch import Tensor, nn

from sdserver.bundle.colours import Colours, cheap
from sdserver.bundle.device import Placement
from sdserver.bundle.vae import picture_of
from sdserver.bundle.weights import open_weights
from sdserver.errors import CheckpointError, UnreadableCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Family

log = logging.getLogger(__name__)

PREVIEW_CHANNELS: Final = 4
ENDINGS: Final = (".safetensors", ".pth")


DECODERS: Final = MappingProxyType(
    {"sd1": "taesd_decoder", "sd2": "taesd_decoder", "sdxl": "taesdxl_decoder"}
)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file as it was looked at: what it gave, None where it cannot be used."""

    stamp: tuple[str, int, int]
    decoder: nn.Module | None


class SmallDecoders:
    """TAESD's decoders, loaded when first asked for.

    Args:
        folder: A1111's `models/VAE-approx`, None for nowhere.
        allow_pickle: whether .pth files may be read (weights only).
    """

    def __init__(self, folder: Path | None, placement: Placement, *, allow_pickle: bool) -> None:
        self._folder = folder
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._found: dict[str, _Found] = {}
        self._told: set[str] = set()

    def decode(self, latents: Tensor, family: Family, colours: Colours) -> list[Picture | Exception]:
        """Pictures, one per latent (n, 4, h, w): cheap ones where the family's file is not there."""
        decoder = self._get(DECODERS[family])
        if decoder is None:
            return cheap(latents, colours)
        images: Tensor = decoder(latents.to(self._placement.device, self._placement.dtype))
        return [picture_of(image) for image in images.float()]

    def clear(self) -> None:
        """Drop the decoders, to make room on the device."""
        self._found.clear()

    def _get(self, name: str) -> Any:
        path, stamp = self._look(name)
        if path is None:
            self._tell(name, f"there is no {name}.safetensors in {self._folder or 'a folder that is known'}")
            return None
        known = self._found.get(name)
        if known is None or known.stamp != stamp:
            known = self._found[name] = _Found(stamp, self._load(path))
        return known.decoder

    def _look(self, name: str) -> tuple[Path | None, tuple[str, int, int]]:
        """The family's file and what tells whether it changed."""
        for path in (self._folder / f"{name}{ending}" for ending in ENDINGS) if self._folder else ():
            try:
                status = path.stat()
            except OSError:
                continue
            return path, (str(path), status.st_mtime_ns, status.st_size)
        return None, ("", 0, 0)

    def _load(self, path: Path) -> nn.Module | None:
        try:
            decoder = read_decoder(path, allow_pickle=self._allow_pickle)
        except CheckpointError as error:
            self._tell(str(path), str(error))
            return None
        return decoder.to(self._placement.device, self._placement.dtype)

    def _tell(self, what: str, reason: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("previews by TAESD are made by the cheap method instead: %s", reason)


def read_decoder(path: Path, *, allow_pickle: bool) -> nn.Module:
    """TAESD's decoder from its author's file.

    Raises:
        UnreadableCheckpoint: damaged, or no such decoder.
        UnsupportedCheckpoint: it is a pickle and those are not allowed.
    """
    decoder = _empty()
    wanted = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    with open_weights(path, allow_pickle=allow_pickle) as weights:
        names = dict(_names(weights.shapes))
        found = {ours: weights.shapes[theirs] for theirs, ours in names.items()}
        if found != wanted:
            raise UnreadableCheckpoint(f"{path.name} holds no decoder of TAESD: download it again.")
        try:
            state = {ours: weights.tensor(theirs).float() for theirs, ours in names.items()}
        except (SafetensorError, OSError) as error:
            raise UnreadableCheckpoint(f"{path.name} cannot be read, download it again: {error}") from error
    decoder.load_state_dict(state, strict=True, assign=True)
    return decoder.eval().requires_grad_(requires_grad=False)


def _empty() -> nn.Module:
    """The decoder without data, in the only size that there is."""
    with torch.device("meta"):
        decoder: nn.Module = DecoderTiny(
            in_channels=PREVIEW_CHANNELS,
            out_channels=3,
            num_blocks=(3, 3, 3, 1),
            block_out_channels=(64, 64, 64, 64),
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )
    return decoder


def _names(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The file's names with diffusers' own: its layers count from 1, after the one that clamps."""
    for name in names:
        place, _, rest = name.partition(".")
        yield name, f"layers.{int(place) - 1}.{rest}" if place.isdecimal() else name
