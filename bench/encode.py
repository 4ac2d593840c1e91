"""What a picture costs on its way out and in: ways to pack PNG, the answer's JSON, the request's.

    python -m bench.encode --side 1024 --rounds 5 [PICTURE ...]

Prints CPU milliseconds (the least of the rounds, which go over all ways in turn) and, for PNG, the size as
a share of Pillow's default. Where fpng is installed, it is among them.
Pictures are made from nothing; further ones can be named. Ends with 1 if a file does not hold its picture.
"""

import argparse
import binascii
import importlib.util
import io
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

from sdserver.api.answer.answer import Answer, Encoded
from sdserver.api.json_body import parse_json
from sdserver.images.codec import encode
from sdserver.images.decode import file_bytes
from sdserver.jobs.events import Picture
from tests.support.photographs import gradient, photographs

Pixels = npt.NDArray[np.uint8]
DEMO = Path("docs/demo.png")


def by_pillow(**options: int) -> Callable[[Pixels], bytes]:
    def pack(pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", **options)
        return buffer.getvalue()

    return pack


def by_opencv(*options: int) -> Callable[[Pixels], bytes]:
    def pack(pixels: Pixels) -> bytes:
        return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()

    return pack


def ours(pixels: Pixels) -> bytes:
    height, width, _ = pixels.shape
    return encode(Picture(width, height, pixels.tobytes()), "png")


def ways() -> dict[str, Callable[[Pixels], bytes]]:
    """Ways to pack PNG by name; Pillow's default is first."""
    fast = (cv2.IMWRITE_PNG_COMPRESSION, 1)
    found = {
        "Pillow default": by_pillow(),
        "Pillow level 1": by_pillow(compress_level=1),
        "Pillow Z_RLE": by_pillow(compress_type=zlib.Z_RLE),
        "OpenCV level 1": by_opencv(*fast),
        "OpenCV Z_RLE": by_opencv(*fast, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        "sdserver": ours,
    }
    if importlib.util.find_spec("fpng"):
        found["fpng"] = importlib.import_module("fpng").from_ndarray
    else:
        print("fpng is not installed")
    return found


def pictures(side: int, files: list[Path]) -> dict[str, Pixels]:
    found = {**photographs(side), "gradient": gradient(side)}
    for path in [DEMO, *files]:
        image = Image.open(path).convert("RGB")
        found[path.stem] = np.asarray(image)
        if path == DEMO:
            portrait = image.crop((0, 0, 128, 128)).resize((side, side), Image.Resampling.LANCZOS)
            found["portrait"] = np.asarray(portrait)
    return found


def measured(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU milliseconds of each, the least of the rounds."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, call in work.items():
            began = time.process_time()
            call()
            best[name] = min(best[name], (time.process_time() - began) * 1000)
    return best


def show_png(side: int, rounds: int, files: list[Path]) -> bool:
    """Print the table; whether every file holds its picture."""
    candidates = ways()
    is_right = True
    print(f"{'CPU ms, size':24}" + "".join(f"{name:>17}" for name in candidates))
    for name, pixels in pictures(side, files).items():
        made = {way: pack(pixels) for way, pack in candidates.items()}
        for way, data in made.items():
            is_same = np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
            if not is_same:
                print(f"{way}: {name} is another picture")
            is_right = is_right and is_same
        times = measured({way: lambda p=pack, x=pixels: p(x) for way, pack in candidates.items()}, rounds)  # type: ignore[misc]
        whole = len(made["Pillow default"])
        cells = [f"{times[way]:8.1f} {len(made[way]) / whole:7.1%}" for way in candidates]
        print(f"{name:13}{whole / 1000:8.0f} KB" + "".join(f"{cell:>17}" for cell in cells))
    return is_right


def show_json(rounds: int) -> None:
    """Print what the answer's JSON costs for a picture of 1.7 MB, and the request's for 20 MB."""
    data = os.urandom(1_700_000)
    answer = Answer((Encoded(data, "png"),), {"steps": 20}, {"seed": 1, "index_of_first_image": 0})
    text = binascii.b2a_base64(os.urandom(15_000_000), newline=False).decode()
    body = json.dumps({"init_images": [text], "prompt": "a cat"}).encode()

    def before() -> bytes:
        images = [binascii.b2a_base64(data, newline=False).decode("ascii")]
        return orjson.dumps({"images": images, "parameters": {"steps": 20}, "info": "{}"})

    work = {
        "answer, binascii and orjson": before,
        "answer, sdserver": answer.body,
        "20 MB request, json": lambda: json.loads(body),
        "20 MB request, orjson": lambda: orjson.loads(body),
        "20 MB request, sdserver": lambda: parse_json(body),
        "20 MB of base64, binascii": lambda: binascii.a2b_base64(text),
        "20 MB of base64, sdserver": lambda: file_bytes(text, "init_images"),
    }
    print()
    for name, milliseconds in measured(work, rounds).items():
        print(f"{name:32}{milliseconds:8.2f} ms")


def main() -> int:
    """Measure, print, and say whether all was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="PICTURE")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    is_right = show_png(args.side, args.rounds, args.files)
    show_json(args.rounds)
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main())
