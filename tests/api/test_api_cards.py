"""What the page shows of model files, and that nothing else on the disk can be had by it."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image

from sdserver.catalog import card_pictures
from sdserver.catalog.networks import NetworkFolders
from tests.api.conftest import Server

SECRET = b"a secret"


def picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(file, kind)
    return file.getvalue()


def lora(path: Path, **metadata: str) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of LoRAs, and beside it what must not be had."""
    found = tmp_path / "Lora"
    (found / "sub").mkdir(parents=True)
    covers = json.dumps([base64.b64encode(picture("WEBP")).decode(), "no picture", 7])
    lora(
        found / "red.v1.safetensors",
        ss_output_name="x",
        ss_tag_frequency='{"a": 1}',
        ssmd_cover_images=covers,
    )
    lora(found / "sub" / "blue.safetensors")
    lora(found / 'a"<b>.safetensors')
    (found / "broken.safetensors").write_bytes(b"x")
    for name in (
        "red.v1.preview.png",
        "red.v1.jpg",
        "sub/blue.webp",
        "other.png",
        "red.v1.txt",
        "sub/red.v1.png",
    ):
        (found / name).write_bytes(name.encode())
    (tmp_path / "outside.png").write_bytes(SECRET)
    (found / "broken.png").symlink_to(tmp_path / "outside.png")
    (found / "broken.gif").mkdir()
    return found


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path, NetworkFolders(lora=(folder,)))
    yield running
    running.close()


def test_cards_with_pictures_are_named_and_their_pictures_can_be_had(server: Server, folder: Path) -> None:
    pictures = ask(server, "pictures", page="lora").json()["pictures"]
    expected = {"red.v1": folder / "red.v1.preview.png", "blue": folder / "sub" / "blue.webp"}
    assert pictures == {name: str(path) for name, path in expected.items()}
    assert all(ask(server, "thumb", filename=place).status_code == 200 for place in pictures.values())
    assert ask(server, "pictures", page="../..").json() == {"pictures": {}}


def ask(server: Server, route: str, /, **params: object) -> requests.Response:
    return server.request("GET", f"/sd_extra_networks/{route}", params=params)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("red.v1.preview.png", "image/png"), ("red.v1.jpg", "image/jpeg"), ("sub/blue.webp", "image/webp")],
)
def test_pictures_beside_models(server: Server, folder: Path, name: str, media_type: str) -> None:
    answer = ask(server, "thumb", filename=folder / name)
    assert (answer.status_code, answer.content) == (200, name.encode())
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "", "other.png", "red.v1.txt", "red.v1.safetensors", "red.v1.webp", "sub/red.v1.png", "broken.png",
        "broken.gif", "../outside.png", "sub/../red.v1.jpg", "red.v1.jpg\0", "x" * 5000 + ".png",
        "../Lora/red.v1.jpg", "red.v1.preview.preview.png", "\ud800.png", ".png",
    ],
)  # fmt: skip
def test_nothing_else_is_sent(server: Server, folder: Path, name: str) -> None:
    path = f"{folder}/{name}".encode("utf-8", "surrogatepass")
    answer = ask(server, "thumb", filename=path)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "File not found"
    assert SECRET not in answer.content


def test_paths_are_absolute(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("red.v1.jpg", "./red.v1.jpg", "", "/", "file://" + str(folder / "red.v1.jpg")):
        assert ask(server, "thumb", filename=name).status_code == 404


def test_a_picture_has_a_greatest_size(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_pictures, "LARGEST", len(b"red.v1.jpg"))
    assert ask(server, "thumb", filename=folder / "red.v1.jpg").status_code == 200
    assert ask(server, "thumb", filename=folder / "red.v1.preview.png").status_code == 404


def test_links_within_the_folder_are_followed(server: Server, folder: Path) -> None:
    (folder / "broken.webp").symlink_to("other.png")
    assert ask(server, "thumb", filename=folder / "broken.webp").content == b"other.png"


def test_covers_in_metadata(server: Server) -> None:
    answer = ask(server, "cover-images", page="Lora", item="red.v1")
    assert (answer.status_code, answer.content) == (200, picture("WEBP"))
    assert answer.headers["Content-Type"] == "image/webp"
    for params in (
        {"index": 1}, {"index": 2}, {"index": 3}, {"index": -1}, {"item": "blue"}, {"item": "broken"},
        {"item": "none"}, {"page": "none"},
    ):  # fmt: skip
        missing = ask(server, "cover-images", **({"page": "lora", "item": "red.v1", "index": 0} | params))
        assert (missing.status_code, missing.json()["detail"]) == (404, "File not found")
    assert ask(server, "cover-images", index="x").status_code == 422


def test_metadata(server: Server) -> None:
    told = json.loads(ask(server, "metadata", page="lora", item="red.v1").json()["metadata"])
    assert told == {"ss_output_name": "x", "ss_tag_frequency": {"a": 1}}
    for item in ("blue", "broken", "none"):
        assert ask(server, "metadata", page="lora", item=item).json() == {}
    assert ask(server, "metadata", page="checkpoints", item="tiny-sd15").json() == {}


def test_deeply_nested_metadata_stays_text(server: Server, folder: Path) -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    lora(folder / "red.v1.safetensors", deep=deep)
    assert json.loads(ask(server, "metadata", page="lora", item="red.v1").json()["metadata"]) == {
        "deep": deep
    }


def test_cards(server: Server, folder: Path) -> None:
    card = ask(server, "get-single-card", page="lora", tabname="txt2img", name="red.v1").json()["html"]
    assert 'data-name="red.v1"' in card
    source = card.partition('src=".')[2].partition('"')[0]
    assert server.request("GET", source).content == b"red.v1.preview.png"
    hostile = ask(server, "get-single-card", page="lora", tabname='"><script>', name='a"<b>').json()["html"]
    assert "<script" not in hostile
    assert "<b>" not in hostile
    assert "<img" not in hostile
    assert ask(server, "get-single-card", page="lora", name="none").json() == {}
    assert ask(server, "get-single-card", page="textual_inversion", name="x").json() == {}
