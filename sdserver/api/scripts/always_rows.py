"""The scripts that run with every request, as `script-info` tells of them; see `api.always_on`."""

from collections.abc import Sequence
from typing import Final

from sdserver.api.scripts.script import Argument, Script, Tab
from sdserver.api.translate.plan import Sources
from sdserver.sampling import registry

_BOTH: Final[tuple[Tab, ...]] = ("txt2img", "img2img")


def _titles(sources: Sources) -> Sequence[str]:
    return [checkpoint.title for checkpoint in sources.checkpoints.all()]


SOFT_INPAINTING: Final = (
    Argument("Soft inpainting", value=False),
    Argument("Schedule bias", 1, 0, 8, 0.1),
    Argument("Preservation strength", 0.5, 0, 8, 0.05),
    Argument("Transition contrast boost", 4, 1, 32, 0.5),
    Argument("Mask influence", 0, 0, 1, 0.05),
    Argument("Difference threshold", 0.5, 0, 8, 0.25),
    Argument("Difference contrast", 2, 0, 8, 0.25),
)
REFINER: Final = (
    Argument("Refiner", value=False),
    Argument("Checkpoint", "", choices=_titles),
    Argument("Switch at", 0.8, 0.01, 1.0, 0.01),
)
SAMPLER: Final = (
    Argument("Sampling steps", 20, 1, 150, 1),
    Argument(
        "Sampling method",
        registry.DEFAULT_SAMPLER,
        choices=tuple(sampler.name for sampler in registry.SAMPLERS),
    ),
    Argument(
        "Schedule type",
        registry.AUTOMATIC,
        choices=tuple(schedule.label for schedule in registry.SCHEDULES),
    ),
)
SEED: Final = (
    Argument("Seed", -1, step=1),
    Argument("Extra", value=False),
    Argument("Variation seed", -1, step=1),
    Argument("Variation strength", 0.0, 0, 1, 0.01),
    Argument("Resize seed from width", 0, 0, 2048, 8),
    Argument("Resize seed from height", 0, 0, 2048, 8),
)

ALWAYS_ON: Final = (
    Script("Extra options", _BOTH, is_always_on=True),
    Script("Hypertile", _BOTH, is_always_on=True),
    Script("Soft Inpainting", ("img2img",), SOFT_INPAINTING, is_always_on=True),
    Script("Refiner", _BOTH, REFINER, is_always_on=True),
    Script("Sampler", _BOTH, SAMPLER, is_always_on=True),
    Script("Seed", _BOTH, SEED, is_always_on=True),
)
