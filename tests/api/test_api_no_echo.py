"""Pictures that clients send never come back in an error, whatever field they were put in."""

import random
import re
from typing import Any

import pytest
from pydantic import BaseModel

from sdserver.api.requests import Img2ImgRequest, Txt2ImgRequest
from tests.api.conftest import Server

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
PICTURE = "".join(random.Random(1).choices(LETTERS, k=3000))
LONGEST = 100
"""Characters of a client's text that an error may repeat: names are."""

SHAPES: dict[str, Any] = {
    "text": PICTURE,
    "data URI": f"data:image/png;base64,{PICTURE}",
    "address": f"http://{PICTURE}",
    "list": [PICTURE],
    "object": {PICTURE: PICTURE},
    "nested": [{"args": [PICTURE, {"a": PICTURE}]}],
}
MODELS: dict[str, type[BaseModel]] = {"txt2img": Txt2ImgRequest, "img2img": Img2ImgRequest}


def repeated(text: str) -> int:
    """How many characters of the picture stand in the text, one after the other."""
    longest = 0
    for match in re.finditer(r"[A-Za-z0-9+/]{20,}", text):
        part = match[0]
        for at in range(len(part) - 19):
            start = PICTURE.find(part[at : at + 20])
            if start >= 0:
                count = 20
                while part[at : at + count + 1] == PICTURE[start : start + count + 1] and at + count < len(
                    part
                ):
                    count += 1
                longest = max(longest, count)
    return longest


def test_the_measure_measures() -> None:
    assert repeated(f'{{"x": "{PICTURE[500:700]}"}}') == 200
    assert repeated("nothing of it") == 0


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_field_of_a_request_is_echoed(server: Server, path: str, shape: str) -> None:
    refused = 0
    for field in MODELS[path].model_fields:
        body = {"steps": 1, "width": 64, "height": 64, "init_images": ["AAAA"], field: SHAPES[shape]}
        response = server.post(path, body)
        assert response.status_code < 500, (field, response.text)
        if response.status_code >= 400:
            refused += 1
            told = response.text + str(response.headers)
            assert repeated(told) <= LONGEST, (field, response.text[:500])
    assert refused >= 10


@pytest.mark.parametrize("shape", SHAPES)
def test_no_override_or_option_is_echoed(server: Server, shape: str) -> None:
    keys = [
        PICTURE,
        "sd_model_checkpoint",
        "sd_vae",
        "samples_format",
        "jpeg_quality",
        "grid_background_color",
    ]
    for key in keys:
        for response in (
            server.post("options", {key: SHAPES[shape]}),
            server.post("txt2img", {"steps": 1, "override_settings": {key: SHAPES[shape]}}),
        ):
            assert 400 <= response.status_code < 500, (key, response.text[:300])
            assert repeated(response.text) <= LONGEST, (key, response.text[:500])


@pytest.mark.parametrize("path", ["png-info", "extra-single-image", "extra-batch-images", "interrogate"])
@pytest.mark.parametrize(
    "field", ["image", "imageList", "model", "upscaler_1", "resize_mode", "upscaling_resize"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_other_routes_field_is_echoed(server: Server, path: str, field: str, shape: str) -> None:
    response = server.post(path, {"image": "AAAA", field: SHAPES[shape]})
    assert repeated(response.text + str(response.headers)) <= LONGEST, response.text[:500]


def test_a_broken_body_is_not_echoed(server: Server) -> None:
    for body in (f'{{"prompt": "{PICTURE}', f'["{PICTURE}"]', f'"{PICTURE}"', PICTURE):
        headers = {"Content-Type": "application/json"}
        response = server.request("POST", "/sdapi/v1/txt2img", data=body, headers=headers)
        assert response.status_code == 422
        assert repeated(response.text) == 0
