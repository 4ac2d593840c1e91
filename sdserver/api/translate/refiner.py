"""The refiner: a checkpoint that takes over in mid-sampling."""

from sdserver.api.options import Snapshot
from sdserver.api.requests import Request
from sdserver.api.translate.models import Models
from sdserver.api.translate.plan import Sources
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.jobs.job import Refiner
from sdserver.jobs.model import Adapter

_NO_NAMES = frozenset({"", "None", "none"})


def refiner_checkpoint(request: Request, sources: Sources) -> Checkpoint | None:
    """The checkpoint that the request names, by a part of its title as in AUTOMATIC1111.

    Raises:
        UnknownCheckpoint: nothing comes close.
    """
    name = request.refiner_checkpoint
    return None if name is None or name in _NO_NAMES else sources.checkpoints.find_close(name)


def refiner_of(
    request: Request,
    checkpoint: Checkpoint | None,
    base: Checkpoint,
    models: Models,
    adapters: tuple[Adapter, ...],
) -> Refiner | None:
    """A pass's refiner; None where there is none, or it is what the pass runs on anyway.

    Without a moment to switch at, AUTOMATIC1111 switches at once.
    """
    if checkpoint is None or checkpoint.filename == base.filename:
        return None
    return Refiner(
        model=models.model(checkpoint, adapters),
        switch_at=request.refiner_switch_at or 0.0,
        by_steps=models.options.flag("refiner_switch_by_sample_steps"),
    )


def refined_passes(options: Snapshot) -> tuple[bool, bool]:
    """Of a request with hires fix: whether the first and whether the second pass is refined."""
    which = options.text("hires_fix_refiner_pass")
    return which != "second pass", which != "first pass"
