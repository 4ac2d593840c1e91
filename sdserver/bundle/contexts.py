"""Contexts of different length in one batch.

Attention is a mean of the values weighted by a softmax over the keys. If every key stands there twice,
each has half the weight, twice: the mean is the same. So a context may be repeated until it is as long
as another.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from sdserver.bundle.vae import as_batch


def joined(contexts: Sequence[Tensor]) -> Tensor:
    """Contexts of one width as one batch (n, tokens, width), each repeated to their least common multiple.

    Args:
        contexts: (tokens, width) each.
    """
    tokens = math.lcm(*(len(context) for context in contexts))
    return as_batch([context.repeat(tokens // len(context), 1) for context in contexts])


def outgrow(contexts: Tensor | Sequence[Tensor]) -> bool:
    """Whether contexts (tokens, width) must be repeated beyond the longest one to become equally long."""
    lengths = {len(context) for context in contexts}
    return math.lcm(*lengths) > max(lengths)
