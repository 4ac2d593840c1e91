"""Making pictures, and stopping it."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from sdserver.api.answer import render_answer
from sdserver.api.engine import Ticket
from sdserver.api.errors import JsonResponse
from sdserver.api.middleware import CLIENT_LEFT
from sdserver.api.saving import check_folders
from sdserver.api.schemas import Txt2ImgRequest, Txt2ImgResponse
from sdserver.api.services import Services
from sdserver.api.translate import translate
from sdserver.errors import NotReady
from sdserver.jobs.events import Cancelled, Finished

Ends = Sequence[Finished | Cancelled]


def generation_routes(services: Services) -> APIRouter:
    """txt2img, interrupt and skip."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"])

    @router.post("/txt2img", response_model=Txt2ImgResponse)
    async def txt2img(body: Txt2ImgRequest, request: Request) -> Response:
        """Make pictures from text. A client that leaves cancels its pictures."""
        return await _txt2img(services, body, request.receive)

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


async def _txt2img(services: Services, body: Txt2ImgRequest, receive: Receive) -> Response:
    config = services.config
    now = datetime.now().astimezone()
    request_id = uuid.uuid4().hex
    plan = translate(body, request_id, services.options, services.catalog, config, now)
    check_folders(plan, services.saver)
    ticket = services.engine.submit(request_id, plan.jobs)
    services.progress.begin(ticket, plan.timestamp)
    try:
        if not body.override_settings_restore_afterwards:
            services.options.apply(plan.overrides)
        hashing = asyncio.ensure_future(services.hashed(plan.checkpoint))
        ends = await follow(
            ticket, receive, config.request_timeout, finish_on_disconnect=config.finish_on_disconnect
        )
        if ends is None:
            return Response(status_code=CLIENT_LEFT)
        if all(isinstance(end, Cancelled) for end in ends) and not services.progress.was_stopped(ticket):
            raise NotReady("The request was dropped, for the server is shutting down: send it again.", 5)
        checkpoint = await hashing
    finally:
        services.progress.end(ticket)
    answer = await services.in_thread(
        lambda: render_answer(plan, ends, checkpoint, services.saver, config.version)
    )
    headers = (
        {"X-Save-Error": answer.save_error.encode("ascii", "replace").decode()} if answer.save_error else None
    )
    return JsonResponse(answer.body, headers=headers)


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
