"""Reports on the installation, as AUTOMATIC1111's page offers them; without secrets."""

import os
import platform
import time
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from sdserver.api import coerce
from sdserver.api.errors import JsonResponse
from sdserver.api.routes.system import device_facts, ram_facts, without_secrets
from sdserver.api.services import Services


def report_routes(services: Services) -> APIRouter:
    """sysinfo, sysinfo-download, profile-startup, quicksettings-hint below /internal."""
    router = APIRouter(prefix="/internal", tags=["reports"])
    startup = process_seconds()

    async def report(*, attachment: bool) -> Response:
        facts = await services.in_thread(lambda: system_report(services))
        name = time.strftime("sysinfo-%Y-%m-%d-%H-%M.json")
        return Response(
            orjson.dumps(facts, option=orjson.OPT_INDENT_2),
            media_type="text/plain",
            headers={"Content-Disposition": f'{"attachment" if attachment else "inline"}; filename="{name}"'},
        )

    @router.get("/sysinfo")
    async def sysinfo(
        attachment: Annotated[bool, BeforeValidator(coerce.to_bool), Query()] = False,
    ) -> Response:
        """The installation as JSON text: versions, memory, flags, options, packages."""
        return await report(attachment=attachment)

    @router.get("/sysinfo-download")
    async def sysinfo_download() -> Response:
        """The same as a file to keep."""
        return await report(attachment=True)

    @router.get("/profile-startup")
    async def profile_startup() -> JsonResponse:
        """Seconds from the process's start until the API was there, and those of loading the checkpoint."""
        model = services.engine.model
        records = {} if model is None else {"load checkpoint": model.seconds}
        return JsonResponse({"total": startup, "records": records})

    @router.get("/quicksettings-hint")
    async def quicksettings_hint() -> JsonResponse:
        """The names of all options."""
        return JsonResponse([{"name": name, "label": name} for name in services.options.snapshot()])

    return router


def system_report(services: Services) -> dict[str, Any]:
    """What the report says. May look at every installed package: call it in a worker thread."""
    model = services.engine.model
    return {
        "Platform": platform.platform(),
        "Python": platform.python_version(),
        "Version": services.config.version,
        "Data path": str(services.config.data_dir),
        "CPU": {"model": platform.processor(), "count logical": os.cpu_count()},
        "RAM": ram_facts(),
        "Device": device_facts(services.engine.memory),
        "Checkpoint": None
        if model is None
        else {"file": model.checkpoint, "family": model.family, "device": model.device, "dtype": model.dtype},
        "Extensions": [],
        "Flags": without_secrets(services.config.flags),
        "Config": dict(services.options.snapshot()),
        "Packages": installed_packages(),
    }


@cache
def installed_packages() -> tuple[str, ...]:
    """Name and version of each. Found once, for that takes a tenth of a second."""
    packages = {f"{each.name}=={each.version}" for each in distributions() if each.name}
    return tuple(sorted(packages, key=str.lower))


def process_seconds() -> float | None:
    """Seconds since this process began; None where the system does not tell."""
    try:
        # The name, in brackets, may hold blanks; the start is the 22nd field, in ticks since boot.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return round(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 3)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
