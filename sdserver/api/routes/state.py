"""What the server is doing, and its options."""

from typing import Annotated, Final

from fastapi import APIRouter, Body, Query
from pydantic import BeforeValidator

from sdserver.api import coerce
from sdserver.api.errors import JsonResponse
from sdserver.api.options import CHECKPOINT
from sdserver.api.previews import latest_preview
from sdserver.api.schemas import OptionsResponse, ProgressResponse
from sdserver.api.services import Services
from sdserver.api.wire import JsonDict
from sdserver.errors import EngineFailure, InvalidField
from sdserver.images.codec import to_base64

BUILT_IN_VAES: Final = (None, "", "None", "Automatic", "auto")
"""Values of the option `sd_vae` that are no files."""


def state_routes(services: Services) -> APIRouter:
    """The routes progress and options."""
    router = APIRouter(prefix="/sdapi/v1", tags=["state"])

    @router.get("/progress", response_model=ProgressResponse)
    async def progress(
        skip_current_image: Annotated[bool, BeforeValidator(coerce.to_bool), Query()] = False,
    ) -> JsonResponse:
        """How far the oldest request is, with the latest preview of it."""
        response = services.progress.view()
        entry = services.board.current
        if entry is not None and not skip_current_image:
            preview = await latest_preview(services, entry)
            response.current_image = to_base64(preview.data) if preview else None
        return JsonResponse(response.model_dump())

    @router.get("/options", response_model=OptionsResponse)
    async def options() -> JsonResponse:
        """All options."""
        return JsonResponse(dict(services.options.snapshot()))

    @router.post("/options")
    async def set_options(changes: Annotated[JsonDict, Body()]) -> JsonResponse:
        """Set options. All are checked before any is set; a new checkpoint is loaded before the answer."""
        return await _set_options(services, changes)

    return router


async def _set_options(services: Services, changes: dict[str, object]) -> JsonResponse:
    parsed = services.options.parse(changes, "options")
    vae = parsed.get("sd_vae")
    if vae not in BUILT_IN_VAES and services.networks.find_vae(str(vae)) is None:
        raise InvalidField("sd_vae", f"There is no VAE {str(vae)[:100]!r}; GET /sdapi/v1/sd-vae lists them.")
    checkpoint = parsed.pop(CHECKPOINT, None)
    if checkpoint is not None:
        await services.choose(str(checkpoint))
    services.options.apply(parsed)
    try:
        await services.in_thread(services.options.save)
    except OSError as error:
        message = f"The options are set but could not be saved to disk: {error.strerror}."
        raise EngineFailure(message) from error
    return JsonResponse(None)
