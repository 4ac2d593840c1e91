"""What AUTOMATIC1111's options say about checkpoints and VAEs that stay in memory."""

from typing import Final

from sdserver.api.options import Snapshot
from sdserver.jobs.keeping import Keeping

LEAST_VAES: Final = 2


def keeping_of(options: Snapshot) -> Keeping:
    """The options as the engine takes them.

    `sd_checkpoints_limit` counts all checkpoints; with `sd_checkpoints_keep_in_cpu` only one of them is on
    the device. `sd_checkpoint_cache` and `sd_vae_checkpoint_cache` are kept in the CPU's memory beside.
    """
    limit = max(1, options.whole("sd_checkpoints_limit"))
    on_device = 1 if options.flag("sd_checkpoints_keep_in_cpu") else limit
    aside = limit - on_device + max(0, options.whole("sd_checkpoint_cache"))
    return Keeping(on_device, aside, max(LEAST_VAES, 1 + options.whole("sd_vae_checkpoint_cache")))
