"""What pictures show, in words."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sdserver.api.begin import begin_work, result_or_left
from sdserver.api.errors import JsonResponse
from sdserver.api.interrogate import InterrogateRequest, interrogate_work
from sdserver.api.json_body import JsonRoute
from sdserver.api.middleware import CLIENT_LEFT
from sdserver.api.routes.generation import TASK_HEADER
from sdserver.api.services import Services


class InterrogateResponse(BaseModel):
    """The answer of interrogate."""

    caption: str = Field(description="what the picture shows")


def interrogate_routes(services: Services) -> APIRouter:
    """The route interrogate."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"], route_class=JsonRoute)

    @router.post("/interrogate", response_model=InterrogateResponse)
    async def interrogate(body: InterrogateRequest, http: HttpRequest) -> Response:
        """Describe a picture; 501 where the network for it is not there. A client that leaves cancels it."""
        entry = begin_work(services, "interrogate", None, http, lambda work: interrogate_work(work, body))
        result = await result_or_left(services, entry, http)
        if result is None:
            return Response(status_code=CLIENT_LEFT)
        content = await services.in_thread(result.body)
        return JsonResponse(content, headers={TASK_HEADER: entry.id, **result.headers})

    return router
