"""Chunks: a text as rows of 77 token ids, the length that CLIP reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sdserver.errors import RequestError
from sdserver.jobs.job import Emphasis
from sdserver.jobs.model import Embedding
from sdserver.prompt.attention import BREAK, Segment, parse_attention
from sdserver.prompt.lexicon import NOTHING_LEARNED, Lexicon

LENGTH = 75
"""Tokens of text per chunk; start and end token make it 77."""

Tokenize = Callable[[list[str]], Sequence[Sequence[int]]]
"""Token ids of each text, without start and end token."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids that chunking knows. `pad` fills what follows a chunk's first `end`."""

    start: int
    end: int
    pad: int
    comma: int


CLIP = Vocabulary(start=49406, end=49407, pad=49407, comma=267)
"""CLIP-L: SD 1 and SDXL's first encoder. Their padding is the end token itself."""

OPEN_CLIP = Vocabulary(start=49406, end=49407, pad=0, comma=267)
"""OpenCLIP: SD 2 and SDXL's second encoder."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A textual inversion in a chunk: its first vector replaces that of the token at `position`."""

    position: int
    embedding: Embedding


@dataclass(frozen=True, slots=True)
class Chunk:
    """77 token ids with start, end and padding, and the weight of each token's vector.

    Attributes:
        embeddings: the textual inversions in it; in `tokens` each of their vectors is an id 0.
    """

    tokens: tuple[int, ...]
    multipliers: tuple[float, ...]
    embeddings: tuple[Placed, ...] = ()


def chunk_text(
    text: str,
    emphasis: Emphasis,
    tokenize: Tokenize,
    vocabulary: Vocabulary,
    comma_padding_backtrack: int,
    lexicon: Lexicon = NOTHING_LEARNED,
) -> tuple[Chunk, ...]:
    """Tokenise a text with emphasis and BREAK into chunks; at least one, an empty text has an empty one.

    Follows AUTOMATIC1111.

    Args:
        text: one text of a timeline.
        emphasis: "None" takes brackets and BREAK literally, "Ignore" drops the weights; "Original" and
            "No norm" differ only in what the encoder does with them.
        tokenize: called once, with all pieces of the text.
        vocabulary: of the tokenizer and its encoder.
        comma_padding_backtrack: when a chunk is full and the next token is no comma, what follows its last
            comma moves to the next chunk if that is fewer tokens than this (0: never).
        lexicon: the textual inversions whose names stand for their vectors; they are not split.

    Raises:
        InvalidField: see `parse_attention`.
        RequestError: a textual inversion has more vectors than a chunk has room for.
    """
    return _filled(text, emphasis, tokenize, vocabulary, comma_padding_backtrack, lexicon).finish()


def count_tokens(
    text: str,
    emphasis: Emphasis,
    tokenize: Tokenize,
    vocabulary: Vocabulary,
    comma_padding_backtrack: int,
    lexicon: Lexicon = NOTHING_LEARNED,
) -> int:
    """How many tokens a text has, as AUTOMATIC1111 counts: every chunk but the last counts as full.

    Arguments and errors as of `chunk_text`.
    """
    builder = _filled(text, emphasis, tokenize, vocabulary, comma_padding_backtrack, lexicon)
    return LENGTH * len(builder.chunks) + len(builder.tokens)


def _filled(
    text: str,
    emphasis: Emphasis,
    tokenize: Tokenize,
    vocabulary: Vocabulary,
    comma_padding_backtrack: int,
    lexicon: Lexicon,
) -> "_Builder":
    """The text in chunks, of which the last is not finished."""
    builder = _Builder(vocabulary, comma_padding_backtrack, lexicon)
    pieces = segments(text, emphasis)
    for piece, tokens in zip(pieces, tokenize([words for words, _ in pieces]), strict=True):
        if piece == BREAK:
            builder.finish_chunk()
        else:
            builder.add(tokens, 1.0 if emphasis == "Ignore" else piece[1])
    return builder


def segments(text: str, emphasis: Emphasis) -> tuple[Segment, ...]:
    """The text's segments in an emphasis mode; "Ignore" still shows the weights."""
    return ((text, 1.0),) if emphasis == "None" else parse_attention(text)


@dataclass(slots=True)
class _Builder:
    """The finished chunks and the one being filled; `after_comma` is its length up to its last comma."""

    vocabulary: Vocabulary
    backtrack: int
    lexicon: Lexicon
    chunks: list[Chunk] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    after_comma: int | None = None

    def add(self, tokens: Sequence[int], weight: float) -> None:
        position = 0
        while position < len(tokens):
            self.make_room(tokens[position])
            found = self.lexicon.find(tokens, position)
            if found is None:
                self.put(tokens[position : position + 1], weight)
                position += 1
            else:
                self.put_embedding(found.embedding, found.vectors, weight)
                position += found.length

    def make_room(self, token: int) -> None:
        """Begin a new chunk if this one is full, and remember a comma."""
        is_comma = token == self.vocabulary.comma
        if len(self.tokens) == LENGTH:
            # A comma that opens a chunk is no place to split it at later: AUTOMATIC1111's behaviour.
            self.finish_chunk(LENGTH if is_comma else self.split_point())
        elif is_comma:
            self.after_comma = len(self.tokens) + 1

    def put(self, tokens: Sequence[int], weight: float) -> None:
        self.tokens += tokens
        self.weights += [weight] * len(tokens)

    def put_embedding(self, embedding: Embedding, vectors: int, weight: float) -> None:
        if vectors > LENGTH:
            raise RequestError(
                f"The embedding {embedding.name} has {vectors} vectors, a prompt has room for {LENGTH} only."
            )
        if len(self.tokens) + vectors > LENGTH:
            self.finish_chunk()
        self.placed.append(Placed(len(self.tokens) + 1, embedding))
        self.put([0] * vectors, weight)

    def split_point(self) -> int:
        """How many tokens of the full chunk stay in it: those up to a comma near its end, else all."""
        if self.after_comma is None or LENGTH - self.after_comma >= self.backtrack:
            return LENGTH
        return self.after_comma

    def finish_chunk(self, length: int = LENGTH) -> None:
        """End the chunk after `length` tokens; the others begin the next one.

        Textual inversions stay, at their positions, even if those are now padding and zeros go on in
        their stead: AUTOMATIC1111's behaviour.
        """
        padding = [self.vocabulary.end] * (LENGTH - len(self.tokens[:length]))
        tokens = [self.vocabulary.start, *self.tokens[:length], *padding, self.vocabulary.end]
        if self.vocabulary.pad != self.vocabulary.end:
            text_end = tokens.index(self.vocabulary.end) + 1
            tokens[text_end:] = [self.vocabulary.pad] * (len(tokens) - text_end)
        weights = [1.0, *self.weights[:length], *(1.0 for _ in padding), 1.0]
        self.chunks.append(Chunk(tuple(tokens), tuple(weights), tuple(self.placed)))
        self.tokens, self.weights, self.placed = self.tokens[length:], self.weights[length:], []
        self.after_comma = None

    def finish(self) -> tuple[Chunk, ...]:
        if self.tokens or not self.chunks:
            self.finish_chunk()
        return tuple(self.chunks)
