"""Making pictures, and stopping it."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter, HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive

from sdserver.api.answer.facts import collect
from sdserver.api.answer.render import render_answer
from sdserver.api.engine import Ticket
from sdserver.api.errors import JsonResponse
from sdserver.api.middleware import CLIENT_LEFT
from sdserver.api.options import CHECKPOINT
from sdserver.api.requests import Img2ImgRequest, Request, Txt2ImgRequest
from sdserver.api.saving import check_folders
from sdserver.api.schemas import GenerationResponse
from sdserver.api.services import Services
from sdserver.api.translate.plan import Plan, Sources
from sdserver.api.translate.resolve import translate
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.errors import NotReady
from sdserver.jobs.events import Cancelled, Finished

Ends = Sequence[Finished | Cancelled]
MAX_HEADER = 1000


def generation_routes(services: Services) -> APIRouter:
    """txt2img, img2img, interrupt and skip."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"])

    @router.post("/txt2img", response_model=GenerationResponse)
    async def txt2img(body: Txt2ImgRequest, request: HttpRequest) -> Response:
        """Make pictures from text. A client that leaves cancels its pictures."""
        return await _generate(services, body, request.receive)

    @router.post("/img2img", response_model=GenerationResponse)
    async def img2img(body: Img2ImgRequest, request: HttpRequest) -> Response:
        """Make pictures from pictures and text. A client that leaves cancels its pictures."""
        if not body.init_images:
            raise HTTPException(404, "Init image not found")
        return await _generate(services, body, request.receive)

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


async def _generate(services: Services, body: Request, receive: Receive) -> Response:
    config = services.config
    now = datetime.now().astimezone()
    request_id = uuid.uuid4().hex
    sources = Sources(services.options, services.catalog, services.networks, config, now)
    if isinstance(body, Img2ImgRequest) or body.infotext:
        plan = await services.in_thread(lambda: translate(body, request_id, sources))
    else:
        plan = translate(body, request_id, sources)
    check_folders(plan, services.saver)
    ticket = services.engine.submit(request_id, plan.jobs)
    services.progress.begin(ticket, plan.timestamp)
    try:
        if not plan.request.override_settings_restore_afterwards:
            services.options.apply(plan.overrides)
            if CHECKPOINT in plan.overrides:
                services.tell_chosen(plan.checkpoint)
        hashing = asyncio.gather(*(services.hashed(checkpoint) for checkpoint in plan.checkpoints))
        ends = await follow(
            ticket, receive, config.request_timeout, finish_on_disconnect=config.finish_on_disconnect
        )
        if ends is None:
            return Response(status_code=CLIENT_LEFT)
        if all(isinstance(end, Cancelled) for end in ends) and not services.progress.was_stopped(ticket):
            raise NotReady("The request was dropped, for the server is shutting down: send it again.", 5)
        checkpoints = await hashing
    finally:
        services.progress.end(ticket)
    return await services.in_thread(lambda: _answer(services, plan, ends, checkpoints))


def _answer(services: Services, plan: Plan, ends: Ends, checkpoints: Sequence[Checkpoint]) -> JsonResponse:
    """The finished request's answer. Blocks."""
    facts = collect(plan, ends, checkpoints, services.networks, services.config.version)
    answer = render_answer(plan, ends, facts, services.saver)
    headers = {"X-Save-Error": answer.save_error, "X-Missing-Networks": ", ".join(plan.missing)}
    shown = {key: _header(text) for key, text in headers.items() if text}
    return JsonResponse(answer.body, headers=shown)


def _header(text: str) -> str:
    """Text as a header may hold it."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:MAX_HEADER]


async def follow(
    ticket: Ticket, receive: Receive, time_limit: float, *, finish_on_disconnect: bool
) -> Ends | None:
    """Wait for a request's end, or until nobody waits for it any more.

    Args:
        ticket: the request.
        receive: of the client's connection, its body read.
        time_limit: seconds, 0 for none.
        finish_on_disconnect: let the jobs go on without their client.

    Returns:
        The jobs' ends, or None if the client left and its jobs were dropped.

    Raises:
        JobError: a job failed.
        HTTPException: 504, time is up.
    """
    results = asyncio.ensure_future(ticket.results())
    left = asyncio.ensure_future(_left(receive))
    try:
        async with asyncio.timeout(time_limit or None):
            await asyncio.wait({results, left}, return_when=asyncio.FIRST_COMPLETED)
            if results.done() or finish_on_disconnect:
                return await results
        ticket.stop("drop")
        return None
    except TimeoutError:
        ticket.stop("drop")
        raise HTTPException(504, f"The request took longer than {time_limit:g} seconds.") from None
    except asyncio.CancelledError:
        ticket.stop("drop")
        raise
    finally:
        results.cancel()
        left.cancel()


async def _left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
