"""What pictures say of themselves."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict

from sdserver.api import coerce
from sdserver.api.errors import JsonResponse
from sdserver.api.json_body import JsonRoute
from sdserver.api.picture_info import picture_info
from sdserver.api.services import Services


class PngInfoRequest(BaseModel):
    """POST /sdapi/v1/png-info."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    image: Annotated[str, BeforeValidator(coerce.to_str)]


class PngInfoResponse(BaseModel):
    """What the picture says: its infotext, other texts, and the infotext taken apart."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


def picture_routes(services: Services) -> APIRouter:
    """png-info."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"], route_class=JsonRoute)

    @router.post("/png-info", response_model=PngInfoResponse)
    async def png_info(body: PngInfoRequest) -> JsonResponse:
        """Read how a picture was made: PNG text, or the EXIF comment of JPEG and WebP."""
        image = await services.addresses.fetch(body.image, "image")
        options, styles = services.options.snapshot(), services.config.styles
        return JsonResponse(
            await services.in_thread(lambda: picture_info(image, options, styles, services.networks))
        )

    return router
