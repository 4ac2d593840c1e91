"""A text encoder's forward pass by torch's functions, as CLIP and OpenCLIP have it."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdserver.bundle.lean_layers import layer_norm, linear

_OLD_END: Final = 2
"""The end token's number in configurations of before transformers wrote the right one."""


def _quick_gelu(x: Tensor) -> Tensor:
    return torch.sigmoid(1.702 * x).mul_(x)


_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "quick_gelu": _quick_gelu,
    "gelu": functional.gelu,
}


def is_plain(model: Any) -> bool:
    """Whether a model is one that `LeanText` runs; folders may hold others."""
    return (
        type(model) in (CLIPTextModel, CLIPTextModelWithProjection)
        and model.config.hidden_act in _ACTIVATIONS
    )


class LeanText:
    """A text encoder of a plain kind. Parameters are looked up at each call, for adapters swap them.

    Args:
        model: transformers' CLIPTextModel or CLIPTextModelWithProjection on its device.
    """

    def __init__(self, model: Any) -> None:
        self._trunk: Any = getattr(model, "text_model", model)
        self._projection: Any = getattr(model, "text_projection", None)
        self._activate = _ACTIVATIONS[model.config.hidden_act]
        self._hooks = [
            hooks
            for module in model.modules()
            for hooks in (module._forward_pre_hooks, module._forward_hooks)
        ]

    @property
    def is_watched(self) -> bool:
        """Whether something is hooked to the model, which must then be called itself."""
        return any(self._hooks)

    def __call__(
        self, tokens: Tensor, layer: int, stand_in: Callable[[Tensor], None]
    ) -> tuple[Tensor, Tensor | None]:
        """What a layer makes of tokens.

        Args:
            tokens: (n, length), their numbers.
            layer: which, counted from the last one, 1; one more than there are is what they all begin with.
            stand_in: may overwrite the tokens' vectors (n, length, width).

        Returns:
            The layer's vectors (n, length, width), without the final norm, and where the model projects the
            pooled ones (n, projection).
        """
        trunk = self._trunk
        rows, length = tokens.shape
        vectors = functional.embedding(tokens, trunk.embeddings.token_embedding._parameters["weight"])
        stand_in(vectors)
        places: Tensor = trunk.embeddings.position_embedding._parameters["weight"][:length]
        x = vectors.add_(places).view(rows * length, -1)
        layers = trunk.encoder.layers
        wanted, found = len(layers) + 1 - layer, x
        for index, block in enumerate(layers if self._projection is not None else layers[:wanted], start=1):
            x = self._run(block, x, rows)
            found = x if index == wanted else found
        hidden = found.view(rows, length, -1)
        return hidden, None if self._projection is None else self._pooled(x.view(rows, length, -1), tokens)

    def _run(self, block: Any, x: Tensor, rows: int) -> Tensor:
        """A new tensor: what a block is given may be somebody's result."""
        attention = block.self_attn
        normed = layer_norm(block.layer_norm1, x)
        query, key, value = (
            linear(module, normed).view(rows, len(x) // rows, attention.num_heads, -1).transpose(1, 2)
            for module in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + linear(attention.out_proj, seen.transpose(1, 2).reshape(x.shape))
        normed = layer_norm(block.layer_norm2, x)
        return x.add_(linear(block.mlp.fc2, self._activate(linear(block.mlp.fc1, normed))))

    def _pooled(self, last: Tensor, tokens: Tensor) -> Tensor:
        """The vector of each text's end."""
        end = self._trunk.eos_token_id
        ends = tokens.argmax(dim=-1) if end == _OLD_END else (tokens == end).int().argmax(dim=-1)
        chosen = last[torch.arange(len(last), device=last.device), ends]
        return linear(self._projection, layer_norm(self._trunk.final_layer_norm, chosen))
