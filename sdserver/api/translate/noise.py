"""Seeds: which noise each image of a request begins with."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from sdserver.api.limits import MAX_SEED
from sdserver.api.options import Snapshot
from sdserver.api.requests import Request
from sdserver.jobs.job import Noise, RandomSource, SharedPath, Size

RANDOM = -1
RANDOM_SEEDS = 2**32 - 2
"""AUTOMATIC1111 draws seeds below this."""


def noises(request: Request, options: Snapshot) -> tuple[Noise, ...]:
    """One per image: seed + k unless a subseed is mixed in, subseed + k always."""
    images = request.batch_size * request.n_iter
    seed = _seed(request.seed)
    subseed = _seed(request.subseed)
    step = 0 if request.subseed_strength else 1
    resize = None
    if request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0:
        resize = Size(request.seed_resize_from_w, request.seed_resize_from_h)
    return tuple(
        Noise(
            seed=(seed + k * step) & MAX_SEED,
            subseed=(subseed + k) & MAX_SEED,
            strength=request.subseed_strength,
            resize_from=resize,
            seed_delta=options.whole("eta_noise_seed_delta"),
            source=cast(RandomSource, options.text("randn_source")),
        )
        for k in range(images)
    )


def with_shared_paths(found: Sequence[Noise], batch_size: int, options: Snapshot) -> tuple[Noise, ...]:
    """The noise of a request's images, where the option has those of a batch share one Brownian path.

    Args:
        found: of every image.
        batch_size: images per batch.
        options: of this request.
    """
    if not options.flag("no_dpmpp_sde_batch_determinism"):
        return tuple(found)
    paths = []
    for k, noise in enumerate(found):
        batch = found[k - k % batch_size :][:batch_size]
        paths.append(replace(noise, shared_path=SharedPath(batch[-1].seed, len(batch), k % batch_size)))
    return tuple(paths)


def _seed(asked: int) -> int:
    # Seeds guard nothing, they need only differ.
    return random.randrange(RANDOM_SEEDS) if asked == RANDOM else asked
