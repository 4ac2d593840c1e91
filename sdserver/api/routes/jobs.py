"""The job API: requests that are answered at once, and asked about later."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from sdserver.api import coerce
from sdserver.api.begin import begin_work
from sdserver.api.deadline import deadline_of, left
from sdserver.api.entry import Entry, Result
from sdserver.api.errors import JsonResponse
from sdserver.api.jobs.asked import LISTED_KINDS, Asked, JobRequest, asked_for
from sdserver.api.jobs.events import MEDIA_TYPE, Pace, events_of, events_of_all
from sdserver.api.jobs.path import JOBS, RawPathRoute, job_path, segment
from sdserver.api.jobs.view import Job, JobList, JobWithResult, full_job, job_of
from sdserver.api.jobs.webhook import Webhooks
from sdserver.api.outbound import MAX_ADDRESS, Outbound
from sdserver.api.services import Services
from sdserver.api.work import Work
from sdserver.errors import InvalidField

ACCEPT_SECONDS: Final = 2.0
"""How long a new job's answer waits for what is wrong with its request."""

MAX_LISTED: Final = 1000
MAX_PLACE: Final = 1_000_000
STATES: Final = ("queued", "running", "completed", "failed", "cancelled")
Switch = Annotated[bool, BeforeValidator(coerce.to_bool), Query()]
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "Server-sent events"}
}
_PICTURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "A file"}
}


class Move(BaseModel):
    """POST /v1/jobs/{id}/move."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    to: int = Field(ge=1, le=MAX_PLACE, description="its place among those that wait; 1 is the next")


def job_routes(services: Services, pace: Pace | None = None) -> APIRouter:
    """All routes below /v1/jobs.

    Args:
        services: what they work with.
        pace: of the events, None for the usual one.
    """
    router = APIRouter(prefix=JOBS, tags=["jobs"], route_class=RawPathRoute)
    outbound = Outbound() if services.config.webhooks else None
    webhooks = None
    if outbound:
        webhooks = Webhooks(outbound, lambda entry: job_of(services, entry), services.board.follow)

    @router.post("", status_code=202, response_model=Job)
    async def submit(body: JobRequest, http: HttpRequest) -> JsonResponse:
        """Accept a request. With the header `Idempotency-Key`, repeating it makes no second job."""
        entry = await _submitted(services, asked_for(body), http, webhooks)
        location = f"{http.scope.get('root_path', '')}{job_path(entry.id)}"
        return JsonResponse(job_of(services, entry), 202, {"Location": location})

    @router.get("", response_model=JobList)
    async def jobs(
        state: str | None = None, kind: str | None = None, limit: int = 100, after: str | None = None
    ) -> JsonResponse:
        """The jobs that are remembered, the newest first; requests of other routes, too."""
        return JsonResponse(_listed(services, state, kind, limit, after))

    _job_routes(router, services)
    _result_routes(router, services, pace or Pace())
    return router


def event_routes(services: Services, pace: Pace | None = None) -> APIRouter:
    """What happens to all jobs, in one stream."""
    router = APIRouter(prefix="/v1", tags=["jobs"])

    @router.get("/events", response_class=StreamingResponse, responses=_STREAM)
    async def events(previews: Switch = False) -> StreamingResponse:
        """All jobs' lives as server-sent events: those of `/v1/jobs/{job_id}/events`. It does not end."""
        return _stream(events_of_all(services, pace or Pace(), has_previews=previews))

    return router


def _job_routes(router: APIRouter, services: Services) -> None:
    @router.get("/{job_id}", response_model=JobWithResult)
    async def job(
        job_id: str, result: Switch = True, images: Switch = True, preview: Switch = False
    ) -> JsonResponse:
        """A job, once it is completed with what the route of its kind answers, or that without pictures."""
        entry = _found(services, job_id)
        return JsonResponse(
            await full_job(services, entry, has_result=result, has_images=images, has_preview=preview)
        )

    @router.delete("/{job_id}", response_model=Job)
    async def delete(job_id: str) -> JsonResponse:
        """Cancel an unfinished job, or forget one that ended, with its result."""
        entry = _found(services, job_id)
        if entry.is_over:
            last = job_of(services, entry)
            services.board.forget(entry)
            return JsonResponse(last)
        entry.stop("drop")
        await entry.over()
        return JsonResponse(job_of(services, entry))

    @router.post("/{job_id}/interrupt", response_model=Job)
    async def interrupt(job_id: str) -> JsonResponse:
        """End a job early; it is completed with the pictures it has."""
        entry = _found(services, job_id)
        entry.stop("interrupt")
        return JsonResponse(job_of(services, entry))

    @router.post("/{job_id}/skip", response_model=Job)
    async def skip(job_id: str) -> JsonResponse:
        """End the images that a job is working on; it goes on with its next."""
        entry = _found(services, job_id)
        entry.stop("skip")
        return JsonResponse(job_of(services, entry))

    @router.post("/{job_id}/move", response_model=Job)
    async def move(job_id: str, body: Move) -> JsonResponse:
        """Give a job that waits another place among those that wait; 1 is the next."""
        entry = _found(services, job_id)
        if entry.state != "queued":
            raise HTTPException(409, f"The job does not wait: it is {entry.state}.")
        if not entry.is_accepted:
            raise HTTPException(409, "The job is not ready to wait yet: try again in a moment.")
        services.board.move(entry, body.to)
        services.engine.arrange([one.request_id for one in services.board.waiting])
        return JsonResponse(job_of(services, entry))


def _result_routes(router: APIRouter, services: Services, pace: Pace) -> None:
    @router.get("/{job_id}/events", response_class=StreamingResponse, responses=_STREAM)
    async def events(job_id: str, previews: Switch = False) -> StreamingResponse:
        """A job's life as server-sent events: state, progress, preview, and end, which is the last."""
        return _stream(events_of(services, _found(services, job_id), pace, has_previews=previews))

    @router.get("/{job_id}/images/{number}", response_class=Response, responses=_PICTURE)
    async def image(job_id: str, number: int) -> Response:
        """One picture of a completed job as a file; they are counted from 0."""
        entry = _found(services, job_id)
        if not entry.is_over:
            raise HTTPException(409, "The job has not ended: ask again later.")
        if entry.state != "completed":
            raise HTTPException(404, f"The job has no pictures: it is {entry.state}.")
        result = services.board.result_of(entry)
        if result is None:
            raise HTTPException(410, "The job's result is not kept, or not any more.")
        if not 0 <= number < len(result.pictures):
            raise HTTPException(404, f"The job has {len(result.pictures)} pictures, counted from 0.")
        picture = result.pictures[number]
        return Response(picture.data, media_type=picture.media_type, headers={"Cache-Control": "private"})


def _stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=headers)


def _found(services: Services, job_id: str) -> Entry:
    entry = services.board.find(segment(job_id))
    if entry is None:
        raise HTTPException(404, "There is no such job: it is not known, or not remembered any more.")
    return entry


async def _submitted(services: Services, asked: Asked, http: HttpRequest, webhooks: Webhooks | None) -> Entry:
    """A job, or what is wrong with its request where that shows at once.

    Raises:
        InvalidField: webhooks are off; or as `begin_work`.
        Exception: whatever the work raised before the engine accepted it.
    """
    if asked.webhook:
        _check_webhook(asked.webhook, is_on=webhooks is not None)

    is_new = False

    def make(work: Work) -> Coroutine[Any, Any, Result]:
        nonlocal is_new
        is_new = True
        return asked.work(work)

    entry = begin_work(services, asked.kind, asked.wanted_id, http, make, is_kept=True)
    if is_new:
        _end_in_time(entry, left(deadline_of(http.scope)))
    await _accepted(entry)
    if is_new and asked.webhook and webhooks is not None:
        webhooks.follow(entry, asked.webhook)
    return entry


def _end_in_time(entry: Entry, seconds: float | None) -> None:
    """Drop the job where its client gave it no more time."""
    if seconds is not None and entry.outcome is not None:
        timer = asyncio.get_running_loop().call_later(seconds, entry.stop, "drop")
        entry.outcome.add_done_callback(lambda _: timer.cancel())


async def _accepted(entry: Entry) -> None:
    """Wait a while for what is wrong with its request.

    Raises:
        Exception: whatever the work raised before the engine accepted it.
    """
    task = entry.outcome
    if task is None:  # it ended before, and its key was repeated
        return
    try:
        async with asyncio.timeout(ACCEPT_SECONDS):
            while not entry.is_accepted and not entry.is_over:
                await entry.changed(entry.changes)
    except TimeoutError:
        return
    if entry.state == "failed" and not entry.is_accepted:
        task.result()


def _check_webhook(address: str, *, is_on: bool) -> None:
    if not is_on:
        message = (
            "Webhooks are off: start the server with --webhooks to have addresses told, or ask for events."
        )
        raise InvalidField("webhook", message)
    if len(address) > MAX_ADDRESS or not address.startswith(("http://", "https://")):
        message = f"'webhook' must be an http or https address of at most {MAX_ADDRESS:,} characters."
        raise InvalidField("webhook", message)


def _listed(
    services: Services, state: str | None, kind: str | None, limit: int, after: str | None
) -> dict[str, Any]:
    if state is not None and state not in STATES:
        raise InvalidField("state", f"'state' must be one of {', '.join(STATES)}.")
    if kind is not None and kind not in LISTED_KINDS:
        raise InvalidField("kind", f"'kind' must be one of {', '.join(LISTED_KINDS)}.")
    if not 1 <= limit <= MAX_LISTED:
        raise InvalidField("limit", f"'limit' must be from 1 to {MAX_LISTED:,}.")
    entries = list(reversed(services.board.entries()))
    if after is not None:
        ids = [entry.id for entry in entries]
        if after not in ids:
            raise InvalidField("after", "'after' must be the id of a job that is remembered.")
        entries = entries[ids.index(after) + 1 :]
    wanted = LISTED_KINDS[kind] if kind else None
    found = [
        entry
        for entry in entries
        if (state is None or entry.state == state) and (wanted is None or entry.kind == wanted)
    ]
    return {"jobs": [job_of(services, entry) for entry in found[:limit]], "has_more": len(found) > limit}
