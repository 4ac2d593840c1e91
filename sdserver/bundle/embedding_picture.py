"""The tensors of textual inversions inside pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sdserver.catalog.embedding_picture import ENDINGS, read_carried

PICTURES = ENDINGS


def read_picture(path: Path) -> Mapping[str, Any]:
    """What the picture carries: a dictionary as in a .pt file.

    Raises:
        ValueError: it carries nothing, or it is damaged or too large.
        OSError: it is no picture.
    """
    carried = read_carried(path, torch.tensor)
    if carried is None:
        raise ValueError("it is a picture with no embedding inside")
    return carried
