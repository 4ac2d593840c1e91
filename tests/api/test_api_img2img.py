"""img2img: what the jobs are given, what is sent back, and clear errors for pictures that cannot be used."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from patience import PATIENCE
from PIL import Image

from sdserver.api.config import Limits
from sdserver.jobs.job import Img2Img
from tests.api.conftest import Server
from tests.api.test_api_requests import detail_of

BASE = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 1}


def png(color: str, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> str:
    """A picture of one colour, in base64."""
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


NARROW, NARROW_MASK = png("red", (1, 100_000)), png("white", (1, 100_000))
RED, BLUE, WHITE, BLACK = png("red"), png("blue"), png("white"), png("black")


def half_mask() -> str:
    """A mask whose right half is to be painted."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def jobs_of(server: Server, body: dict[str, Any]) -> list[Img2Img]:
    """The jobs that a request becomes."""
    before = len(server.engine.jobs)
    response = server.post("img2img", BASE | body)
    assert response.status_code == 200, response.text
    jobs = server.engine.jobs[before:]
    assert all(isinstance(job, Img2Img) for job in jobs)
    return [job for job in jobs if isinstance(job, Img2Img)]


def pixel(job: Img2Img) -> tuple[int, ...]:
    return tuple(job.init.pixels[:3])


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({}, 404, "Init image not found"),
        ({"init_images": None}, 404, "Init image not found"),
        ({"init_images": []}, 404, "Init image not found"),
        ({"init_images": RED}, 422, "init_images: value is not a valid list"),
        ({"init_images": ["!!!"]}, 422, "Invalid encoded image"),
        ({"init_images": ["aGVsbG8="]}, 422, "Invalid encoded image"),
        ({"init_images": ["data:image/png"]}, 422, "Invalid encoded image"),
        ({"init_images": [5]}, 422, "Invalid encoded image"),
        ({"init_images": ["http://127.0.0.1/x.png"]}, 422, "Pictures are not fetched"),
        ({"init_images": [RED, BLUE]}, 422, "bad number of images passed: 2; expecting 1 or less"),
        ({"init_images": [RED], "mask": "zz"}, 422, "Invalid encoded image"),
        ({"init_images": [RED], "mask": WHITE, "latent_mask": WHITE}, 422, "'latent_mask'"),
        ({"init_images": [RED], "latent_mask": WHITE}, 200, ""),
        ({"init_images": [RED], "mask": ""}, 200, ""),
        ({"init_images": [RED], "width": 0}, 422, "'width'"),
        ({"init_images": [RED], "denoising_strength": -0.5}, 422, "'denoising_strength' must be from 0"),
        ({"init_images": [RED], "denoising_strength": 5}, 200, ""),
        ({"init_images": [RED], "denoising_strength": 1e-5}, 200, ""),
        (
            {
                "init_images": [RED],
                "denoising_strength": 1e-5,
                "override_settings": {"img2img_fix_steps": True},
            },
            422,
            "'denoising_strength' must be 0 or at least 0.001",
        ),
        ({"init_images": [RED], "resize_mode": 2**70}, 422, "'resize_mode'"),
        ({"init_images": [RED], "inpainting_fill": 1e308}, 422, "'inpainting_fill'"),
        ({"init_images": [RED], "inpainting_mask_invert": -(2**64)}, 422, "'inpainting_mask_invert'"),
        ({"init_images": [NARROW], "resize_mode": 1, "width": 1024}, 422, "of other proportions"),
        ({"init_images": [NARROW], "mask": NARROW_MASK}, 422, "of other proportions"),
        ({"init_images": [RED], "mask": WHITE, "mask_blur": -1}, 422, "'mask_blur'"),
        ({"init_images": [RED], "mask": WHITE, "mask_blur": 10**6}, 422, "'mask_blur'"),
        ({"init_images": [RED], "inpaint_full_res_padding": -1}, 422, "'inpaint_full_res_padding'"),
        ({"init_images": [RED], "initial_noise_multiplier": 1e9}, 422, "'initial_noise_multiplier'"),
        ({"init_images": [RED], "restore_faces": True}, 501, "takes the file codeformer-v0.1.0.pth"),
        (
            {"init_images": [RED], "override_settings": {"upscaler_for_img2img": "Nowhere"}},
            422,
            "'upscaler_for_img2img' cannot be used: There is no upscaler 'Nowhere'",
        ),
    ],
)
def test_fields(server: Server, fields: dict[str, Any], status: int, sentence: str) -> None:
    response = server.post("img2img", BASE | fields)
    assert response.status_code == status, response.text
    if status != 200:
        assert sentence in detail_of(response.json())
        assert len(response.text) < 600


def test_sizes_are_512_whatever_the_pictures(server: Server) -> None:
    response = server.post("img2img", {"init_images": [RED], "steps": 1})
    info = json.loads(response.json()["info"])
    assert (info["width"], info["height"], info["denoising_strength"]) == (512, 512, 0.75)


def test_one_picture_begins_every_image_and_each_has_its_seed(serve: Callable[..., Server]) -> None:
    jobs = jobs_of(serve(), {"init_images": [RED], "batch_size": 2, "n_iter": 2})
    assert [job.noise.seed for job in jobs] == [1, 2, 3, 4]
    assert [pixel(job) for job in jobs] == [(255, 0, 0)] * 4


def test_several_pictures_are_the_batch(serve: Callable[..., Server]) -> None:
    """AUTOMATIC1111 has counted its seeds before it cuts the batch down to the pictures."""
    server = serve()
    body = BASE | {"init_images": [RED, BLUE], "batch_size": 3, "n_iter": 2}
    answer = server.post("img2img", body).json()
    info = json.loads(answer["info"])
    jobs = [job for job in server.engine.jobs if isinstance(job, Img2Img)]
    assert [pixel(job) for job in jobs] == [(255, 0, 0), (0, 0, 255)] * 2
    assert [job.noise.seed for job in jobs] == [1, 2, 3, 4]
    assert info["batch_size"] == 2
    assert info["all_seeds"] == [1, 2, 3, 4, 5, 6]
    assert len(answer["images"]) == len(info["infotexts"]) == 4


def test_how_sampling_starts(serve: Callable[..., Server]) -> None:
    options = {"img2img_fix_steps": True, "img2img_extra_noise": 0.1}
    (job,) = jobs_of(
        serve(),
        {
            "init_images": [RED],
            "denoising_strength": 2,
            "initial_noise_multiplier": 0.9,
            "override_settings": options,
        },
    )
    assert (job.start.strength, job.start.exact_steps) == (1.0, True)
    assert (job.start.extra_noise, job.start.noise_multiplier) == (0.1, 0.9)


def test_a_mask_and_its_inverse(serve: Callable[..., Server]) -> None:
    server = serve()
    body = {"init_images": [RED], "mask": half_mask(), "mask_blur": 0, "inpaint_full_res": False}
    (plain,) = jobs_of(server, body)
    (inverted,) = jobs_of(server, body | {"inpainting_mask_invert": True})
    assert plain.mask is not None
    assert inverted.mask is not None
    assert plain.mask.content == "fill"
    assert (plain.mask.pixels[0], plain.mask.pixels[63]) == (0, 255)
    assert (inverted.mask.pixels[0], inverted.mask.pixels[63]) == (255, 0)


def test_what_is_not_masked_stays(server: Server) -> None:
    body = {"init_images": [RED], "mask": half_mask(), "mask_blur": 0, "inpaint_full_res": False}
    (image,) = server.post("img2img", BASE | body).json()["images"]
    picture = Image.open(io.BytesIO(base64.b64decode(image)))
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert picture.getpixel((63, 0)) == (1, 1, 1)  # the fake engine paints the seed


def test_a_blank_mask_for_the_masked_area_alone_is_no_mask(serve: Callable[..., Server]) -> None:
    server = serve()
    (job,) = jobs_of(server, {"init_images": [RED], "mask": BLACK})
    assert job.mask is None


def test_pictures_are_repeated_only_if_wanted(server: Server) -> None:
    body = BASE | {"init_images": [RED], "mask": WHITE}
    silent = server.post("img2img", body).json()["parameters"]
    assert (silent["init_images"], silent["mask"]) == (None, None)
    assert list(silent) == list(
        server.post("img2img", body | {"include_init_images": True}).json()["parameters"]
    )
    told = server.post("img2img", body | {"include_init_images": True}).json()["parameters"]
    assert (told["init_images"], told["mask"]) == ([RED], WHITE)
    assert list(silent) == list(told)


def test_pictures_are_saved_in_their_own_folder(serve: Callable[..., Server]) -> None:
    server = serve()
    body = BASE | {"init_images": [RED], "save_images": True, "batch_size": 2}
    assert len(server.post("img2img", body).json()["images"]) == 3
    saved = sorted(path.relative_to(server.data_dir).parts[1] for path in server.data_dir.rglob("*.png"))
    assert saved == ["img2img-grids", "img2img-images", "img2img-images"]


def test_progress_names_the_tab(serve: Callable[..., Server]) -> None:
    server = serve(finish_on_disconnect=False)
    server.engine.held = True
    raw = json.dumps(BASE | {"init_images": [RED]}).encode()
    head = b"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = server.raw(head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
    assert server.engine.submitted.wait(PATIENCE)
    assert server.get("progress").json()["state"]["job"] == "scripts_img2img"
    connection.close()
    assert server.engine.stopped.wait(PATIENCE)


def test_without_a_mask_an_inpainting_checkpoint_may_see_the_picture(serve: Callable[..., Server]) -> None:
    server = serve()
    (plain,) = jobs_of(server, {"init_images": [RED]})
    (seen,) = jobs_of(server, {"init_images": [RED], "override_settings": {"inpainting_mask_weight": 0.25}})
    assert plain.mask is None
    assert seen.mask is not None
    assert (seen.mask.conditioning_weight, seen.mask.content) == (0.25, "original")
    assert set(seen.mask.pixels) == set(seen.mask.latent) == {255}
    assert (len(seen.mask.pixels), len(seen.mask.latent)) == (64 * 64, 8 * 8)


def test_noise_under_a_mask_is_that_of_the_first_batch(serve: Callable[..., Server]) -> None:
    body = {"init_images": [RED], "mask": WHITE, "inpainting_fill": 2, "batch_size": 2, "n_iter": 2}
    jobs = jobs_of(serve(), body)
    assert [job.mask.content_seed for job in jobs if job.mask] == [1, 2, 1, 2]
    assert [job.noise.seed for job in jobs] == [1, 2, 3, 4]


def test_results_that_are_too_large_together_are_refused(serve: Callable[..., Server]) -> None:
    """A cropped result is as large as the picture sent, however small the pass is."""
    server = serve(limits=Limits(max_pixels=128 * 128, max_images=4))
    body = BASE | {"init_images": [png("red", (200, 200))], "mask": png("white", (200, 200))}
    assert server.post("img2img", body).status_code == 200
    response = server.post("img2img", body | {"n_iter": 2})
    assert response.status_code == 422
    assert "80,000 pixels together" in detail_of(response.json())


@pytest.mark.parametrize(("sends", "status"), [(True, 422), (False, 200)])
def test_a_grid_that_its_format_cannot_hold(
    serve: Callable[..., Server], *, sends: bool, status: int
) -> None:
    """It is refused where it is to be sent; where it is only saved it is saved as PNG."""
    options = {"samples_format": "webp", "grid_format": "webp", "n_rows": 1, "return_grid": sends}
    body = {"steps": 1, "width": 1024, "height": 8, "batch_size": 17, "save_images": True}
    server = serve()
    response = server.post("txt2img", body | {"override_settings": options})
    assert response.status_code == status, response.text
    assert ("choose png" in response.text) == sends
    assert "X-Save-Error" not in response.headers
    (saved,) = server.data_dir.glob("outputs/txt2img-grids/*/*.png")
    assert saved.read_bytes().startswith(b"\x89PNG")
