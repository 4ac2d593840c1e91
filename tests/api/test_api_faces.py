"""Faces restored: what requests ask for, and what answers and files say."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from requests import Response

from sdserver.catalog.face_restorers import FaceFolders
from sdserver.catalog.networks import NetworkFolders
from sdserver.jobs.job import Enlarge, FaceRestorer, Faces, FaceStep, Restore
from tests.api.conftest import Server

FILES = ("GFPGAN/GFPGANv1.4.pth", "GFPGAN/detection_Resnet50_Final.pth", "GFPGAN/parsing_parsenet.pth")
CODEFORMER = "Codeformer/codeformer-v0.1.0.pth"
SMALL = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 1}
COLOUR = (10, 20, 30)


def place(models: Path, *names: str) -> NetworkFolders:
    """Files that the fake engine does not look into."""
    for name in names:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()
    return NetworkFolders(faces=FaceFolders((models / "GFPGAN",), (models / "Codeformer",)))


@pytest.fixture
def faced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with both restorers."""
    monkeypatch.setattr("sdserver.catalog.face_restorers.find_spec", lambda _name: object())
    running = Server(tmp_path, place(tmp_path / "models", *FILES, CODEFORMER))
    yield running
    running.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Server]:
    """A server with what finds faces, and no restorer."""
    running = Server(tmp_path, place(tmp_path / "models", *FILES[1:]))
    yield running
    running.close()


def sent(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(text: str) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def restorer(server: Server, kind: str, weight: float, *, leaves_device: bool = False) -> FaceRestorer:
    models = server.data_dir / "models"
    network = CODEFORMER if kind == "CodeFormer" else FILES[0]
    paths = [str(models / name) for name in (network, *FILES[1:])]
    return FaceRestorer(kind, *paths, weight, leaves_device)  # type: ignore[arg-type]


def txt2img(server: Server, **fields: Any) -> dict[str, Any]:
    """`info` of an answer."""
    response = server.post("txt2img", SMALL | fields)
    assert response.status_code == 200, response.text
    info: dict[str, Any] = json.loads(response.json()["info"])
    return info


def jobs(server: Server) -> list[Any]:
    return list(server.engine.jobs)


def test_restore_faces_asks_for_codeformer_and_is_told(faced: Server) -> None:
    info = txt2img(faced, restore_faces=True, batch_size=2)
    assert {job.faces for job in jobs(faced)} == {Faces(restorer(faced, "CodeFormer", 0.5))}
    assert (info["restore_faces"], info["face_restoration_model"]) == (True, "CodeFormer")
    assert "Seed: 1, Face restoration: CodeFormer, Size: 64x64" in info["infotexts"][0]


def test_without_it_faces_are_left_alone(faced: Server) -> None:
    for fields in ({}, {"restore_faces": False}, {"restore_faces": None}):
        info = txt2img(faced, **fields)
        assert (info["restore_faces"], info["face_restoration_model"]) == (False, None)
        assert "Face restoration" not in info["infotexts"][0]
    assert {job.faces for job in jobs(faced)} == {None}


def test_options_choose_the_restorer_and_its_weight(faced: Server) -> None:
    info = txt2img(faced, restore_faces=True, override_settings={"face_restoration_model": "GFPGAN"})
    assert info["face_restoration_model"] == "GFPGAN"
    changed = {"code_former_weight": 0.25, "face_restoration_unload": True, "face_restoration": True}
    assert faced.post("options", changed).status_code == 200
    txt2img(faced)
    txt2img(faced, restore_faces=False)
    assert [job.faces and job.faces.restorer for job in jobs(faced)] == [
        restorer(faced, "GFPGAN", 0.5),
        restorer(faced, "CodeFormer", 0.25, leaves_device=True),
        None,
    ]


@pytest.mark.parametrize("weight", [-0.1, 1.1, "x"])
def test_the_weight_has_bounds(faced: Server, weight: object) -> None:
    response = faced.post("options", {"code_former_weight": weight})
    assert (response.status_code, "code_former_weight" in response.text) == (422, True)


def test_an_unknown_restorer_does_nothing_and_is_told(faced: Server) -> None:
    """As in AUTOMATIC1111."""
    info = txt2img(faced, restore_faces=True, override_settings={"face_restoration_model": "Nobody"})
    assert (info["restore_faces"], info["face_restoration_model"]) == (True, "Nobody")
    assert "Face restoration: Nobody" in info["infotexts"][0]
    assert [job.faces for job in jobs(faced)] == [None]


def test_an_infotext_restores_faces(faced: Server) -> None:
    info = txt2img(faced, infotext="cat\nSteps: 2, Seed: 3, Face restoration: CodeFormer, Size: 64x64")
    assert info["restore_faces"] is True
    assert jobs(faced)[0].faces is not None


def test_img2img_restores_faces(faced: Server) -> None:
    body = SMALL | {"init_images": [sent(Image.new("RGB", (64, 64), COLOUR))], "restore_faces": True}
    response = faced.post("img2img", body)
    assert response.status_code == 200, response.text
    assert jobs(faced)[0].faces == Faces(restorer(faced, "CodeFormer", 0.5))
    assert "Face restoration: CodeFormer" in json.loads(response.json()["info"])["infotexts"][0]


@pytest.mark.parametrize("saves", [True, False])
def test_the_picture_before_is_saved_where_that_is_wanted(faced: Server, saves: bool) -> None:
    faced.post("options", {"save_images_before_face_restoration": True})
    txt2img(faced, restore_faces=True, save_images=saves)
    assert jobs(faced)[0].faces.keeps_picture == saves
    files = sorted((faced.data_dir / "outputs").rglob("*.png"))
    assert len(files) == (2 if saves else 0)
    if saves:
        assert [path.stem for path in files] == ["00000-1-before-face-restoration", "00001-1"]
        before = opened(base64.b64encode(files[0].read_bytes()).decode())
        assert before.getextrema() == ((0, 0),) * 3  # the fake engine's
        assert "Face restoration: CodeFormer" in before.info["parameters"]


def missing(response: Response) -> str:
    assert (response.status_code, response.json()["error"]) == (501, "MissingModel"), response.text
    detail: str = response.json()["detail"]
    return detail


def test_what_is_missing_is_named(bare: Server) -> None:
    assert "codeformer-v0.1.0.pth" in missing(bare.post("txt2img", SMALL | {"restore_faces": True}))
    gfpgan = {"restore_faces": True, "override_settings": {"face_restoration_model": "GFPGAN"}}
    assert "GFPGANv1.4.pth" in missing(bare.post("txt2img", SMALL | gfpgan))
    bare.post("options", {"face_restoration": True})
    assert "codeformer-v0.1.0.pth" in missing(bare.post("txt2img", SMALL))
    assert jobs(bare) == []


def test_a1111s_quirks_leave_faces_and_tell_all_the_same(tmp_path: Path) -> None:
    server = Server(tmp_path, place(tmp_path / "models"), a1111_quirks=True)
    try:
        info = txt2img(server, restore_faces=True)
        assert (info["restore_faces"], info["face_restoration_model"]) == (True, "CodeFormer")
        assert "Face restoration: CodeFormer" in info["infotexts"][0]
        assert [job.faces for job in jobs(server)] == [None]
    finally:
        server.close()


def test_those_that_are_there_are_listed(faced: Server) -> None:
    both = [{"name": "CodeFormer", "cmd_dir": None}, {"name": "GFPGAN", "cmd_dir": None}]
    assert faced.get("face-restorers").json() == both
    (faced.data_dir / "models" / CODEFORMER).unlink()
    assert faced.get("face-restorers").json() == both[1:]


def extra(server: Server, image: Image.Image, **fields: Any) -> tuple[Image.Image, str]:
    response = server.post("extra-single-image", {"image": sent(image)} | fields)
    assert response.status_code == 200, response.text
    return opened(response.json()["image"]), response.json()["html_info"]


def test_extras_restore_by_gfpgan_then_by_codeformer(faced: Server) -> None:
    fields = {"codeformer_visibility": 1, "codeformer_weight": 0.7, "gfpgan_visibility": 0.12345}
    image, said = extra(faced, Image.new("RGB", (24, 16), COLOUR), **fields)
    (job,) = jobs(faced)
    assert isinstance(job, Restore)
    assert job.picture.pixels == bytes(COLOUR) * (24 * 16)
    assert job.steps == (
        FaceStep(restorer(faced, "GFPGAN", 0.0), 0.12345),
        FaceStep(restorer(faced, "CodeFormer", 0.7), 1.0),
    )
    info = "GFPGAN visibility: 0.123, CodeFormer visibility: 1.0, CodeFormer weight: 0.7"
    assert said == f"<p>{info}</p>"
    assert image.info["postprocessing"] == info
    assert image.getextrema() == ((255, 255),) * 3  # the fake engine's


def test_extras_enlarge_first(faced: Server) -> None:
    fields = {"upscaler_1": "Nearest", "upscaling_resize": 2, "gfpgan_visibility": 1}
    image, said = extra(faced, Image.new("RGB", (24, 16), COLOUR), **fields)
    assert image.size == (48, 32)
    assert (jobs(faced)[0].picture.width, jobs(faced)[0].picture.height) == (48, 32)
    assert said == "<p>Postprocess upscale by: 2.0, Postprocess upscaler: Nearest, GFPGAN visibility: 1.0</p>"


def test_extras_enlarge_by_a_network_first(faced: Server, tmp_path: Path) -> None:
    (tmp_path / "ESRGAN").mkdir()
    (tmp_path / "ESRGAN" / "net.pth").touch()
    folders = place(tmp_path / "models", *FILES)
    server = Server(tmp_path, NetworkFolders(esrgan=(tmp_path / "ESRGAN",), faces=folders.faces))
    try:
        extra(server, Image.new("RGB", (24, 16), COLOUR), upscaler_1="net", gfpgan_visibility=1)
        assert [type(job) for job in jobs(server)] == [Enlarge, Restore]
        assert set(jobs(server)[1].picture.pixels) == {0}  # what the fake engine enlarges
        assert len({job.id for job in jobs(server)}) == 2
    finally:
        server.close()


def test_extras_keep_what_is_transparent(faced: Server) -> None:
    image, _ = extra(faced, Image.new("RGBA", (8, 8), (*COLOUR, 77)), gfpgan_visibility=1)
    assert (image.mode, image.getpixel((3, 3))) == ("RGBA", (255, 255, 255, 77))


def test_extras_of_several_pictures(faced: Server) -> None:
    pictures = [{"data": sent(Image.new("RGB", (8, side), COLOUR)), "name": ""} for side in (8, 16)]
    body = {"imageList": pictures, "codeformer_visibility": 0.5}
    response = faced.post("extra-batch-images", body)
    assert [opened(text).size for text in response.json()["images"]] == [(8, 8), (8, 16)]
    assert "CodeFormer weight: 0</p>" in response.json()["html_info"]


@pytest.mark.parametrize(
    ("field", "file"),
    [("gfpgan_visibility", "GFPGANv1.4.pth"), ("codeformer_visibility", "codeformer-v0.1.0.pth")],
)
def test_extras_name_what_is_missing(bare: Server, field: str, file: str) -> None:
    body = {"image": sent(Image.new("RGB", (8, 8))), field: 0.5}
    assert file in missing(bare.post("extra-single-image", body))
    assert jobs(bare) == []
