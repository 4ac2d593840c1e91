"""One text encoder: rows of token ids in, the vectors of one of its layers out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdserver.bundle.device import Placement
from sdserver.bundle.spec import Spec, TextKind
from sdserver.bundle.tokenizer import tokenize
from sdserver.errors import InvalidField
from sdserver.prompt.chunks import CLIP, OPEN_CLIP, Vocabulary

_ROWS_AT_ONCE = 16


class TextEncoder:
    """CLIP-L or OpenCLIP on its device.

    Which layer is taken follows A1111: SD 1 the one that clip skip says, with the final norm; SD 2 the
    last but one with it; SDXL the last but one of both encoders without it.

    Args:
        model: transformers' CLIPTextModel, or CLIPTextModelWithProjection where a pooled vector is used.
    """

    def __init__(self, model: nn.Module, kind: TextKind, spec: Spec, placement: Placement) -> None:
        self._model: Any = model
        self._trunk: Any = getattr(model, "text_model", model)
        self._spec = spec
        self._device = placement.device
        self._pooled = self._trunk is not model
        self._kind: TextKind = kind
        self.vocabulary: Vocabulary = CLIP if kind == "clip" else OPEN_CLIP

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, as this encoder's own tokenizer gives them."""
        return tokenize(texts, self._kind)

    def check(self, clip_skip: int) -> None:
        """Raises InvalidField if the encoder has no such layer."""
        layers: int = self._trunk.config.num_hidden_layers
        if self._spec.family == "sd1" and clip_skip > layers:
            message = (
                f"This checkpoint's text encoder has {layers} layers: clip skip {clip_skip} is too much."
            )
            raise InvalidField("CLIP_stop_at_last_layers", message)

    def vectors(self, rows: Sequence[tuple[int, ...]], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        """Encode rows of 77 token ids.

        Returns:
            The vectors (n, 77, width), and the pooled ones (n, projection) or None; float32.
        """
        parts = [
            self._forward(rows[k : k + _ROWS_AT_ONCE], clip_skip) for k in range(0, len(rows), _ROWS_AT_ONCE)
        ]
        vectors = torch.cat([hidden for hidden, _ in parts])
        pooled = [pooled for _, pooled in parts if pooled is not None]
        return vectors, torch.cat(pooled) if pooled else None

    def _forward(self, rows: Sequence[tuple[int, ...]], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        output = self._model(torch.tensor(rows, device=self._device), output_hidden_states=True)
        hidden: Tensor = output.hidden_states[-self._from_end(clip_skip)]
        if self._spec.family != "sdxl":
            hidden = self._trunk.final_layer_norm(hidden)
        return hidden.float(), output.text_embeds.float() if self._pooled else None

    def _from_end(self, clip_skip: int) -> int:
        if self._spec.family == "sd1":
            return max(1, clip_skip)
        return 1 if self._spec.last_layer_cut else 2
