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
from sdserver.bundle.embeddings import EmbeddingFiles, Vectors
from sdserver.bundle.encoder import Row, TextEncoder
from sdserver.bundle.parts import Parts
from sdserver.bundle.text_cache import TextCache
from sdserver.calls import Conditioning, EncodeText
from sdserver.errors import CheckpointError, InvalidField, RequestError
from sdserver.jobs.job import Emphasis
from sdserver.jobs.model import Embedding, Model
from sdserver.prompt.chunks import Chunk, chunk_text
from sdserver.prompt.lexicon import Lexicon, Names
from sdserver.prompt.old_emphasis import old_chunk

MAX_CHUNKS = 64
"""A prompt of more chunks is refused: attention's cost grows with each."""

_SIZE_WIDTH = 256

_Chunked = tuple[tuple[Chunk, ...], ...]
"""Per text of a timeline its chunks, equally many for each."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A call, chunked for each of the encoders."""

    call: EncodeText
    chunked: tuple[_Chunked, ...]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Vectors and pooled vectors of distinct chunks, from one layer of one encoder."""

    vectors: Mapping[Row, Tensor]
    pooled: Mapping[Row, Tensor]


class TextEncoders:
    """All text encoders of a checkpoint.

    Args:
        files: reads the textual inversions that texts name.
    """

    def __init__(self, parts: Parts, placement: Placement, files: EmbeddingFiles) -> None:
        self._spec = parts.spec
        self._device = placement.device
        self._files = files
        self._encoders = tuple(
            TextEncoder(model, kind, parts.spec, placement)
            for model, kind in zip(parts.text, parts.spec.text, strict=True)
        )
        self._cache = TextCache()
        self._named: tuple[tuple[Embedding, ...], Names] = ((), Names(()))

    def encode(self, calls: Sequence[EncodeText]) -> list[Conditioning | Exception]:
        """One conditioning per call, float32 and on the device.

        All calls know the same textual inversions. A call's result is a RequestError where its text is
        bad, a CheckpointError where a textual inversion that it names cannot be read.

        Raises:
            UnusableAdapter: the textual inversions inside a LoRA cannot be read.
        """
        kept = [self._cache.get(call) for call in calls]
        missing = [call for call, known in zip(calls, kept, strict=True) if known is None]
        made = iter(self._encode_all(missing) if missing else ())
        return [next(made) if known is None else known for known in kept]

    def _encode_all(self, calls: Sequence[EncodeText]) -> list[Conditioning | Exception]:
        learned: dict[Embedding, Vectors] = {}
        lexicon = self._lexicon(calls[0].model, learned)
        wanted = [self._chunk(call, lexicon) for call in calls]
        good = [want for want in wanted if isinstance(want, _Wanted)]
        encoded = [self._encode(good, index, learned) for index in range(len(self._encoders))]
        return [self._remembered(want, encoded) if isinstance(want, _Wanted) else want for want in wanted]

    def _remembered(self, want: _Wanted, encoded: Sequence[Mapping[int, _Encoded]]) -> Conditioning:
        conditioning = self._condition(want, encoded)
        self._cache.put(want.call, conditioning)
        return conditioning

    def _lexicon(self, model: Model, learned: dict[Embedding, Vectors]) -> Lexicon:
        """Finds textual inversions; the vectors of those that are met are put into `learned`.

        Names are tokenised by the first encoder for all of them, as in A1111. One of another width
        belongs to another family: its name is plain text. Those inside the model's LoRAs come last, so
        of equal names a file of the embeddings' folder that fits is meant, then the first LoRA's.
        """
        bundled = self._files.bundled(model.adapters)
        embeddings = (*model.embeddings, *bundled)
        if self._named[0] != embeddings:
            ids = self._encoders[0].tokenize([embedding.name for embedding in embeddings])
            self._named = embeddings, Names(zip(ids, embeddings, strict=True))
        widths = [encoder.width for encoder in self._encoders]

        def vectors_of(embedding: Embedding) -> int | None:
            if embedding not in learned:
                inside = bundled.get(embedding)
                learned[embedding] = inside or self._files.read(embedding.path)
            vectors = learned[embedding]
            return vectors.count if vectors.fits(widths) else None

        return Lexicon(self._named[1], vectors_of)

    def _chunk(self, call: EncodeText, lexicon: Lexicon) -> _Wanted | RequestError | CheckpointError:
        try:
            for encoder in self._encoders:
                encoder.check(call.prompt)
            return _Wanted(call, tuple(_chunks(call, encoder, lexicon) for encoder in self._encoders))
        except (RequestError, CheckpointError) as error:
            return error

    def _encode(
        self, wanted: Iterable[_Wanted], index: int, learned: Mapping[Embedding, Vectors]
    ) -> dict[int, _Encoded]:
        """Encode each distinct chunk of the calls once by one of the encoders; by layer."""
        encoder = self._encoders[index]
        rows: dict[int, dict[Row, None]] = {}
        for want in wanted:
            distinct = rows.setdefault(encoder.layer(want.call.prompt), {})
            distinct.update((Row.of(chunk), None) for chunks in want.chunked[index] for chunk in chunks)
        own = {
            embedding: vectors.tensors[index]
            for embedding, vectors in learned.items()
            if index < len(vectors.tensors)
        }
        encoded: dict[int, _Encoded] = {}
        for layer, distinct in rows.items():
            vectors, pooled = encoder.vectors(list(distinct), layer, own)
            by_pooled = {} if pooled is None else dict(zip(distinct, pooled, strict=True))
            encoded[layer] = _Encoded(dict(zip(distinct, vectors, strict=True)), by_pooled)
        return encoded

    def _condition(self, want: _Wanted, encoded: Sequence[Mapping[int, _Encoded]]) -> Conditioning:
        call = want.call
        texts = _texts(call)
        which = texts.index(call.text)
        tables = [
            by_layer[encoder.layer(call.prompt)]
            for encoder, by_layer in zip(self._encoders, encoded, strict=True)
        ]
        contexts = [
            _context(chunked, which, table.vectors, call.prompt.emphasis)
            for chunked, table in zip(want.chunked, tables, strict=True)
        ]
        context = torch.cat(contexts, dim=1)
        used = _used(want.chunked[0][which])
        if self._spec.vector_dim is None:
            return Conditioning(context, embeddings=used)
        pooled = tables[-1].pooled[Row.of(want.chunked[-1][which][0])]
        if call.is_negative and not any(texts):
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        return Conditioning(context, torch.cat([pooled, self._sizes(call)]), used)

    def _sizes(self, call: EncodeText) -> Tensor:
        """SDXL's numbers: original size, crop, and target size or for the refiner a score, each height
        first and embedded as timesteps are (Podell et al., 2023, section 2.2).
        """
        prompt, size = call.prompt, (call.size.height, call.size.width)
        score = prompt.low_aesthetic if call.is_negative else prompt.high_aesthetic
        last = (score,) if self._spec.is_refiner else size
        numbers = (*size, prompt.crop_top, prompt.crop_left, *last)
        embedded: Tensor = get_timestep_embedding(
            torch.tensor(numbers, dtype=torch.float32, device=self._device),
            _SIZE_WIDTH,
            flip_sin_to_cos=True,
            downscale_freq_shift=0,
        )
        return embedded.flatten()


def _used(chunks: Iterable[Chunk]) -> tuple[str, ...]:
    """Names of the textual inversions in a text's chunks, in order, each once."""
    return tuple(dict.fromkeys(placed.embedding.name for chunk in chunks for placed in chunk.embeddings))


def _texts(call: EncodeText) -> tuple[str, ...]:
    """The texts that are encoded together; the call's own first where it is missing among them."""
    return call.variants if call.text in call.variants else (call.text, *call.variants)


def _chunks(call: EncodeText, encoder: TextEncoder, lexicon: Lexicon) -> _Chunked:
    """Chunks of the call's texts; shorter texts are filled up with empty chunks."""

    def chunks_of(text: str) -> tuple[Chunk, ...]:
        if call.prompt.old_emphasis:
            how = (call.prompt.emphasis, encoder.tokenize, encoder.vocabulary, encoder.bracket_factors())
            return (old_chunk(text, *how, lexicon),)
        return chunk_text(
            text,
            call.prompt.emphasis,
            encoder.tokenize,
            encoder.vocabulary,
            call.prompt.comma_padding_backtrack,
            lexicon,
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


def _context(chunked: _Chunked, which: int, vectors: Mapping[Row, Tensor], emphasis: Emphasis) -> Tensor:
    """The vectors (tokens, width) of the text at `which`."""
    parts: list[Tensor] = []
    for column in zip(*chunked, strict=True):
        together = torch.stack([vectors[Row.of(chunk)] for chunk in column])
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
