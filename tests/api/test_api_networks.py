"""Lists of the files beside the checkpoints, as AUTOMATIC1111 answered them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdserver.catalog.networks import NetworkFolders
from tests.api.conftest import GOLDENS, Server

RECORDED = json.loads((GOLDENS / "networks.json").read_text(encoding="utf-8"))
FILES = GOLDENS.parent / "checkpoints"
LISTS = (
    *("loras", "embeddings", "hypernetworks", "sd-vae", "upscalers", "latent-upscale-modes"),
    *("face-restorers", "realesrgan-models"),
)
REFRESHES = ("refresh-loras", "refresh-embeddings", "refresh-vae")


@pytest.fixture
def folders(tmp_path: Path) -> NetworkFolders:
    (tmp_path / "ESRGAN").mkdir()
    (tmp_path / "VAE").mkdir()
    (tmp_path / "VAE" / "tiny-vae.safetensors").write_bytes(b"weights")
    (tmp_path / "ESRGAN" / "tiny_x4.pth").write_bytes(b"weights")
    return NetworkFolders(
        lora=(FILES / "lora", tmp_path / "Lora"),
        embeddings=(FILES / "embeddings",),
        hypernetworks=(tmp_path / "hypernetworks",),
        esrgan=(tmp_path / "ESRGAN",),
        real_esrgan=(tmp_path / "RealESRGAN",),
        vae=(tmp_path / "VAE",),
    )


@pytest.fixture
def server(tmp_path: Path, folders: NetworkFolders) -> Any:
    running = Server(tmp_path, folders)
    yield running
    running.close()


def names(rows: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Rows with their paths' last parts alone."""
    return [row | {key: row[key] and Path(row[key]).name for key in keys} for row in rows]


def test_loras(server: Server) -> None:
    recorded = RECORDED["loras"]
    answer = server.get("loras").json()
    assert json.dumps(names(answer, "path")) == json.dumps(names(recorded, "path"))
    assert Path(answer[0]["path"]).is_absolute()


def test_sd_vae(server: Server) -> None:
    assert names(server.get("sd-vae").json(), "filename") == names(RECORDED["sd-vae"], "filename")


def test_upscalers_are_those_that_need_no_download(server: Server, tmp_path: Path) -> None:
    recorded = [
        row
        for row in RECORDED["upscalers"]
        if (row["model_path"] is None and row["name"] != "LDSR") or row["name"] == "tiny_x4"
    ]
    assert names(server.get("upscalers").json(), "model_path") == names(recorded, "model_path")
    assert server.get("realesrgan-models").json() == []

    (tmp_path / "RealESRGAN").mkdir()
    (tmp_path / "RealESRGAN" / "RealESRGAN_x2plus.pth").write_bytes(b"weights")
    server.post("refresh-vae", {})
    path = str(tmp_path / "RealESRGAN" / "RealESRGAN_x2plus.pth")
    assert server.get("realesrgan-models").json() == [{"name": "R-ESRGAN 2x+", "path": path, "scale": 2}]
    shown = {row["name"]: row["scale"] for row in server.get("upscalers").json()}
    assert shown["R-ESRGAN 2x+"] == 2.0


def test_latent_modes_and_face_restorers(server: Server) -> None:
    assert server.get("latent-upscale-modes").json() == RECORDED["latent-upscale-modes"]
    assert server.get("face-restorers").json() == []


def test_embeddings_of_a_checkpoint_that_is_not_there_are_all_loaded(server: Server) -> None:
    answer = server.get("embeddings").json()
    recorded = RECORDED["embeddings"]
    assert answer == {"loaded": recorded["loaded"] | recorded["skipped"], "skipped": {}}
    assert list(answer["loaded"]) == sorted(answer["loaded"])


def test_embeddings_that_do_not_fit_are_skipped(server: Server) -> None:
    tiny = GOLDENS.parent / "checkpoints" / "tiny-sd15.safetensors"
    server.catalog.checkpoints["tiny-sd15"] = replace(
        server.catalog.checkpoints["tiny-sd15"], filename=str(tiny)
    )
    assert server.get("embeddings").json() == RECORDED["embeddings"]


def test_hypernetworks_and_refreshing(server: Server, tmp_path: Path) -> None:
    assert server.get("hypernetworks").json() == []
    (tmp_path / "hypernetworks").mkdir()
    (tmp_path / "hypernetworks" / "hn.pt").write_bytes(b"weights")
    (tmp_path / "Lora").mkdir()
    (tmp_path / "Lora" / "new.safetensors").write_bytes(b"weights")
    for refresh in REFRESHES:
        response = server.post(refresh, {})
        assert (response.status_code, response.json()) == (200, None)
    assert server.get("hypernetworks").json() == [
        {"name": "hn", "path": str(tmp_path / "hypernetworks" / "hn.pt")}
    ]
    assert [row["name"] for row in server.get("loras").json()] == ["tinylocon", "tinylora", "new"]


def test_a_login_guards_every_list(tmp_path: Path) -> None:
    running = Server(tmp_path, users=(("user", "secret"),))
    try:
        for name in LISTS:
            assert running.get(name).status_code == 401, name
            assert running.get(name, auth=("user", "secret")).status_code == 200, name
        for name in (*REFRESHES, "png-info"):
            assert running.post(name, {}).status_code == 401, name
    finally:
        running.close()
