"""What AUTOMATIC1111's own test suite asks of a server over HTTP, and what it expects.

Its 29 cases as the reference describes them: bodies by their fields, all on pictures of 64x64 pixels
in 3 steps. It asserts status 200 alone; here the answers' pictures are looked at as well.
"""

import base64
import io
from typing import Any

import pytest
from node import Node
from PIL import Image, ImageDraw

from tests.conformance.conftest import pixels

SIDE = 64
SAMPLING = {
    "prompt": "example prompt",
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 3,
    "cfg_scale": 7,
    "width": SIDE,
    "height": SIDE,
    "restore_faces": False,
    "tiling": False,
    "eta": 0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "sampler_index": "Euler a",
}
TXT2IMG = SAMPLING | {
    "enable_hr": False,
    "denoising_strength": 0,
    "firstphase_width": 0,
    "firstphase_height": 0,
}
COMPLEX = "((emphasis)), (emphasis1:1.1), [to:1], [from::2], [from:to:0.3], [alt|alt1]"
LISTS = (
    "cmd-flags",
    "samplers",
    "upscalers",
    "sd-models",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "embeddings",
)


def picture(mask: bool = False) -> str:
    """A data URI, as the suite sends its own pictures."""
    image = Image.new("RGB", (SIDE, SIDE), "black" if mask else "steelblue")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill="white" if mask else "orange")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def post(node: Node, route: str, body: dict[str, Any]) -> Any:
    response = node.api("POST", f"/sdapi/v1/{route}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("fields", "images", "size"),
    [
        ({}, 1, (SIDE, SIDE)),
        ({"negative_prompt": "example negative prompt"}, 1, (SIDE, SIDE)),
        ({"prompt": COMPLEX}, 1, (SIDE, SIDE)),
        ({"height": 128}, 1, (SIDE, 128)),
        ({"enable_hr": True}, 1, (2 * SIDE, 2 * SIDE)),
        ({"tiling": True}, 1, (SIDE, SIDE)),
        ({"sampler_index": "PLMS"}, 1, (SIDE, SIDE)),
        ({"sampler_index": "DDIM"}, 1, (SIDE, SIDE)),
        ({"sampler_index": "UniPC"}, 1, (SIDE, SIDE)),
        ({"n_iter": 2}, 2, (SIDE, SIDE)),
        ({"batch_size": 2}, 2, (SIDE, SIDE)),
    ],
    ids=lambda value: "-".join(value) or "simple" if isinstance(value, dict) else None,
)
def test_txt2img(node: Node, fields: dict[str, Any], images: int, size: tuple[int, int]) -> None:
    made = [pixels(image) for image in post(node, "txt2img", TXT2IMG | fields)["images"]]
    assert [(one.shape[1], one.shape[0]) for one in made] == [size] * images
    assert all(one.std() > 1 for one in made)


def test_txt2img_with_restored_faces_names_the_missing_network(node: Node) -> None:
    response = node.api("POST", "/sdapi/v1/txt2img", json=TXT2IMG | {"restore_faces": True})
    assert response.status_code == 501
    assert "CodeFormer" in response.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (SIDE, SIDE)),
        ({"mask": True}, (SIDE, SIDE)),
        ({"mask": True, "inpainting_mask_invert": True}, (SIDE, SIDE)),
        ({"script_name": "sd upscale", "script_args": ["", 8, "Lanczos", 2.0]}, (2 * SIDE, 2 * SIDE)),
    ],
    ids=["simple", "masked", "inverted", "sd-upscale"],
)
def test_img2img(node: Node, fields: dict[str, Any], size: tuple[int, int]) -> None:
    body = SAMPLING | {
        "init_images": [picture()],
        "resize_mode": 0,
        "denoising_strength": 0.75,
        "mask": None,
        "mask_blur": 4,
        "inpainting_fill": 0,
        "inpaint_full_res": False,
        "inpaint_full_res_padding": 0,
        "inpainting_mask_invert": False,
        "include_init_images": False,
    }
    mask = {"mask": picture(mask=True)} if fields.get("mask") else {}
    (image,) = post(node, "img2img", body | fields | mask)["images"]
    made = pixels(image)
    assert (made.shape[1], made.shape[0]) == size
    assert made.std() > 1


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        ({"upscaling_resize": 2, "upscaler_1": "Lanczos", "resize_mode": 0}, 2 * SIDE),
        # The suite sends the bodies of png-info and interrogate there; that must do nothing and succeed.
        ({}, SIDE),
        ({"model": "clip"}, SIDE),
    ],
    ids=["lanczos", "png-info", "interrogate"],
)
def test_extras(node: Node, fields: dict[str, Any], side: int) -> None:
    answer = post(node, "extra-single-image", {"image": picture()} | fields)
    assert pixels(answer["image"]).shape == (side, side, 3)


def test_an_option_is_set_and_read_back(node: Node) -> None:
    before = node.api("GET", "/sdapi/v1/options").json()["send_seed"]
    assert node.api("POST", "/sdapi/v1/options", json={"send_seed": not before}).status_code == 200
    assert node.api("GET", "/sdapi/v1/options").json()["send_seed"] is not before
    node.api("POST", "/sdapi/v1/options", json={"send_seed": before})


@pytest.mark.parametrize("name", LISTS)
def test_lists(node: Node, name: str) -> None:
    response = node.api("GET", f"/sdapi/v1/{name}")
    assert response.status_code == 200
    assert isinstance(response.json(), dict if name in ("cmd-flags", "embeddings") else list)
