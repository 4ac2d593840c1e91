"""TAESD, the small autoencoder (Boer Bohan, 2023), from its author's files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import torch
from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
from safetensors import SafetensorError
from torch import Tensor, nn

from sdserver.bundle.device import Placement
from sdserver.bundle.weights import open_weights
from sdserver.errors import CheckpointError, MissingModel, UnreadableCheckpoint
from sdserver.jobs.model import Family

Half = Literal["encoder", "decoder"]

CHANNELS: Final = 4
ENDINGS: Final = (".safetensors", ".pth")
DOWNLOADS: Final = "VAE-taesd"
"""The folder that A1111 downloads the files to, beside `VAE-approx`."""

FILES: Final[Mapping[Family, str]] = MappingProxyType({"sd1": "taesd", "sd2": "taesd", "sdxl": "taesdxl"})


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A network, or why there is none, and what tells whether its file has changed since."""

    stamp: tuple[str, int, int]
    network: nn.Module | CheckpointError


class SmallVaes:
    """The halves of TAESD, loaded when first asked for.

    Args:
        folder: A1111's `models/VAE-approx`, None for nowhere; `VAE-taesd` beside it is looked at, too.
        allow_pickle: whether .pth files may be read (weights only).
    """

    def __init__(self, folder: Path | None, placement: Placement, *, allow_pickle: bool) -> None:
        self._folder = folder
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._loaded: dict[str, _Loaded] = {}

    def decoded(self, latents: Tensor, family: Family) -> Tensor:
        """What latents (n, 4, h, w) decode to, (n, 3, height, width), float32, around -1..1.

        Raises:
            MissingModel, CheckpointError: see `get`.
        """
        values: Tensor = self.get(family, "decoder")(
            latents.to(self._placement.device, self._placement.dtype)
        )
        return values.float()

    def encoded(self, pixels: Tensor, family: Family) -> Tensor:
        """The latents (n, 4, height // 8, width // 8) of pixels (n, 3, height, width) in -1..1, float32.

        Raises:
            MissingModel, CheckpointError: see `get`.
        """
        values: Tensor = self.get(family, "encoder")(pixels.to(self._placement.device, self._placement.dtype))
        return values.float()

    def get(self, family: Family, half: Half) -> Any:
        """One half on its device.

        Raises:
            MissingModel: its file is not there.
            UnreadableCheckpoint: it is damaged, or holds something else.
            UnsupportedCheckpoint: it is a pickle and those are not allowed.
        """
        name = f"{FILES[family]}_{half}"
        path = self._find(name)
        status = path.stat()
        stamp = (str(path), status.st_mtime_ns, status.st_size)
        known = self._loaded.get(name)
        if known is None or known.stamp != stamp:
            known = self._loaded[name] = _Loaded(stamp, self._read(path, half))
        if isinstance(known.network, CheckpointError):
            raise type(known.network)(str(known.network))
        return known.network

    def clear(self) -> None:
        """Drop what is loaded, to make room on the device."""
        self._loaded.clear()

    def _read(self, path: Path, half: Half) -> nn.Module | CheckpointError:
        try:
            network = read_half(path, half, allow_pickle=self._allow_pickle)
        except CheckpointError as error:
            return error
        return network.to(self._placement.device, self._placement.dtype)

    def _find(self, name: str) -> Path:
        folders = [] if self._folder is None else [self._folder, self._folder.with_name(DOWNLOADS)]
        for path in (folder / f"{name}{ending}" for folder in folders for ending in ENDINGS):
            if path.is_file():
                return path
        where = " or ".join(f"models/{folder.name}" for folder in folders) or "a folder that is known"
        raise MissingModel(
            f"TAESD is not there: put {name}.safetensors (or, with --allow-pickle, {name}.pth) into {where}, "
            "or set the options sd_vae_encode_method and sd_vae_decode_method to Full."
        )


def read_half(path: Path, half: Half, *, allow_pickle: bool) -> nn.Module:
    """TAESD's encoder or decoder from its author's file, float32.

    Raises:
        UnreadableCheckpoint: damaged, or no such network.
        UnsupportedCheckpoint: it is a pickle and those are not allowed.
    """
    network = _empty(half)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    with open_weights(path, allow_pickle=allow_pickle) as weights:
        names = dict(_names(weights.shapes, half))
        found = {ours: weights.shapes[theirs] for theirs, ours in names.items()}
        if found != wanted:
            raise UnreadableCheckpoint(f"{path.name} holds no {half} of TAESD: download it again.")
        try:
            state = {ours: _own(weights.tensor(theirs)) for theirs, ours in names.items()}
        except (SafetensorError, OSError) as error:
            raise UnreadableCheckpoint(f"{path.name} cannot be read, download it again: {error}") from error
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _empty(half: Half) -> nn.Module:
    """The network without data, in the only size that there is."""
    widths = (64, 64, 64, 64)
    with torch.device("meta"):
        if half == "encoder":
            encoder: nn.Module = EncoderTiny(
                in_channels=3,
                out_channels=CHANNELS,
                num_blocks=(1, 3, 3, 3),
                block_out_channels=widths,
                act_fn="relu",
            )
            return encoder
        decoder: nn.Module = DecoderTiny(
            in_channels=CHANNELS,
            out_channels=3,
            num_blocks=(3, 3, 3, 1),
            block_out_channels=widths,
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )
    return decoder


def _names(names: Iterable[str], half: Half) -> Iterator[tuple[str, str]]:
    """The file's names with diffusers' own, whose decoder counts from 1, after the layer that clamps."""
    shift = 1 if half == "decoder" else 0
    for name in names:
        place, _, rest = name.partition(".")
        yield name, f"layers.{int(place) - shift}.{rest}" if place.isdecimal() else name


def _own(tensor: Tensor) -> Tensor:
    """A copy, for the file's memory goes with the file."""
    return tensor.to(torch.float32, copy=True)
