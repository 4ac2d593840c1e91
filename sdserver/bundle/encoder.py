"""One text encoder: rows of token ids in, the vectors of one of its layers out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdserver.bundle.device import Placement
from sdserver.bundle.lean_text import LeanText, is_plain
from sdserver.bundle.spec import Spec, TextKind
from sdserver.bundle.tokenizer import clip_bracket_factors, tokenize
from sdserver.errors import InvalidField
from sdserver.jobs.job import Prompt
from sdserver.jobs.model import Embedding
from sdserver.prompt.chunks import CLIP, OPEN_CLIP, Chunk, Placed, Vocabulary

_ROWS_AT_ONCE = 16

Learned = Mapping[Embedding, Tensor]
"""The vectors (n, width) of textual inversions, for one encoder."""


@dataclass(frozen=True, slots=True)
class Row:
    """What decides a chunk's vectors: 77 token ids, and the textual inversions in their stead."""

    tokens: tuple[int, ...]
    embeddings: tuple[Placed, ...] = ()

    @staticmethod
    def of(chunk: Chunk) -> "Row":
        """The row of a chunk."""
        return Row(chunk.tokens, chunk.embeddings)


class TextEncoder:
    """CLIP-L or OpenCLIP on its device.

    Which layer is taken follows A1111: SD 1 the one that clip skip says, with the final norm; SD 2 the
    last but one with it; SDXL the last but one of both encoders without it, or where asked for the one
    that clip skip says of CLIP-L.

    Args:
        model: transformers' CLIPTextModel, or CLIPTextModelWithProjection where a pooled vector is used.
    """

    def __init__(self, model: nn.Module, kind: TextKind, spec: Spec, placement: Placement) -> None:
        self._model: Any = model
        self._trunk: Any = getattr(model, "text_model", model)
        self._spec = spec
        self._device = placement.device
        self._pooled = self._trunk is not model
        self._lean = LeanText(model) if is_plain(model) else None
        self._kind: TextKind = kind
        self.vocabulary: Vocabulary = CLIP if kind == "clip" else OPEN_CLIP

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, as this encoder's own tokenizer gives them."""
        return tokenize(texts, self._kind)

    def bracket_factors(self) -> Mapping[int, float]:
        """What tokens of brackets scale by where emphasis is read the old way: A1111 never did with
        OpenCLIP's.
        """
        return clip_bracket_factors() if self._kind == "clip" else {}

    @property
    def width(self) -> int:
        """Of its token vectors."""
        return int(self._tokens().weight.shape[1])

    def check(self, prompt: Prompt) -> None:
        """Raises InvalidField if the encoder has not the layer that the prompt asks for."""
        layers: int = self._trunk.config.num_hidden_layers
        if self._skips(prompt) and prompt.clip_skip > layers:
            message = (
                f"This checkpoint's text encoder has {layers} layers: "
                f"clip skip {prompt.clip_skip} is too much."
            )
            raise InvalidField("CLIP_stop_at_last_layers", message)

    def layer(self, prompt: Prompt) -> int:
        """Which of its layers a prompt is read from, counted from the last one, 1."""
        if self._skips(prompt):
            return max(1, prompt.clip_skip)
        return 1 if self._spec.last_layer_cut else 2

    def vectors(self, rows: Sequence[Row], layer: int, learned: Learned) -> tuple[Tensor, Tensor | None]:
        """Encode rows.

        Args:
            rows: at least one.
            layer: see `layer`.
            learned: all textual inversions of the rows.

        Returns:
            The vectors (n, 77, width), and the pooled ones (n, projection) or None; float32.
        """
        parts = [
            self._forward(rows[k : k + _ROWS_AT_ONCE], layer, learned)
            for k in range(0, len(rows), _ROWS_AT_ONCE)
        ]
        vectors = torch.cat([hidden for hidden, _ in parts])
        pooled = [pooled for _, pooled in parts if pooled is not None]
        return vectors, torch.cat(pooled) if pooled else None

    def _forward(self, rows: Sequence[Row], layer: int, learned: Learned) -> tuple[Tensor, Tensor | None]:
        tokens = torch.tensor([row.tokens for row in rows], device=self._device)
        stand_in = partial(_stand_in, rows, learned)
        if self._lean is not None and not self._lean.is_watched:
            hidden, pooled = self._lean(tokens, layer, stand_in)
        else:
            with self._learning(stand_in):
                output = self._model(tokens, output_hidden_states=True)
            hidden, pooled = output.hidden_states[-layer], output.text_embeds if self._pooled else None
        if self._spec.family != "sdxl":
            hidden = self._trunk.final_layer_norm(hidden)
        return hidden.float(), None if pooled is None else pooled.float()

    @contextmanager
    def _learning(self, stand_in: Callable[[Tensor], None]) -> Iterator[None]:
        """Have the rows' textual inversions stand in for the token vectors at their positions."""
        handle = self._tokens().register_forward_hook(lambda _module, _given, vectors: stand_in(vectors))
        try:
            yield
        finally:
            handle.remove()

    def _tokens(self) -> Any:
        return self._trunk.embeddings.token_embedding

    def _skips(self, prompt: Prompt) -> bool:
        """Whether clip skip is heeded."""
        if self._spec.family == "sdxl":
            return prompt.sdxl_clip_l_skip and self._kind == "clip"
        return self._spec.family == "sd1"


def _stand_in(rows: Sequence[Row], learned: Learned, vectors: Tensor) -> None:
    """Overwrite token vectors (n, length, width) by the rows' textual inversions at their positions."""
    for line, row in zip(vectors, rows, strict=True):
        for placed in row.embeddings:
            own = learned[placed.embedding][: len(line) - placed.position]
            line[placed.position : placed.position + len(own)] = own.to(line)
