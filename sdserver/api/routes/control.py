"""What the operator's own clients may do to the server: free its memory, end it."""

from fastapi import APIRouter
from starlette.responses import Response

from sdserver.api.config import Ending
from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services
from sdserver.errors import NotServed


def memory_routes(services: Services) -> APIRouter:
    """unload-checkpoint, reload-checkpoint."""
    router = APIRouter(prefix="/sdapi/v1", tags=["system"])

    @router.post("/unload-checkpoint")
    async def unload_checkpoint() -> JsonResponse:
        """Free the device's memory of the checkpoint, once the jobs that run have ended."""
        await services.engine.unload()
        return JsonResponse({})

    @router.post("/reload-checkpoint")
    async def reload_checkpoint() -> JsonResponse:
        """Have the checkpoint on the device again; the next job would do so, too."""
        await services.engine.reload()
        return JsonResponse({})

    return router


def ending_routes(ending: Ending) -> APIRouter:
    """server-kill, server-stop, server-restart."""
    router = APIRouter(prefix="/sdapi/v1", tags=["system"])

    @router.post("/server-kill")
    async def server_kill() -> JsonResponse:
        """End the process now, whatever it is doing; there is no answer."""
        ending.kill()
        return JsonResponse({})

    @router.post("/server-stop")
    async def server_stop() -> Response:
        """End the server as SIGTERM does: what was accepted is finished first."""
        ending.stop()
        return Response("Stopping.")

    @router.post("/server-restart")
    async def server_restart() -> Response:
        """End the server as server-stop does, then start it again with the same settings."""
        if ending.restart is None:
            raise NotServed("This server does not start itself again: end it by server-stop and start it.")
        ending.restart()
        return Response("Restarting.")

    return router
