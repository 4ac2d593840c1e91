"""Prompts in, what the UNet conditions on out.

Follows A1111: chunks of 75 tokens are encoded each on its own and joined, and emphasis scales the
tokens' vectors afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from sdserver.bundle.device import Placement
from sdserver.bundle.encoder import TextEncoder
from sdserver.bundle.parts import Parts
from sdserver.calls import Conditioning, EncodeText
from sdserver.errors import InvalidField, RequestError
from sdserver.jobs.job import Emphasis, Size
from sdserver.prompt.chunks import Chunk, chunk_text

MAX_CHUNKS = 64
"""A prompt of more chunks is refused: attention's cost grows with each."""

_SIZE_WIDTH = 256
_AESTHETIC_SCORE = {False: 6.0, True: 2.5}

_Chunked = tuple[tuple[Chunk, ...], ...]
"""Per text of a timeline its chunks, equally many for each."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A call, chunked for each of the encoders."""

    call: EncodeText
    chunked: tuple[_Chunked, ...]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Vectors and pooled vectors of the distinct chunks of one encoder, by their tokens."""

    vectors: Mapping[tuple[int, ...], Tensor]
    pooled: Mapping[tuple[int, ...], Tensor]


class TextEncoders:
    """All text encoders of a checkpoint."""

    def __init__(self, parts: Parts, placement: Placement) -> None:
        self._spec = parts.spec
        self._device = placement.device
        self._encoders = tuple(
            TextEncoder(model, kind, parts.spec, placement)
            for model, kind in zip(parts.text, parts.spec.text, strict=True)
        )

    def encode(self, calls: Sequence[EncodeText]) -> list[Conditioning | Exception]:
        """One conditioning per call, float32 and on the device; a RequestError where the text is bad."""
        wanted = [self._chunk(call) for call in calls]
        good = [want for want in wanted if isinstance(want, _Wanted)]
        encoded = {skip: self._encode(good, skip) for skip in {want.call.prompt.clip_skip for want in good}}
        return [
            self._condition(want, encoded[want.call.prompt.clip_skip]) if isinstance(want, _Wanted) else want
            for want in wanted
        ]

    def _chunk(self, call: EncodeText) -> _Wanted | RequestError:
        try:
            for encoder in self._encoders:
                encoder.check(call.prompt.clip_skip)
            return _Wanted(call, tuple(_chunks(call, encoder) for encoder in self._encoders))
        except RequestError as error:
            return error

    def _encode(self, wanted: Iterable[_Wanted], clip_skip: int) -> tuple[_Encoded, ...]:
        """Encode each distinct chunk of the calls with this clip skip once, per encoder."""
        chosen = [want.chunked for want in wanted if want.call.prompt.clip_skip == clip_skip]
        encoded: list[_Encoded] = []
        for index, encoder in enumerate(self._encoders):
            tokens = [chunk.tokens for chunked in chosen for chunks in chunked[index] for chunk in chunks]
            rows = list(dict.fromkeys(tokens))
            vectors, pooled = encoder.vectors(rows, clip_skip)
            by_pooled = {} if pooled is None else dict(zip(rows, pooled, strict=True))
            encoded.append(_Encoded(dict(zip(rows, vectors, strict=True)), by_pooled))
        return tuple(encoded)

    def _condition(self, want: _Wanted, encoded: tuple[_Encoded, ...]) -> Conditioning:
        texts = _texts(want.call)
        which = texts.index(want.call.text)
        contexts = [
            _context(chunked, which, table.vectors, want.call.prompt.emphasis)
            for chunked, table in zip(want.chunked, encoded, strict=True)
        ]
        context = torch.cat(contexts, dim=1)
        if self._spec.vector_dim is None:
            return Conditioning(context)
        pooled = encoded[-1].pooled[want.chunked[-1][which][0].tokens]
        if want.call.is_negative and not any(texts):
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        return Conditioning(context, torch.cat([pooled, self._sizes(want.call.size, want.call.is_negative)]))

    def _sizes(self, size: Size, is_negative: bool) -> Tensor:
        """SDXL's numbers: original size, crop, and target size or for the refiner a score, each height
        first and embedded as timesteps are (Podell et al., 2023, section 2.2).
        """
        last = [_AESTHETIC_SCORE[is_negative]] if self._spec.is_refiner else [size.height, size.width]
        numbers = torch.tensor([size.height, size.width, 0.0, 0.0, *last], device=self._device)
        embedded: Tensor = get_timestep_embedding(
            numbers, _SIZE_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return embedded.flatten()


def _texts(call: EncodeText) -> tuple[str, ...]:
    """The texts that are encoded together; the call's own first where it is missing among them."""
    return call.variants if call.text in call.variants else (call.text, *call.variants)


def _chunks(call: EncodeText, encoder: TextEncoder) -> _Chunked:
    """Chunks of the call's texts; shorter texts are filled up with empty chunks."""

    def chunks_of(text: str) -> tuple[Chunk, ...]:
        return chunk_text(
            text,
            call.prompt.emphasis,
            encoder.tokenize,
            encoder.vocabulary,
            call.prompt.comma_padding_backtrack,
        )

    distinct = {text: chunks_of(text) for text in dict.fromkeys(_texts(call))}
    count = max(len(chunks) for chunks in distinct.values())
    if count > MAX_CHUNKS:
        field = "negative_prompt" if call.is_negative else "prompt"
        raise InvalidField(
            field, f"The {field} has {count} chunks of 75 tokens: at most {MAX_CHUNKS} are served."
        )
    (empty,) = chunks_of("")
    return tuple(distinct[text] + (empty,) * (count - len(distinct[text])) for text in _texts(call))


def _context(
    chunked: _Chunked, which: int, vectors: Mapping[tuple[int, ...], Tensor], emphasis: Emphasis
) -> Tensor:
    """The vectors (tokens, width) of the text at `which`."""
    parts: list[Tensor] = []
    for column in zip(*chunked, strict=True):
        together = torch.stack([vectors[chunk.tokens] for chunk in column])
        weights = torch.tensor([chunk.multipliers for chunk in column], device=together.device)
        parts.append(emphasise(together, weights, emphasis)[which])
    return torch.cat(parts)


def emphasise(vectors: Tensor, weights: Tensor, emphasis: Emphasis) -> Tensor:
    """Scale vectors (n, 77, width) by weights (n, 77); "Original" then restores the mean over all.

    "Ignore" and "None" come with weights of 1.
    """
    weighted = vectors * weights.unsqueeze(-1)
    if emphasis != "Original":
        return weighted
    mean = weighted.mean()
    return weighted * torch.where(mean == 0, 1.0, vectors.mean() / mean)
