"""The API as one ASGI application."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from sdserver.api import errors
from sdserver.api.addresses import Addresses
from sdserver.api.admission import Admit
from sdserver.api.auth.gate import Gate
from sdserver.api.auth.middleware import RequireLogin
from sdserver.api.board import Board
from sdserver.api.config import ApiConfig
from sdserver.api.engine import Checkpoints, Engine
from sdserver.api.middleware import LimitBody, Observe, OnRequest, RefuseForeignPages
from sdserver.api.options import Options
from sdserver.api.outbound import Outbound
from sdserver.api.paths import BelowPrefix
from sdserver.api.progress import Progress
from sdserver.api.room import Room
from sdserver.api.routes.cards import card_routes
from sdserver.api.routes.control import ending_routes, memory_routes
from sdserver.api.routes.downloads import download_routes
from sdserver.api.routes.extras import extras_routes
from sdserver.api.routes.gallery import gallery_routes
from sdserver.api.routes.generation import generation_routes
from sdserver.api.routes.interrogate import interrogate_routes
from sdserver.api.routes.jobs import event_routes, job_routes
from sdserver.api.routes.lists import list_routes
from sdserver.api.routes.login import login_routes
from sdserver.api.routes.model_files import model_file_routes
from sdserver.api.routes.networks import network_routes
from sdserver.api.routes.openai import openai_routes
from sdserver.api.routes.options_facts import option_fact_routes
from sdserver.api.routes.pictures import picture_routes
from sdserver.api.routes.probes import probe_routes
from sdserver.api.routes.report import report_routes
from sdserver.api.routes.scripts import script_routes
from sdserver.api.routes.state import state_routes
from sdserver.api.routes.status import status_routes
from sdserver.api.routes.system import system_routes
from sdserver.api.routes.tasks import task_routes
from sdserver.api.routes.tokens import token_routes
from sdserver.api.routes.training import training_routes
from sdserver.api.services import Services
from sdserver.catalog.networks import Networks
from sdserver.images.files import Saver


def create_app(
    config: ApiConfig,
    engine: Engine,
    catalog: Checkpoints,
    networks: Networks,
    options: Options,
    on_request: OnRequest,
    pages: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """Make the application. The engine must live on the event loop that serves it.

    Args:
        config: start-up facts.
        engine: where jobs go.
        catalog: the checkpoints.
        networks: the files beside them: LoRAs, embeddings, hypernetworks, VAEs, upscalers.
        options: AUTOMATIC1111's options.
        on_request: told every request's route, status and seconds, on the event loop.
        pages: routes of the browser page and the documentation; without one for `/` a short text
            stands there, and what clients ask of AUTOMATIC1111's page is not served.
    """
    workers = ThreadPoolExecutor(config.encoders, thread_name_prefix="api-worker")
    board = Board(config.job_results_bytes, config.job_results_seconds)
    config.closing.then(board.close)
    config.door.requests = board
    saver = Saver(config.data_dir, keeps_history=config.keeps_history, on_saved=config.on_saved)
    outbound = Outbound(max_bytes=config.max_body_bytes) if config.image_urls else None
    addresses = Addresses(outbound, options, config.max_body_bytes)
    room = Room(
        lambda: len(board.active()),
        config.max_unfinished,
        config.max_pending_bytes,
        lambda: engine.eta_seconds,
    )
    services = Services(
        config, engine, catalog, networks, options, board, Progress(board), saver, workers, addresses, room
    )
    gate = Gate(config.users, config.api_keys)
    app = _application(config, services, gate, pages)
    return _wrapped(app, services, gate, on_request)


def _application(config: ApiConfig, services: Services, gate: Gate, pages: Sequence[BaseRoute]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await services.board.drained(config.drain_seconds)
        services.workers.shutdown(wait=True, cancel_futures=True)

    app = FastAPI(
        title="sdserver",
        version=config.version,
        summary="AUTOMATIC1111's API",
        # The stock documentation loads its scripts from elsewhere; ours is among the pages.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        strict_content_type=False,
    )
    errors.install(app, quirks=config.a1111_quirks)
    has_page = any(isinstance(route, Route) and route.path == "/" for route in pages)
    for router in (
        generation_routes(services),
        extras_routes(services),
        job_routes(services),
        event_routes(services),
        # Before the checkpoints, any of which may be asked for by its name.
        download_routes(services),
        openai_routes(services),
        state_routes(services),
        list_routes(services),
        script_routes(services),
        network_routes(services),
        picture_routes(services),
        gallery_routes(services),
        token_routes(services),
        option_fact_routes(services),
        status_routes(services),
        model_file_routes(services),
        system_routes(services, has_page=has_page),
        login_routes(gate),
        interrogate_routes(services),
        training_routes(),
        memory_routes(services),
        *([ending_routes(config.ending)] if config.api_server_stop else []),
        *(
            [task_routes(services), probe_routes(services), report_routes(services), card_routes(services)]
            if has_page
            else []
        ),
    ):
        app.include_router(router)
    app.router.routes.extend(pages)
    return app


def _wrapped(app: ASGIApp, services: Services, gate: Gate, on_request: OnRequest) -> ASGIApp:
    """The middleware, from the inside out. CORS must see refusals too, or pages could not read them."""
    config = services.config
    app = LimitBody(app, config.max_body_bytes)
    app = Admit(app, services.room, config.door, services.board)
    app = RequireLogin(app, gate, login_page=config.login_page)
    app = RefuseForeignPages(app, _allowed_origin(config))
    app = CORSMiddleware(
        app,
        allow_origins=config.cors_allow_origins,
        allow_origin_regex=config.cors_allow_origins_regex or None,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=True,
        expose_headers=[
            "X-Request-Id",
            "X-Process-Time",
            "X-Save-Error",
            "X-Upload-Error",
            "X-Missing-Networks",
            "X-Task-Id",
            "X-Queue-Time",
            "X-Seed",
            "Location",
            "Retry-After",
        ],
    )
    return Observe(BelowPrefix(app, config.subpath), on_request)


def _allowed_origin(config: ApiConfig) -> Callable[[str], bool]:
    origins, pattern = config.cors_allow_origins, config.cors_allow_origins_regex

    def is_allowed(origin: str) -> bool:
        return "*" in origins or origin in origins or bool(pattern and re.fullmatch(pattern, origin))

    return is_allowed
