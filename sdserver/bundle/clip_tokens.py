"""CLIP's byte-pair vocabulary, and token ids by it without the model libraries.

The vocabulary follows from the merge list (MIT, OpenAI CLIP): 256 byte symbols, the same with the
end-of-word mark, one symbol per merge, and the two special tokens.
"""

import gzip
import html
from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Final

import ftfy
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from sdserver.prompt.old_emphasis import bracket_factors

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD: Final = "</w>"
WORD: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP takes for one word."""


def read_merges() -> list[tuple[str, str]]:
    """The merge list, the most frequent first."""
    packed = resources.files(__package__).joinpath("data/clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return [(left, right) for left, right in (line.split(" ") for line in lines)]


def vocabulary_of(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Each token's id."""
    symbols = _byte_symbols()
    words = [*symbols, *(s + END_OF_WORD for s in symbols), *(a + b for a, b in merges), START, END]
    return {word: index for index, word in enumerate(words)}


def cleaned(texts: Sequence[str], *, unescapes: bool) -> list[str]:
    """Texts as both original tokenizers clean them: mojibake is repaired and quotes are made straight
    (ftfy). Lone surrogates become replacement characters.

    Args:
        texts: any.
        unescapes: resolve HTML entities, twice, as OpenCLIP does.
    """
    clean = [ftfy.fix_text(text.encode("utf-8", "replace").decode("utf-8")) for text in texts]
    return [html.unescape(html.unescape(text)) for text in clean] if unescapes else clean


class ClipTokens:
    """Token ids by CLIP's vocabulary. Takes tenths of a second to make, and some ten megabytes.

    Attributes:
        factors: what tokens of brackets scale by where emphasis is read the old way.
    """

    def __init__(self) -> None:
        merges = read_merges()
        vocabulary = vocabulary_of(merges)
        self._tokenizer = _tokenizer(vocabulary, merges)
        self.factors: Mapping[int, float] = MappingProxyType(bracket_factors(vocabulary))

    def ids(self, texts: Sequence[str], *, unescapes: bool = False) -> list[list[int]]:
        """Token ids of each text without start and end mark; see `cleaned`."""
        encoded = self._tokenizer.encode_batch(cleaned(texts, unescapes=unescapes), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


def _tokenizer(vocabulary: Mapping[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(
        BPE(vocab=dict(vocabulary), merges=merges, end_of_word_suffix=END_OF_WORD, unk_token=END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in (START, END)])
    return tokenizer


def _byte_symbols() -> list[str]:
    """One printable character per byte, printable Latin-1 first (the order of GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + k) for k in range(len(rest))]
