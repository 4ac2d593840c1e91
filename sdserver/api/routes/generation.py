"""Making pictures, and stopping it."""

from fastapi import APIRouter, HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sdserver.api.answer.answer import Answer
from sdserver.api.answer.bare import bare_picture, wanted_picture
from sdserver.api.begin import begin, body_of, result_or_left
from sdserver.api.errors import JsonResponse
from sdserver.api.json_body import JsonRoute
from sdserver.api.middleware import CLIENT_LEFT
from sdserver.api.requests import Img2ImgRequest, Request, Txt2ImgRequest
from sdserver.api.schemas import GenerationResponse
from sdserver.api.services import Services

TASK_HEADER = "X-Task-Id"


def generation_routes(services: Services) -> APIRouter:
    """txt2img, img2img, interrupt and skip."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"], route_class=JsonRoute)

    @router.post("/txt2img", response_model=GenerationResponse)
    async def txt2img(body: Txt2ImgRequest, http: HttpRequest) -> Response:
        """Make pictures from text. A client that leaves cancels its pictures."""
        return await _generate(services, body, http)

    @router.post("/img2img", response_model=GenerationResponse)
    async def img2img(body: Img2ImgRequest, http: HttpRequest) -> Response:
        """Make pictures from pictures and text. A client that leaves cancels its pictures."""
        if not body.init_images:
            raise HTTPException(404, "Init image not found")
        return await _generate(services, body, http)

    @router.post("/interrupt")
    async def interrupt() -> JsonResponse:
        """End the oldest running request; it answers with the pictures it has."""
        services.progress.stop("interrupt")
        return JsonResponse({})

    @router.post("/skip")
    async def skip() -> JsonResponse:
        """End the images that the oldest running request is working on; it goes on with its next."""
        services.progress.stop("skip")
        return JsonResponse(None)

    return router


async def _generate(services: Services, body: Request, http: HttpRequest) -> Response:
    entry = begin(services, body, http)
    result = await result_or_left(services, entry, http)
    if result is None:
        return Response(status_code=CLIENT_LEFT)
    wanted = wanted_picture(http.headers.get("accept"))
    if wanted is not None and isinstance(result, Answer):
        options = services.options.snapshot()
        bare = await services.in_thread(lambda: bare_picture(result, wanted, options))
        if bare is not None:
            told = {TASK_HEADER: entry.id, **bare.headers}
            return Response(bare.picture.data, media_type=bare.picture.media_type, headers=told)
    content = await body_of(services, result)
    return JsonResponse(content, headers={TASK_HEADER: entry.id, **result.headers})
