"""Options that change what jobs are, what is done to pictures, and what infotexts tell."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from sdserver.catalog.networks import NetworkFolders
from sdserver.images.enlarge import filtered
from sdserver.images.resize import scaled
from sdserver.jobs.events import Finished, Picture, Used
from sdserver.jobs.job import Enlarge, Img2Img, SharedPath, Size, Txt2Img, UpscalerTiles
from sdserver.jobs.model import Model
from tests.api.conftest import FakeEngine, Server

BASE = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 5, "subseed": 1}
HIRES = BASE | {"enable_hr": True, "denoising_strength": 0.5, "hr_scale": 2}


def noisy(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def text_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


class FirstPasses(FakeEngine):
    """Keeps first passes' pictures where that is asked, in white; says that weights lie in 8 bits."""

    found = Used()

    def _finish(self, ticket: Any) -> None:
        observe = ticket.observe

        def observed(event: object) -> None:
            job = next(job for job in ticket.jobs if job.id == getattr(event, "job", ""))
            if isinstance(event, Finished) and isinstance(job, Txt2Img | Img2Img):
                event = replace(event, used=replace(self.found, fp8=job.model.storage != "full"))
                if isinstance(job, Txt2Img) and job.hires is not None and job.hires.keeps_first:
                    event = replace(event, first=Picture(64, 64, b"\xff" * (64 * 64 * 3)))
            observe(event)

        ticket.observe = observed
        super()._finish(ticket)


def asked(server: Server, kind: str, body: dict[str, Any], **options: Any) -> requests.Response:
    return server.post(kind, BASE | body | {"override_settings": options})


def answered(server: Server, kind: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = asked(server, kind, body, **options)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def infotext(server: Server, kind: str, body: dict[str, Any], **options: Any) -> str:
    return str(json.loads(answered(server, kind, body, **options)["info"])["infotexts"][0])


def last_model(server: Server) -> Model:
    job = server.engine.jobs[-1]
    assert isinstance(job, Txt2Img | Img2Img)
    return job.model


def test_models_are_as_the_options_say(serve: Callable[..., Server]) -> None:
    server = serve()
    answered(server, "txt2img", {})
    plain = last_model(server)
    answered(
        server,
        "txt2img",
        HIRES,
        sd_vae_encode_method="TAESD",
        sd_vae_decode_method="TAESD",
        fp8_storage="Enable for SDXL",
        cache_fp16_weight=True,
    )
    other = replace(plain, encoder="taesd", decoder="taesd", storage="fp8 for sdxl", keeps_fp16=True)
    assert last_model(server) == other
    job = server.engine.jobs[-1]
    assert isinstance(job, Txt2Img)
    assert job.hires is not None
    assert job.hires.model == other
    answered(server, "txt2img", {}, fp8_storage="Enable")
    assert last_model(server) == replace(plain, storage="fp8")


@pytest.mark.parametrize(
    ("option", "value"),
    [("sd_unet", "[TRT] gone"), ("enable_batch_seeds", False), ("sd_unet", "None")],
)
def test_options_that_change_nothing_there_change_nothing_here(
    serve: Callable[..., Server], option: str, value: object
) -> None:
    """No A1111 of this version asks for `enable_batch_seeds`, nor knows a UNet without an extension."""
    server = serve()
    answers = [answered(server, "txt2img", {"batch_size": 2}, **more) for more in ({}, {option: value})]
    assert answers[0]["images"] == answers[1]["images"]
    first, second = server.engine.jobs[:2], server.engine.jobs[2:]
    assert [replace(job, id="") for job in first] == [replace(job, id="") for job in second]
    assert server.post("options", {option: value}).status_code == 200
    assert server.get("options").json()[option] == value


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sd_vae_decode_method", "Approx NN"),
        ("sd_vae_encode_method", "taesd"),
        ("fp8_storage", "On"),
        ("upscaler_for_img2img", "Bogus"),
    ],
)
def test_values_that_do_not_exist(serve: Callable[..., Server], option: str, value: str) -> None:
    server = serve()
    response = asked(server, "img2img", {"init_images": [text_of(noisy(32, 32))]}, **{option: value})
    assert response.status_code == 422
    assert option in response.text


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("txt2img", {}, ["VAE Decoder: TAESD"]),
        ("txt2img", HIRES, []),
        ("txt2img", HIRES | {"hr_upscaler": "Lanczos"}, ["VAE Encoder: TAESD"]),
        ("img2img", {}, ["VAE Encoder: TAESD", "VAE Decoder: TAESD"]),
    ],
)
def test_the_infotext_tells_of_taesd(
    serve: Callable[..., Server], kind: str, body: dict[str, Any], told: list[str]
) -> None:
    server = serve()
    body = body | ({"init_images": [text_of(noisy(64, 64))]} if kind == "img2img" else {})
    text = infotext(server, kind, body, sd_vae_encode_method="TAESD", sd_vae_decode_method="TAESD")
    assert [part for part in text.rpartition("\n")[2].split(", ") if part.startswith("VAE ")] == told
    assert "VAE Encoder" not in infotext(server, kind, body)


@pytest.mark.parametrize(("content", "before"), [(0, True), (2, False), (3, False)])
def test_the_content_under_the_mask_is_told_where_a1111_does(
    serve: Callable[..., Server], content: int, before: bool
) -> None:
    body = {
        "init_images": [text_of(noisy(64, 64))],
        "mask": text_of(Image.new("L", (64, 64), 255)),
        "inpainting_fill": content,
    }
    text = infotext(serve(), "img2img", body, sd_vae_encode_method="TAESD")
    assert (text.index("Masked content") < text.index("VAE Encoder")) is before


def test_the_infotext_tells_of_weights_in_8_bits(serve: Callable[..., Server]) -> None:
    server = serve(engine=FirstPasses())
    assert "FP8" not in infotext(server, "txt2img", {}, cache_fp16_weight=True)
    text = infotext(server, "txt2img", {}, fp8_storage="Enable")
    assert "Model: tiny-sd15, FP8 weight: Enable, Cache FP16 weight for LoRA: False, " in text
    again = infotext(server, "txt2img", {"infotext": text, "seed": 1})
    assert "FP8 weight: Enable, " in again


def test_images_of_a_batch_share_a_path(serve: Callable[..., Server]) -> None:
    server = serve()
    answered(server, "txt2img", {"batch_size": 2, "n_iter": 2})
    assert all(job.noise.shared_path is None for job in server.engine.jobs if isinstance(job, Txt2Img))
    server.engine.jobs.clear()
    option = {"no_dpmpp_sde_batch_determinism": True}
    answered(server, "txt2img", {"batch_size": 2, "n_iter": 2}, **option)
    paths = [job.noise.shared_path for job in server.engine.jobs if isinstance(job, Txt2Img)]
    assert paths == [SharedPath(6, 2, 0), SharedPath(6, 2, 1), SharedPath(8, 2, 0), SharedPath(8, 2, 1)]
    server.engine.jobs.clear()
    pictures = [text_of(noisy(64, 64))] * 2
    answered(server, "img2img", {"init_images": pictures, "batch_size": 4, "n_iter": 2}, **option)
    paths = [job.noise.shared_path for job in server.engine.jobs if isinstance(job, Img2Img)]
    assert paths == [SharedPath(6, 2, 0), SharedPath(6, 2, 1), SharedPath(8, 2, 0), SharedPath(8, 2, 1)]


def files(server: Server) -> list[str]:
    folder = server.data_dir / "outputs/txt2img-images"
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


def test_first_passes_are_saved_where_pictures_are(serve: Callable[..., Server]) -> None:
    server = serve(engine=FirstPasses())
    options = {"save_images_before_highres_fix": True, "save_to_dirs": False}
    answered(server, "txt2img", HIRES | {"save_images": False}, **options)
    answered(server, "txt2img", HIRES | {"save_images": True}, **options, samples_save=False, grid_save=False)
    assert files(server) == []
    answer = answered(server, "txt2img", HIRES | {"save_images": True, "batch_size": 2}, **options)
    assert len(answer["images"]) == 3
    names = [f"00000-5-cat{BEFORE}", f"00001-6-cat{BEFORE}", "00002-5-cat.png", "00003-6-cat.png"]
    assert files(server) == names
    kept = Image.open(server.data_dir / "outputs/txt2img-images" / names[1])
    assert kept.size == (64, 64)
    assert kept.getpixel((0, 0)) == (255, 255, 255)
    assert kept.info["parameters"] == json.loads(answer["info"])["infotexts"][2]


BEFORE = "-before-highres-fix.png"


def init_of(server: Server, body: dict[str, Any], **options: Any) -> Image.Image:
    """The picture that the request's last job begins with."""
    answered(server, "img2img", body, **options)
    job = server.engine.jobs[-1]
    assert isinstance(job, Img2Img)
    return Image.frombytes("RGB", (job.init.width, job.init.height), job.init.pixels)


def enlarged(image: Image.Image, factor: float, name: str, size: tuple[int, int]) -> Image.Image:
    """By a filter as A1111's upscalers work: to whole cells of 8 pixels, then to the size."""
    cells = tuple(int(side * factor // 8 * 8) for side in image.size)
    return scaled(filtered(image, factor, (cells[0], cells[1]), name), *size)


@pytest.mark.parametrize("name", ["Nearest", "Lanczos"])
def test_smaller_pictures_are_enlarged_by_a_filter(serve: Callable[..., Server], name: str) -> None:
    server, picture = serve(), noisy(30, 40)
    body = {"init_images": [text_of(picture)], "resize_mode": 0}
    expected = enlarged(picture, 64 / 30, name, (64, 64))
    assert init_of(server, body, upscaler_for_img2img=name).tobytes() == expected.tobytes()
    assert init_of(server, body).tobytes() == scaled(picture, 64, 64).tobytes()
    assert init_of(server, body, upscaler_for_img2img="None").tobytes() == scaled(picture, 64, 64).tobytes()
    assert len(server.engine.jobs) == 3, "filters run on the host"
    inner = enlarged(picture, 64 / 30, name, (64, 85)).crop((0, 10, 64, 74))
    found = init_of(server, body | {"resize_mode": 1}, upscaler_for_img2img=name)
    assert found.tobytes() == inner.tobytes()


def test_larger_pictures_and_latents_are_not_enlarged(serve: Callable[..., Server]) -> None:
    server, picture = serve(), noisy(100, 64)
    body = {"init_images": [text_of(picture)], "resize_mode": 0}
    found = [init_of(server, body, **more) for more in ({}, {"upscaler_for_img2img": "Nearest"})]
    assert found[0].tobytes() == found[1].tobytes()
    kept = {"init_images": [text_of(noisy(32, 32))], "resize_mode": 3}
    assert init_of(server, kept, upscaler_for_img2img="Nearest").size == (32, 32)


@pytest.fixture
def with_network(serve: Callable[..., Server], tmp_path: Path) -> Server:
    folder = tmp_path / "ESRGAN"
    folder.mkdir()
    (folder / "twice.pth").write_bytes(b"a network")
    return serve(folders=NetworkFolders(esrgan=(folder,)))


def test_networks_enlarge_in_the_engine_before_the_jobs_begin(with_network: Server) -> None:
    server, pictures = with_network, [noisy(32, 32), noisy(64, 64), noisy(32, 16)]
    body = {"init_images": [text_of(one) for one in pictures], "batch_size": 3}
    answered(server, "img2img", body, upscaler_for_img2img="twice")
    first, second, *jobs = server.engine.jobs
    assert isinstance(first, Enlarge) and isinstance(second, Enlarge)  # noqa: PT018
    assert [(job.picture.width, job.picture.height) for job in (first, second)] == [(32, 32), (32, 16)]
    assert {(job.size, job.upscaler, job.factor) for job in (first, second)} == {(Size(64, 64), "twice", 0)}
    assert first.path.endswith("twice.pth")
    inits = [job.init.pixels for job in jobs if isinstance(job, Img2Img)]
    assert inits == [bytes(64 * 64 * 3), pictures[1].tobytes(), bytes(64 * 64 * 3)], "black is the engine's"
    assert len({job.id for job in server.engine.jobs}) == 5


def test_scripts_have_their_runs_enlarged_too(with_network: Server) -> None:
    body = {
        "init_images": [text_of(noisy(32, 32))],
        "script_name": "loopback",
        "script_args": [2, 0.5, "Linear", "None"],
    }
    answered(with_network, "img2img", body, upscaler_for_img2img="twice")
    kinds = [type(job).__name__ for job in with_network.engine.jobs]
    assert kinds == ["Enlarge", "Img2Img", "Img2Img"], "what a loop begins with has its size"


MASK = Image.new("L", (256, 256))
MASK.paste(255, (64, 64, 192, 192))
PART = {
    "init_images": [text_of(noisy(256, 256))],
    "mask": text_of(MASK),
    "mask_blur": 0,
    "inpaint_full_res_padding": 0,
    "inpainting_fill": 1,
}


def test_painted_parts_are_enlarged_in_their_place(with_network: Server) -> None:
    server = with_network
    answer = answered(server, "img2img", PART, upscaler_for_img2img="twice")
    painting, enlarging = server.engine.jobs
    assert isinstance(painting, Img2Img), "the region is larger than the pass"
    assert isinstance(enlarging, Enlarge)
    assert (enlarging.picture.width, enlarging.size) == (64, Size(128, 128))
    assert enlarging.picture.pixels == bytes([5]) * (64 * 64 * 3), "what was painted"
    result = image_of(answer["images"][0])
    assert result.getpixel((128, 128)) == (0, 0, 0), "the engine's"
    assert result.getpixel((10, 10)) == noisy(256, 256).getpixel((10, 10))
    plain = image_of(answered(server, "img2img", PART)["images"][0])
    assert plain.getpixel((128, 128)) == (5, 5, 5)
    assert len(server.engine.jobs) == 3


def test_parts_are_enlarged_with_their_colours_corrected_and_as_they_are(with_network: Server) -> None:
    server = with_network
    options = {"upscaler_for_img2img": "twice", "img2img_color_correction": True}
    body = PART | {"save_images": True}
    answered(server, "img2img", body, **options, save_images_before_color_correction=True)
    _, corrected, own = server.engine.jobs
    assert isinstance(corrected, Enlarge) and isinstance(own, Enlarge)  # noqa: PT018
    assert own.picture.pixels == bytes([5]) * (64 * 64 * 3)
    assert corrected.picture.pixels != own.picture.pixels
    server.engine.jobs.clear()
    answered(server, "img2img", body, **options)
    assert len(server.engine.jobs) == 2, "only what is kept"


def test_pictures_too_large_for_a_network_are_refused_before_any_work(with_network: Server) -> None:
    body = PART | {"init_images": [text_of(Image.new("RGB", (2600, 20)))], "inpaint_full_res": False}
    body |= {"mask": None, "width": 2048, "height": 2048}
    response = asked(with_network, "img2img", body, upscaler_for_img2img="twice")
    assert response.status_code == 422
    assert "A network enlarges pictures of at most" in response.json()["detail"]
    assert not with_network.engine.jobs


@pytest.mark.parametrize(
    ("tile", "overlap", "said"),
    [
        (0, 8, ""),
        (64, 32, ""),
        (15, 0, "ESRGAN_tile"),
        (64, 33, "ESRGAN_tile_overlap"),
        (-1, 0, "ESRGAN_tile"),
    ],
)
def test_networks_take_pictures_in_tiles_as_the_options_say(
    with_network: Server, tile: int, overlap: int, said: str
) -> None:
    server, options = with_network, {"ESRGAN_tile": tile, "ESRGAN_tile_overlap": overlap}
    picture = text_of(noisy(32, 32))
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("txt2img", HIRES | {"hr_upscaler": "twice"}),
        ("img2img", {"init_images": [picture]}),
        (
            "img2img",
            {
                "init_images": [text_of(noisy(64, 64))],
                "script_name": "SD upscale",
                "script_args": [None, 8, "twice", 2],
            },
        ),
    ]
    for kind, body in bodies:
        response = asked(server, kind, body, upscaler_for_img2img="twice", **options)
        assert response.status_code == (422 if said else 200), response.text
        assert said in response.text
    if said:
        assert not [job for job in server.engine.jobs if isinstance(job, Txt2Img | Img2Img)]
        return
    assert server.post("options", options).status_code == 200
    extras = {"image": picture, "upscaler_1": "twice", "upscaling_resize": 2}
    assert server.post("extra-single-image", extras).status_code == 200
    hires, *others = server.engine.jobs
    assert isinstance(hires, Txt2Img)
    assert hires.hires is not None
    found = [hires.hires.tiles, *(job.tiles for job in others if isinstance(job, Enlarge))]
    assert found == [UpscalerTiles(tile, overlap)] * 4


def write_header(path: Path, *names: str) -> None:
    """A safetensors file of tensors without values."""
    path.parent.mkdir(exist_ok=True)
    entries = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


class Inside(FirstPasses):
    """Finds two textual inversions in every prompt."""

    found = Used(embeddings=("inner", "unknown"))


def test_textual_inversions_inside_a_lora_are_told_by_its_name(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    folder = tmp_path / "lora"
    write_header(folder / "plain.safetensors", "lora_unet_x.alpha")
    write_header(folder / "first.safetensors", "bundle_emb.inner.string_to_param.*")
    write_header(folder / "second.safetensors", "bundle_emb.inner.emb_params", "bundle_emb.inner2.emb_params")
    (folder / "old.pt").write_bytes(b"no header")
    server = serve(folders=NetworkFolders(lora=(folder,)), engine=Inside())
    body = {"prompt": "inner <lora:old:1> <lora:plain:1> <lora:first:1> <lora:second:1>"}
    assert 'TI hashes: "inner: first"' in infotext(server, "txt2img", body)
    assert "TI hashes" not in infotext(server, "txt2img", body, lora_bundled_ti_to_infotext=False)
    assert "TI hashes" not in infotext(server, "txt2img", {"prompt": "inner <lora:plain:1>"})
