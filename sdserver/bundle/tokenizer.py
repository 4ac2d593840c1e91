"""CLIP's tokenizer: token ids of text, offline. The vocabulary is `clip_tokens`'."""

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

from transformers import CLIPTokenizer

from sdserver.bundle.clip_tokens import cleaned, read_merges, vocabulary_of
from sdserver.bundle.spec import TextKind
from sdserver.prompt.old_emphasis import bracket_factors

START_ID, END_ID = 49406, 49407


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of CLIP-L and OpenCLIP: 49408 ids, built once per process."""
    merges = read_merges()
    return CLIPTokenizer(vocab=vocabulary_of(merges), merges=merges)


@cache
def clip_bracket_factors() -> Mapping[int, float]:
    """What CLIP-L's tokens of brackets scale by where emphasis is read the old way."""
    return MappingProxyType(bracket_factors(clip_tokenizer().get_vocab()))


def tokenize(texts: Sequence[str], kind: TextKind) -> list[list[int]]:
    """Token ids of each text without start and end mark.

    Texts are cleaned first, see `cleaned`.
    """
    if not texts:
        return []
    clean = cleaned(texts, unescapes=kind == "open_clip")
    ids: list[list[int]] = clip_tokenizer()(clean, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
