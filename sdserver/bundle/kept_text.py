"""What cross-attention makes of texts: keys and values hang on text and weights alone, so they are kept from
step to step.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Protocol
from weakref import ref

import torch
from torch import Tensor

from sdserver.bundle.contexts import joined
from sdserver.bundle.lean_layers import linear
from sdserver.bundle.vae import as_batch

BYTES: Final = 256 * 2**20
BATCH_BYTES: Final = 64 * 2**20
BATCHES_KEPT: Final = 2
WEIGHTS_KNOWN: Final = 8
LANES: Final = 16
"""Of a processor's vectors: softmax over a multiple of these takes half as long."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Neighbouring rows of a batch whose texts are equally long.

    Attributes:
        rows: which.
        key, value: (rows, tokens, channels) both, or factors of products, see `as_factors`.
    """

    rows: slice
    key: Tensor
    value: Tensor


class Layer(Protocol):
    """A cross-attention layer.

    Attributes:
        keys, values: the linear layers that project a text.
    """

    keys: Any
    values: Any
    heads: int


class Text:
    """The texts of one batch of rows.

    Args:
        contexts: (tokens, width) each, as the network takes them.
    """

    def __init__(self, contexts: Sequence[Tensor]) -> None:
        self._contexts = contexts
        self._context: Tensor | None = None
        self._wholes: list[tuple[slice, Tensor]] | None = None

    def context(self) -> Tensor:
        """(n, tokens, width); shorter ones are repeated."""
        if self._context is None:
            self._context = joined(self._contexts)
        return self._context

    def projected(self, layer: Layer, *, as_factors: bool = False) -> list[Part]:
        """Keys and values of all rows, in order.

        Args:
            layer: of the network.
            as_factors: see `as_factors`.
        """
        if self._wholes is None:
            self._wholes = [(rows, as_batch(self._contexts[rows])) for rows in runs(self._contexts)]
        return [Part(rows, *_project(layer, whole, as_factors)) for rows, whole in self._wholes]


class KnownText(Text):
    """Texts that were seen before, or will be seen again.

    Args:
        projections: of the texts, in order.
        is_kept: whether what is put together for the whole batch is kept, too.
    """

    def __init__(self, projections: Sequence["Projection"], *, is_kept: bool) -> None:
        super().__init__([projection.context for projection in projections])
        self._projections = projections
        self._runs = [(rows, projections[rows]) for rows in runs(self._contexts)]
        self._is_kept = is_kept
        self._parts: dict[tuple[int, bool], list[Part]] = {}

    def projected(self, layer: Layer, *, as_factors: bool = False) -> list[Part]:
        """See `Text.projected`."""
        place = id(layer), as_factors
        parts = self._parts.get(place)
        if parts is None:
            parts = [
                Part(rows, *map(torch.cat, zip(*(one.pair(layer, as_factors) for one in run), strict=True)))
                for rows, run in self._runs
            ]
            if self._is_kept:
                self._parts[place] = parts
        return parts


class Projection:
    """One text's keys and values under one set of weights.

    Attributes:
        given: the text as the row has it; while it is referred to, its `id` is its own.
        context: the same, as the network takes it.
        bytes: memory that keys and values take.
    """

    def __init__(self, given: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self.given = given
        self.context = given.to(device, dtype)
        self.bytes = 0
        self._pairs: dict[tuple[int, bool], Pair] = {}

    def pair(self, layer: Layer, as_factors: bool) -> Pair:
        """See `Text.projected`; of one row."""
        place = id(layer), as_factors
        pair = self._pairs.get(place)
        if pair is None:
            pair = self._pairs[place] = _project(layer, self.context[None], as_factors)
            self.bytes += pair[0].nbytes + pair[1].nbytes
        return pair


class KeptTexts:
    """Keys and values of the texts used last, within a budget. A text is known by its tensor, which must not
    be written to.

    Args:
        layers: all cross-attention layers of the network.
        max_bytes: of all texts' keys and values together. Whole batches take `BATCHES_KEPT` times
            `BATCH_BYTES` more at most.
    """

    def __init__(self, layers: Sequence[Layer], max_bytes: int = BYTES) -> None:
        self._modules = [module for layer in layers for module in (layer.keys, layer.values)]
        self._max_bytes = max_bytes
        self._weights: OrderedDict[int, list[ref[Any]]] = OrderedDict()
        self._count = 0
        self._texts: OrderedDict[tuple[int, ...], Projection] = OrderedDict()
        self._batches: OrderedDict[tuple[int, ...], KnownText] = OrderedDict()

    def text(self, contexts: Sequence[Tensor], device: torch.device, dtype: torch.dtype) -> Text:
        """The texts of a batch, for a network of this type on this device.

        Args:
            contexts: (tokens, width) each.
            device: the network's.
            dtype: the network's.
        """
        weights = self._current_weights()
        names = tuple(id(context) for context in contexts)
        batch = self._batches.get((weights, *names))
        if batch is not None:
            self._batches.move_to_end((weights, *names))
            return batch
        width = sum(len(module._parameters["weight"]) for module in self._modules) * dtype.itemsize
        distinct = {id(context): context for context in contexts}
        if sum(len(context) for context in distinct.values()) * width > self._max_bytes:
            return Text([context.to(device, dtype) for context in contexts])
        self._trim()
        found = {name: self._projection(weights, given, device, dtype) for name, given in distinct.items()}
        tokens = sum(map(len, contexts))
        is_kept = tokens * width <= BATCH_BYTES
        batch = KnownText([found[name] for name in names], is_kept=is_kept)
        if is_kept:
            self._batches[weights, *names] = batch
            if len(self._batches) > BATCHES_KEPT:
                self._batches.popitem(last=False)
        return batch

    def clear(self) -> None:
        """Free their memory."""
        self._texts.clear()
        self._batches.clear()
        self._weights.clear()

    def _projection(
        self, weights: int, given: Tensor, device: torch.device, dtype: torch.dtype
    ) -> Projection:
        name = weights, id(given)
        if name not in self._texts:
            self._texts[name] = Projection(given, device, dtype)
        self._texts.move_to_end(name)
        return self._texts[name]

    def _trim(self) -> None:
        """What was not used for longest goes until the rest fits."""
        total = sum(text.bytes for text in self._texts.values())
        while total > self._max_bytes:
            _, oldest = self._texts.popitem(last=False)
            total -= oldest.bytes

    def _current_weights(self) -> int:
        """A number for the weights that the layers have now: adapters put others in their place."""
        now = [module._parameters["weight"] for module in self._modules]
        for number, known in reversed(self._weights.items()):
            if all(one() is other for one, other in zip(known, now, strict=True)):
                return number
        self._count += 1
        self._weights[self._count] = [ref(parameter) for parameter in now]
        if len(self._weights) > WEIGHTS_KNOWN:
            self._weights.popitem(last=False)
        return self._count


def runs(contexts: Sequence[Tensor]) -> Iterator[slice]:
    """Neighbours of equal length."""
    start = 0
    for _, run in groupby(contexts, key=len):
        stop = start + sum(1 for _ in run)
        yield slice(start, stop)
        start = stop


def as_factors(keys: Tensor, values: Tensor, heads: int) -> Pair:
    """Keys and values (n, tokens, channels) as factors of attention by products of matrices.

    Keys are repeated until their number is a multiple of `LANES`. A repeated one has no value; so a query's
    result is its share of values, divided by its share of keys that are not repeated.

    Returns:
        (n * heads, channels of a head, keys), scaled as attention is, and (n * heads, keys, channels of a
        head and one): the value, and whether it counts.
    """
    rows, tokens, channels = keys.shape
    size, count = channels // heads, tokens + -tokens % LANES
    by_head = keys.view(rows, tokens, heads, size).permute(0, 2, 3, 1) * size**-0.5
    left = by_head.index_select(3, torch.arange(count, device=keys.device) % tokens)
    right = values.new_zeros(rows, heads, count, size + 1)
    right[:, :, :tokens, :size] = values.view(rows, tokens, heads, size).transpose(1, 2)
    right[:, :, :tokens, size] = 1
    return left.reshape(rows * heads, size, count), right.view(rows * heads, count, size + 1)


def _project(layer: Layer, context: Tensor, are_factors: bool) -> Pair:
    """Keys and values of (n, tokens, width), see `Text.projected`."""
    rows, tokens, width = context.shape
    flat = context.reshape(rows * tokens, width)
    keys, values = (linear(module, flat).view(rows, tokens, -1) for module in (layer.keys, layer.values))
    return as_factors(keys, values, layer.heads) if are_factors else (keys, values)
