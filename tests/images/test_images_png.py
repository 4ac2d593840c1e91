"""PNG files are standard ones: a strict reader, Pillow and OpenCV find their pixels; and they are small."""

import io
import struct
import threading
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import gradient, photographs
from PIL import Image, PngImagePlugin

from sdserver.images import png
from sdserver.images.codec import encode
from sdserver.images.png import COLOUR_TYPES, encode_png
from sdserver.jobs.events import Picture

Pixels = npt.NDArray[np.uint8]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def pixels_of(height: int, width: int, channels: int, seed: int = 0) -> Pixels:
    """Smooth in some places, noise in others."""
    rng = np.random.default_rng(seed)
    field = np.cumsum(rng.integers(-2, 3, (height, width, channels)), 1)
    field[:, width // 2 :] = rng.integers(0, 256, (height, width - width // 2, channels))
    return field.astype(np.uint8)


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of every chunk; nothing stands between or behind them, every checksum is right."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert len(content) == size < 2**31
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + content),)
        yield kind, content
        at += 12 + size


def strictly_read(data: bytes) -> Pixels:
    """The pixels, by the standard's words, byte by byte."""
    found = list(chunks_of(data))
    kinds = [kind for kind, _ in found]
    first, last = kinds.index(b"IDAT"), len(kinds) - 1 - kinds[::-1].index(b"IDAT")
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert set(kinds[first : last + 1]) == {b"IDAT"}
    assert last == len(kinds) - 2
    assert all(content for kind, content in found if kind == b"IDAT")
    width, height, *form = struct.unpack(">IIBBBBB", found[0][1])
    channels = {kind: count for count, kind in COLOUR_TYPES.items()}[form[1]]
    assert form == [8, COLOUR_TYPES[channels], 0, 0, 0]
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(b"".join(content for kind, content in found if kind == b"IDAT"))
    assert unpacker.eof
    assert unpacker.unused_data == b""
    stride = width * channels
    assert len(raw) == height * (stride + 1)
    above, rows = bytes(stride), []
    for top in range(0, len(raw), stride + 1):
        above = unfiltered(raw[top], raw[top + 1 : top + 1 + stride], above, channels)
        rows.append(above)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, channels)


def unfiltered(kind: int, row: bytes, above: bytes, channels: int) -> bytes:
    out = bytearray()
    for k, value in enumerate(row):
        left, corner = (out[k - channels], above[k - channels]) if k >= channels else (0, 0)
        out.append((value + (left if kind == 1 else paeth(left, above[k], corner))) % 256)
        assert kind in (1, 4)
    return bytes(out)


def paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda each: abs(guess - each))


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 99),
    st.integers(1, 999),
)
@settings(max_examples=60, deadline=None)
def test_files_hold_their_pixels(width: int, height: int, channels: int, seed: int, block: int) -> None:
    pixels = pixels_of(height, width, channels, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "BLOCK_BYTES", block)
        data = encode_png(pixels.tobytes(), width, height, channels)
    assert np.array_equal(strictly_read(data), pixels)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.mode, image.size) == (MODES[channels], (width, height))
    assert image.tobytes() == pixels.tobytes()


def test_every_prediction() -> None:
    """All there is to predict from, in steps: the corner below, between and above the other two."""
    steps = np.array([*range(0, 256, 15), 1, 2, 127, 128, 129, 254], np.uint8)
    left, up, corner = (each.ravel()[None] for each in np.meshgrid(steps, steps, steps))
    found = png._predicted(left, up, corner, np.empty((6, 1, left.size), np.uint8))
    assert found[0].tolist() == [
        paeth(*each) for each in zip(left[0].tolist(), up[0].tolist(), corner[0].tolist(), strict=True)
    ]


def test_opencv_reads_them() -> None:
    for channels in (3, 4):
        pixels = pixels_of(300, 700, channels)
        data = np.frombuffer(encode_png(pixels.tobytes(), 700, 300, channels), np.uint8)
        order = cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGBA
        assert np.array_equal(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), order), pixels)


def test_large_pictures_are_packed_in_pieces() -> None:
    pixels = pixels_of(1200, 500, 3)
    kinds = [kind for kind, _ in chunks_of(encode_png(pixels.tobytes(), 500, 1200, 3))]
    assert kinds.count(b"IDAT") > 4


def test_too_few_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        encode_png(bytes(11), 2, 2, 3)


@pytest.mark.parametrize(
    "name",
    ["leaves", "clean leaves", "clouds", "clean clouds", "blurred noise", "gradient", "plain", "noise"],
)
def test_files_are_hardly_larger_than_pillows(name: str) -> None:
    side = 512
    rng = np.random.default_rng(0)
    others = {
        "gradient": gradient(side),
        "plain": np.full((side, side, 3), 7, np.uint8),
        "noise": rng.integers(0, 256, (side, side, 3), np.uint8),
    }
    pixels = {**photographs(side), **others}[name]
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, "PNG")
    data = encode_png(pixels.tobytes(), side, side, 3)
    assert len(data) <= 1.12 * plain.tell()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


@pytest.mark.parametrize("text", ["a cat\nSteps: 6", "ñandú", "猫 🐱", ""])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_chunks_are_those_of_pillow_but_for_the_pixels(mode: str, text: str) -> None:
    image = Image.fromarray(pixels_of(20, 30, 4), "RGBA").convert(mode)
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    info.add_text("Comment", "made by hand")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    made = encode(image, "png", text, texts={"Comment": "made by hand"})
    without = [[each for each in chunks_of(data) if each[0] != b"IDAT"] for data in (made, buffer.getvalue())]
    assert without[0] == without[1]
    assert Image.open(io.BytesIO(made)).tobytes() == image.tobytes()


def test_what_is_rare_is_kept() -> None:
    """A palette, one bit, a transparent colour, a colour profile."""
    image = Image.fromarray(pixels_of(20, 30, 3))
    clear, profiled = image.copy(), image.copy()
    clear.info["transparency"] = (1, 2, 3)
    profiled.info["icc_profile"] = b"a profile"
    for picture in (image.convert("P"), image.convert("1"), clear, profiled):
        found = Image.open(io.BytesIO(encode(picture, "png", "a cat")))
        found.load()
        assert (found.mode, found.tobytes()) == (picture.mode, picture.tobytes())
        for key in ("transparency", "icc_profile"):
            assert found.info.get(key) == picture.info.get(key)
        assert found.info["parameters"] == "a cat"


def test_threads_pack_side_by_side() -> None:
    """Files that several threads pack at once are those that one packs."""
    pixels = [pixels_of(200, 300, 3, seed) for seed in range(4)]
    alone = [encode(Picture(300, 200, each.tobytes()), "png") for each in pixels]
    together: dict[int, bytes] = {}

    def pack(k: int) -> None:
        together[k] = encode(Picture(300, 200, pixels[k].tobytes()), "png")

    threads = [threading.Thread(target=pack, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[k] for k in range(4)] == alone


@pytest.mark.parametrize("name", ["leaves", "gradient", "noise"])
def test_the_window_that_a_file_names_suffices_to_read_it(name: str) -> None:
    """Readers keep no more of what they unpacked than the stream's head says."""
    noise = np.random.default_rng(1).integers(0, 256, (8, 128, 3), np.uint8)
    pixels = {
        "noise": np.tile(noise, (16, 1, 1)),
        "leaves": photographs(128)["leaves"],
        "gradient": gradient(128),
    }[name]
    data = encode(Picture(128, 128, pixels.tobytes()), "png")
    stream = b"".join(content for kind, content in chunks_of(data) if kind == b"IDAT")
    unpacker = zlib.decompressobj(wbits=8 + (stream[0] >> 4))
    raw = bytearray()
    while not unpacker.eof:
        raw += unpacker.decompress(stream, 100)
        stream = unpacker.unconsumed_tail
    assert bytes(raw) == zlib.decompress(
        b"".join(content for kind, content in chunks_of(data) if kind == b"IDAT")
    )
