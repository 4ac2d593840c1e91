"""What is written where, by AUTOMATIC1111's options."""

import base64
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdserver.images.metadata import read_metadata
from sdserver.jobs.job import Txt2Img
from tests.api.conftest import Server

BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 5, "save_images": True}


def text_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


INIT = Image.new("RGB", (64, 64), "#336699")
MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 16, 48, 48))
PAINT = BASE | {"init_images": [text_of(INIT)], "mask": text_of(MASK), "inpaint_full_res": False}


def made(server: Server, path: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The request's answer, with these options for it alone."""
    response = server.post(path, body | {"override_settings": {"save_to_dirs": False} | options})
    assert response.status_code == 200, response.text
    assert "X-Save-Error" not in response.headers
    answer: dict[str, Any] = response.json()
    return answer


def files(server: Server, folder: str) -> list[str]:
    """The names in an output folder, in order."""
    path = server.data_dir / "outputs" / folder
    return sorted(each.name for each in path.iterdir()) if path.exists() else []


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


@pytest.mark.parametrize(
    ("picture_format", "signature"),
    [("png", b"\x89PNG"), ("jpg", b"\xff\xd8"), ("webp", b"RIFF"), ("avif", b"\0\0\0")],
)
def test_formats_of_files_and_answers(
    serve: Callable[..., Server], picture_format: str, signature: bytes
) -> None:
    server = serve()
    options = {"samples_format": picture_format, "grid_format": picture_format, "grid_save_to_dirs": False}
    answer = made(server, "txt2img", BASE | {"batch_size": 2}, **options)
    assert [base64.b64decode(each)[: len(signature)] for each in answer["images"]] == [signature] * 3
    names = files(server, "txt2img-images")
    assert names == [f"00000-5-cat.{picture_format}", f"00001-6-cat.{picture_format}"]
    assert files(server, "txt2img-grids") == [f"grid-0000.{picture_format}"]
    saved = (server.data_dir / "outputs/txt2img-images" / names[1]).read_bytes()
    assert read_metadata(saved).infotext == json.loads(answer["info"])["infotexts"][2]


def test_masks_and_composites_are_saved_and_not_told(serve: Callable[..., Server]) -> None:
    server = serve()
    answer = made(server, "img2img", PAINT, save_mask=True, save_mask_composite=True)
    assert len(answer["images"]) == 1
    names = files(server, "img2img-images")
    assert names == ["00000-5-cat.png", "00001-5-cat-mask.png", "00002-5-cat-mask-composite.png"]
    folder = server.data_dir / "outputs/img2img-images"
    mask, composite = (opened(folder / name) for name in names[1:])
    assert mask.getpixel((32, 32)) == (255, 255, 255)
    assert composite.mode == "RGBA"
    assert composite.getchannel("A").getextrema() == (0, 255)
    infotext = json.loads(answer["info"])["infotexts"][0]
    assert read_metadata((folder / names[1]).read_bytes()).infotext == infotext


def test_masks_are_told_and_not_saved(serve: Callable[..., Server]) -> None:
    server = serve()
    answer = made(server, "img2img", PAINT, return_mask=True, return_mask_composite=True, return_grid=False)
    assert len(answer["images"]) == 3
    assert len(json.loads(answer["info"])["infotexts"]) == 1
    assert files(server, "img2img-images") == ["00000-5-cat.png"]
    assert files(server, "img2img-grids") != []  # of the image and its masks, as there


def test_kept_masks_make_no_grid(serve: Callable[..., Server]) -> None:
    server = serve()
    made(server, "img2img", PAINT, save_mask=True)
    assert files(server, "img2img-grids") == []


def test_the_picture_before_its_colours_are_corrected(serve: Callable[..., Server]) -> None:
    server = serve()
    body = {key: value for key, value in PAINT.items() if key != "mask"}
    options = {"img2img_color_correction": True, "save_images_before_color_correction": True}
    made(server, "img2img", body, **options)
    before, after = files(server, "img2img-images")
    assert (before, after) == ("00000-5-cat.png", "00001-5-cat-before-color-correction.png")
    folder = server.data_dir / "outputs/img2img-images"
    assert opened(folder / after).getpixel((0, 0)) == (5, 5, 5)
    assert opened(folder / before).getpixel((0, 0)) != (5, 5, 5)
    made(server, "txt2img", BASE, **options)
    assert files(server, "txt2img-images") == ["00000-5-cat.png"]


@pytest.mark.parametrize("saves", [True, False])
def test_what_the_client_sent_is_saved_by_its_hash(serve: Callable[..., Server], saves: bool) -> None:
    server = serve()
    body = PAINT | {"save_images": saves}
    answer = made(server, "img2img", body, save_init_img=True)
    known = hashlib.md5(INIT.tobytes(), usedforsecurity=False).hexdigest()
    assert files(server, "init-images") == [f"{known}.png"]
    saved = opened(server.data_dir / f"outputs/init-images/{known}.png")
    assert saved.tobytes() == INIT.tobytes()
    assert f", Init image hash: {known}, " in json.loads(answer["info"])["infotexts"][0]
    made(server, "img2img", body, save_init_img=True)
    assert len(files(server, "init-images")) == 1
    assert "Init image hash" not in made(server, "img2img", body)["info"]


def test_a_folder_for_what_clients_sent_must_be_an_output(serve: Callable[..., Server]) -> None:
    server = serve()
    options = {"save_init_img": True, "outdir_init_images": "../elsewhere"}
    response = server.post("img2img", PAINT | {"save_images": False, "override_settings": options})
    assert response.status_code == 422
    assert "outdir_init_images" in response.json()["detail"]


def test_the_history_is_written_whether_pictures_are_saved_or_not(serve: Callable[..., Server]) -> None:
    server = serve()
    path = server.data_dir / "params.txt"
    for prompt in ("first", "second\nNegative"):
        answer = made(server, "txt2img", BASE | {"prompt": prompt, "save_images": False, "batch_size": 2})
        assert path.read_text("utf-8") == json.loads(answer["info"])["infotexts"][0]
    assert not list(server.data_dir.glob(".*.tmp"))


def test_the_history_may_be_off(serve: Callable[..., Server]) -> None:
    server = serve(keeps_history=False)
    made(server, "txt2img", BASE)
    assert not (server.data_dir / "params.txt").exists()


def test_a_large_picture_has_a_jpeg_beside_it(serve: Callable[..., Server]) -> None:
    server = serve()
    made(server, "txt2img", BASE, target_side_length=32)
    assert files(server, "txt2img-images") == ["00000-5-cat.jpg", "00000-5-cat.png"]
    copy = opened(server.data_dir / "outputs/txt2img-images/00000-5-cat.jpg")
    assert copy.size == (32, 32)
    made(server, "txt2img", BASE, img_downscale_threshold=0)
    assert files(server, "txt2img-images")[2:] == ["00001-5-cat.jpg", "00001-5-cat.png"]
    made(server, "txt2img", BASE, target_side_length=32, export_for_4chan=False)
    made(server, "txt2img", BASE, target_side_length=32, samples_format="jpg")
    assert files(server, "txt2img-images")[4:] == ["00002-5-cat.png", "00003-5-cat.jpg"]
    kept = opened(server.data_dir / "outputs/txt2img-images/00003-5-cat.jpg")
    assert kept.size == (64, 64)


def test_texts_names_and_folders(serve: Callable[..., Server]) -> None:
    server = serve()
    options = {
        "save_txt": True,
        "save_images_add_number": False,
        "save_images_replace_action": "Add number suffix",
        "samples_filename_pattern": "[denoising]-[vae_filename]-[image_hash<6>]-[seed_first]",
        "save_to_dirs": True,
        "directories_filename_pattern": "[model_name]/[hasprompt<cat|dog>]",
    }
    for _ in range(2):
        answer = made(server, "txt2img", BASE, **options)
    digest = hashlib.sha256(bytes([5]) * (64 * 64 * 3)).hexdigest()[:6]
    name = f"-NoneType-{digest}-5"
    folder = "txt2img-images/tiny-sd15/cat"
    assert files(server, folder) == [f"{name}{end}" for end in ("-1.png", "-1.txt", ".png", ".txt")]
    text = (server.data_dir / "outputs" / folder / f"{name}.txt").read_text("utf-8")
    assert text == json.loads(answer["info"])["infotexts"][0] + "\n"


def test_too_large_for_the_format_is_saved_as_png(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdserver.images.codec.MAX_SIDES", {"webp": 63})
    server = serve()
    made(server, "txt2img", BASE | {"send_images": False}, samples_format="webp")
    assert files(server, "txt2img-images") == ["00000-5-cat.png"]


@pytest.mark.parametrize(
    ("hires", "saves", "option", "keeps"),
    [(True, True, True, True), (True, False, True, False), (True, True, False, False)],
)
def test_the_first_passes_picture_is_asked_for_where_it_is_saved(
    serve: Callable[..., Server], hires: bool, saves: bool, option: bool, keeps: bool
) -> None:
    server = serve()
    body = BASE | {"enable_hr": hires, "denoising_strength": 0.5, "save_images": saves}
    made(server, "txt2img", body, save_images_before_highres_fix=option)
    (job,) = server.engine.jobs
    assert isinstance(job, Txt2Img)
    assert job.hires is not None
    assert job.hires.keeps_first is keeps


def test_a_disk_that_is_full_is_told(serve: Callable[..., Server]) -> None:
    server = serve()
    (server.data_dir / "outputs").write_text("a file where the folder should be")
    response = server.post("img2img", PAINT | {"override_settings": {"save_init_img": True}})
    assert response.status_code == 200
    assert len(response.json()["images"]) == 1
    assert response.headers["X-Save-Error"]
    assert str(Path(server.data_dir)) not in response.headers["X-Save-Error"]
