"""Load a checkpoint: a single file in the original layout, or a diffusers folder. Never the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sdserver.bundle.convert import text_sources, unet_sources, vae_sources
from sdserver.bundle.detect import Detected, detect
from sdserver.bundle.device import Placement
from sdserver.bundle.dims import UNET, VAE
from sdserver.bundle.fill import check_tensors, number_positions, read_state
from sdserver.bundle.folder import prepare_folder
from sdserver.bundle.parts import Parts, Reader, empty_text, empty_unet, empty_vae, numbers_of
from sdserver.bundle.sidecar import read_sidecar
from sdserver.bundle.weights import Weights, open_weights
from sdserver.errors import CheckpointError, UnreadableCheckpoint, UnsupportedCheckpoint


@contextmanager
def prepare(path: Path, *, allow_pickle: bool) -> Iterator[Reader]:
    """Check all that can be checked without reading data; then yield what reads it to the device.

    The two are apart so that a checkpoint in use need not make room for one that cannot be loaded.
    Data are read tensor by tensor, each converted on its own.

    Raises:
        UnreadableCheckpoint: missing, damaged, or not a checkpoint.
        UnsupportedCheckpoint: of a family or layout that is not served.
        RuntimeError: while reading: the device's memory does not suffice.
    """
    if path.is_dir():
        with prepare_folder(path) as read_folder:
            yield read_folder
        return
    with open_weights(path, allow_pickle=allow_pickle) as weights:
        try:
            detected = detect(weights, read_sidecar(path))
            frame = Frame(detected, weights)
        except CheckpointError as error:
            raise type(error)(f"{path.name}: {error}") from error
        except (ValueError, RuntimeError, IndexError) as error:
            raise UnsupportedCheckpoint(f"{path.name}: its dimensions make no network ({error}).") from error

        def read(placement: Placement) -> Parts:
            try:
                return frame.fill(placement)
            except (SafetensorError, OSError) as error:
                raise UnreadableCheckpoint(
                    f"{path.name} cannot be read, download it again: {error}"
                ) from error

        yield Reader(detected.spec.family, frame.numbers, read)


class Frame:
    """The empty networks of an open file, with the place in the file of each tensor."""

    def __init__(self, detected: Detected, weights: Weights) -> None:
        names = frozenset(weights.shapes)
        layout = detected.layout
        self._weights = weights
        self._spec = detected.spec
        self._unet = empty_unet(layout.unet)
        self._vae = empty_vae(layout.vae)
        self._text = tuple(empty_text(spec) for spec in layout.text)
        prefixes = (UNET, VAE, *(spec.prefix for spec in layout.text))
        sources = (
            unet_sources(layout.unet, names),
            vae_sources(layout.vae, names),
            *(text_sources(spec, names) for spec in layout.text),
        )
        self._plan = tuple(zip((self._unet, self._vae, *self._text), sources, strict=True))
        for (module, found), prefix in zip(self._plan, prefixes, strict=True):
            check_tensors(module, found, weights.shapes, prefix)

    @property
    def numbers(self) -> int:
        """How many the networks consist of."""
        return numbers_of(module for module, _ in self._plan)

    def fill(self, placement: Placement) -> Parts:
        """Read the data. May be called once."""
        for module, sources in self._plan:
            read_state(module, self._weights, sources, placement)
        for text in self._text:
            number_positions(text, placement)
        return Parts(self._spec, self._unet, self._vae, self._text)
