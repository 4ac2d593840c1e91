"""How the node is, for those who use it. The maintenance port says the same, and more, to its operator."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, Field, JsonValue

from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services

MOST_SECONDS = 1e11


class StatusResponse(BaseModel):
    """GET /v1/status. Ages are in seconds."""

    state: str = Field(description="loading, ready, restarting, draining or failed")
    reason: str
    state_age_s: float
    uptime_s: float
    versions: dict[str, str]
    model: dict[str, JsonValue] | None = Field(description="file, family, device, dtype, threads, load_s")
    memory: dict[str, JsonValue] | None = Field(description="kind (device or process), used, total in bytes")
    queue: dict[str, JsonValue] = Field(description="running, waiting, capacity, eta_s")
    engine: dict[str, JsonValue] = Field(description="restarts, silent_s")
    devices: list[dict[str, JsonValue]] = Field(
        default=[],
        description="each one's: device, state (starting, ready, restarting or failed), model, running and "
        "waiting (images), restarts, loads, rows, images, memory (free, total)",
    )
    states: list[dict[str, JsonValue]] = Field(description="the last ones: state, reason, age_s")
    errors: list[dict[str, JsonValue]] = Field(description="the last ones: error, age_s")
    history: dict[str, Any] = Field(
        description="columns of the last hour, a point every `seconds`: time (since 1970), "
        "images_per_minute, rows (of a batch), running, waiting, memory (bytes)"
    )


def status_routes(services: Services) -> APIRouter:
    """The route /v1/status."""
    router = APIRouter(prefix="/v1", tags=["state"])

    @router.get("/status", response_model=StatusResponse)
    async def status(since: Annotated[float, Query(ge=0, le=MOST_SECONDS)] = 0.0) -> JsonResponse:
        """State, model, memory, queue and what happened in the last hour; of that, what is after `since`."""
        if services.config.status is None:
            raise HTTPException(404, "This server is not told how its node is.")
        return JsonResponse(dict(services.config.status(since)))

    return router
