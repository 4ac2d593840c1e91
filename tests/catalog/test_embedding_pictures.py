"""Pictures that carry a textual inversion are listed as one; other pictures are not."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sdserver.catalog.embeddings import EmbeddingFacts
from sdserver.catalog.networks import NetworkFolders, Networks

CARRIED: dict[str, Any] = {
    "string_to_param": {"*": {"TORCHTENSOR": [[1.0, 2.5, 0.5], [3.0, -4.0, 0.25]]}},
    "name": "inner",
    "step": 7,
}


def with_text(path: Path, content: object) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("sd-ti-embedding", base64.b64encode(json.dumps(content).encode()).decode())
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)


def with_pixels(path: Path, content: object, rows: int = 7) -> None:
    """The format's own drawing, written apart from its reader: low halves, black, high halves."""
    packed = zlib.compress(json.dumps(content).encode())
    packed += bytes(-len(packed) % (rows * 3))
    number, masks = 0, []
    for _ in packed:
        number = (number * 1664525 + 1013904223) % 2**32
        masks.append(number % 255 % 16)
    low, high = (
        np.array(
            [(byte >> shift & 15) ^ mask | 0x50 for byte, mask in zip(packed, masks, strict=True)], np.uint8
        ).reshape(rows, -1, 3)
        for shift in (0, 4)
    )
    drawn = np.concatenate([low, np.zeros((rows, 6, 3), np.uint8), high], axis=1)
    Image.fromarray(np.pad(drawn, ((2, 2), (2, 2), (0, 0)))).save(path, lossless=True)


def listed(folder: Path) -> dict[str, EmbeddingFacts]:
    networks = Networks(NetworkFolders(embeddings=(folder,)), folder / "hashes.json")
    return {file.name: facts for file, facts in networks.embeddings_for("").loaded}


def test_they_are_listed_under_the_name_inside_or_else_the_files(tmp_path: Path) -> None:
    with_text(tmp_path / "text.png", CARRIED)
    with_pixels(tmp_path / "pixels.PNG", CARRIED | {"name": "second"}, rows=5)
    with_pixels(tmp_path / "web.webp", {key: CARRIED[key] for key in ("string_to_param", "step")})
    facts = EmbeddingFacts(7, None, None, 3, 2)
    assert listed(tmp_path) == {"inner": facts, "second": facts, "web": facts}


def test_previews_and_other_pictures_are_not_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_text(tmp_path / "style.preview.png", CARRIED)
    for place, colour in enumerate(("black", "white", "#505050")):
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"{place}.png")
        Image.new("RGBA", (9, 9), colour).save(tmp_path / f"{place}.webp")
    noise = np.random.default_rng(0).integers(1, 255, (32, 40, 3), np.uint8)
    noise[:, 18:22] = 0
    Image.fromarray(noise).save(tmp_path / "two.png")
    assert listed(tmp_path) == {}
    assert not caplog.records


@pytest.mark.parametrize("content", [[1], {"name": "x"}, {"string_to_param": {"*": 3}}, "text"])
def test_damaged_ones_are_left_out_with_a_warning(
    tmp_path: Path, content: object, caplog: pytest.LogCaptureFixture
) -> None:
    with_text(tmp_path / "bad.png", content)
    (tmp_path / "cut.png").write_bytes((tmp_path / "bad.png").read_bytes()[:50])
    (tmp_path / "none.webp").write_bytes(b"no picture")
    assert listed(tmp_path) == {}
    assert "bad.png is left out" in caplog.text


def test_a_picture_that_changes_is_read_again(tmp_path: Path) -> None:
    with_text(tmp_path / "a.png", CARRIED)
    networks = Networks(NetworkFolders(embeddings=(tmp_path,)), tmp_path / "hashes.json")
    with_text(tmp_path / "a.png", CARRIED | {"name": "longer name"})
    networks.refresh()
    (file,) = networks.embeddings()
    assert (file.name, file.path) == ("longer name", str(tmp_path / "a.png"))
