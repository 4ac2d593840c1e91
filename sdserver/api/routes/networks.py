"""Lists of the files beside the checkpoints: LoRAs, embeddings, hypernetworks, VAEs, upscalers."""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter

from sdserver.api.errors import JsonResponse
from sdserver.api.options import CHECKPOINT
from sdserver.api.schemas import (
    EmbeddingsResponse,
    HypernetworkItem,
    LoraItem,
    RealEsrganItem,
    UpscalerItem,
    VaeItem,
)
from sdserver.api.services import Services
from sdserver.api.translate.hires import SIMPLE_UPSCALERS
from sdserver.catalog.embeddings import EmbeddingFacts
from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.upscalers import FACTOR, is_real_esrgan, listed_factor
from sdserver.errors import UnknownCheckpoint

_ESRGAN: Final = "ESRGAN_4x"


def network_routes(services: Services) -> APIRouter:
    """loras, embeddings, hypernetworks, sd-vae, upscalers, realesrgan-models, and their refreshing."""
    router = APIRouter(prefix="/sdapi/v1", tags=["lists"])
    networks = services.networks

    @router.get("/loras", response_model=list[LoraItem])
    async def loras() -> JsonResponse:
        """Every LoRA, with the metadata in its file."""
        return JsonResponse(
            [
                {"name": file.name, "alias": file.alias, "path": file.path, "metadata": dict(file.metadata)}
                for file in networks.loras()
            ]
        )

    @router.get("/embeddings", response_model=EmbeddingsResponse)
    async def embeddings() -> JsonResponse:
        """Every textual inversion: those that fit the chosen checkpoint, and those that do not."""
        return JsonResponse(await services.in_thread(lambda: _embeddings(services)))

    @router.get("/hypernetworks", response_model=list[HypernetworkItem])
    async def hypernetworks() -> JsonResponse:
        """Every hypernetwork."""
        return JsonResponse([{"name": file.name, "path": file.path} for file in networks.hypernetworks()])

    @router.get("/sd-vae", response_model=list[VaeItem])
    async def sd_vae() -> JsonResponse:
        """Every VAE that the option `sd_vae` may name, beside "Automatic" and "None"."""
        return JsonResponse([{"model_name": file.name, "filename": file.path} for file in networks.vaes()])

    @router.get("/upscalers", response_model=list[UpscalerItem])
    async def upscalers() -> JsonResponse:
        """Every upscaler."""
        plain = [_upscaler(name) for name in SIMPLE_UPSCALERS]
        return JsonResponse([*plain, *(_upscaler(file.name, file) for file in networks.upscalers())])

    @router.get("/realesrgan-models", response_model=list[RealEsrganItem])
    async def realesrgan_models() -> JsonResponse:
        """Those of Real-ESRGAN's networks that are there."""
        found = (file for file in networks.upscalers() if is_real_esrgan(file.name))
        return JsonResponse(
            [{"name": file.name, "path": file.path, "scale": listed_factor(file.name)} for file in found]
        )

    async def refresh() -> JsonResponse:
        await services.in_thread(networks.refresh)
        return JsonResponse(None)

    @router.post("/refresh-loras")
    async def refresh_loras() -> JsonResponse:
        """Look for LoRAs and the other files of this kind again."""
        return await refresh()

    @router.post("/refresh-embeddings")
    async def refresh_embeddings() -> JsonResponse:
        """Look for embeddings and the other files of this kind again."""
        return await refresh()

    @router.post("/refresh-vae")
    async def refresh_vae() -> JsonResponse:
        """Look for VAEs and the other files of this kind again."""
        return await refresh()

    return router


def _embeddings(services: Services) -> dict[str, dict[str, Any]]:
    """Blocks. Without a chosen checkpoint all fit."""
    try:
        checkpoint = services.catalog.find(services.options.snapshot().text(CHECKPOINT)).filename
    except UnknownCheckpoint:
        checkpoint = ""
    parted = services.networks.embeddings_for(checkpoint)
    return {"loaded": _described(parted.loaded), "skipped": _described(parted.skipped)}


def _described(pairs: Iterable[tuple[NetworkFile, EmbeddingFacts]]) -> dict[str, Any]:
    return {
        file.name: {
            "step": facts.step,
            "sd_checkpoint": facts.sd_checkpoint,
            "sd_checkpoint_name": facts.sd_checkpoint_name,
            "shape": facts.shape,
            "vectors": facts.vectors,
        }
        for file, facts in pairs
    }


def _upscaler(name: str, file: NetworkFile | None = None) -> dict[str, Any]:
    factor = listed_factor(name) if file else FACTOR
    return {
        "name": name,
        "model_name": _ESRGAN if file and not is_real_esrgan(name) else None,
        "model_path": file.path if file else None,
        "model_url": None,
        "scale": float(factor),
    }
