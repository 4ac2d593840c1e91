"""A request from its body to its answer, whoever sent it: the routes of A1111's API, of jobs, of OpenAI."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from sdserver.api.answer.answer import Answer
from sdserver.api.answer.facts import collect
from sdserver.api.answer.render import Delivered, deliver, render_answer
from sdserver.api.answer.shown import Keeping
from sdserver.api.engine import Ticket
from sdserver.api.entry import Entry
from sdserver.api.fitting import with_fitted, with_fitted_results
from sdserver.api.options import CHECKPOINT
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.room import bytes_of_finishes, bytes_of_jobs
from sdserver.api.saving import check_folders
from sdserver.api.scripts.drive import run_script
from sdserver.api.services import Services
from sdserver.api.translate.plan import NOTHING_GIVEN, Given, Plan, Sources
from sdserver.api.translate.resolve import translate
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.errors import NotReady, QueueFull
from sdserver.jobs.events import Cancelled, Finished

prompts_log = logging.getLogger("sdserver.prompts")

Ends = Sequence[Finished | Cancelled]


class Work:
    """Does the work of one entry.

    Args:
        services: what is worked with.
        entry: is told how far it is; its jobs are named after it.
        now: local time when the request came.
    """

    def __init__(self, services: Services, entry: Entry, now: datetime) -> None:
        self.services = services
        self.entry = entry
        self._held = entry.held
        self.sources = Sources(services.options, services.catalog, services.networks, services.config, now)

    async def answer(self, request: Request) -> Answer:
        """Make what is asked for.

        Raises:
            RequestError: the request cannot be served as it is.
            Refused: the queue is full, or the server is shutting down.
            JobError: a job failed.
        """
        if self.services.config.logs_prompts:
            _log_prompts(request)
        request = await self.services.addresses.fetch_pictures(request)
        if request.script_name:
            return await run_script(self, request)
        plan = await self.resolved(request)
        (ends,) = await self.ends_of([plan])
        plan = await with_fitted_results(self, plan, ends, is_kept=request.save_images)
        known = await self._hashed(plan)
        keeping = Keeping(request.save_images, request.save_images)
        # In one go: every change of threads costs as much as describing a picture.
        return await self.services.in_thread(
            lambda: render_answer(self._delivered(plan, ends, known, keeping))
        )

    async def resolved(self, request: Request) -> Plan:
        """The request as a plan, checked."""
        plan = await self._translated(request)
        check_folders(plan, self.services.saver)
        return await with_fitted(self, plan, lambda images: self._plan(request, Given(fitted=images)))

    async def _translated(self, request: Request) -> Plan:
        if isinstance(request, Img2ImgRequest) or request.infotext or request.restore_faces:
            return await self.services.in_thread(lambda: self._plan(request))
        return self._plan(request)

    def _plan(self, request: Request, given: Given = NOTHING_GIVEN) -> Plan:
        return translate(request, self.entry.request_id, self.sources, given)

    async def ends_of(self, plans: Sequence[Plan]) -> list[Ends]:
        """Run the plans' jobs, all together; the ends of each plan's.

        Raises:
            NotReady: they were dropped, for the server is shutting down.
        """
        with self._holding(bytes_of_finishes(plans)):
            ticket = self.entry.submit(self.services.engine, [job for plan in plans for job in plan.jobs])
            for plan in plans:
                self._keep_overrides(plan)
            # A large file takes seconds to hash; that goes on beside the jobs.
            hashing = [asyncio.ensure_future(self._hashed(plan)) for plan in plans if _unhashed(plan)]
            ends = list(await self.results(ticket))
            del hashing
        return [[ends.pop(0) for _ in plan.jobs] for plan in plans]

    async def results(self, ticket: Ticket) -> Ends:
        """The ends of a ticket's jobs, which are dropped if nobody waits for them any more.

        Raises:
            NotReady: they were dropped, for the server is shutting down.
            QueueFull: all that waits holds too much memory together.
        """
        try:
            with self._holding(bytes_of_jobs(ticket.jobs)):
                ends = await ticket.results()
        except (asyncio.CancelledError, QueueFull):
            ticket.stop("drop")
            raise
        if all(isinstance(end, Cancelled) for end in ends) and self.entry.stopped is None:
            raise NotReady("The request was dropped, for the server is shutting down: send it again.", 5)
        return ends

    @contextmanager
    def _holding(self, count: int) -> Iterator[None]:
        """Hold so many bytes of pictures for a while.

        Raises:
            QueueFull: all that waits holds too much together.
        """
        with self.services.room.holding(count, self._held):
            self._held += count
            try:
                yield
            finally:
                self._held -= count

    async def delivered(
        self, plans: Sequence[Plan], ends: Sequence[Ends], keeping: Sequence[Keeping]
    ) -> list[Delivered]:
        """What the plans' jobs made, finished, saved and described."""
        found = []
        # One after the other, so that others get their turn and a client who left ends it.
        for asked, end, kept in zip(plans, ends, keeping, strict=True):
            plan = await with_fitted_results(self, asked, end, is_kept=kept.samples)
            known = await self._hashed(plan)
            found.append(await self.services.in_thread(partial(self._delivered, plan, end, known, kept)))
        return found

    def _delivered(self, plan: Plan, ends: Ends, known: Sequence[Checkpoint], keeping: Keeping) -> Delivered:
        services = self.services
        facts = collect(plan, ends, known, services.networks, services.config.version)
        return deliver(plan, ends, facts, services.saver, keeping)

    async def _hashed(self, plan: Plan) -> list[Checkpoint]:
        if not _unhashed(plan):
            return list(plan.checkpoints)
        return list(await asyncio.gather(*(self.services.hashed(file) for file in plan.checkpoints)))

    def _keep_overrides(self, plan: Plan) -> None:
        if not plan.request.override_settings_restore_afterwards:
            self.services.options.apply(plan.overrides)
            if CHECKPOINT in plan.overrides:
                self.services.tell_chosen(plan.checkpoint)


def _log_prompts(request: Request) -> None:
    told = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    prompts_log.info("%r, without %r", request.prompt, request.negative_prompt, extra={"fields": told})


def _unhashed(plan: Plan) -> bool:
    """Whether a checkpoint's hash has to be found."""
    return any(not file.is_folder and file.sha256 is None for file in plan.checkpoints)
