"""The answer to a finished request: its pictures encoded, saved and described."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sdserver.api.answer.answer import Answer, Encoded, weight
from sdserver.api.answer.facts import Facts
from sdserver.api.answer.info import info, infotext
from sdserver.api.answer.keep import Told, file_of, keep, keep_inits
from sdserver.api.answer.shown import Keeping, Plain, Shown, shown
from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.saving import grid_rules, name_facts, picture_rules
from sdserver.api.translate.plan import Plan
from sdserver.errors import RequestError
from sdserver.images.codec import PictureFormat
from sdserver.images.files import Saver
from sdserver.jobs.events import Cancelled, Finished

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """What one run of a request made: saved where it was to be saved, not yet encoded for the answer.

    Attributes:
        told: the pictures of the answer, the grid first if there is one.
        interrupted: whether somebody ended it early.
        upload_error: why saved pictures will not be uploaded, None if they will.
    """

    plan: Plan
    told: tuple[Told, ...]
    info: dict[str, Any]
    save_error: str | None
    interrupted: bool
    upload_error: str | None = None


def deliver(
    plan: Plan, ends: Sequence[Finished | Cancelled], facts: Facts, saver: Saver, keeping: Keeping
) -> Delivered:
    """Finish, save and describe a run's pictures. Blocks: call it in a worker thread.

    Images that were cancelled are left out. Where a picture cannot be saved, it is told all the same.

    Args:
        plan: what was asked.
        ends: the jobs' ends, in order.
        facts: what turned out meanwhile.
        saver: writes the files.
        keeping: what is saved.
    """
    saving = _Saving(plan, facts, saver)
    facts = saving.with_inits()
    items = shown(plan, ends, keeping)
    told: list[Told] = []
    for item in items:
        text = infotext(plan, item.index, facts)
        one = Told(item.picture, text) if isinstance(item, Shown) else Told(item.image, None)
        if item.told:
            told.append(one)
        if item.kept:
            saving.save(item, one if isinstance(item, Shown) else Told(item.image, text))
    # One that was stopped before its first picture still says what would have been made.
    texts = [one.text for one in told if one.text is not None] or [infotext(plan, 0, facts)]
    saving.remember(texts[0])
    first = items[0] if items else None
    has_grid = isinstance(first, Shown) and first.is_grid and first.told
    return Delivered(
        plan,
        tuple(told),
        info(plan, texts, facts, has_grid=has_grid),
        saving.error,
        interrupted=any(isinstance(end, Cancelled) or end.interrupted for end in ends),
        upload_error=saving.problems[-1] if saving.problems else None,
    )


def render_answer(delivered: Delivered) -> Answer:
    """Encode a run's pictures as the options say. Blocks: call it in a worker thread.

    Raises:
        RequestError: a picture is too large for the format that it is to be sent in.
    """
    plan = delivered.plan
    parameters = echo(plan.request)
    return Answer(
        encoded(delivered.told, plan.options) if plan.request.send_images else (),
        parameters,
        delivered.info,
        delivered.save_error,
        plan.missing,
        weight(parameters, delivered.info),
        delivered.upload_error,
    )


def encoded(told: Sequence[Told], options: Snapshot) -> tuple[Encoded, ...]:
    """Pictures in the format that the options say. Blocks.

    Raises:
        RequestError: a picture is too large for that format.
    """
    picture_format = cast(PictureFormat, options.text("samples_format"))
    return tuple(Encoded(file_of(one, picture_format, options), picture_format) for one in told)


def reason_of(error: Exception) -> str:
    """Why a picture could not be saved, without the server's paths."""
    if isinstance(error, RequestError):
        return str(error)
    return getattr(error, "strerror", None) or "the folder is not allowed"


def echo(request: Request) -> dict[str, Any]:
    """The answer's `parameters`: without the pictures, unless they are wanted."""
    if isinstance(request, Img2ImgRequest) and not request.include_init_images:
        request = request.model_copy(update={"init_images": None, "mask": None})
    return request.model_dump()


class _Saving:
    """Writes one run's files; that one cannot be written is told, and ends nothing.

    Attributes:
        error: why the last one could not be written, None if all could.
        problems: why some will not be uploaded.
    """

    def __init__(self, plan: Plan, facts: Facts, saver: Saver) -> None:
        self._plan = plan
        self._facts = facts
        self._saver = saver
        self.error: str | None = None
        self.problems: list[str] = []

    def with_inits(self) -> Facts:
        """Save what the client sent, where that is wanted; the facts with what is told of it."""
        plan = self._plan

        def work() -> None:
            names = name_facts(plan, 0, self._facts.known(plan.checkpoint))
            self._facts = replace(self._facts, init_hash=keep_inits(plan, names, self._saver, self.problems))

        self._try(work)
        return self._facts

    def save(self, item: Shown | Plain, one: Told) -> None:
        """Save one of the run's pictures."""
        plan = self._plan
        is_grid = isinstance(item, Shown) and item.is_grid
        wanted = plan.options.text("grid_format" if is_grid else "samples_format")
        rules = grid_rules(plan) if is_grid else picture_rules(plan)
        if isinstance(item, Plain):
            rules = replace(rules, suffix=item.suffix)
        names = name_facts(plan, item.index, self._facts.known(plan.checkpoint), one.picture)
        self._try(lambda: keep(one, wanted, rules, names, plan.options, self._saver, self.problems))

    def remember(self, text: str) -> None:
        """Write the history."""
        try:
            self._saver.remember(text)
        except OSError as error:
            log.warning("the history could not be written: %s", error)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, ValueError, RequestError) as error:
            log.error("a picture could not be saved: %s", error)
            self.error = reason_of(error)
