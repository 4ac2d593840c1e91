"""Whether bytes are a safetensors file: the format's rules, checked before anything trusts them.

The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length N, N
bytes of JSON that name each tensor's dtype, shape and offsets, then the tensors without holes.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event

from sdserver.errors import DownloadError
from sdserver.ops.downloads.limits import MIB, check_cancelled

LONGEST_HEADER = 100_000_000
START = 16  # bytes that `check_start` wants to see
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check_start(start: bytes, host: str) -> None:
    """Refuse what is plainly no safetensors file, before gigabytes of it are fetched.

    Args:
        start: the first `START` bytes, or all there are.
        host: who sent it.

    Raises:
        DownloadError: it is a web page, JSON, a pickle, an LFS pointer or something else.
    """
    if int.from_bytes(start[:8], "little") <= LONGEST_HEADER and start[8:9] == b"{":
        return
    text = start.lstrip().lower()
    if text.startswith(b"<"):
        what = "a web page; give the address of the file itself, or a token if it needs a login"
    elif text.startswith((b"{", b"[")):
        what = "a JSON message instead of a file; check the address and the token"
    elif text.startswith(b"version https"):
        what = "a Git LFS pointer; give the file's resolve/ or media address"
    elif start.startswith((b"PK", b"\x80")):
        what = "a pickled checkpoint, which can run code; give a .safetensors file"
    else:
        what = "something that is no safetensors file; check the address"
    raise DownloadError(f"{host} sent {what}.")


def check_safetensors(path: Path) -> None:
    """Check a whole file's header against its size.

    Raises:
        DownloadError: it is not a whole safetensors file; the message says why, without the path.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise DownloadError("The file is no whole safetensors file: its header does not fit.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise DownloadError("The file is no safetensors file: its header is not JSON.") from None
    if not isinstance(header, dict):
        raise DownloadError("The file is no safetensors file: its header names no tensors.")
    spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    _check_spans(spans, size - 8 - length)


def _span(name: str, entry: object) -> tuple[int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            whole = all(type(side) is int and side >= 0 for side in shape)
            # A dtype that is newer than this table is left to the loader.
            fits = dtype not in BITS or (whole and (end - begin) * 8 == math.prod(shape) * BITS[dtype])
            if whole and fits and 0 <= begin <= end:
                return begin, end
    raise DownloadError(f"The file is damaged: tensor {name[:80]!r} has a wrong shape or size.")


def _check_spans(spans: list[tuple[int, int]], data: int) -> None:
    if not spans:
        raise DownloadError("The file holds no tensors.")
    if spans[0][0] != 0 or any(before[1] != after[0] for before, after in pairwise(spans)):
        raise DownloadError("The file is damaged: its tensors overlap or leave holes.")
    if spans[-1][1] != data:
        raise DownloadError(f"The file is damaged: it has {data} bytes of tensors, not {spans[-1][1]}.")


def chunks(path: Path, cancelled: Event) -> Iterator[bytes]:
    """The file's bytes, a few at a time.

    Raises:
        DownloadError: cancelled in between.
    """
    with path.open("rb") as file:
        while chunk := file.read(4 * MIB):
            check_cancelled(cancelled)
            yield chunk


def sha256_of(path: Path, cancelled: Event) -> str:
    """The file's SHA-256, in hex.

    Raises:
        DownloadError: cancelled in between.
    """
    digest = hashlib.sha256()
    for chunk in chunks(path, cancelled):
        digest.update(chunk)
    return digest.hexdigest()
