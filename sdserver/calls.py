"""All that a program may ask of the device. Programs and the bundle meet only here.

A program yields one call, or a list of calls that may run together, and is sent the result, or the
list of results. Calls with equal `batch_key` run as one batch.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from sdserver.jobs.events import Picture, PreviewMethod
from sdserver.jobs.job import USUAL_TILES, FaceRestorer, Prompt, Size, UpscalerTiles
from sdserver.jobs.model import Model

SHARED_LENGTHS: Final = frozenset(77 * chunks for chunks in (1, 2, 3, 4, 6, 12))
"""Of contexts, in tokens, that may share a batch: 12 chunks are a multiple of each."""

Scores = tuple[tuple[str, float], ...]
"""Names, each with a number of 0..1."""

Landmarks = tuple[tuple[tuple[float, float], ...], ...]
"""Of every face five points (x, y): its eyes, the tip of its nose, the corners of its mouth."""

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
        return ("text", self.model.weights, self.model.adapters, self.model.embeddings)


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
        same = (model.weights, model.adapters, model.tiling, attention, drawn)
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
        same = (model.weights, model.vae, model.decoder, model.tiling, model.attention.of_vae())
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
        same = (model.weights, model.vae, model.encoder, model.tiling)
        return ("encode", *same, tuple(self.pixels.shape))


@dataclass(frozen=True, slots=True)
class Upscale:
    """Enlarge a picture by a network, once. Result: `jobs.events.Picture`, larger by the network's factor."""

    upscaler: str
    picture: Picture
    tiles: UpscalerTiles = USUAL_TILES

    def batch_key(self) -> Key:
        return ("upscale", self.upscaler, self.tiles, self.picture.width, self.picture.height)


@dataclass(frozen=True, slots=True)
class Caption:
    """Describe a picture by a network. Result: text.

    Attributes:
        network: its folder or file.
        beams, min_length, max_length, vocabulary: see `jobs.job.Describe`.
    """

    network: str
    picture: Picture
    beams: int
    min_length: int
    max_length: int
    vocabulary: str = ""

    def batch_key(self) -> Key:
        search = (self.beams, self.min_length, self.max_length)
        return ("caption", self.network, self.vocabulary, *search)


@dataclass(frozen=True, slots=True)
class Score:
    """How well each label of DeepDanbooru fits a picture. Result: `Scores`, in the network's order."""

    network: str
    picture: Picture

    def batch_key(self) -> Key:
        return ("score", self.network)


@dataclass(frozen=True, slots=True)
class PictureFeature:
    """Where CLIP sees a picture. Result: (width,), float32, of length 1, on the CPU.

    Attributes:
        network: its file or folder.
    """

    network: str
    picture: Picture

    def batch_key(self) -> Key:
        return ("feature", self.network)


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Where CLIP sees some texts. Result: (texts, width), float32, rows of length 1, on the CPU."""

    network: str
    texts: tuple[str, ...]

    def batch_key(self) -> Key:
        return ("text features", self.network, self.texts)


@dataclass(frozen=True, slots=True)
class FindFaces:
    """Find the faces in a picture. Result: `Landmarks`, of the surest face first."""

    restorer: FaceRestorer
    picture: Picture

    def batch_key(self) -> Key:
        return ("faces", "find", self.restorer)


@dataclass(frozen=True, slots=True)
class RestoreFace:
    """Make a face clear. Result: `jobs.events.Picture`.

    Attributes:
        face: upright, 512 x 512 pixels, and so is the result.
    """

    restorer: FaceRestorer
    face: Picture

    def batch_key(self) -> Key:
        return ("faces", "restore", self.restorer)


@dataclass(frozen=True, slots=True)
class ParseFace:
    """Tell which pixels of a face are its own, not hair or background. Result: a byte each, 255 or 0.

    Attributes:
        face: upright, 512 x 512 pixels.
    """

    restorer: FaceRestorer
    face: Picture

    def batch_key(self) -> Key:
        return ("faces", "parse", self.restorer)


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
        return ("preview", self.method, model.weights, model.vae, model.tiling, shape)


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


WithoutModel = Upscale | Caption | Score | PictureFeature | TextFeatures | FindFaces | RestoreFace | ParseFace
"""Calls of programs that no checkpoint is needed for."""

DeviceCall = UseModel | EncodeText | Predict | Decode | Encode | WithoutModel | Preview
Call = DeviceCall | Report
