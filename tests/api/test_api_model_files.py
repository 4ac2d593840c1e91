"""The files of models, as the page lists them."""

from pathlib import Path

import pytest

from sdserver.catalog.networks import NetworkFolders
from tests.api.conftest import Server

KEYS = ["name", "file", "hash", "size", "time", "chosen"]
HOSTILE = '<img src=x onerror=alert(1)>"&'


@pytest.fixture
def stocked(tmp_path: Path):
    folders = {name: tmp_path / name for name in ("lora", "vae", "embeddings")}
    for folder in folders.values():
        folder.mkdir()
    (folders["lora"] / f"{HOSTILE}.safetensors").write_bytes(b"x" * 10)
    (folders["lora"] / "gone.safetensors").write_bytes(b"x")
    (folders["vae"] / "fine.safetensors").write_bytes(b"x" * 20)
    kinds = NetworkFolders(
        lora=(folders["lora"],), vae=(folders["vae"],), embeddings=(folders["embeddings"],)
    )
    server = Server(tmp_path, kinds)
    yield server
    server.close()


def test_files_with_their_sizes(stocked: Server, tmp_path: Path) -> None:
    stocked.post("options", {"sd_vae": "fine.safetensors"})
    (tmp_path / "lora" / "gone.safetensors").unlink()
    found = stocked.request("GET", "/v1/model-files").json()
    assert found.pop("downloads") is False
    assert list(found) == ["checkpoints", "vaes", "loras", "embeddings", "hypernetworks", "upscalers"]
    assert all(list(one) == KEYS for files in found.values() for one in files)
    assert [(one["name"], one["size"], one["chosen"]) for one in found["vaes"]] == [
        ("fine.safetensors", 20, True)
    ]
    loras = {one["name"]: one for one in found["loras"]}
    assert loras[HOSTILE]["file"] == f"{HOSTILE}.safetensors"
    assert (loras[HOSTILE]["size"], loras["gone"]["size"], loras["gone"]["time"]) == (10, None, None)
    chosen = [one["name"] for one in found["checkpoints"] if one["chosen"]]
    assert chosen == ["tiny-sd15.safetensors [f901d886de]"]
    titles = [model["title"] for model in stocked.get("sd-models").json()]
    assert [one["name"] for one in found["checkpoints"]] == titles
    assert str(tmp_path) not in stocked.request("GET", "/v1/model-files").text
