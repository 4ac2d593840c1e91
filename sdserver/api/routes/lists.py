"""Lists for clients' menus: samplers, schedules, checkpoints, styles."""

from fastapi import APIRouter

from sdserver.api.errors import JsonResponse
from sdserver.api.samplers import sampler_items, scheduler_items
from sdserver.api.schemas import (
    FaceRestorerItem,
    LatentUpscalerItem,
    ModelItem,
    SamplerItem,
    SchedulerItem,
    StyleItem,
)
from sdserver.api.services import Services
from sdserver.api.translate.hires import LATENT_MODES


def list_routes(services: Services) -> APIRouter:
    """samplers, schedulers, sd-models, refresh-checkpoints, prompt-styles, latent-upscale-modes,
    face-restorers.
    """
    router = APIRouter(prefix="/sdapi/v1", tags=["lists"])

    @router.get("/samplers", response_model=list[SamplerItem])
    async def samplers() -> JsonResponse:
        """Every sampler."""
        return JsonResponse([item.model_dump() for item in sampler_items()])

    @router.get("/schedulers", response_model=list[SchedulerItem])
    async def schedulers() -> JsonResponse:
        """Every schedule."""
        return JsonResponse([item.model_dump() for item in scheduler_items()])

    @router.get("/sd-models", response_model=list[ModelItem])
    async def sd_models() -> JsonResponse:
        """Every checkpoint. A title gains its hash when the file was first used."""
        return JsonResponse(
            [
                {
                    "title": checkpoint.title,
                    "model_name": checkpoint.model_name,
                    "hash": checkpoint.short_hash,
                    "sha256": checkpoint.sha256,
                    "filename": checkpoint.filename,
                    "config": checkpoint.config,
                }
                for checkpoint in services.catalog.all()
            ]
        )

    @router.post("/refresh-checkpoints")
    async def refresh_checkpoints() -> JsonResponse:
        """Look for checkpoint files again."""
        await services.in_thread(services.catalog.refresh)
        return JsonResponse(None)

    @router.get("/latent-upscale-modes", response_model=list[LatentUpscalerItem])
    async def latent_upscale_modes() -> JsonResponse:
        """Ways to scale a latent in the hires pass."""
        return JsonResponse([{"name": name} for name in LATENT_MODES])

    @router.get("/face-restorers", response_model=list[FaceRestorerItem])
    async def face_restorers() -> JsonResponse:
        """Networks that restore faces and can be used."""
        names = await services.in_thread(services.networks.face_restorers)
        return JsonResponse([{"name": name, "cmd_dir": None} for name in names])

    @router.get("/prompt-styles", response_model=list[StyleItem])
    async def prompt_styles() -> JsonResponse:
        """Every style."""
        return JsonResponse(
            [
                {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
                for style in services.config.styles
            ]
        )

    return router
