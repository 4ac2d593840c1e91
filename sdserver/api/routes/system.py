"""The server itself: memory, flags, probes, the root."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel, JsonValue, create_model
from starlette.responses import PlainTextResponse

from sdserver.api.door import RETRY_SECONDS
from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services
from sdserver.engine.messages import MemoryFacts
from sdserver.settings.a1111_flags import FLAGS

_SECRET = re.compile(r"auth|token|secret|password|key|url", re.IGNORECASE)


class MemoryResponse(BaseModel):
    """Memory in bytes; `{error}` where it is not known."""

    ram: dict[str, JsonValue]
    cuda: dict[str, JsonValue]


class ExtensionItem(BaseModel):
    """An extension, as AUTOMATIC1111 lists it."""

    name: str
    remote: str | None
    branch: str
    commit_hash: str
    version: str
    commit_date: str
    enabled: bool


Flags = create_model("Flags", **dict.fromkeys(FLAGS, (JsonValue, None)))  # type: ignore[call-overload]
"""AUTOMATIC1111's start-up flags."""


def system_routes(services: Services, *, has_page: bool) -> APIRouter:
    """memory, cmd-flags, extensions, health, ping, and the root where there is no page."""
    router = APIRouter(tags=["system"])

    @router.get("/sdapi/v1/memory", response_model=MemoryResponse)
    async def memory() -> JsonResponse:
        """Memory of this process and of the device, in bytes."""
        return JsonResponse({"ram": ram_facts(), "cuda": device_facts(services.engine.memory)})

    @router.get("/sdapi/v1/cmd-flags", response_model=Flags)
    async def cmd_flags() -> JsonResponse:
        """The settings the server was started with; secrets are null."""
        return JsonResponse(without_secrets(services.config.flags))

    @router.get("/sdapi/v1/extensions", response_model=list[ExtensionItem])
    async def extensions() -> JsonResponse:
        """Extensions: this server has none."""
        return JsonResponse([])

    @router.get("/internal/ping")
    async def ping() -> JsonResponse:
        """Answers as long as the process lives; needs no login."""
        return JsonResponse({})

    @router.get("/health")
    @router.head("/health", include_in_schema=False)
    async def health() -> PlainTextResponse:
        """For load balancers that can probe this port alone; needs no login."""
        headers = {"Cache-Control": "no-store"}
        if services.config.door.probed():
            return PlainTextResponse("ok\n", headers=headers)
        return PlainTextResponse("draining\n", 503, headers | {"Retry-After": str(RETRY_SECONDS)})

    if not has_page:

        @router.get("/", include_in_schema=False)
        @router.head("/", include_in_schema=False)
        async def root() -> PlainTextResponse:
            """Some clients ask for the root to see whether the server is there."""
            return PlainTextResponse("sdserver\n")

    return router


def without_secrets(flags: Mapping[str, object]) -> dict[str, object]:
    """The flags, those that may hold a secret as null."""
    return {name: None if _SECRET.search(name) else value for name, value in flags.items()}


def ram_facts() -> dict[str, float | str]:
    """Memory of this process, as AUTOMATIC1111 counts it: `free` is all that it does not use itself."""
    try:
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, IndexError):
        return {"error": "unavailable"}
    return {"free": total - resident * page, "used": resident * page, "total": total}


def device_facts(memory: MemoryFacts | None) -> dict[str, object]:
    """The device's memory, with peaks since the engine began, as far as it is known."""
    if memory is None or memory.free is None or memory.total is None:
        return {"error": "unavailable"}
    system = {"free": memory.free, "used": memory.total - memory.free, "total": memory.total}
    kinds = {
        "active": (memory.active, memory.active_peak),
        "allocated": (memory.allocated, memory.allocated_peak),
        "reserved": (memory.reserved, memory.reserved_peak),
        "inactive": (memory.inactive, memory.inactive_peak),
    }
    counted = {
        name: {"current": current, "peak": peak}
        for name, (current, peak) in kinds.items()
        if current is not None and peak is not None
    }
    events = {"retries": memory.retries, "oom": memory.ooms}
    known = {"events": events} if None not in events.values() else {}
    return {"system": system, **counted, **known}
