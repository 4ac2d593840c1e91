"""Lists of the scripts that requests may name."""

from datetime import datetime

from fastapi import APIRouter

from sdserver.api.errors import JsonResponse
from sdserver.api.schemas import ScriptInfo, ScriptsList
from sdserver.api.scripts.info import script_infos, script_names
from sdserver.api.services import Services
from sdserver.api.translate.plan import Sources


def script_routes(services: Services) -> APIRouter:
    """scripts, script-info."""
    router = APIRouter(prefix="/sdapi/v1", tags=["lists"])

    @router.get("/scripts", response_model=ScriptsList)
    async def scripts() -> JsonResponse:
        """Names of all scripts, those that run with every request at the end."""
        return JsonResponse(script_names())

    @router.get("/script-info", response_model=list[ScriptInfo])
    async def script_info() -> JsonResponse:
        """The scripts' arguments in the order of `script_args`, with defaults, ranges and choices."""
        sources = Sources(
            services.options,
            services.catalog,
            services.networks,
            services.config,
            datetime.now().astimezone(),
        )
        return JsonResponse(script_infos(sources))

    return router
