"""Pictures and bodies that would take much memory: the process hardly grows, and says what is wrong."""

import base64
import contextlib
import io
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node import request
from patience import PATIENCE
from PIL import Image, PngImagePlugin

from tests.api.conftest import Server
from tests.soak.sending import Served, served

CANARY = "canary-51e0"
BODY_LIMIT = 2_000_000
"""Of `tests.soak.served`."""
MOST_GROWTH = BODY_LIMIT + 50_000_000
GIGABYTE = 1_000_000_000


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def flat_png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A sound PNG of one bit per pixel, all black."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def packed_text(size: int, name: bytes = b"zTXt") -> bytes:
    """A chunk of text that unpacks to so many characters."""
    between = {b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0", b"iCCP": b"\0\0"}[name]
    return chunk(name, b"parameters" + between + zlib.compress(bytes([65]) * size, 9))


def gif(frames: int) -> bytes:
    """An animation: one frame, over and over."""
    buffer = io.BytesIO()
    Image.new("P", (16, 16)).save(buffer, "GIF")
    data = buffer.getvalue()
    at = data.index(b",")
    return data[:at] + data[at:-1] * frames + b";"


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (64, 64), "red")
REFUSED = {
    "13300 x 13300": lambda: flat_png(13_300, 13_300),
    "65500 x 65500 by header": lambda: flat_png(8, 8).replace(
        struct.pack(">II", 8, 8), struct.pack(">II", 65_500, 65_500)
    ),
    "cut off": lambda: saved(RED, "PNG")[:-40],
    "cut off JPEG": lambda: saved(RED, "JPEG")[:300],
    "empty": lambda: b"",
    "EPS": lambda: saved(RED, "EPS"),
    "PSD": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(2000),
    "ICNS": lambda: b"icns" + struct.pack(">I", 2000) + b"ic07" + struct.pack(">I", 1992) + bytes(1984),
    "FITS": lambda: (
        b"SIMPLE  =                    T".ljust(80) + b"BITPIX  = 8".ljust(80) + b"END".ljust(2720)
    ),
    "PDF": lambda: saved(RED, "PDF"),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "ICO": lambda: saved(RED, "ICO"),
    "PNG in name alone": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "WMF": lambda: b"\xd7\xcd\xc6\x9a\0\0" + bytes(200),
}
READ = {
    "1 x 65500": lambda: flat_png(1, 65_500),
    "65500 x 1": lambda: flat_png(65_500, 1),
    "10,000 frames": lambda: gif(10_000),
}
TEXTS = {
    name.decode(): lambda name=name: flat_png(64, 64, packed_text(200_000_000, name))
    for name in (b"zTXt", b"iTXt", b"iCCP")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data")) as running:
        options = {"sd_model_checkpoint": "tiny-sd15.safetensors [f901d886de]"}
        answer = request("POST", f"http://127.0.0.1:{running.port}/sdapi/v1/options", json=options)
        assert answer.status_code == 200, answer.text
        yield running


def peak(server: Served, *, reset: bool = False) -> int:
    """The most memory that the process had since the last reset, in bytes."""
    if reset:
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{server.pid}/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def ways(picture: str) -> dict[str, dict[str, Any]]:
    """Every route that takes pictures, with one."""
    good = base64.b64encode(saved(RED, "PNG")).decode()
    small = {"steps": 1, "width": 64, "height": 64}
    return {
        "/sdapi/v1/img2img": {"init_images": [picture], **small},
        "/sdapi/v1/img2img?mask": {"init_images": [good], "mask": picture, **small},
        "/sdapi/v1/extra-single-image": {"image": picture, "upscaler_1": "Nearest", "upscaling_resize": 1},
        "/sdapi/v1/extra-batch-images": {
            "imageList": [{"data": picture, "name": "x"}], "upscaler_1": "Nearest", "upscaling_resize": 1,
        },
        "/sdapi/v1/png-info": {"image": picture},
        "/sdapi/v1/interrogate": {"image": picture, "model": "clip"},
    }  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED, *READ, *TEXTS])
def test_a_picture_costs_little_whatever_it_says(server: Served, name: str) -> None:
    data = (REFUSED | READ | TEXTS)[name]()
    before = peak(server, reset=True)
    for path, body in ways(base64.b64encode(data).decode()).items():
        answer = request("POST", f"http://127.0.0.1:{server.port}{path}", json=body)
        assert answer.status_code < 500 or answer.status_code == 501, (path, answer.text)
        assert len(answer.content) < 1_000_000, path
        if name in REFUSED and not (name == "empty" and path.endswith("mask")):  # that is none
            assert 400 <= answer.status_code < 500, (path, answer.text)
        if name == "10,000 frames" and path == "/sdapi/v1/img2img":
            assert answer.status_code == 200, answer.text
    assert peak(server) - before < MOST_GROWTH


def test_the_measure_measures(server: Served) -> None:
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    assert 30_000_000 < peak(server) <= server.memory + 20_000_000


@pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", f"Content-Length: {GIGABYTE}"])
def test_a_gigabyte_of_zeros_is_not_kept(server: Served, head: str) -> None:
    before = peak(server, reset=True)
    zeros = bytes(1_000_000)
    piece = b"f4240\r\n" + zeros + b"\r\n" if "chunked" in head else zeros
    sent, answer = 0, b""
    lines = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(lines.encode())
        try:
            while sent < GIGABYTE:
                client.sendall(piece)
                sent += len(zeros)
        except ConnectionError:
            pass
        with contextlib.suppress(ConnectionError):
            answer = client.recv(100_000)
    assert not answer or answer.startswith(b"HTTP/1.1 413 "), answer
    assert peak(server) - before < MOST_GROWTH
    assert server.get("/health")


def tagged(kind: str, *, texts: bool = True) -> bytes:
    """A picture that tells where it was taken, by whom and with what."""
    exif = Image.Exif()
    exif[0x010F] = exif[0x013B] = exif[0x8298] = exif[0x010E] = CANARY
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 29: CANARY, 27: CANARY.encode()})
    exif.get_ifd(0x8769).update({0x927C: CANARY.encode(), 0xA431: CANARY})
    options: dict[str, Any] = {"exif": exif}
    if kind == "PNG" and texts:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", CANARY)
        options["pnginfo"].add_text("GPS", CANARY)
    if kind == "JPEG":
        options["comment"] = CANARY.encode()
    if kind in ("JPEG", "WEBP"):
        options["xmp"] = CANARY.encode()
    if kind != "GIF":
        options["icc_profile"] = CANARY.encode()
    return saved(RED, kind, **options)


@pytest.mark.parametrize("made", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_nothing_that_a_picture_tells_of_its_maker_is_passed_on(
    serve: Callable[..., Server], kind: str, made: str
) -> None:
    data = tagged(kind)
    assert data.count(CANARY.encode()) >= 3, "the measure measures"
    picture = base64.b64encode(data).decode()
    plain = base64.b64encode(tagged(kind, texts=False)).decode()
    running = serve()
    assert running.post("options", {"samples_format": made, "save_init_img": True}).status_code == 200
    small = {"steps": 1, "width": 64, "height": 64, "save_images": True}
    for route, body in (
        ("img2img", {"init_images": [picture], **small}),
        ("img2img", {"init_images": [picture], "mask": picture, "inpaint_full_res": True, **small}),
        # Texts of a PNG are carried over by extras, as AUTOMATIC1111 does.
        ("extra-single-image", {"image": plain, "upscaler_1": "Nearest", "upscaling_resize": 2}),
    ):
        answer = running.post(route, body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        for image in told.get("images") or [told["image"]]:
            assert CANARY.encode() not in base64.b64decode(image), route
        assert CANARY not in str(told.get("info"))
    files = [file for file in (running.data_dir / "outputs").rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert CANARY.encode() not in file.read_bytes(), file
