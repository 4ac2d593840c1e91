"""Jobs as clients see them."""

import base64
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydantic import BaseModel, Field, JsonValue

from sdserver.api.entry import Entry, Result
from sdserver.api.previews import latest_preview
from sdserver.api.services import Services

IMAGES: Final = frozenset({"image", "images"})
"""What holds pictures in the results of all kinds."""


class JobError(BaseModel):
    """Why a job failed."""

    type: str
    message: str
    status: int = Field(description="what the route of that name would have answered")


class Job(BaseModel):
    """A request, from its arrival until it is forgotten. Times are ISO 8601 in UTC."""

    id: str
    kind: str = Field(description="txt2img, img2img, extras or interrogate")
    state: str = Field(description="queued, running, completed, failed or cancelled")
    stopped: str | None = Field(description="interrupt, skip or drop where somebody ended it early")
    queue_position: int = Field(description="1 is the next; 0 where it does not wait")
    progress: float = Field(description="0 to 1")
    eta_seconds: float | None = Field(description="null while nothing is known")
    images: int = Field(description="images to be made, as far as known")
    images_done: int
    pictures: int = Field(description="in the result, with grids; 0 while there is none")
    created: str
    started: str | None
    ended: str | None
    error: JobError | None
    result_kept: bool = Field(
        description="whether the result is kept for who asks later; not of other routes'"
    )
    result_expired: bool = Field(description="whether it was kept, and is not any more")


class JobWithResult(Job):
    """GET /v1/jobs/{id}."""

    result: dict[str, JsonValue] | None = Field(None, description="what the route of that name answers")
    preview: str | None = Field(None, description="base64, with ?preview=true")


class JobList(BaseModel):
    """GET /v1/jobs."""

    jobs: list[Job] = Field(description="the newest first")
    has_more: bool = Field(description="whether there are older ones")


def job_of(services: Services, entry: Entry) -> dict[str, Any]:
    """The job without its result."""
    failure, is_completed = entry.failure, entry.state == "completed"
    result = services.board.result_of(entry) if is_completed else None
    error = None
    if failure is not None:
        error = {"type": failure.kind, "message": failure.message, "status": failure.status}
    progress, eta = progress_of(entry)
    return {
        "id": entry.id,
        "kind": entry.kind,
        "state": entry.state,
        "stopped": entry.stopped,
        "queue_position": services.board.place(entry),
        "progress": progress,
        "eta_seconds": eta,
        "images": entry.tally.images,
        "images_done": entry.tally.done,
        "pictures": len(result.pictures) if result is not None else 0,
        "created": _iso(entry.created),
        "started": _iso(entry.began),
        "ended": _iso(entry.ended),
        "error": error,
        "result_kept": entry.is_kept,
        "result_expired": is_completed and entry.is_kept and result is None,
    }


def progress_of(entry: Entry) -> tuple[float, float | None]:
    """How much is done, 0 to 1, and the seconds that the rest may take, None while nothing is known."""
    if entry.state == "completed":
        return 1.0, 0.0
    share = entry.share
    if entry.is_over or share == 0:
        return share, None
    return share, entry.elapsed / share - entry.elapsed


async def full_job(
    services: Services, entry: Entry, *, has_result: bool, has_images: bool, has_preview: bool
) -> bytes:
    """The job as JSON, with what is asked for."""
    job = job_of(services, entry)
    if has_result:
        result = services.board.result_of(entry)
        content = await services.in_thread(lambda: _body(result, has_images)) if result is not None else None
        job["result"] = orjson.Fragment(content) if content is not None else None
    if has_preview:
        preview = None if entry.is_over else await latest_preview(services, entry)
        job["preview"] = base64.b64encode(preview.data).decode() if preview else None
    return orjson.dumps(job)


def _body(result: Result, has_images: bool) -> bytes:
    """The result as JSON. Takes time: call it in a worker thread."""
    body = result.body()
    if has_images:
        return body
    return orjson.dumps({name: value for name, value in orjson.loads(body).items() if name not in IMAGES})


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
