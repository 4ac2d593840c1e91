"""Progress by task id, as AUTOMATIC1111's own page asks for it."""

from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sdserver.api.entry import Entry
from sdserver.api.errors import JsonResponse
from sdserver.api.jobs.view import progress_of
from sdserver.api.previews import latest_preview
from sdserver.api.services import Services
from sdserver.api.wire import Bool, Int, Str
from sdserver.errors import InvalidField
from sdserver.images.codec import to_base64

NO_PREVIEW: Final = -1


class ProgressRequest(BaseModel):
    """POST /internal/progress."""

    id_task: Str | None = Field(None, description="id of the task to get progress for")
    id_live_preview: Int = Field(NO_PREVIEW, description="id of the preview received last")
    live_preview: Bool = Field(True, description="whether to include the preview")


class TaskProgress(BaseModel):
    """How far a task is."""

    active: bool = Field(description="whether the task is being worked on")
    queued: bool = Field(description="whether it waits")
    completed: bool = Field(description="whether it ended")
    progress: float | None = Field(None, description="0 to 1")
    eta: float | None = Field(None, description="seconds")
    live_preview: str | None = Field(None, description="a data URI")
    id_live_preview: int | None = Field(None, description="send it with the next request")
    textinfo: str | None = None


class PendingTasks(BaseModel):
    """GET /internal/pending-tasks."""

    size: int
    tasks: list[str]


def task_routes(services: Services) -> APIRouter:
    """/internal/progress and /internal/pending-tasks."""
    router = APIRouter(prefix="/internal", tags=["tasks"])

    @router.post("/progress", response_model=TaskProgress)
    async def progress(body: ProgressRequest) -> JsonResponse:
        """How far the task is that a request named in `force_task_id`."""
        if body.id_task is None:
            raise InvalidField("id_task", "'id_task' is missing: send the id of a request's force_task_id.")
        if not abs(body.id_live_preview) < 2**63:
            raise InvalidField("id_live_preview", "'id_live_preview' must be the id of a preview.")
        entry = services.board.find(body.id_task)
        if entry is not None and entry.state == "running":
            return JsonResponse((await _running(services, entry, body)).model_dump())
        return JsonResponse(_at_rest(services, entry).model_dump())

    @router.get("/pending-tasks", response_model=PendingTasks)
    async def pending_tasks() -> JsonResponse:
        """The requests that wait, the next one first."""
        waiting = services.board.waiting
        return JsonResponse({"size": len(waiting), "tasks": [entry.id for entry in waiting]})

    return router


def _at_rest(services: Services, entry: Entry | None) -> TaskProgress:
    text = "Waiting..."
    is_queued = entry is not None and entry.state == "queued"
    if entry is not None and is_queued:
        text = f"In queue: {services.board.place(entry)}/{len(services.board.waiting)}"
    is_over = entry is not None and entry.is_over
    return TaskProgress(
        active=False, queued=is_queued, completed=is_over, id_live_preview=NO_PREVIEW, textinfo=text
    )


async def _running(services: Services, entry: Entry, asked: ProgressRequest) -> TaskProgress:
    share, eta = progress_of(entry)
    shown, picture = asked.id_live_preview, None
    if asked.live_preview:
        preview = await latest_preview(services, entry)
        if preview is not None and entry.preview_step != shown:
            shown = entry.preview_step
            picture = f"data:{preview.media_type};base64,{to_base64(preview.data)}"
    return TaskProgress(
        active=True,
        queued=False,
        completed=False,
        progress=share,
        eta=eta,
        live_preview=picture,
        id_live_preview=shown,
        textinfo=entry.textinfo,
    )
