"""The server itself: memory, flags, probes, the root."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services
from sdserver.engine.messages import MemoryFacts

_SECRET = re.compile(r"auth|token|secret|password|key|url", re.IGNORECASE)


def system_routes(services: Services, *, has_page: bool) -> APIRouter:
    """memory, cmd-flags, health, ping, and the root where there is no page."""
    router = APIRouter(tags=["system"])

    @router.get("/sdapi/v1/memory")
    async def memory() -> JsonResponse:
        """Memory of this process and of the device, in bytes."""
        return JsonResponse({"ram": ram_facts(), "cuda": device_facts(services.engine.memory)})

    @router.get("/sdapi/v1/cmd-flags")
    async def cmd_flags() -> JsonResponse:
        """The settings the server was started with; secrets are null."""
        return JsonResponse(without_secrets(services.config.flags))

    @router.get("/internal/ping")
    async def ping() -> JsonResponse:
        """Answers as long as the process lives; needs no login."""
        return JsonResponse({})

    @router.get("/health")
    @router.head("/health", include_in_schema=False)
    async def health() -> PlainTextResponse:
        """For load balancers that can probe this port alone; needs no login."""
        return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})

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
    """The device's memory; peaks are not recorded in this version."""
    if memory is None or memory.free is None or memory.total is None:
        return {"error": "unavailable"}
    facts: dict[str, object] = {
        "system": {"free": memory.free, "used": memory.total - memory.free, "total": memory.total}
    }
    if memory.allocated is not None:
        facts["allocated"] = {"current": memory.allocated}
    if memory.reserved is not None:
        facts["reserved"] = {"current": memory.reserved}
    return facts
