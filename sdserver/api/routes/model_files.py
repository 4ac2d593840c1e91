"""The files of models by kind, with what a person who chooses among them wants to know."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sdserver.api.errors import JsonResponse
from sdserver.api.options import CHECKPOINT
from sdserver.api.services import Services
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.network_file import NetworkFile
from sdserver.errors import UnknownCheckpoint


class ModelFile(BaseModel):
    """A file, or a checkpoint's folder."""

    name: str = Field(description="what options and prompts call it by")
    file: str = Field(description="its own name, without folders")
    hash: str | None = Field(description="the first 10 hex digits of its sha256, once that is known")
    size: int | None = Field(description="bytes; null where it cannot be read, and of a folder")
    time: str | None = Field(description="when it was changed, ISO 8601 in UTC")
    chosen: bool = Field(description="whether pictures are made with it now")


class ModelFiles(BaseModel):
    """GET /v1/model-files."""

    checkpoints: list[ModelFile]
    vaes: list[ModelFile]
    loras: list[ModelFile]
    embeddings: list[ModelFile]
    hypernetworks: list[ModelFile]
    upscalers: list[ModelFile]
    downloads: bool = Field(description="whether operators may have more of them fetched")


def model_file_routes(services: Services) -> APIRouter:
    """The route /v1/model-files."""
    router = APIRouter(prefix="/v1", tags=["lists"])

    @router.get("/model-files", response_model=ModelFiles)
    async def files() -> JsonResponse:
        """Checkpoints, VAEs, LoRAs and the like, with sizes; `POST /sdapi/v1/refresh-...` look again."""
        return JsonResponse(await services.in_thread(lambda: _files(services)))

    return router


def _files(services: Services) -> dict[str, Any]:
    """Blocks."""
    options, networks = services.options.snapshot(), services.networks
    try:
        chosen = services.catalog.find(options.text(CHECKPOINT)).filename
    except UnknownCheckpoint:
        chosen = ""
    return {
        "checkpoints": [_checkpoint(one, chosen) for one in services.catalog.all()],
        "vaes": _listed(networks.vaes(), options.text("sd_vae")),
        "loras": _listed(networks.loras(), options.text("sd_lora")),
        "embeddings": _listed(networks.embeddings()),
        "hypernetworks": _listed(networks.hypernetworks(), options.text("sd_hypernetwork")),
        "upscalers": _listed(networks.upscalers()),
        "downloads": services.config.admin_key is not None and services.config.fetch_model is not None,
    }


def _checkpoint(checkpoint: Checkpoint, chosen: str) -> dict[str, Any]:
    facts = _facts(checkpoint.filename)
    return {"name": checkpoint.title, **facts, "hash": checkpoint.short_hash} | {
        "chosen": checkpoint.filename == chosen
    }


def _listed(files: Iterable[NetworkFile], chosen: str = "") -> list[dict[str, Any]]:
    return [
        {"name": file.name, **_facts(file.path), "hash": file.sha256[:10] if file.sha256 else None}
        | {"chosen": file.name == chosen}
        for file in files
    ]


def _facts(path: str) -> dict[str, Any]:
    file = Path(path)
    facts: dict[str, Any] = {"file": file.name, "hash": None, "size": None, "time": None}
    try:
        known = file.stat()
    except OSError:
        return facts
    changed = datetime.fromtimestamp(known.st_mtime, UTC).isoformat(timespec="seconds")
    return facts | {"size": None if file.is_dir() else known.st_size, "time": changed}
