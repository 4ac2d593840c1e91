"""Answers equal those that AUTOMATIC1111 1.10.1 gave to the same requests."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.api.conftest import GOLDENS, Server

RECORDED = json.loads((GOLDENS / "txt2img.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["cases"]}


def sent(server: Server, case: dict[str, Any]) -> dict[str, Any]:
    response = server.post("txt2img", case["request"])
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("name", CASES)
def test_txt2img(server: Server, name: str) -> None:
    case = CASES[name]
    server.options.apply({"samples_format": "png"})
    answer = sent(server, case)
    assert list(answer) == ["images", "parameters", "info"]

    expected = RECORDED["default_parameters"] | case["parameters"]
    if name == "errors/t2i_seed_null":  # null is the default here, in the echo too
        expected["seed"] = -1
    assert json.dumps(answer["parameters"]) == json.dumps(expected)

    info = json.loads(answer["info"])
    default = json.loads(RECORDED["default_info"])
    assert list(info) == list(default)
    unknown = {"job_timestamp"} | (
        {"subseed", "all_subseeds"} if case["request"].get("subseed", -1) < 0 else set()
    )
    if case["request"].get("seed", -1) is None:
        unknown |= {"seed", "all_seeds", "infotexts"}
    wanted = default | case["info"]
    assert {key: value for key, value in info.items() if key not in unknown} == {
        key: value for key, value in wanted.items() if key not in unknown
    }

    pictures = [Image.open(io.BytesIO(base64.b64decode(image, validate=True))) for image in answer["images"]]
    # An override of the format holds here; AUTOMATIC1111 has put the option back when it encodes.
    override = (
        case["request"].get("override_settings", {}).get("samples_format", "").upper().replace("JPG", "JPEG")
    )
    expected_images = [[override or kind, *size] for kind, *size in case["images"]]
    assert [[picture.format, *picture.size] for picture in pictures] == expected_images
    if case["request"].get("override_settings", {}).get("enable_pnginfo", True):
        for picture, text in zip(pictures, info["infotexts"], strict=True) if pictures else ():
            if picture.format == "PNG":
                assert picture.info["parameters"] == text
    else:
        assert "parameters" not in pictures[0].info


def test_info_is_the_same_text_but_for_what_is_random(server: Server) -> None:
    info = sent(server, CASES["samplers/Euler"])["info"]
    for key in ("subseed", "job_timestamp"):
        recorded, ours = json.loads(RECORDED["default_info"])[key], json.loads(info)[key]
        info = info.replace(str(ours), str(recorded))
    assert info == RECORDED["default_info"]


def test_errors(server: Server, goldens: Callable[[str], Any], subtests: pytest.Subtests) -> None:
    for case in goldens("errors"):
        with subtests.test(case["name"]):
            body = case["request"]
            raw = body.get("__raw__") if isinstance(body, dict) else None
            arguments: dict[str, Any] = {"params": case["params"]}
            if raw is not None:
                arguments |= {"data": raw, "headers": {"Content-Type": "application/json"}}
                if case["name"] == "t2i_form":
                    arguments["headers"] = {"Content-Type": "application/x-www-form-urlencoded"}
            elif body is not None:
                arguments["json"] = body
            response = server.request(case["method"], case["endpoint"], **arguments)
            assert response.status_code == case["status"]
            if case["name"] == "t2i_badjson":  # worded otherwise, and without the body
                assert response.json()["detail"][0]["loc"] == ["body", 1]
                assert response.json()["detail"][0]["type"] == "value_error.jsondecode"
            elif case["method"] != "HEAD":
                assert response.json() == case["response"]


def test_samplers_are_a_subset_in_the_same_order(server: Server, goldens: Callable[[str], Any]) -> None:
    recorded = goldens("get")["samplers"]
    ours = server.get("samplers").json()
    names = {sampler["name"] for sampler in ours}
    assert ours == [sampler for sampler in recorded if sampler["name"] in names]
    assert {"Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "DDIM"} <= names


def test_schedulers(server: Server, goldens: Callable[[str], Any]) -> None:
    assert server.get("schedulers").json() == goldens("get")["schedulers"]


def test_idle_progress_before_any_job(serve: Callable[..., Server], goldens: Callable[[str], Any]) -> None:
    assert serve().get("progress").json() == goldens("get")["progress"]


def test_options_have_the_same_keys_types_and_defaults(
    serve: Callable[..., Server], goldens: Callable[[str], Any]
) -> None:
    recorded = goldens("get")["options"]
    ours = serve().get("options").json()
    recorded["sd_checkpoint_hash"] = ""
    # Recorded without a page, where A1111 has not those of Hypertile.
    assert list(ours)[len(recorded) :] == [key for key in ours if key.startswith("hypertile_")]
    added = {key: ours.pop(key) for key in list(ours) if key.startswith("hypertile_")}
    assert json.dumps(ours) == json.dumps(recorded)
    assert isinstance(added.pop("hypertile_explanation"), str)
    assert json.dumps(added) == json.dumps(
        {
            "hypertile_enable_unet": False,
            "hypertile_enable_unet_secondpass": False,
            "hypertile_max_depth_unet": 3.0,
            "hypertile_max_tile_unet": 256.0,
            "hypertile_swap_size_unet": 3.0,
            "hypertile_enable_vae": False,
            "hypertile_max_depth_vae": 3.0,
            "hypertile_max_tile_vae": 128.0,
            "hypertile_swap_size_vae": 3.0,
        }
    )


def test_sd_models_have_the_same_keys(server: Server, goldens: Callable[[str], Any]) -> None:
    recorded = goldens("get")["sd-models"][0]
    ours = server.get("sd-models").json()[0]
    assert list(ours) == list(recorded)
    for key in ("title", "model_name", "hash", "sha256"):
        assert ours[key] == recorded[key]


def test_prompt_styles(server: Server, goldens: Callable[[str], Any]) -> None:
    assert server.get("prompt-styles").json() == goldens("get")["prompt-styles"][:2]
