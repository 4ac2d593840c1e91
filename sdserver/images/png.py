"""PNG files of pixels in 8 bits, packed fast.

Every row is filtered by Paeth's predictor and packed by ISA-L's deflate; no step holds Python's lock, so
threads pack side by side. Photographs come out as large as Pillow's default makes them, or up to a tenth
larger. Pictures of large plain areas pack better by zlib, which is soon done with them: they are packed
again.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

Bytes2D = npt.NDArray[np.uint8]
TextChunk = tuple[bytes, bytes]
"""Its kind, `tEXt` or `iTXt`, and its content."""

COLOUR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}
"""By number of channels: grey, grey with alpha, RGB, RGB with alpha."""

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
BLOCK_BYTES: Final = 96 * 1024
"""Rows are worked on in blocks of about this size, which stay in the processor's cache."""
WINDOW_BITS: Final = 9
"""The least: what repeats further back than 512 bytes costs photographs more to name than to write."""
SMOOTH: Final = 0.4
"""A picture that packs to less than this share of its pixels, as drawings do, packs better by runs."""
REGULAR: Final = 0.03
"""One that packs to less than this, as masks and gradients do, packs better by zlib's default."""
_SUB: Final = 1
_PAETH: Final = 4


class _Packer(Protocol):
    """A deflate stream, as zlib's and ISA-L's modules have it."""

    def compress(self, data: memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def encode_png(
    pixels: bytes | memoryview, width: int, height: int, channels: int, texts: Sequence[TextChunk] = ()
) -> bytes:
    """Pixels as a PNG file.

    Args:
        pixels: rows of `width * channels` bytes.
        width: at least 1.
        height: at least 1.
        channels: see `COLOUR_TYPES`.
        texts: chunks that stand before the pixels.

    Raises:
        ValueError: there are not as many bytes as that.
    """
    rows = np.frombuffer(pixels, np.uint8).reshape(height, width * channels)
    parts = [SIGNATURE]
    parts += _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0))
    for kind, content in texts:
        parts += _chunk(kind, content)
    for piece in _best(rows, channels):
        parts += _chunk(b"IDAT", piece)
    parts += _chunk(b"IEND", b"")
    return b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    check = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)


def _best(rows: Bytes2D, channels: int) -> list[bytes]:
    """The picture's zlib stream in pieces."""
    packed = _packed(rows, channels, isal_zlib.compressobj(1, wbits=WINDOW_BITS))
    share = sum(map(len, packed)) / rows.size
    if share >= SMOOTH:
        return packed
    better = zlib.compressobj(6) if share < REGULAR else zlib.compressobj(1, strategy=zlib.Z_RLE)
    again = _packed(rows, channels, better)
    return min(packed, again, key=lambda pieces: sum(map(len, pieces)))


def _packed(rows: Bytes2D, channels: int, packer: _Packer) -> list[bytes]:
    """The filtered rows as one zlib stream, in pieces, none of them empty."""
    pieces = [packer.compress(block) for block in _filtered(rows, channels)]
    return [piece for piece in (*pieces, packer.flush()) if piece]


def _filtered(rows: Bytes2D, channels: int) -> Iterator[memoryview]:
    """Blocks of filtered rows, each row behind the number of its filter; the next block overwrites one."""
    height, stride = rows.shape
    step = min(height, max(1, BLOCK_BYTES // stride))
    scratch = np.empty((6, step, stride - channels), np.uint8)
    block = np.empty((step, 1 + stride), np.uint8)
    for top in range(0, height, step):
        end = min(top + step, height)
        out = block[: end - top]
        out[:, 0] = _PAETH
        _fill(out[:, 1:], rows[top:end], rows[max(top - 1, 0) : end - 1], channels, scratch)
        if top == 0:
            # The first row has none above it.
            out[0, 0] = _SUB
            out[0, 1 : 1 + channels] = rows[0, :channels]
            np.subtract(rows[0, channels:], rows[0, :-channels], out=out[0, 1 + channels :])
        yield out.data


def _fill(out: Bytes2D, rows: Bytes2D, above: Bytes2D, channels: int, scratch: Bytes2D) -> None:
    """What is left of rows when what Paeth predicts is taken off, but of the picture's first row.

    Args:
        out: as large as rows.
        rows: neighbours.
        above: the row above each, one less if the picture's first row is among the rows.
        channels: bytes per pixel.
        scratch: room for the prediction.
    """
    skipped = len(rows) - len(above)
    out, rows = out[skipped:], rows[skipped:]
    # The first pixel has none to its left.
    np.subtract(rows[:, :channels], above[:, :channels], out=out[:, :channels])
    predicted = _predicted(
        rows[:, :-channels], above[:, channels:], above[:, :-channels], scratch[:, : len(rows)]
    )
    np.subtract(rows[:, channels:], predicted, out=out[:, channels:])


def _predicted(left: Bytes2D, up: Bytes2D, corner: Bytes2D, scratch: Bytes2D) -> Bytes2D:
    """Paeth's prediction: whichever of the three is nearest to left + up - corner, in that order.

    In bytes alone, and without choosing by index, which numpy does slowly: with the corner cut to
    between the other two, the prediction is the corner where it is nearer to the middle than to either
    end; else it is the end that is further from it.
    """
    high: Bytes2D
    low, high, middle, to_low, to_high, mask = scratch
    np.minimum(left, up, out=low)
    np.maximum(left, up, out=high)
    np.maximum(corner, low, out=middle)
    np.minimum(middle, high, out=middle)
    np.subtract(middle, low, out=to_low)
    np.subtract(high, middle, out=to_high)
    np.less(to_high, to_low, out=mask.view(np.bool_))
    _choose(high, low, mask)
    nearer = np.minimum(to_low, to_high, out=low)
    np.maximum(to_low, to_high, out=to_low)
    difference = np.subtract(to_low, nearer, out=to_low)
    np.less(difference, nearer, out=mask.view(np.bool_))
    _choose(high, middle, mask)
    return high


def _choose(kept: Bytes2D, other: Bytes2D, mask: Bytes2D) -> None:
    """Put the other's bytes where the mask is 1 into the kept ones; other and mask are used up."""
    np.negative(mask, out=mask)
    np.bitwise_xor(other, kept, out=other)
    np.bitwise_and(other, mask, out=other)
    np.bitwise_xor(kept, other, out=kept)
