"""Options that change what the engine computes, on a real node."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from node import Node
from PIL import Image
from safetensors.torch import save_file
from taesd import decoder, encoder

from tests.conformance.conftest import difference, pixels


def made(node: Node, kind: str, **fields: Any) -> tuple[str, str]:
    """The first picture and its infotext."""
    body = {"prompt": "a cat on the moon", "steps": 4, "width": 64, "height": 64, "seed": 1234} | fields
    response = node.api("POST", f"/sdapi/v1/{kind}", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["images"][0], json.loads(answer["info"])["infotexts"][0]


def test_weights_in_8_bits_and_back(node: Node) -> None:
    full, text = made(node, "txt2img")
    narrow, told = made(node, "txt2img", override_settings={"fp8_storage": "Enable"})
    for_sdxl, _ = made(node, "txt2img", override_settings={"fp8_storage": "Enable for SDXL"})
    again, _ = made(node, "txt2img")
    assert full == again == for_sdxl
    greatest, share = difference(full, narrow)
    assert greatest > 0
    assert share < 0.9, "it is the same picture still"
    assert "FP8 weight: Enable, Cache FP16 weight for LoRA: False" in told
    assert "FP8" not in text


@pytest.fixture(scope="module")
def taesd(node: Node) -> Path:
    folder = node.data_dir / "models/VAE-taesd"
    folder.mkdir(exist_ok=True)
    return folder


def test_taesd_in_the_place_of_the_vae(node: Node, taesd: Path) -> None:
    option = {"sd_vae_decode_method": "TAESD"}
    response = node.api("POST", "/sdapi/v1/txt2img", json={"steps": 1, "override_settings": option})
    assert response.status_code == 501
    assert "taesd_decoder.safetensors" in response.json()["detail"]
    save_file(decoder().state_dict(), taesd / "taesd_decoder.safetensors")
    save_file(encoder().state_dict(), taesd / "taesd_encoder.safetensors")
    plain, _ = made(node, "txt2img")
    other, text = made(node, "txt2img", override_settings=option)
    assert difference(plain, other)[1] > 0.5
    assert "VAE Decoder: TAESD" in text
    fields = {"init_images": [plain], "denoising_strength": 0}
    kept, _ = made(node, "img2img", **fields)
    changed, text = made(node, "img2img", **fields, override_settings={"sd_vae_encode_method": "TAESD"})
    assert difference(kept, changed)[0] > 0
    assert "VAE Encoder: TAESD" in text
    assert "VAE Decoder" not in text


def test_images_of_a_batch_that_share_a_path_differ_from_those_alone(node: Node) -> None:
    fields = {"sampler_name": "DPM++ SDE", "batch_size": 2, "steps": 3}
    option = {"no_dpmpp_sde_batch_determinism": True}
    own, shared = (node.txt2img(**fields, override_settings=more).images for more in ({}, option))
    again = node.txt2img(**fields, override_settings=option).images
    # Two images are four rows, in one batch or two as sizes are tried: equal but for rounding.
    assert all(difference(one, other)[0] <= 1 for one, other in zip(shared, again, strict=True))
    assert all(difference(one, other)[0] > 1 for one, other in zip(own, shared, strict=True))


def test_a_smaller_picture_is_enlarged_as_the_option_says(node: Node) -> None:
    image = Image.new("RGB", (16, 16), "black")
    image.putpixel((8, 8), (255, 255, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    fields = {"init_images": [base64.b64encode(buffer.getvalue()).decode()], "denoising_strength": 0}
    found = [
        made(node, "img2img", **fields, override_settings={"upscaler_for_img2img": name})[0]
        for name in ("None", "Nearest")
    ]
    assert difference(*found)[0] > 0


def test_the_first_passes_picture_is_saved(node: Node) -> None:
    alike = {"seed": 77, "prompt": "first"}
    fields = {"enable_hr": True, "denoising_strength": 0.5, "save_images": True, **alike}
    options = {"save_images_before_highres_fix": True, "save_to_dirs": False}
    _, text = made(node, "txt2img", **fields, override_settings=options)
    (path,) = (node.data_dir / "outputs/txt2img-images").glob("*-first-before-highres-fix.png")
    alone, _ = made(node, "txt2img", **alike)
    kept = base64.b64encode(path.read_bytes()).decode()
    assert (pixels(kept) == pixels(alone)).all()
    with Image.open(path) as file:
        assert file.info["parameters"] == text
