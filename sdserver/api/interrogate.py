"""What pictures show, in words: a request from its body to its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, model_validator

from sdserver.api.answer.answer import Encoded
from sdserver.api.options import Snapshot
from sdserver.api.wire import Str
from sdserver.errors import InvalidField
from sdserver.images.decode import decode
from sdserver.images.pictures import to_picture
from sdserver.jobs.events import Finished, Picture
from sdserver.jobs.job import Describe, Job, Label, LabelRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdserver.api.work import Work
    from sdserver.catalog.networks import Networks

CAPTIONS: Final = "clip"
TAGS: Final = "deepdanbooru"
"""AUTOMATIC1111's names for the two networks."""

BEAMS: Final = "interrogate_clip_num_beams"
MIN_LENGTH: Final = "interrogate_clip_min_length"
MAX_LENGTH: Final = "interrogate_clip_max_length"
SHOWS_SCORES: Final = "interrogate_return_ranks"
SKIPPED_LISTS: Final = "interrogate_clip_skip_categories"
LIST_LIMIT: Final = "interrogate_clip_dict_limit"
THRESHOLD: Final = "interrogate_deepbooru_score_threshold"
LEFT_OUT: Final = "deepbooru_filter_tags"


class InterrogateRequest(BaseModel):
    """POST /sdapi/v1/interrogate."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    image: Str = ""
    model: Str = CAPTIONS

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        return (
            {key: value for key, value in body.items() if value is not None}
            if isinstance(body, dict)
            else body
        )


@dataclass(frozen=True, slots=True)
class Description:
    """What a picture shows, as an entry's result."""

    caption: str

    @property
    def pictures(self) -> tuple[Encoded, ...]:
        """There are none."""
        return ()

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about."""
        return len(self.caption)

    @property
    def headers(self) -> dict[str, str]:
        """Nothing is told beside the body."""
        return {}

    def body(self) -> bytes:
        """AUTOMATIC1111's answer as JSON."""
        return orjson.dumps({"caption": self.caption})


async def interrogate_work(work: Work, request: InterrogateRequest) -> Description:
    """Describe a picture; AUTOMATIC1111 checks the picture first, then the model's name.

    Raises:
        HTTPException: 404, there is no model of that name.
        MissingModel: its files are not there.
        RequestError: the picture cannot be used, or the options contradict each other.
        Refused: the queue is full, or the server is shutting down.
        JobError: the job failed.
        CheckpointError: the network's files cannot be used.
        CancelledError: somebody interrupted it; half a caption is none.
    """
    services, entry = work.services, work.entry
    image = await services.addresses.fetch(request.image, "image")
    picture = await services.in_thread(partial(_picture, image, services.config.limits.max_init_pixels))
    if request.model not in (CAPTIONS, TAGS):
        raise HTTPException(404, "Model not found")
    options = services.options.snapshot()
    caption = await caption_of(work, f"{entry.request_id}/0", picture, options, request.model)
    if caption is None:
        raise asyncio.CancelledError
    return Description(caption)


async def caption_of(
    work: Work, job_id: str, picture: Picture, options: Snapshot, model: str = CAPTIONS
) -> str | None:
    """Have the engine describe a picture by one of the two models; None if somebody stopped that.

    Raises:
        MissingModel: no network that does it is there.
        InvalidField: the options contradict each other.
        Refused, JobError, CheckpointError: as `interrogate_work`.
    """
    services = work.services
    asked: Callable[[Networks, str, Picture, Snapshot], Job] = _label if model == TAGS else _describe
    job = await services.in_thread(partial(asked, services.networks, job_id, picture, options))
    (end,) = await work.results(work.entry.submit(services.engine, [job]))
    return end.text if isinstance(end, Finished) else None


def _picture(image: str, most: int) -> Picture:
    """The client's picture, decoded and checked. Blocks."""
    return to_picture(decode(image, "image", most))


def _describe(networks: Networks, job_id: str, picture: Picture, options: Snapshot) -> Describe:
    """What the options ask of BLIP, and of CLIP where there are words to rank. Blocks."""
    captioner = networks.captioner()
    lengths = _lengths(options)
    skipped = options[SKIPPED_LISTS]
    ranking = networks.ranking(
        frozenset(skipped) if isinstance(skipped, list) else frozenset(),
        options.whole(LIST_LIMIT),
        shows_scores=options.flag(SHOWS_SCORES),
    )
    vocabulary = str(captioner.vocabulary) if captioner.vocabulary else ""
    beams = options.whole(BEAMS)
    return Describe(job_id, picture, str(captioner.path), beams, *lengths, vocabulary, ranking)


def _label(networks: Networks, job_id: str, picture: Picture, options: Snapshot) -> Label:
    """What the options ask of DeepDanbooru. Blocks."""
    left_out = options.text(LEFT_OUT).split(",")
    rules = LabelRules(
        threshold=options.number(THRESHOLD),
        is_sorted=options.flag("deepbooru_sort_alpha"),
        uses_spaces=options.flag("deepbooru_use_spaces"),
        escapes=options.flag("deepbooru_escape"),
        left_out=frozenset(name.strip().replace(" ", "_") for name in left_out),
        shows_scores=options.flag(SHOWS_SCORES),
    )
    return Label(job_id, picture, str(networks.labeller()), rules)


def _lengths(options: Snapshot) -> tuple[int, int]:
    least, most = options.whole(MIN_LENGTH), options.whole(MAX_LENGTH)
    if least > most:
        message = (
            f"The option {MIN_LENGTH!r} is {least}, above {MAX_LENGTH!r}, which is {most}: set one anew."
        )
        raise InvalidField(MIN_LENGTH, message)
    return least, most
