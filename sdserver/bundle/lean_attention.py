"""A transformer block: self-attention, cross-attention and feed-forward, over tokens (rows * n, channels)."""

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from sdserver.bundle.alike import Alike
from sdserver.bundle.kept_text import Text
from sdserver.bundle.lean_layers import add_linear, layer_norm, linear, parameters

FEW_TOKENS: Final = 64
"""Of a picture, up to which cross-attention on a CPU is made of products of matrices: the fused kernel is for
larger blocks.
"""

THOUGHT_OF: Final = 1024
"""Tokens that pass the feed-forward layers of a CPU at once, so that the wide ones between find the memory of
those before instead of fresh pages.
"""


class Block:
    """diffusers' BasicTransformerBlock. One that something is hooked to (hypernetworks, merged tokens, tiles)
    runs as diffusers has it.

    Attributes:
        keys, values: the layers that project a text.
        heads: of cross-attention.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        self._self = block.attn1
        self._cross = block.attn2
        self._gate = block.ff.net[0].proj
        self._last = block.ff.net[2]
        self.keys, self.values = block.attn2.to_k, block.attn2.to_v
        self.heads: int = block.attn2.heads
        watched = (
            block,
            block.attn1,
            block.attn2,
            *(
                getattr(attention, layer)
                for attention in (block.attn1, block.attn2)
                for layer in ("to_k", "to_v")
            ),
        )
        self._hooks = [
            hooks for module in watched for hooks in (module._forward_pre_hooks, module._forward_hooks)
        ]

    def __call__(self, tokens: Tensor, rows: int, text: Text, alike: Alike | None = None) -> Tensor:
        """Of `rows` rows; with `alike`, `tokens` are but a row of each kind."""
        if any(self._hooks):
            tokens = tokens if alike is None else alike.tokens(tokens)
            whole = tokens.view(rows, -1, tokens.shape[-1])
            changed: Tensor = self._block(whole, encoder_hidden_states=text.context())
            return changed.reshape(tokens.shape)
        block = self._block
        distinct = rows if alike is None else len(alike.firsts)
        tokens = self._attend(layer_norm(block.norm1, tokens), distinct, tokens)
        normed = layer_norm(block.norm2, tokens)
        query = linear(self._cross.to_q, normed)
        if alike is not None:
            tokens, query = alike.tokens(tokens), alike.tokens(query)
            normed = torch.empty_like(tokens)
        tokens = self._look_up(query, normed, rows, text, tokens)
        for some in torch.split(tokens, THOUGHT_OF if tokens.is_cpu else len(tokens)):
            self._think(layer_norm(block.norm3, some), some)
        return tokens

    def _attend(self, x: Tensor, rows: int, onto: Tensor) -> Tensor:
        attention = self._self
        query, key, value = (
            _by_head(linear(layer, x).view(rows, -1, x.shape[-1]), attention.heads)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        found = functional.scaled_dot_product_attention(query, key, value)
        return add_linear(attention.to_out[0], found.transpose(1, 2).reshape(x.shape), onto)

    def _look_up(self, queries: Tensor, x: Tensor, rows: int, text: Text, onto: Tensor) -> Tensor:
        """Writes to `x`, which has the size of `queries`."""
        attention, heads = self._cross, self.heads
        query = _by_head(queries.view(rows, -1, x.shape[-1]), heads)
        found = x.view(rows, -1, heads, query.shape[-1])
        by_products = query.is_cpu and query.shape[2] <= FEW_TOKENS
        for part in text.projected(self, as_factors=by_products):
            asked, answers = query[part.rows], found[part.rows].transpose(1, 2)
            if by_products:
                _by_products(asked, part.key, part.value, answers)
            else:
                key, value = _by_head(part.key, heads), _by_head(part.value, heads)
                answers.copy_(functional.scaled_dot_product_attention(asked, key, value))
        return add_linear(attention.to_out[0], x, onto)

    def _think(self, x: Tensor, onto: Tensor) -> Tensor:
        """Diffusers' GEGLU; its halves are computed apart, for their memory then needs no copy."""
        weight, bias = parameters(self._gate, x.dtype)
        half = len(weight) // 2
        gate = functional.linear(x, weight[half:], None if bias is None else bias[half:])
        found = functional.linear(x, weight[:half], None if bias is None else bias[:half])
        return add_linear(self._last, found.mul_(functional.gelu(gate)), onto)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(rows, n, channels) to (rows, heads, n, channels of a head)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _by_products(query: Tensor, key: Tensor, value: Tensor, found: Tensor) -> None:
    """Attention of queries (rows, heads, n, d) to what `kept_text.as_factors` makes."""
    rows, heads, tokens, size = query.shape
    shares = torch.bmm(query.reshape(rows * heads, tokens, size), key)
    sums = torch.bmm(torch.softmax(shares, dim=-1, out=shares), value).view(rows, heads, tokens, size + 1)
    torch.div(sums[..., :size], sums[..., size:], out=found)
