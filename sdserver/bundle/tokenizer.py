"""CLIP's byte-pair vocabulary: token ids of text, offline.

The vocabulary follows from the merge list (MIT, OpenAI CLIP): 256 byte symbols, the same with the
end-of-word mark, one symbol per merge, and the two special tokens.
"""

import gzip
import html
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType

import ftfy
from transformers import CLIPTokenizer

from sdserver.bundle.spec import TextKind
from sdserver.prompt.old_emphasis import bracket_factors

START, END = "<|startoftext|>", "<|endoftext|>"
START_ID, END_ID = 49406, 49407


def _byte_symbols() -> list[str]:
    """One printable character per byte, printable Latin-1 first (the order of GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + k) for k in range(len(rest))]


def _merges() -> list[tuple[str, str]]:
    packed = resources.files(__package__).joinpath("data/clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return [(left, right) for left, right in (line.split(" ") for line in lines)]


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of CLIP-L and OpenCLIP: 49408 ids, built once per process."""
    merges = _merges()
    symbols = _byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), START, END]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges)


@cache
def clip_bracket_factors() -> Mapping[int, float]:
    """What CLIP-L's tokens of brackets scale by where emphasis is read the old way."""
    return MappingProxyType(bracket_factors(clip_tokenizer().get_vocab()))


def tokenize(texts: Sequence[str], kind: TextKind) -> list[list[int]]:
    """Token ids of each text without start and end mark.

    Texts are cleaned first as both original tokenizers do: mojibake is repaired and quotes are made
    straight (ftfy), and OpenCLIP's also resolves HTML entities, twice. Lone surrogates become
    replacement characters.
    """
    if not texts:
        return []
    clean = [ftfy.fix_text(text.encode("utf-8", "replace").decode("utf-8")) for text in texts]
    if kind == "open_clip":
        clean = [html.unescape(html.unescape(text)) for text in clean]
    ids: list[list[int]] = clip_tokenizer()(clean, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
