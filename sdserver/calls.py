"""All that a program may ask of the device. Programs and the bundle meet only here.

A program yields one call, or a list of calls that may run together, and is sent the result, or the
list of results. Calls with equal `batch_key` run as one batch.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from sdserver.jobs.events import Picture, PreviewMethod
from sdserver.jobs.job import Prompt, Size
from sdserver.jobs.model import Model

SHARED_LENGTHS: Final = frozenset(77 * chunks for chunks in (1, 2, 3, 4, 6, 12))
"""Of contexts, in tokens, that may share a batch: 12 chunks are a multiple of each."""

Key = tuple[Hashable, ...]
"""What calls must share to run as one batch; the first part names their kind."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """An encoded text.

    Attributes:
        context: (tokens, width): what cross-attention sees; tokens is a multiple of 77.
        vector: (width,): SDXL's pooled text and size embedding, None for other families.
        embeddings: names of the textual inversions found in the text, in order.
    """

    context: Tensor
    vector: Tensor | None = None
    embeddings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UseModel:
    """Have the checkpoint, its VAE and its adapters loaded. Result: `ModelFacts`."""

    model: Model

    def batch_key(self) -> Key:
        return ("use", self.model)


@dataclass(frozen=True, slots=True)
class EncodeText:
    """Encode one plain prompt (no schedules, no AND). Result: `Conditioning`.

    Attributes:
        text: may hold emphasis and BREAK.
        prompt: how the text is to be read; its own texts are not looked at.
        size: the size of the pass being run (SDXL conditions on it).
        is_negative: SDXL zeroes an empty negative prompt.
        variants: every text of the timeline that `text` belongs to, in order and with repeats, `text`
            among them; empty if it stands alone. A1111 encodes them in one call, so they share the
            number of chunks and the mean that emphasis "Original" restores.
    """

    model: Model
    text: str
    prompt: Prompt
    size: Size
    is_negative: bool
    variants: tuple[str, ...] = ()

    def batch_key(self) -> Key:
        return ("text", self.model.checkpoint, self.model.adapters, self.model.embeddings)


@dataclass(frozen=True, slots=True, eq=False)
class Predict:
    """One UNet row: what the network outputs (epsilon or v). Result: (channels, h, w), float32.

    Attributes:
        x: (channels, h, w), already scaled to the network's input; for an inpainting checkpoint with
            the mask and the masked picture's latent behind it, 9 channels.
        timestep: 0..999, may be fractional.
        evaluation: which one of its pass, counted from 0; it matters where attention is tiled at random.
    """

    model: Model
    x: Tensor
    timestep: float
    conditioning: Conditioning
    evaluation: int = 0

    def batch_key(self) -> Key:
        model, attention = self.model, self.model.attention.of_unet()
        tokens = self.conditioning.context.shape[0]
        drawn = self.evaluation if attention.unet else 0
        same = (model.checkpoint, model.adapters, model.tiling, attention, drawn)
        return ("predict", tuple(self.x.shape), *same, None if tokens in SHARED_LENGTHS else tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Decode a latent (channels, h, w). Result: `jobs.events.Picture`.

    Attributes:
        as_values: the result is what the VAE says instead, (3, height, width), float32, around -1..1:
            neither clamped nor rounded.
    """

    model: Model
    latent: Tensor
    as_values: bool = False

    def batch_key(self) -> Key:
        model = self.model
        shape = tuple(self.latent.shape)
        same = (model.checkpoint, model.vae, model.tiling, model.attention.of_vae())
        return ("decode", *same, self.as_values, shape)


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """Encode pixels (3, height, width) in -1..1. Result: (channels, height // 8, width // 8), float32.

    The posterior's mode, not a sample of it: a picture must not depend on numbers drawn elsewhere.
    """

    model: Model
    pixels: Tensor

    def batch_key(self) -> Key:
        model = self.model
        return ("encode", model.checkpoint, model.vae, model.tiling, tuple(self.pixels.shape))


@dataclass(frozen=True, slots=True)
class Upscale:
    """Enlarge a picture by a network, once. Result: `jobs.events.Picture`, larger by the network's factor."""

    upscaler: str
    picture: Picture

    def batch_key(self) -> Key:
        return ("upscale", self.upscaler, self.picture.width, self.picture.height)


@dataclass(frozen=True, slots=True)
class Caption:
    """Describe a picture by a network. Result: text.

    Attributes:
        network: its folder.
        beams, min_length, max_length: see `jobs.job.Describe`.
    """

    network: str
    picture: Picture
    beams: int
    min_length: int
    max_length: int

    def batch_key(self) -> Key:
        return ("caption", self.network, self.beams, self.min_length, self.max_length)


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """What a latent (channels, h, w) looks like, for the eyes alone. Result: `jobs.events.Picture`, of the
    latent's size where the method is "cheap", of the picture's with others.

    It never loads a checkpoint and leaves no trace in later results. The engine makes it, no program.
    """

    model: Model
    latent: Tensor
    method: PreviewMethod

    def batch_key(self) -> Key:
        model = self.model
        shape = tuple(self.latent.shape)
        return ("preview", self.method, model.checkpoint, model.vae, model.tiling, shape)


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Tell the job's client how far it is. Runs on the host at once. Result: None.

    Attributes:
        step, steps: evaluations done and in all.
        model: that evaluated last, None where none did.
        latent: (channels, h, w): the latest denoised one, not to be changed; None where there is none.
    """

    step: int
    steps: int
    model: Model | None = None
    latent: Tensor | None = None


class Interrupted(Exception):
    """Thrown into a program to have it finish early with the picture it has so far."""


DeviceCall = UseModel | EncodeText | Predict | Decode | Encode | Upscale | Caption | Preview
Call = DeviceCall | Report
