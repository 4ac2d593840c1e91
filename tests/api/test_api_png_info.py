"""png-info reads pictures back as AUTOMATIC1111 did."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdserver.api.option_rules import defaults
from sdserver.api.options import Snapshot
from sdserver.api.picture_info import picture_info
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.errors import InvalidField
from sdserver.prompt.styles import read_styles
from tests.api.conftest import GOLDENS, Server

RECORDED = json.loads((GOLDENS / "png_info.json").read_text(encoding="utf-8"))
PICTURES = GOLDENS.parent / "pictures"
STYLES = read_styles(GOLDENS.parent / "prompt" / "styles.csv")
LORA_HASH = "b68de8b7e0a4"


def networks(folder: Path) -> Networks:
    return Networks(NetworkFolders(lora=(GOLDENS.parent / "checkpoints" / "lora",)), folder / "hashes.json")


def encoded(name: str) -> str:
    return base64.b64encode((PICTURES / name).read_bytes()).decode()


def png(**texts: str) -> str:
    """A picture with these text chunks."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 96)).save(buffer, "PNG", pnginfo=info)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_recorded_pictures(case: dict[str, object], tmp_path: Path) -> None:
    answer = picture_info(encoded(str(case["picture"])), Snapshot(defaults()), STYLES, networks(tmp_path))
    if "response" in case:
        assert answer == case["response"]
    else:
        assert (answer["info"], answer["items"]) == (case["infotext"], {})


def test_the_route(server: Server) -> None:
    picture = "data:image/png;base64," + encoded("with_info_hires.png")
    answer = server.post("png-info", {"image": picture}).json()
    (recorded,) = (case["response"] for case in RECORDED if case["name"] == "pnginfo_hires")
    assert answer == recorded


@pytest.mark.parametrize(
    "image", ["", "xx", "é", "data:image/png;base64,", base64.b64encode(b"GIF89a").decode()]
)
def test_what_is_no_picture_is_refused(server: Server, image: str) -> None:
    response = server.post("png-info", {"image": image})
    assert response.status_code == 422
    assert response.json()["detail"] == "Invalid encoded image"
    assert server.post("png-info", {}).status_code == 422


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    # A sound header of 60000 x 60000 pixels without a single one.
    content = bytearray(base64.b64decode(png()))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(InvalidField):
        picture_info(base64.b64encode(content).decode(), Snapshot(defaults()), (), networks(tmp_path))


def test_items_are_the_other_texts(tmp_path: Path) -> None:
    image = png(parameters="a cat", note="héllo", Software="other")
    answer = picture_info(image, Snapshot(defaults()), (), networks(tmp_path))
    assert (answer["info"], answer["items"]) == ("a cat", {"note": "héllo", "Software": "other"})


def test_pictures_of_novelai(tmp_path: Path) -> None:
    comment = {"uc": "bad", "steps": 28, "sampler": "k_euler_ancestral", "scale": 11.0, "seed": 7}
    image = png(Software="NovelAI", Description="a cat", Comment=json.dumps(comment))
    answer = picture_info(image, Snapshot(defaults()), (), networks(tmp_path))
    assert answer["info"] == (
        "a cat\nNegative prompt: bad\nSteps: 28, Sampler: Euler a, CFG scale: 11.0, Seed: 7, Size: 64x96, "
        "Clip skip: 2, ENSD: 31337"
    )
    assert answer["parameters"]["Seed"] == "7"
    for wrong in ("[" * 5000, "{}", "[]", '"\\ud800"'):
        image = png(Software="NovelAI", Description="a cat", Comment=wrong)
        assert picture_info(image, Snapshot(defaults()), (), networks(tmp_path))["info"] == ""


def test_a_lora_is_named_as_the_file_with_its_hash(tmp_path: Path) -> None:
    known = networks(tmp_path)
    text = (
        "a <lora:theirs:0.5> <lora:unknown:1>\n"
        f'Steps: 1, Sampler: Euler, Seed: 1, Lora hashes: "theirs: {LORA_HASH}, unknown: 000000000000, x"'
    )
    answer = picture_info(png(parameters=text), Snapshot(defaults()), (), known)
    assert "<lora:theirs:0.5>" in answer["parameters"]["Prompt"]  # no hash is known yet
    known.hashed(known.loras()[0])
    answer = picture_info(png(parameters=text), Snapshot(defaults()), (), known)
    assert answer["parameters"]["Prompt"] == "a <lora:tinylocon:0.5> <lora:unknown:1>"
    assert answer["info"] == text


def test_options_say_how_texts_are_read(tmp_path: Path) -> None:
    text = (
        "masterpiece, [a cat], tiny style\nNegative prompt: blurry, lowres\n"
        "Steps: 1, Seed: 2, Sampler: DDIM, Version: v1.5.0"
    )

    def read(**options: object) -> dict[str, object]:
        snapshot = Snapshot({**defaults(), **options})  # type: ignore[dict-item]
        answer: dict[str, object] = picture_info(png(parameters=text), snapshot, STYLES, networks(tmp_path))[
            "parameters"
        ]
        return answer

    assert (read()["Styles array"], read()["Prompt"]) == (["Tiny Style"], "[a cat]")
    assert read(infotext_styles="Ignore")["Prompt"] == "masterpiece, [a cat], tiny style"
    discarded = read(infotext_styles="Discard")
    assert ("Styles array" in discarded, discarded["Prompt"]) == (False, "[a cat]")
    assert read(infotext_styles="Apply")["Styles array"] == ["Tiny Style"]
    assert read()["Pad conds v0"] is True
    assert "Pad conds v0" not in read(auto_backcompat=False)
    assert "Seed" not in read(infotext_skip_pasting=["Seed"])
