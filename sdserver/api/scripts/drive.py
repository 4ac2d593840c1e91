"""Runs a script: resolves what it yields, has it made, and turns its outcome into an answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from sdserver.api.answer.answer import Answer, Encoded, weight
from sdserver.api.answer.keep import Told, keep
from sdserver.api.answer.render import Delivered, echo, encoded, reason_of
from sdserver.api.answer.shown import Keeping
from sdserver.api.extras.plan import Target, check_network
from sdserver.api.fitting import with_fitted
from sdserver.api.interrogate import caption_of
from sdserver.api.limits import check_limits
from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.saving import check_folders, grid_rules, name_facts, picture_rules
from sdserver.api.scripts.script import (
    Context,
    Describing,
    Done,
    Enlarging,
    Outcome,
    Run,
    ScriptPicture,
    Steps,
)
from sdserver.api.scripts.table import arguments_of, script_of
from sdserver.api.translate.filled import filled
from sdserver.api.translate.hires import SIMPLE_UPSCALERS, upscaler_tiles
from sdserver.api.translate.pictures import request_mask, request_pictures
from sdserver.api.translate.plan import Plan
from sdserver.api.translate.resolve import options_of, translate
from sdserver.errors import InvalidField, RequestError
from sdserver.images.pictures import to_image, to_picture
from sdserver.jobs.events import Cancelled, Finished, Picture
from sdserver.jobs.job import Enlarge, Size

if TYPE_CHECKING:
    from sdserver.api.work import Ends, Work

MAX_IMAGES: Final = 1000
CELL: Final = 8


async def run_script(work: Work, request: Request) -> Answer:
    """Answer a request that names a script.

    Raises:
        InvalidField: there is no such script for it, its arguments are no use, or it asks for too much.
        RequestError, Refused, JobError: as `Work.answer`.
    """
    drive = _Drive(work, await work.services.in_thread(lambda: filled(request, work.sources)))
    return await drive.answer()


@dataclass(slots=True)
class _Spent:
    """What a script's runs came to so far."""

    images: int = 0
    pixels: int = 0
    characters: int = 0
    parts: int = 0


class _Drive:
    """One script on its way."""

    def __init__(self, work: Work, request: Request) -> None:
        self._work = work
        self._request = request
        self._spent = _Spent()
        self._first: Plan | None = None
        self._options: Snapshot = work.sources.options.snapshot()
        self._missing: dict[str, None] = {}
        self._save_error: str | None = None
        self._problems: list[str] = []

    async def answer(self) -> Answer:
        in_thread = self._work.services.in_thread
        steps = await in_thread(self._begin)
        sent: Any = None
        # Where a client left, the script may still be at work on its thread; it is not resumed.
        while not isinstance(wanted := await in_thread(partial(_advance, steps, sent)), Outcome):
            if isinstance(wanted, Enlarging):
                sent = await self._enlarged(wanted)
            elif isinstance(wanted, Describing):
                sent = await self._described(wanted)
            else:
                sent = await self._ran(wanted)
        return await self._answered(wanted)

    def _begin(self) -> Steps:
        request, work = self._request, self._work
        script = script_of(request)
        bare = request.model_copy(update={"script_name": None, "script_args": [], "infotext": None})
        self._options, _ = options_of(bare.model_copy(deep=True), work.sources)
        limits = work.services.config.limits
        # Runs have numbers of their own, which are checked again; scripts count on the request's too.
        check_limits(bare, limits)
        pictures: tuple[Image.Image, ...] = ()
        mask = None
        if isinstance(request, Img2ImgRequest):
            pictures, mask = request_pictures(request, limits), request_mask(request, limits)
        context = Context(
            request=bare,
            options=self._options,
            pictures=pictures,
            mask=mask,
            sources=work.sources,
            random=random.Random(),
            is_interrupted=lambda: work.entry.stopped in ("interrupt", "drop"),
            expect=self._expect,
        )
        assert script.begin is not None  # noqa: S101 - `script_of` finds selectable ones
        return script.begin(context, arguments_of(script, request.script_args))

    def _expect(self, images: int) -> None:
        if images > MAX_IMAGES:
            message = f"The script would make {images:,} images, at most {MAX_IMAGES:,} are allowed."
            raise InvalidField("script_args", message)
        self._work.entry.expected = images

    async def _ran(self, runs: Sequence[Run]) -> list[Done]:
        if not runs:
            return []
        work = self._work
        # One after the other, so that others get their turn and a client who left ends it.
        plans: list[Plan] = []
        for run in runs:
            plan = await work.services.in_thread(partial(self._plan, run))
            plans.append(await with_fitted(work, plan, partial(self._plan_again, run, plan)))
        if work.entry.stopped == "interrupt":
            ends: list[Ends] = [[Cancelled(job.id) for job in plan.jobs] for plan in plans]
        else:
            ends = await work.ends_of(plans)
        keeping = [Keeping(run.keeps_samples, run.keeps_grid) for run in runs]
        delivered = await work.delivered(plans, ends, keeping)
        return await work.services.in_thread(lambda: [self._done(each) for each in delivered])

    def _plan(self, run: Run) -> Plan:
        spent = self._spent
        spent.parts += 1
        run_id = f"{self._work.entry.request_id}.{spent.parts}"
        plan = translate(run.request, run_id, self._work.sources, run.given)
        check_folders(plan, self._work.services.saver)
        spent.images += len(plan.jobs)
        spent.characters += len(run.request.prompt) + len(run.request.negative_prompt)
        self._check(_pixels(plan))
        self._first = self._first or plan
        self._missing |= dict.fromkeys(plan.missing)
        return plan

    def _plan_again(self, run: Run, plan: Plan, fitted: tuple[Image.Image | None, ...]) -> Plan:
        """A run's plan with its pictures enlarged."""
        run_id, _, _ = plan.jobs[0].id.rpartition("/")
        return translate(run.request, run_id, self._work.sources, replace(run.given, fitted=fitted))

    def _check(self, pixels: int) -> None:
        spent, limits = self._spent, self._work.services.config.limits
        spent.pixels += pixels
        most = limits.max_pixels * limits.max_images
        if spent.images > MAX_IMAGES or spent.pixels > most:
            message = (
                f"The script makes too much: at most {MAX_IMAGES:,} images of {most:,} pixels together "
                "are allowed."
            )
            raise InvalidField("script_args", message)
        longest = limits.max_prompt * limits.max_images
        if spent.characters > longest:
            message = (
                f"The script's prompts are too long: at most {longest:,} characters together are allowed."
            )
            raise InvalidField("script_args", message)

    def _done(self, delivered: Delivered) -> Done:
        self._save_error = delivered.save_error or self._save_error
        self._problems += [delivered.upload_error] if delivered.upload_error else []
        pictures = tuple(_image(one.picture) for one in delivered.told)
        texts = tuple(one.text for one in delivered.told)
        return Done(pictures, texts, delivered.info, delivered.interrupted)

    async def _enlarged(self, wanted: Enlarging) -> Image.Image:
        """The picture larger, as A1111's upscalers make it: to whole cells of 8 pixels.

        Raises:
            InvalidField: there is no such upscaler, or the result would be too large.
        """
        name, path = self._upscaler(wanted.upscaler)
        if name == SIMPLE_UPSCALERS[0]:
            return wanted.image
        width, height = (int(side * wanted.scale // CELL * CELL) for side in wanted.image.size)
        if width < 1 or height < 1:
            raise InvalidField("script_args", "The picture would be empty: choose a greater scale.")
        work, before = self._work, wanted.image.size
        if path:
            limits = work.services.config.limits
            check_network(before, Target(wanted.scale, (width, height), None), "script_args", limits)
        self._check(width * height)
        size = Size(width, height)
        self._spent.parts += 1
        job_id = f"{work.entry.request_id}.{self._spent.parts}/0"
        picture = await work.services.in_thread(lambda: to_picture(wanted.image))
        tiles = upscaler_tiles(self._options)
        job = Enlarge(job_id, picture, size, name, path, wanted.scale, tiles)
        ticket = work.entry.submit(work.services.engine, [job])
        (end,) = await work.results(ticket)
        return to_image(end.picture) if isinstance(end, Finished) else wanted.image

    async def _described(self, wanted: Describing) -> str:
        """What the picture shows; nothing if the request was interrupted. It is no image to be skipped."""
        work, caption = self._work, None
        picture = await work.services.in_thread(lambda: to_picture(wanted.image))
        while caption is None and work.entry.stopped in (None, "skip"):
            self._spent.parts += 1
            job_id = f"{work.entry.request_id}.{self._spent.parts}/0"
            caption = await caption_of(work, job_id, picture, self._options, wanted.model)
        return caption or ""

    def _upscaler(self, name: str) -> tuple[str, str]:
        if name in SIMPLE_UPSCALERS:
            return name, ""
        file = self._work.services.networks.find_upscaler(name)
        if file is None:
            message = f"There is no upscaler {name[:100]!r}; GET /sdapi/v1/upscalers lists those there are."
            raise InvalidField("script_args", message)
        return name, file.path

    async def _answered(self, outcome: Outcome) -> Answer:
        """The outcome saved, then encoded; picture by picture, for there may be many."""
        assert self._first is not None  # noqa: S101 - every script has a run
        in_thread, options = self._work.services.in_thread, self._first.options
        told = [Told(one.image, one.text) for one in outcome.pictures]
        for one, picture in zip(told, outcome.pictures, strict=True):
            if picture.keep is not None:
                kept = Told(one.picture, picture.kept_text) if picture.kept_text else one
                await in_thread(partial(self._save, self._first, picture, kept))
        files: list[Encoded] = []
        if self._request.send_images:
            for one, picture in zip(told, outcome.pictures, strict=True):
                if picture.is_told:
                    files += await in_thread(partial(encoded, [one], options))
        told_back = await in_thread(partial(echo, self._request))
        told_bytes = await in_thread(partial(weight, told_back, outcome.info))
        missing = tuple(self._missing)
        problem = self._problems[-1] if self._problems else None
        return Answer(tuple(files), told_back, outcome.info, self._save_error, missing, told_bytes, problem)

    def _save(self, plan: Plan, picture: ScriptPicture, one: Told) -> None:
        saver = self._work.services.saver
        is_grid = picture.keep == "grids"
        rules = replace(grid_rules(plan), prefix=picture.name) if is_grid else picture_rules(plan)
        picture_format = plan.options.text("grid_format" if is_grid else "samples_format")
        try:
            names = name_facts(plan, 0, plan.checkpoint, one.picture)
            keep(one, picture_format, rules, names, plan.options, saver, self._problems)
        except (OSError, ValueError, RequestError) as error:
            self._save_error = reason_of(error)


def _advance(steps: Steps, sent: object) -> Sequence[Run] | Enlarging | Describing | Outcome:
    """What the script wants next, or its outcome. Blocks: scripts paste and draw."""
    try:
        return steps.send(sent)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def _pixels(plan: Plan) -> int:
    """Of a run's images, which an overlay may make larger than they are painted."""
    job = plan.jobs[0]
    size = (getattr(job, "hires", None) or job).size
    finishes = plan.pictures.finishes if plan.pictures else ()
    overlays = [finish.overlay or finish.original for finish in finishes]
    laid = sum(overlay.width * overlay.height for overlay in overlays if overlay is not None)
    return max(size.width * size.height * len(plan.jobs), laid)


def _image(picture: Picture | Image.Image) -> Image.Image:
    return to_image(picture) if isinstance(picture, Picture) else picture
