"""How many tokens a prompt has, as AUTOMATIC1111's counter beside the prompt says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sdserver.errors import InvalidField
from sdserver.jobs.job import Emphasis
from sdserver.prompt.chunks import CLIP, LENGTH, Tokenize, count_tokens
from sdserver.prompt.lexicon import NOTHING_LEARNED, Lexicon
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.old_emphasis import count_old_tokens
from sdserver.prompt.resolve import resolve_negative, resolve_positive

MAX_CHARACTERS = 400_000
"""Of all texts that a prompt shows over the steps, together."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A prompt's length.

    Attributes:
        tokens: of its longest text; every chunk of that but the last counts as full.
        limit: what so many chunks hold.
    """

    tokens: int
    limit: int


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts as the engine would chunk.

    Attributes:
        tokenize: token ids of texts.
        factors: of the tokens of brackets, where emphasis is read the old way; else None.
        lexicon: the textual inversions whose names stand for their vectors.
        old_scheduling: see `timeline.timeline`.
    """

    tokenize: Tokenize
    emphasis: Emphasis = "Original"
    comma_padding_backtrack: int = 20
    factors: Mapping[int, float] | None = None
    lexicon: Lexicon = NOTHING_LEARNED
    old_scheduling: bool = False

    def count(self, prompt: str, steps: int, *, is_negative: bool = False) -> Counted:
        """The prompt's length where it is longest.

        Args:
            prompt: without comments; tags of networks are left out.
            steps: that its editing is spread over.
            is_negative: whether AND does not split it.

        Raises:
            InvalidField: it shows more than `MAX_CHARACTERS`, or cannot be read; see `parse_attention`.
        """
        text, _ = extract_networks(prompt)
        resolve = resolve_negative if is_negative else resolve_positive
        texts = {
            span.text for part in resolve(text, steps, old=self.old_scheduling) for span in part.timeline
        }
        if sum(map(len, texts)) > MAX_CHARACTERS:
            message = f"The prompt shows more than {MAX_CHARACTERS:,} characters over its steps: shorten it."
            raise InvalidField("prompt", message)
        tokens = max(map(self._count, texts))
        return Counted(tokens, math.ceil(max(tokens, 1) / LENGTH) * LENGTH)

    def _count(self, text: str) -> int:
        if self.factors is not None:
            return count_old_tokens(text, self.emphasis, self.tokenize, self.factors, self.lexicon)
        return count_tokens(
            text, self.emphasis, self.tokenize, CLIP, self.comma_padding_backtrack, self.lexicon
        )
