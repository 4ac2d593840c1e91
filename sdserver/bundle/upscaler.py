"""Networks that enlarge pictures: ESRGAN and its relatives, through spandrel."""

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdserver.bundle.device import Placement
from sdserver.bundle.memory import is_out_of_memory
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.images.tiles import combine, enlarged, split
from sdserver.jobs.events import Picture
from sdserver.jobs.job import UpscalerTiles

_KEPT = 2
_PICKLED = (".pth", ".pt", ".ckpt", ".bin")
_COLOURS = 3
_DAMAGES = (SafetensorError, UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError)
_BORROWED = ("InterpolationMode", "rotate", "normalize")


class Upscalers:
    """The networks used last, in fp32 as A1111 runs them.

    Args:
        allow_pickle: whether .pth files and the like may be read (weights only).
    """

    def __init__(self, placement: Placement, *, allow_pickle: bool) -> None:
        self._device = placement.device
        self._allow_pickle = allow_pickle
        self._loaded: OrderedDict[tuple[str, int, int], Any] = OrderedDict()

    def enlarge(self, path: str, picture: Picture, asked: UpscalerTiles) -> Picture:
        """The picture larger by the network's factor, made in tiles.

        Raises:
            UnreadableCheckpoint: the file is missing, damaged, or no upscaler.
            UnsupportedCheckpoint: it is a pickle and those are not allowed, or of an unknown kind.
            RuntimeError: the device's memory does not suffice.
        """
        network = self._get(path)
        whole = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
        if asked.side == 0:
            result = _run(network, whole, self._device)
        else:
            tiles = split(whole, asked.side, asked.side, asked.overlap)
            images = [[_run(network, tile.image, self._device) for tile in row] for row in tiles.rows]
            result = combine(enlarged(tiles, images, images[0][0].width // asked.side))
        return Picture(result.width, result.height, result.tobytes())

    def clear(self) -> None:
        """Drop the networks, to make room on the device."""
        self._loaded.clear()

    def _get(self, path: str) -> Any:
        try:
            status = Path(path).stat()
        except OSError as error:
            raise UnreadableCheckpoint(f"The upscaler {Path(path).name} cannot be read: {error}") from error
        key = path, status.st_mtime_ns, status.st_size
        if key not in self._loaded:
            while len(self._loaded) >= _KEPT:
                self._loaded.popitem(last=False)
            self._loaded[key] = _load(Path(path), self._device, allow_pickle=self._allow_pickle)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def _run(network: Any, image: Image.Image, device: torch.device) -> Image.Image:
    """One tile. The network takes and gives blue, green, red, 0 to 1; results are rounded."""
    values = np.ascontiguousarray(np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)) / 255
    given = torch.from_numpy(values).to(device, torch.float32).unsqueeze(0)
    result = network(given)[0].float().clamp(0, 1).mul(255).round()
    pixels = result.to(torch.uint8).flip(0).permute(1, 2, 0).contiguous().cpu()
    return Image.fromarray(pixels.numpy())


def _load(path: Path, device: torch.device, *, allow_pickle: bool) -> Any:
    """A network on the device, as spandrel describes it: a function of pictures (n, 3, h, w)."""
    if path.suffix.lower() in _PICKLED and not allow_pickle:
        raise UnsupportedCheckpoint(
            f"The upscaler {path.name} is a pickle, which may hold code: use a .safetensors file"
            " or allow pickles."
        )
    with torchvision_stood_in():
        import spandrel  # noqa: PLC0415 - only where a picture is enlarged
    try:
        state = spandrel.canonicalize_state_dict(_state(path))
        network = spandrel.ModelLoader(device).load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise UnsupportedCheckpoint(f"The upscaler {path.name} is of a kind that is not known.") from error
    except _DAMAGES as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableCheckpoint(f"The upscaler {path.name} cannot be read: {reason}") from error
    channels = (network.input_channels, network.output_channels)
    if not isinstance(network, spandrel.ImageModelDescriptor) or channels != (_COLOURS, _COLOURS):
        raise UnsupportedCheckpoint(f"The file {path.name} holds no network that enlarges colour pictures.")
    return network.to(torch.float32).eval()


def _state(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".safetensors":
        return dict(load_file(path))
    if path.suffix.lower() not in _PICKLED:
        raise UnsupportedCheckpoint(f"The upscaler {path.name} is of a kind that is not known.")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError("it holds no tensors by name")
    return dict(content)


@contextmanager
def torchvision_stood_in() -> Iterator[None]:
    """Let spandrel be imported where torchvision is not installed.

    Two of its kinds of networks, for inpainting and for faces, take functions from it by name at import;
    none that enlarges pictures calls them.
    """
    if "spandrel" in sys.modules or find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    stand_ins = {name: ModuleType(name) for name in names}
    for borrowed in _BORROWED:
        setattr(stand_ins[names[-1]], borrowed, _missing)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _missing(*_given: object, **_named: object) -> object:
    raise UnsupportedCheckpoint("This kind of network needs the package torchvision.")
