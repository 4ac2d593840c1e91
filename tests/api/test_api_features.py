"""Hires fix, img2img, masks, networks, refiner and more are told of as AUTOMATIC1111 1.10.1 did.

The pictures are the fake engine's; what is compared is everything else of the recorded answers.
"""

import base64
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdserver.catalog.networks import NetworkFolders
from tests.api.conftest import GOLDENS, Server

RECORDED = json.loads((GOLDENS / "features.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["cases"]}
NETWORKS = GOLDENS.parent / "checkpoints"
STAND_INS = {
    "lora/tinylora.safetensors": "85f5a9a48658",
    "lora/tinylocon.safetensors": "b68de8b7e0a4",
    "vae/tiny-vae.safetensors": "352e1d7718",
    "esrgan/tiny_x4.pth": "",
}
"""Files whose names alone matter here, and the hashes that the recorded ones have."""


def stand_in(path: Path) -> None:
    """A safetensors file without tensors; its content is its own name."""
    content = path.name.encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((2).to_bytes(8, "little") + b"{}" + content)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with networks."""
    root = tmp_path_factory.mktemp("features")
    for name in STAND_INS:
        stand_in(root / name)
    embeddings = root / "embeddings"
    shutil.copytree(NETWORKS / "embeddings", embeddings)
    folders = NetworkFolders(
        lora=(root / "lora",), embeddings=(embeddings,), esrgan=(root / "esrgan",), vae=(root / "vae",)
    )
    server = Server(root, folders)
    yield server
    server.close()


def with_pictures(value: Any) -> Any:
    """A request with the names of pictures replaced by the pictures."""
    if isinstance(value, list):
        return [with_pictures(item) for item in value]
    if isinstance(value, str) and value.startswith("@file:"):
        return base64.b64encode((GOLDENS / value.removeprefix("@file:")).read_bytes()).decode()
    return value


def with_our_hashes(text: str, root: Path) -> str:
    """Recorded text with the stand-ins' hashes for the recorded files'."""
    for name, recorded in STAND_INS.items():
        content = (root / name).read_bytes()
        hashed = content if name.startswith("vae") else content[10:]
        if recorded:
            text = text.replace(recorded, hashlib.sha256(hashed).hexdigest()[: len(recorded)])
    return text


@pytest.mark.parametrize("name", CASES)
def test_recorded(features: Server, name: str) -> None:
    case = CASES[name]
    route, sent = case["route"], {key: with_pictures(value) for key, value in case["request"].items()}
    features.options.apply({"sd_model_checkpoint": case["checkpoint"]})
    response = features.post(route, sent)
    assert response.status_code == 200, response.text
    answer = response.json()

    expected = RECORDED["defaults"][route]["parameters"] | case["parameters"]
    if sent.get("include_init_images"):
        expected["init_images"] = sent["init_images"]
    assert json.dumps(answer["parameters"]) == json.dumps(expected)

    wanted = json.dumps(RECORDED["defaults"][route]["info"] | case["info"])
    wanted = json.loads(with_our_hashes(wanted, features.data_dir))
    info = json.loads(answer["info"])
    random = {"job_timestamp"}
    if "Variation seed" not in sent.get("infotext", "") and sent.get("subseed", -1) < 0:
        random |= {"subseed", "all_subseeds"}
    for key in random:
        wanted[key] = info[key]
    assert json.dumps(info) == json.dumps(wanted)

    pictures = [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]
    assert [[*picture.size, picture.mode] for picture in pictures] == case["images"]
