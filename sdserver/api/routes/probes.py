"""What clients of AUTOMATIC1111's page ask for to see whether it is there."""

import secrets

from fastapi import APIRouter, Request
from starlette.responses import Response

from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services


def probe_routes(services: Services) -> APIRouter:
    """app_id, config, info, queue/status, theme.css."""
    router = APIRouter(tags=["probes"])
    app_id = secrets.randbits(64)

    @router.get("/app_id")
    async def get_app_id() -> JsonResponse:
        """A number that changes when the server is started anew."""
        return JsonResponse({"app_id": app_id})

    @router.get("/config")
    async def config(request: Request) -> JsonResponse:
        """The page in Gradio's terms: it has none of Gradio's components."""
        return JsonResponse(
            {
                "version": services.config.version,
                "mode": "blocks",
                "dev_mode": False,
                "components": [],
                "css": None,
                "title": "sdserver",
                "is_space": False,
                "enable_queue": True,
                "show_error": True,
                "show_api": True,
                "layout": {"id": 0, "children": []},
                "dependencies": [],
                "root": str(request.scope.get("root_path", "")),
            }
        )

    @router.get("/info")
    async def info() -> JsonResponse:
        """Functions of the page that can be called in Gradio's way: none."""
        return JsonResponse({"named_endpoints": {}, "unnamed_endpoints": {}})

    @router.get("/queue/status")
    async def queue_status() -> JsonResponse:
        """How many requests wait. Times are those of a queue that has measured none yet."""
        waiting = sum(ticket.state == "queued" for ticket in services.engine.active())
        return JsonResponse(
            {
                "msg": "estimation",
                "rank": None,
                "queue_size": waiting,
                "avg_event_process_time": 0.0,
                "avg_event_concurrent_process_time": None,
                "rank_eta": None,
                "queue_eta": 1.0,
            }
        )

    @router.get("/theme.css")
    async def theme() -> Response:
        """Gradio's colours: the page has its own."""
        return Response("", media_type="text/css")

    return router
