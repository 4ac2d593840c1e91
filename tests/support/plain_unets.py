"""UNets that the lean pass runs, with weights of their own."""

import copy
from typing import Any

import torch
from tiny_checkpoints import make

from sdserver.bundle.folder import _take_whole_vector
from sdserver.bundle.unet import replace_upsampling
from sdserver.jobs.model import Family


def network(family: Family) -> Any:
    """Of the test's own, for it is changed."""
    unet: Any = copy.deepcopy(make(family).unet).eval().requires_grad_(False)
    unet.to(memory_format=torch.channels_last)
    replace_upsampling(unet)
    _take_whole_vector(unet)
    return unet
