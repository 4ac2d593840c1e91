"""What residual blocks add for a timestep: it hangs on timestep and weights alone, so it is kept from step to
step and from job to job.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from operator import is_
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from sdserver.bundle.lean_layers import Times, linear

BYTES: Final = 16 * 2**20
_PERIOD: Final = 10000


class KeptTimes:
    """A UNet's embeddings of timesteps, those used last within a budget.

    Args:
        unet: diffusers' UNet2DConditionModel on its device.
        max_bytes: of all that is kept; with 0 every row is computed each time.
    """

    def __init__(self, unet: Any, max_bytes: int = BYTES) -> None:
        self._unet = unet
        self._max_bytes = max_bytes
        self._residuals = [module for module in unet.modules() if hasattr(module, "time_emb_proj")]
        first = unet.time_embedding
        self._modules = [first.linear_1, first.linear_2, *(one.time_emb_proj for one in self._residuals)]
        self._widths = [len(one.time_emb_proj._parameters["weight"]) for one in self._residuals]
        self._frequencies: Tensor | None = None
        self._weights: list[Any] = []
        self._rows: OrderedDict[float, Tensor] = OrderedDict()

    def __call__(self, timesteps: Tensor, vector: Tensor | None, dtype: torch.dtype) -> Times:
        """What is added for each row, and for SDXL's vector.

        Args:
            timesteps: (n,), float32.
            vector: (n, vector_dim) where the family has one; then nothing is kept.
            dtype: the network's.
        """
        if vector is not None or not self._max_bytes or not timesteps.is_cpu:
            parts: Sequence[Tensor] = [
                part[:, :, None, None] for part in self._computed(timesteps, vector, dtype)
            ]
        else:
            rows = self._known(timesteps.tolist(), dtype)
            parts = torch.split(rows[:, :, None, None], self._widths, dim=1)
        return {id(module): part for module, part in zip(self._residuals, parts, strict=True)}

    def clear(self) -> None:
        """Free its memory."""
        self._rows.clear()
        self._weights = []

    def _known(self, timesteps: Sequence[float], dtype: torch.dtype) -> Tensor:
        """(n, all widths), or of a single row where all are the same."""
        now = [parameter for module in self._modules for parameter in module._parameters.values()]
        if len(now) != len(self._weights) or not all(map(is_, now, self._weights)):
            self._rows.clear()
            self._weights = now
        distinct = dict.fromkeys(timesteps)
        missing = [timestep for timestep in distinct if timestep not in self._rows]
        if missing:
            made = torch.cat(self._computed(torch.tensor(missing, dtype=torch.float32), None, dtype), dim=1)
            self._rows.update((timestep, row.clone()) for timestep, row in zip(missing, made, strict=True))
        found = {timestep: self._rows[timestep] for timestep in distinct}
        for timestep in distinct:
            self._rows.move_to_end(timestep)
        most = max(1, self._max_bytes // next(iter(found.values())).nbytes)
        while len(self._rows) > most:
            self._rows.popitem(last=False)
        return torch.stack([found[timestep] for timestep in (timesteps if len(distinct) > 1 else distinct)])

    def _computed(self, timesteps: Tensor, vector: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
        """(n, width) for each residual block."""
        unet = self._unet
        embedded = _embedded(unet.time_embedding, self._waves(timesteps).to(dtype))
        if vector is not None:
            embedded = embedded + _embedded(unet.class_embedding, vector)
        active = functional.silu(embedded)
        return [linear(module.time_emb_proj, active) for module in self._residuals]

    def _waves(self, timesteps: Tensor) -> Tensor:
        """Cosines and sines of the timesteps (n,), float32."""
        if self._frequencies is None or self._frequencies.device != timesteps.device:
            half = self._unet.time_proj.num_channels // 2
            numbers = torch.arange(half, dtype=torch.float32, device=timesteps.device)
            self._frequencies = torch.exp(-math.log(_PERIOD) * numbers / half)
        angles = timesteps[:, None] * self._frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _embedded(module: Any, x: Tensor) -> Tensor:
    """Diffusers' TimestepEmbedding."""
    return linear(module.linear_2, functional.silu(linear(module.linear_1, x), inplace=True))
