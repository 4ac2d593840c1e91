"""Hostile and odd bodies get a clear 4xx, never a 500; AUTOMATIC1111's leniency holds."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import Server

BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 1}


def detail_of(body: dict[str, Any]) -> str:
    """The sentence of an error body, in either of its shapes."""
    detail = body["detail"]
    if isinstance(detail, list):
        assert all(list(item) == ["loc", "msg", "type"] for item in detail)
        return "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)
    assert list(body) == ["error", "detail", "body", "errors"]
    return str(detail)


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"steps": 0}, 422, "'steps' must be from 1 to 150"),
        ({"steps": -1}, 422, "'steps'"),
        ({"steps": 10**6}, 422, "'steps'"),
        ({"width": 0}, 422, "'width' must be from 8 to 2,048"),
        ({"width": -64}, 422, "'width'"),
        ({"width": 4}, 422, "'width'"),
        ({"height": 10**6}, 422, "'height'"),
        ({"batch_size": 0}, 422, "'batch_size'"),
        ({"n_iter": -1}, 422, "'n_iter'"),
        ({"n_iter": 10, "batch_size": 10}, 422, "batch_size times n_iter must be at most 64"),
        ({"seed": -2}, 422, "'seed' must be from -1"),
        ({"seed": 2**64 - 1}, 200, ""),
        ({"seed": 2**64}, 422, "'seed'"),
        ({"seed": 2**64 - 1, "batch_size": 2}, 422, "'seed'"),
        ({"seed": 10**400}, 422, "'seed'"),
        ({"seed": "1" * 500}, 422, "seed: value is not a valid integer"),
        ({"subseed": 2**64}, 422, "'subseed'"),
        ({"cfg_scale": 1e300}, 422, "'cfg_scale'"),
        ({"cfg_scale": float("nan")}, 422, "cfg_scale: value is not a valid float"),
        ({"eta": float("inf")}, 422, "eta: value is not a valid float"),
        ({"subseed_strength": -1e9}, 422, "'subseed_strength'"),
        ({"s_noise": "x"}, 422, "s_noise: value is not a valid float"),
        ({"seed_resize_from_w": 2**64}, 422, "'seed_resize_from_w'"),
        ({"hr_resize_x": -(2**63) - 1}, 422, "'hr_resize_x'"),
        ({"infotext": "x" * 200_001}, 422, "'infotext' is too long"),
        ({"seed_resize_from_w": 10**9, "seed_resize_from_h": 64}, 422, "'seed_resize_from_w'"),
        ({"prompt": "x" * 50_001}, 422, "'prompt' is too long"),
        ({"prompt": "((" * 60 + "x"}, 422, "brackets"),
        ({"prompt": "a AND b:1e9"}, 200, ""),
        ({"prompt": " AND ".join("a" * 100)}, 200, ""),
        ({"prompt": " AND ".join("a" * 101)}, 422, "more than 100 parts"),
        ({"prompt": "(x:99999999)"}, 422, "weight above"),
        ({"negative_prompt": "(x:99999999)"}, 422, "negative_prompt has a weight above"),
        ({"prompt": {"a": 1}}, 422, "prompt: str type expected"),
        ({"styles": ["a", None]}, 422, "str type expected"),
        ({"styles": {"a": 1}}, 422, "styles: value is not a valid list"),
        ({"sampler_name": "Foo"}, 400, "Sampler not found"),
        ({"sampler_index": "Foo"}, 400, "Sampler not found"),
        ({"scheduler": "Foo"}, 400, "not found"),
        ({"override_settings": {"nope": 1}}, 422, "There is no option 'nope'"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 20}}, 422, "must be from 1 to 12"),
        ({"override_settings": {"CLIP_stop_at_last_layers": "x"}}, 422, "value is not a valid float"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, 404, "There is no checkpoint 'nope'"),
        ({"override_settings": {"samples_format": "gif"}}, 422, "one of png, jpg, jpeg, webp"),
        ({"override_settings": {"randn_source": "TPU"}}, 422, "one of GPU, CPU, NV"),
        ({"override_settings": {"sd_vae": "x.safetensors"}}, 422, "There is no VAE 'x.safetensors'"),
        ({"override_settings": {"token_merging_ratio": 1.5}}, 422, "must be from 0 to 1"),
        ({"override_settings": {"fp8_storage": "On"}}, 422, "one of Disable, Enable for SDXL, Enable"),
        ({"override_settings": {"sigma_min": 5, "sigma_max": 4}}, 422, "must be below 'sigma_max'"),
        ({"override_settings": {"sigma_min": 20}}, 422, "must be below 'sigma_max' (14)"),
        ({"override_settings": [1]}, 422, "value is not a valid dict"),
        ({"override_settings": {"outdir_txt2img_samples": "/etc"}, "save_images": True}, 422, "not inside"),
        ({"restore_faces": "yes"}, 501, "takes the file codeformer-v0.1.0.pth"),
        ({"refiner_checkpoint": "x"}, 404, "There is no checkpoint 'x'"),
        ({"refiner_checkpoint": "None", "refiner_switch_at": 0.5}, 200, ""),
        ({"refiner_switch_at": 1.5}, 422, "'refiner_switch_at' must be from 0 to 1"),
        ({"s_min_uncond": -1}, 422, "'s_min_uncond'"),
        ({"infotext": "cat\nSteps: x, Seed: 2, Size: 64x64"}, 422, "'Steps' cannot be used"),
        ({"enable_hr": True}, 422, "'denoising_strength' must be set"),
        ({"enable_hr": True, "denoising_strength": None}, 422, "'denoising_strength' must be set"),
        ({"enable_hr": True, "denoising_strength": -1}, 422, "'denoising_strength' must be from 0"),
        ({"enable_hr": True, "denoising_strength": 1e-9}, 422, "0 or at least 0.001"),
        ({"enable_hr": True, "denoising_strength": 0.5, "hr_scale": 0}, 422, "'hr_scale'"),
        ({"enable_hr": True, "denoising_strength": 0.5, "hr_scale": 99}, 422, "6,336 x 6,336 pixels"),
        ({"enable_hr": True, "denoising_strength": 0.5, "hr_upscaler": "Foo"}, 422, "no upscaler 'Foo'"),
        ({"enable_hr": True, "denoising_strength": 0.5, "hr_sampler_name": "Foo"}, 400, "not found: 'Foo'"),
        ({"enable_hr": True, "denoising_strength": 0.5, "hr_checkpoint_name": "x"}, 404, "checkpoint 'x'"),
        ({"enable_hr": True, "denoising_strength": 0.5, "hr_prompt": "(x:99999999)"}, 422, "hr_prompt has"),
        ({"enable_hr": True, "denoising_strength": 0.5, "firstpass_image": "x"}, 422, "'firstpass_image'"),
        ({"firstphase_width": 64}, 422, "'firstphase_height'"),
        ({"prompt": "cat <lora:x:1>"}, 200, ""),
        ({"prompt": "cat <lora:x:one>"}, 422, "weight 'one'"),
        ({"prompt": "cat <lora:x:1e9>"}, 422, "weight '1e9'"),
        ({"prompt": "cat <lora:x:nan>"}, 422, "weight 'nan'"),
        ({"prompt": "cat <lora:x:1:1:-4>"}, 422, "rank '-4'"),
        ({"prompt": "cat " + "<lora:x:1>" * 101}, 422, "too many networks"),
        ({"prompt": "cat <lora:x:one>", "disable_extra_networks": True}, 200, ""),
        ({"script_name": "nope"}, 422, "Script 'nope' not found"),
        ({"script_name": "Loopback"}, 422, "Script 'Loopback' not found"),
        ({"script_name": ""}, 200, ""),
        ({"alwayson_scripts": {"adetailer": {"args": [False]}}}, 422, "Script 'adetailer' not found"),
        ({"alwayson_scripts": {"X/Y/Z plot": {}}}, 422, "Cannot have a selectable script"),
        ({"alwayson_scripts": {"Hypertile": {"args": [True]}}}, 200, ""),
        ({"alwayson_scripts": {"soft inpainting": {"args": []}}}, 422, "'soft inpainting' not found"),
        ({"alwayson_scripts": {"Refiner": {"args": [True]}, "seed": {}}}, 200, ""),
        ({"script_args": [[[[1]]]]}, 200, ""),
        ({"script_args": json.loads("[" * 300 + "]" * 300)}, 422, "nested too deeply"),
        ({"comments": {"a": 2**70}}, 422, "value is not a valid integer"),
        ({"prompt": "\x00 \x01 \x7f"}, 200, ""),
    ],
)
def test_fields(server: Server, fields: dict[str, object], status: int, sentence: str) -> None:
    response = send(server, json.dumps(BASE | fields).encode())
    assert response.status_code == status, response.text
    if status != 200:
        assert sentence in detail_of(response.json())
        assert len(response.text) < 600


def send(server: Server, data: bytes, content_type: str | None = "application/json") -> Any:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return server.request("POST", "/sdapi/v1/txt2img", data=data, headers=headers)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b'{"cfg_scale": NaN}', 422),
        (b'{"cfg_scale": Infinity}', 422),
        (b'{"cfg_scale": 1e999}', 422),
        (b'{"prompt": "\\ud800"}', 422),
        (b'{"override_settings": {"\\ud800": 1}}', 422),
        (b'{"script_args": ["\\udc00"]}', 422),
        (b'{"script_args": [NaN]}', 422),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 100_000, 400),
        (b'{"script_args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'"text"', 422),
        (b"[1]", 422),
        (b"null", 422),
        (b"\xff\xfe", 422),
        (b'{"a":', 422),
    ],
)
def test_bodies(server: Server, data: bytes, status: int) -> None:
    response = send(server, data)
    assert response.status_code == status, response.text[:300]
    assert detail_of(response.json())
    assert len(response.text) < 400


def test_the_input_is_never_echoed(server: Server) -> None:
    secret = "c2VjcmV0" * 1000
    response = server.post(
        "txt2img", BASE | {"prompt": [secret], "steps": secret, "override_settings": secret}
    )
    assert response.status_code == 422
    assert len(response.json()["detail"]) == 3
    assert "c2VjcmV0" not in response.text


def test_a_body_without_content_type_is_json(server: Server) -> None:
    assert send(server, json.dumps(BASE).encode(), None).status_code == 200
    assert send(server, json.dumps(BASE).encode(), "text/plain").status_code == 422


def test_null_means_the_default_everywhere(server: Server) -> None:
    echo = server.post("txt2img", {"width": 64, "height": 64}).json()["parameters"]
    nulls = {key: None for key in echo if key not in ("width", "height")}
    assert server.post("txt2img", nulls | {"width": 64, "height": 64}).json()["parameters"] == echo
    assert echo["steps"] == 50


def test_pydantic_1_leniency(server: Server) -> None:
    body = BASE | {"steps": "7", "cfg_scale": "6.5", "batch_size": 1.7, "width": 64.9, "save_images": "off"}
    echo = server.post("txt2img", body | {"prompt": 5.5, "n_iter": True, "styles": [1], "nope": 1}).json()[
        "parameters"
    ]
    expected = {
        "steps": 7,
        "cfg_scale": 6.5,
        "batch_size": 1,
        "width": 64,
        "save_images": False,
        "prompt": "5.5",
    }
    assert {key: echo[key] for key in expected} == expected
    assert echo["n_iter"] == 1
    assert echo["styles"] == ["1"]
    assert "nope" not in echo


def test_random_seeds_differ_and_are_told(server: Server) -> None:
    body = {"width": 64, "height": 64, "steps": 1, "batch_size": 2}
    infos = [json.loads(server.post("txt2img", body).json()["info"]) for _ in range(3)]
    assert len({info["seed"] for info in infos}) == 3
    for info in infos:
        assert 0 <= info["seed"] < 2**32 - 2
        assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
        assert info["all_subseeds"] == [info["subseed"], info["subseed"] + 1]


def test_jobs_are_fully_resolved(serve: Callable[..., Server]) -> None:
    server = serve()
    body = BASE | {
        "sampler_name": "Heun",
        "scheduler": "karras",
        "s_churn": 5,
        "s_noise": 1.01,
        "batch_size": 2,
    }
    body |= {"subseed": 9, "subseed_strength": 0.5, "override_settings": {"CLIP_stop_at_last_layers": 2.0}}
    assert server.post("txt2img", body).status_code == 200
    first, second = server.engine.jobs
    assert (first.id.split("/")[1], second.id.split("/")[1]) == ("0", "1")
    assert (first.sampling.sampler, first.sampling.schedule) == ("Heun", "Karras")
    assert (first.sampling.churn, first.sampling.churn_max, first.sampling.noise_scale) == (
        5,
        float("inf"),
        1.01,
    )
    assert (first.noise.seed, second.noise.seed) == (1, 1)
    assert (first.noise.subseed, second.noise.subseed) == (9, 10)
    assert first.prompt.clip_skip == 2
    assert first.model.checkpoint == "/models/tiny-sd15.safetensors"


def test_styles_and_comments_are_applied(serve: Callable[..., Server]) -> None:
    server = serve()
    body = BASE | {
        "prompt": "cat # not this\ndog",
        "negative_prompt": "bad",
        "styles": ["Tiny Style", "Nope"],
    }
    info = json.loads(server.post("txt2img", body).json()["info"])
    assert info["prompt"] == "masterpiece, cat \ndog, tiny style"
    assert info["negative_prompt"] == "bad, blurry, lowres"
    assert info["styles"] == ["Tiny Style", "Nope"]
    assert server.engine.jobs[0].prompt.positive == info["prompt"]
