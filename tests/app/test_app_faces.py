"""Faces restored by a real node, with networks in the known files' layouts."""

import base64
import io
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from face_files import CODEFORMER, DETECTOR, detector, write_faces
from node import CHECKPOINT, Node, running
from PIL import Image

from sdserver.app.assembly import networks_of
from sdserver.errors import MissingModel
from sdserver.settings.load import load

HAS_CODEFORMER = find_spec("spandrel_extra_arches") is not None
LANDMARKS = ((271.0, 300.0), (369.0, 300.2), (320.5, 357.7), (277.4, 402.4), (364.5, 402.2))
"""Of an upright face in the middle of the 640 x 640 pixels that the detector sees."""

GFPGAN = {"override_settings": {"face_restoration_model": "GFPGAN"}, "restore_faces": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder's models; the detector sees no face."""
    folder = tmp_path_factory.mktemp("data") / "models"
    write_faces(folder)
    return folder


@pytest.fixture(scope="module")
def node(models: Path) -> Iterator[Node]:
    with running(models.parent, "--ckpt", str(CHECKPOINT), "--allow-pickle") as started:
        started.wait_ready()
        yield started


def test_a1111s_flags_name_other_folders(tmp_path: Path) -> None:
    write_faces(tmp_path / "models")
    (tmp_path / "own").mkdir()
    for name in ("GFPGANv1.3.pth", CODEFORMER):
        (tmp_path / "own" / name).touch()
    flags = [f"--{kind}-models-path={tmp_path / 'own'}" for kind in ("gfpgan", "codeformer")]
    settings = load(["--data-dir", str(tmp_path), "--allow-pickle", *flags], {}, cwd=tmp_path, root=tmp_path)
    found = networks_of(settings).face_restorer("GFPGAN")
    assert found.network == str(tmp_path / "own" / "GFPGANv1.3.pth")
    assert found.detector == str(tmp_path / "models" / "GFPGAN" / DETECTOR)
    with pytest.raises(MissingModel, match="spandrel_extra_arches") if not HAS_CODEFORMER else nullcontext():
        assert Path(networks_of(settings).face_restorer("CodeFormer").network).name == CODEFORMER


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)


def test_a_picture_without_faces_is_as_it_was(node: Node) -> None:
    plain, restored = node.txt2img(), node.txt2img(**GFPGAN)
    assert np.array_equal(pixels(restored.images[0]), pixels(plain.images[0]))
    assert "Face restoration: GFPGAN" in restored.info["infotexts"][0]
    assert "Face restoration" not in plain.info["infotexts"][0]


def test_only_what_is_there_is_listed_and_the_rest_is_named(node: Node) -> None:
    listed = node.api("GET", "/sdapi/v1/face-restorers").json()
    assert listed == [{"name": "GFPGAN", "cmd_dir": None}]
    answer = node.api("POST", "/sdapi/v1/txt2img", json={"restore_faces": True})
    assert (answer.status_code, CODEFORMER in answer.json()["detail"]) == (501, True)


def test_a_face_is_restored_and_the_rest_stays(node: Node, models: Path) -> None:
    """The detector's file changes meanwhile. It sees a picture of 320 pixels twice as large."""
    torch.save(detector(LANDMARKS), models / "GFPGAN" / DETECTOR)
    before = np.random.default_rng(0).integers(0, 200, (320, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(before).save(buffer, "PNG")
    body = {"image": base64.b64encode(buffer.getvalue()).decode(), "gfpgan_visibility": 1}
    answer = node.api("POST", "/sdapi/v1/extra-single-image", json=body)
    assert answer.status_code == 200, answer.text
    after = pixels(answer.json()["image"])
    assert (np.abs(after[130:190, 130:190] - 229) <= 1).all()  # the shade of these files' GFPGAN
    assert np.array_equal(after[:40], before[:40])
    assert np.array_equal(after[:, 280:], before[:, 280:])


def test_a_damaged_file_is_told(node: Node, models: Path) -> None:
    (models / "GFPGAN" / DETECTOR).write_bytes(b"damaged")
    answer = node.api("POST", "/sdapi/v1/txt2img", json={"width": 64, "height": 64, "steps": 1, **GFPGAN})
    assert answer.status_code == 500
    assert answer.json()["error"] == "UnreadableCheckpoint"
    assert DETECTOR in answer.json()["detail"]
