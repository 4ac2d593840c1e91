"""What a job reports. Every job ends in exactly one of Finished, Failed and Cancelled."""

from dataclasses import dataclass
from typing import Literal

PreviewMethod = Literal["cheap", "taesd", "full"]
"""How a preview is made: a linear map of the latent, a small autoencoder, or the VAE itself."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image: rows of RGB bytes, `height * width * 3` in all."""

    width: int
    height: int
    pixels: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """The engine began to work on the job."""

    job: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `steps` evaluations of the denoiser are done."""

    job: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Previewed:
    """What the picture looks like after `step` evaluations; of the latent's size or of the picture's."""

    job: str
    step: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Used:
    """What turned out while the job ran and belongs into its infotext.

    Attributes:
        embeddings: names of the textual inversions found in the first pass's prompts, in the
            infotext's order, where one that several texts hold stands several times.
        inpainting: whether the checkpoint took mask and masked picture beside the latent.
        refined: whether a refiner took over, in any pass.
        skipped_uncond: whether `Guidance.min_uncond` left out the negative prompt at least once.
        padded: whether contexts of different length met and `Guidance.padding` levelled them.
        fp8: whether the checkpoint's weights lay in 8 bits.
    """

    embeddings: tuple[str, ...] = ()
    inpainting: bool = False
    refined: bool = False
    skipped_uncond: bool = False
    padded: bool = False
    fp8: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The picture is there, or what it shows.

    Attributes:
        picture: of no size where a picture was described: the client has it.
        interrupted: sampling was ended early on request.
        new_parts: how much of the picture is new, (height // 8) * (width // 8) bytes, where soft inpainting
            found that; else empty.
        text: what a picture shows, where that was asked; else empty.
        first: the first pass's picture, where it was asked for and a second pass began.
        before_faces: the picture before faces were restored, where it was asked for and there were faces.
    """

    job: str
    picture: Picture
    interrupted: bool = False
    used: Used = Used()
    new_parts: bytes = b""
    text: str = ""
    first: Picture | None = None
    before_faces: Picture | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The job could not be finished.

    Attributes:
        error: name of the class in `sdserver.errors`.
        message: its sentence.
    """

    job: str
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was dropped before it made a picture."""

    job: str


JobEvent = Started | Progress | Previewed | Finished | Failed | Cancelled
