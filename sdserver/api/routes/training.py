"""Routes of AUTOMATIC1111 that make and train embeddings and hypernetworks: not a server's work."""

from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel

from sdserver.api.errors import JsonResponse
from sdserver.errors import NotServed

PATHS: Final = ("/create/embedding", "/create/hypernetwork", "/train/embedding", "/train/hypernetwork")
_SENTENCE: Final = (
    "Nothing is trained here: make embeddings and hypernetworks with a training program, put the files into "
    "models/embeddings and models/hypernetworks, and refresh the lists."
)


class TrainingResponse(BaseModel):
    """What AUTOMATIC1111 answers."""

    info: str


def training_routes() -> APIRouter:
    """create/* and train/*: 501, whatever the body."""
    router = APIRouter(prefix="/sdapi/v1", tags=["training"])

    async def refuse() -> JsonResponse:
        """Always 501: nothing is trained here."""
        raise NotServed(_SENTENCE)

    for path in PATHS:
        name = path.strip("/").replace("/", "_")
        router.add_api_route(path, refuse, methods=["POST"], name=name, response_model=TrainingResponse)
    return router
