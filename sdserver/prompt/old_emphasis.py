"""Emphasis as AUTOMATIC1111 read it in 2022: brackets are tokens that scale all that follows them."""

from collections.abc import Mapping, Sequence
from typing import Final

from sdserver.errors import InvalidField
from sdserver.jobs.job import Emphasis
from sdserver.prompt.chunks import LENGTH, Chunk, Placed, Tokenize, Vocabulary
from sdserver.prompt.lexicon import NOTHING_LEARNED, Lexicon

STEP: Final = 1.1
MAX_WEIGHT: Final = 1e6
_RAISING: Final = frozenset("(]")
_LOWERING: Final = frozenset(")[")


def bracket_factors(words: Mapping[str, int]) -> dict[int, float]:
    """What the tokens that hold brackets scale by, as far as these do not cancel out.

    Args:
        words: a vocabulary, with the ids of its tokens.
    """
    found: dict[int, float] = {}
    for word, token in words.items():
        factor = 1.0
        for character in word:
            if character in _RAISING:
                factor *= STEP
            elif character in _LOWERING:
                factor /= STEP
        if factor != 1.0:
            found[token] = factor
    return found


def old_chunk(
    text: str,
    emphasis: Emphasis,
    tokenize: Tokenize,
    vocabulary: Vocabulary,
    factors: Mapping[int, float],
    lexicon: Lexicon = NOTHING_LEARNED,
) -> Chunk:
    """The one chunk that a text becomes; what does not fit in is cut off. BREAK is a word.

    Args:
        text: one text of a timeline.
        emphasis: "None" takes brackets for text; "Ignore" drops the weights but not the brackets.
        tokenize: called once.
        vocabulary: of the tokenizer and its encoder.
        factors: of the brackets' tokens.
        lexicon: the textual inversions whose names stand for their vectors.

    Raises:
        InvalidField: a weight is too large.
    """
    (given,) = tokenize([text])
    tokens, weights, placed = _read(given, {} if emphasis == "None" else factors, lexicon)
    if max(weights, default=1.0) > MAX_WEIGHT:
        raise InvalidField("prompt", f"The prompt has a weight above {MAX_WEIGHT:,.0f}: use fewer brackets.")
    if emphasis == "Ignore":
        weights = [1.0] * len(weights)
    padding = LENGTH - len(tokens)
    row = [vocabulary.start, *tokens[:LENGTH], *[vocabulary.end] * padding, vocabulary.end]
    if vocabulary.pad != vocabulary.end:
        text_end = row.index(vocabulary.end) + 1
        row[text_end:] = [vocabulary.pad] * (len(row) - text_end)
    return Chunk(
        tuple(row),
        (1.0, *weights[:LENGTH], *[1.0] * padding, 1.0),
        tuple(one for one in placed if one.position < len(row)),
    )


def count_old_tokens(
    text: str,
    emphasis: Emphasis,
    tokenize: Tokenize,
    factors: Mapping[int, float],
    lexicon: Lexicon = NOTHING_LEARNED,
) -> int:
    """How many tokens a text has without its brackets; arguments as of `old_chunk`."""
    (given,) = tokenize([text])
    return len(_read(given, {} if emphasis == "None" else factors, lexicon)[0])


def _read(
    given: Sequence[int], factors: Mapping[int, float], lexicon: Lexicon
) -> tuple[list[int], list[float], list[Placed]]:
    """Tokens without brackets, their weights, and the textual inversions among them."""
    tokens: list[int] = []
    weights: list[float] = []
    placed: list[Placed] = []
    weight, position = 1.0, 0
    while position < len(given):
        found = lexicon.find(given, position)
        factor = factors.get(given[position])
        if factor is not None:
            weight *= factor
            position += 1
        elif found is None:
            tokens.append(given[position])
            weights.append(weight)
            position += 1
        else:
            placed.append(Placed(len(tokens) + 1, found.embedding))
            tokens += [0] * found.vectors
            weights += [weight] * found.vectors
            position += found.length
    return tokens, weights, placed
