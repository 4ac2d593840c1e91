"""Scripts that begin with a picture, on a real node."""

import base64
import json
from typing import Any

import pytest
from node import ROOT, Node

from tests.conformance.conftest import difference, pixels

RECORDED = ROOT / "tests" / "goldens" / "pictures" / "sd_upscale.png"
INPUT = ROOT / "tests" / "goldens" / "a1111" / "inputs" / "init_64.png"


def img2img(node: Node, **fields: Any) -> tuple[list[str], dict[str, Any]]:
    """Pictures and `info` of the request that was recorded with "SD upscale", but for some fields."""
    body = {
        "init_images": [base64.b64encode(INPUT.read_bytes()).decode()],
        "prompt": "a cat on the moon",
        "negative_prompt": "dog",
        "steps": 6,
        "width": 64,
        "height": 64,
        "seed": 1234,
        "sampler_name": "Euler",
        "denoising_strength": 0.6,
    }
    response = node.api("POST", "/sdapi/v1/img2img", json=body | fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["images"], json.loads(answer["info"])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sd_upscale_is_as_recorded(node: Node, batch_size: int) -> None:
    """AUTOMATIC1111 could not read the upscaler of the recording, which left it with Lanczos alone.

    In batches the tiles have other seeds, but the first one's.
    """
    arguments = [None, 16, "Lanczos", 2.0]
    (image,), info = img2img(node, script_name="SD upscale", script_args=arguments, batch_size=batch_size)
    greatest, share = difference(image, base64.b64encode(RECORDED.read_bytes()).decode())
    if batch_size == 1:
        assert (greatest <= 1, share) == (True, 0.0)
        assert info["all_seeds"] == [1242]
    else:
        assert 0.05 < share < 0.95


def test_loopback_is_the_same_as_sending_each_picture_back(node: Node) -> None:
    """With the seed after, and the strength of the curve."""
    looped, _ = img2img(node, script_name="Loopback", script_args=[3, 0.2, "Linear"])
    assert len(looped) == 4
    begun = base64.b64encode(INPUT.read_bytes()).decode()
    for loop, image in enumerate(looped[1:]):
        fields = {"seed": 1234 + loop, "denoising_strength": 0.6 - 0.2 * loop}
        (alone,), _ = img2img(node, init_images=[begun], **fields)
        assert difference(alone, image)[0] <= 1
        begun = image


def test_the_alternative_test_finds_the_picture_again(node: Node) -> None:
    """At the guidance that it was walked back with; the seed has no part in it."""
    arguments = ["", True, True, "a cat on the moon", "dog", True, 30, True, 1.0, 0.0, True]
    fields = {"script_name": "img2img alternative test", "cfg_scale": 1}
    (found,), info = img2img(node, script_args=arguments, **fields)
    (other,), _ = img2img(node, script_args=arguments, seed=99, **fields)
    (drawn,), _ = img2img(node, steps=30, denoising_strength=1, cfg_scale=1)
    (begun,), _ = img2img(node, denoising_strength=0)
    assert difference(found, other)[0] == 0
    apart, without = (abs(pixels(one) - pixels(begun)).mean() for one in (found, drawn))
    assert apart < without / 3
    assert info["extra_generation_params"]["Decode steps"] == 30
