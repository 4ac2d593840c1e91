"""All that a program may ask of the device. Programs and the bundle meet only here.

A program yields one call, or a list of calls that may run together, and is sent the result, or the
list of results. Calls with equal `batch_key` run as one batch.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from sdserver.jobs.job import Emphasis, Size

Key = tuple[Hashable, ...]
"""What calls must share to run as one batch; the first part names their kind."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """An encoded text.

    Attributes:
        context: (tokens, width): what cross-attention sees; tokens is a multiple of 77.
        vector: (width,): SDXL's pooled text and size embedding, None for other families.
    """

    context: Tensor
    vector: Tensor | None = None


@dataclass(frozen=True, slots=True)
class UseModel:
    """Have the checkpoint loaded. Result: `ModelFacts`."""

    checkpoint: str

    def batch_key(self) -> Key:
        return ("use", self.checkpoint)


@dataclass(frozen=True, slots=True)
class EncodeText:
    """Encode one plain prompt (no schedules, no AND). Result: `Conditioning`.

    Attributes:
        text: may hold emphasis and BREAK.
        size: the size of the pass being run (SDXL conditions on it).
        is_negative: SDXL zeroes an empty negative prompt.
        variants: every text of the timeline that `text` belongs to, in order and with repeats, `text`
            among them; empty if it stands alone. A1111 encodes them in one call, so they share the
            number of chunks and the mean that emphasis "Original" restores.
    """

    model: str
    text: str
    clip_skip: int
    emphasis: Emphasis
    comma_padding_backtrack: int
    size: Size
    is_negative: bool
    variants: tuple[str, ...] = ()

    def batch_key(self) -> Key:
        return ("text", self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Predict:
    """One UNet row: what the network outputs (epsilon or v). Result: (channels, h, w), float32.

    Attributes:
        x: (channels, h, w), already scaled to the network's input; for an inpainting checkpoint with
            the mask and the masked picture's latent behind it, 9 channels.
        timestep: 0..999, may be fractional.
    """

    model: str
    x: Tensor
    timestep: float
    conditioning: Conditioning

    def batch_key(self) -> Key:
        return ("predict", self.model, tuple(self.x.shape), self.conditioning.context.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Decode a latent (channels, h, w). Result: `jobs.events.Picture`."""

    model: str
    latent: Tensor

    def batch_key(self) -> Key:
        return ("decode", self.model, tuple(self.latent.shape))


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """Encode pixels (3, height, width) in -1..1, sides multiples of 8. Result: (channels, h, w), float32.

    The posterior's mode, not a sample of it: a picture must not depend on numbers drawn elsewhere.
    """

    model: str
    pixels: Tensor

    def batch_key(self) -> Key:
        return ("encode", self.model, tuple(self.pixels.shape))


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the job's client how far it is. Runs on the host at once. Result: None."""

    step: int
    steps: int


class Interrupted(Exception):
    """Thrown into a program to have it finish early with the picture it has so far."""


DeviceCall = UseModel | EncodeText | Predict | Decode | Encode
Call = DeviceCall | Report
