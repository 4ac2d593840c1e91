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
from sdserver.api.auth import BasicAuth
from sdserver.api.config import ApiConfig
from sdserver.api.engine import Checkpoints, Engine
from sdserver.api.middleware import LimitBody, Observe, OnRequest, RefuseForeignPages
from sdserver.api.options import Options
from sdserver.api.paths import BelowPrefix
from sdserver.api.progress import Progress
from sdserver.api.routes.generation import generation_routes
from sdserver.api.routes.lists import list_routes
from sdserver.api.routes.networks import network_routes
from sdserver.api.routes.pictures import picture_routes
from sdserver.api.routes.state import state_routes
from sdserver.api.routes.system import system_routes
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
            stands there.
    """
    workers = ThreadPoolExecutor(config.encoders, thread_name_prefix="api-worker")
    progress = Progress(engine)
    services = Services(config, engine, catalog, networks, options, progress, Saver(config.data_dir), workers)
    app = _application(config, services, pages)
    return _wrapped(app, config, on_request)


def _application(config: ApiConfig, services: Services, pages: Sequence[BaseRoute]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
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
        state_routes(services),
        list_routes(services),
        network_routes(services),
        picture_routes(services),
        system_routes(services, has_page=has_page),
    ):
        app.include_router(router)
    app.router.routes.extend(pages)
    return app


def _wrapped(app: ASGIApp, config: ApiConfig, on_request: OnRequest) -> ASGIApp:
    """The middleware, from the inside out. CORS must see refusals too, or pages could not read them."""
    app = LimitBody(app, config.max_body_bytes)
    app = BasicAuth(app, config.users)
    app = RefuseForeignPages(app, _allowed_origin(config))
    app = CORSMiddleware(
        app,
        allow_origins=config.cors_allow_origins,
        allow_origin_regex=config.cors_allow_origins_regex or None,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=True,
        expose_headers=["X-Request-Id", "X-Process-Time", "X-Save-Error", "X-Missing-Networks"],
    )
    return Observe(BelowPrefix(app, config.subpath), on_request)


def _allowed_origin(config: ApiConfig) -> Callable[[str], bool]:
    origins, pattern = config.cors_allow_origins, config.cors_allow_origins_regex

    def is_allowed(origin: str) -> bool:
        return "*" in origins or origin in origins or bool(pattern and re.fullmatch(pattern, origin))

    return is_allowed
