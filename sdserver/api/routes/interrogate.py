"""What pictures show, in words: the networks for it are not there."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, model_validator

from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services
from sdserver.api.wire import Str
from sdserver.errors import MissingModel
from sdserver.images.decode import decode

_NETWORKS: Final[Mapping[str, str]] = {
    "clip": "BLIP (models/BLIP/model_base_caption_capfilt_large.pth)",
    "deepdanbooru": "DeepDanbooru (models/torch_deepdanbooru/model-resnet_custom_v3.pt)",
}


class InterrogateRequest(BaseModel):
    """POST /sdapi/v1/interrogate."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    image: Str = ""
    model: Str = "clip"

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        return (
            {key: value for key, value in body.items() if value is not None}
            if isinstance(body, dict)
            else body
        )


def interrogate_routes(services: Services) -> APIRouter:
    """The route interrogate."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"])

    @router.post("/interrogate")
    async def interrogate(body: InterrogateRequest) -> JsonResponse:
        """Check the picture and the model's name; 501, for no model that describes pictures is there."""
        most = services.config.limits.max_init_pixels
        image = await services.addresses.fetch(body.image, "image")
        await services.in_thread(lambda: decode(image, "image", most))
        network = _NETWORKS.get(body.model)
        if network is None:
            raise HTTPException(404, "Model not found")
        raise MissingModel(
            f"Describing pictures by {body.model!r} takes the network {network}, which does not come with "
            "this server, and which this version cannot run: describe the picture elsewhere."
        )

    return router
