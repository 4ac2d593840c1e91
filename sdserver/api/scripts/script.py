"""What a script is: a generator that yields runs and returns what the request is answered with.

Like a job's program, one layer up: a script is plain code read top to bottom and knows neither engine
nor event loop. Runs that it yields together share batches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from PIL import Image

from sdserver.api.options import Snapshot
from sdserver.api.requests import Request
from sdserver.api.translate.plan import NOTHING_GIVEN, Given, Sources

Folder = Literal["samples", "grids"]
Tab = Literal["txt2img", "img2img"]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of AUTOMATIC1111's `process_images`.

    Attributes:
        request: what is asked, without a script.
        given: pictures and infotext entries that the script has for it.
        keeps_samples: whether its images are saved where the request's are.
        keeps_grid: whether it makes a grid, which then is saved and stands among its pictures.
    """

    request: Request
    given: Given = NOTHING_GIVEN
    keeps_samples: bool = False
    keeps_grid: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Enlarging:
    """A picture to be enlarged.

    Attributes:
        scale: factor, above 0.
        upscaler: a name of `GET /sdapi/v1/upscalers`.
    """

    image: Image.Image
    scale: float
    upscaler: str


@dataclass(frozen=True, slots=True, eq=False)
class Describing:
    """A picture to be described in words.

    Attributes:
        model: as `interrogate` names it: "clip" or "deepdanbooru".
    """

    image: Image.Image
    model: str = "clip"


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What a run came to.

    Attributes:
        pictures: as in the answer to such a request: the grid first if there is one, masks too.
        texts: the infotext of each, None for masks.
        info: AUTOMATIC1111's `info`, its `infotexts` among it.
        interrupted: whether somebody ended it early; pictures may be missing then.
    """

    pictures: tuple[Image.Image, ...]
    texts: tuple[str | None, ...]
    info: dict[str, Any]
    interrupted: bool = False

    @property
    def first(self) -> int:
        """The place of the first image: 1 behind a grid."""
        return int(self.info["index_of_first_image"])


@dataclass(frozen=True, slots=True, eq=False)
class ScriptPicture:
    """A picture of a script's answer.

    Attributes:
        text: its infotext, None for none.
        keep: the folder that it is saved in, None if it is not saved (or was, by its run).
        name: of the file where it is a grid, such as "xyz_grid".
        is_told: whether it is part of the answer; others are only saved.
        kept_text: infotext of the saved file, where the answer's picture has none.
    """

    image: Image.Image
    text: str | None
    keep: Folder | None = None
    name: str = "grid"
    is_told: bool = True
    kept_text: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a script answers with.

    Attributes:
        info: as of one run, with what the script changes in it.
    """

    pictures: tuple[ScriptPicture, ...]
    info: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a script has to work with beside its arguments.

    Attributes:
        request: the client's, its infotext folded in, without the script.
        options: those that hold for it, its overrides included.
        pictures: of an img2img request, decoded; empty for txt2img.
        mask: of an img2img request, if it has one.
        sources: catalogs, limits and styles.
        random: for seeds that are drawn once for all runs.
        is_interrupted: whether somebody ended the request early: begin nothing new.
        expect: told how many images the whole will have, as soon as the script knows.
    """

    request: Request
    options: Snapshot
    pictures: tuple[Image.Image, ...]
    mask: Image.Image | None
    sources: Sources
    random: Random
    is_interrupted: Callable[[], bool]
    expect: Callable[[int], None]


# What is sent in: a Done for each Run of a list, an image for an Enlarging, text for a Describing; hence Any.
# An empty list lets others have the worker thread: to be yielded between works of seconds.
Steps = Generator[Sequence[Run] | Enlarging | Describing, Any, Outcome]


@dataclass(frozen=True, slots=True)
class Argument:
    """One of a script's arguments, as `script-info` tells of it; see A1111's `ScriptArg`."""

    label: str
    value: Any = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: Sequence[str] | Callable[[Sources], Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """A script as clients name it.

    Attributes:
        title: in A1111's spelling; it counts in any case.
        tabs: requests that it may stand in.
        arguments: in order; missing ones at the end are filled in with the defaults of these.
        begin: checks the arguments and makes the generator.

            Args: the context; the arguments, as many as `arguments`.

            Raises: InvalidField, named `script_args`.
        is_always_on: one that needs no naming; it has no `begin`.
    """

    title: str
    tabs: tuple[Tab, ...]
    arguments: tuple[Argument, ...] = ()
    begin: Callable[[Context, Sequence[Any]], Steps] | None = field(default=None, repr=False)
    is_always_on: bool = False
