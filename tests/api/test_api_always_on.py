"""Scripts that run with every request, and the options that change attention."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sdserver.api.always_on import always_on
from sdserver.api.requests import Img2ImgRequest, Txt2ImgRequest
from sdserver.errors import InvalidField
from sdserver.jobs.job import Img2Img, SoftInpainting, Txt2Img
from sdserver.jobs.model import Attention, TileRule
from tests.api.conftest import Server
from tests.api.test_api_img2img import BASE, RED, half_mask

MASKED = {"init_images": [RED], "mask": half_mask(), "inpaint_full_res": False}


def soft(*args: object) -> SoftInpainting | None:
    body = {"alwayson_scripts": {"Soft Inpainting": {"args": list(args)}}}
    return always_on(Img2ImgRequest.model_validate(body)).soft_inpainting


def test_arguments_that_are_left_out_keep_their_defaults() -> None:
    assert soft() is soft(False, 3) is None
    assert soft(True) == SoftInpainting(1, 0.5, 4, 0, 0.5, 2)
    assert soft(True, 2, 0.25) == SoftInpainting(2, 0.25, 4, 0, 0.5, 2)
    assert soft("true", "2", 0, 1.5, 1, 8, 0) == SoftInpainting(2, 0, 1.5, 1, 8, 0)
    assert soft(True, 1, 0.5, 4, 0, 0.5, 2, "too", ["many"]) == SoftInpainting()


@pytest.mark.parametrize(
    ("scripts", "sentence"),
    [
        ({"soft inpainting": {"args": [True, 9]}}, "'Schedule bias' must be a number from 0 to 8"),
        ({"soft inpainting": {"args": [True, 1, -1]}}, "'Preservation strength'"),
        (
            {"soft inpainting": {"args": [True, 1, 1, 0]}},
            "'Transition contrast boost' must be .* from 1 to 32",
        ),
        ({"soft inpainting": {"args": [True, 1, 1, 1, "x"]}}, "'Mask influence'"),
        ({"soft inpainting": {"args": [True, 1, 1, 1, 1, None]}}, "'Difference threshold'"),
        ({"soft inpainting": {"args": [True, 1, 1, 1, 1, 1, [1]]}}, "'Difference contrast'"),
        ({"soft inpainting": {"args": ["maybe"]}}, "must be true or false"),
        ({"soft inpainting": {"args": {"0": True}}}, "must be a list"),
        ({"nope": {"args": []}}, "Script 'nope' not found"),
        ({"Loopback": {"args": []}}, "Cannot have a selectable script"),
        ({"n" * 500: {}}, "Script 'n{100}' not found"),
    ],
)
def test_what_cannot_be_used_is_told(scripts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidField, match=sentence) as caught:
        always_on(Img2ImgRequest.model_validate({"alwayson_scripts": scripts}))
    assert caught.value.field == "alwayson_scripts"


def test_which_scripts_there_are_depends_on_the_request() -> None:
    for name in ("soft inpainting", "loopback"):
        body = {"alwayson_scripts": {name: {"args": [True]}}}
        with pytest.raises(InvalidField, match="not found"):
            always_on(Txt2ImgRequest.model_validate(body))
    idle = {
        name: {"args": ["x", 1, None]}
        for name in ("Hypertile", "refiner", "Seed", "sampler", "Extra options", "comments")
    }
    idle |= {"hypertile": None, "SEED": "args", "Refiner": {"args": "abc"}}  # type: ignore[dict-item]
    assert always_on(Txt2ImgRequest.model_validate({"alwayson_scripts": idle})).soft_inpainting is None


def job_and_info(server: Server, kind: str, body: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    response = server.post(kind, BASE | body)
    assert response.status_code == 200, response.text
    return server.engine.jobs[-1], json.loads(response.json()["info"])


def test_soft_inpainting_reaches_job_finish_and_infotext(server: Server) -> None:
    scripts = {"alwayson_scripts": {"Soft Inpainting": {"args": [True, 1.5, 0.5]}}}
    job, info = job_and_info(server, "img2img", MASKED | scripts)
    assert isinstance(job, Img2Img)
    assert job.mask is not None
    assert job.mask.soft == SoftInpainting(power=1.5)
    assert not job.mask.is_rounded
    keys = [key for key in info["extra_generation_params"] if key.startswith("Soft")]
    assert list(info["extra_generation_params"])[:7] == keys
    assert (
        "Soft inpainting enabled: True, Soft inpainting schedule bias: 1.5, "
        "Soft inpainting preservation strength: 0.5, Soft inpainting transition contrast boost: 4, "
        "Soft inpainting mask influence: 0, Soft inpainting difference threshold: 0.5, "
        "Soft inpainting difference contrast: 2, Mask blur: 4"
    ) in info["infotexts"][0]


def test_an_infotext_brings_soft_inpainting_back(server: Server) -> None:
    sent = {"Soft Inpainting": {"args": [True, 1.5, 0.25]}}
    first, info = job_and_info(server, "img2img", MASKED | {"alwayson_scripts": sent})
    told = {"infotext": info["infotexts"][0]}
    again, _ = job_and_info(server, "img2img", MASKED | told)
    assert again.mask.soft == first.mask.soft == SoftInpainting(1.5, 0.25)
    some = {"alwayson_scripts": {"soft inpainting": {"args": [True, 3]}}}
    assert job_and_info(server, "img2img", MASKED | told | some)[0].mask.soft == SoftInpainting(3, 0.25)
    off = {"alwayson_scripts": {"soft inpainting": {"args": [False]}}}
    assert job_and_info(server, "img2img", MASKED | told | off)[0].mask.soft is None


def test_soft_inpainting_without_a_mask_is_nothing(server: Server) -> None:
    scripts = {"alwayson_scripts": {"Soft Inpainting": {"args": [True]}}}
    job, info = job_and_info(server, "img2img", {"init_images": [RED]} | scripts)
    assert job.mask is None
    assert "Soft" not in info["infotexts"][0]


# --- token merging ---


@pytest.mark.parametrize(
    ("kind", "overrides", "ratio"),
    [
        ("txt2img", {"token_merging_ratio": 0.5}, 0.5),
        ("txt2img", {"token_merging_ratio_img2img": 0.5}, 0.0),
        ("img2img", {"token_merging_ratio_img2img": 0.25}, 0.25),
        ("img2img", {"token_merging_ratio_img2img": 0.25, "token_merging_ratio": 0.5}, 0.5),
        ("img2img", {"token_merging_ratio": 0.0, "token_merging_ratio_img2img": 0.25}, 0.25),
    ],
)
def test_token_merging(server: Server, kind: str, overrides: dict[str, float], ratio: float) -> None:
    job, info = job_and_info(server, kind, {"init_images": [RED], "override_settings": overrides})
    assert job.model.attention == Attention(ratio)
    told = f"Token merging ratio: {ratio}" in info["infotexts"][0]
    assert told == (ratio > 0)
    assert "Token merging ratio hr" not in info["infotexts"][0]


def test_the_general_ratio_is_img2imgs_where_that_has_none(serve: Callable[..., Server]) -> None:
    server = serve()
    server.options.apply({"token_merging_ratio": 0.5})
    assert job_and_info(server, "img2img", {"init_images": [RED]})[0].model.attention.merging == 0.5
    server.options.apply({"token_merging_ratio_img2img": 0.2})
    assert job_and_info(server, "img2img", {"init_images": [RED]})[0].model.attention.merging == 0.2


@pytest.mark.parametrize(
    ("overrides", "first", "second"),
    [({"token_merging_ratio": 0.5}, 0.5, 0.5), ({"token_merging_ratio_hr": 0.3}, 0.0, 0.3)],
)
def test_the_second_pass_has_its_own_ratio(
    server: Server, overrides: dict[str, float], first: float, second: float
) -> None:
    body = {"enable_hr": True, "denoising_strength": 0.5, "override_settings": overrides}
    job, info = job_and_info(server, "txt2img", body)
    assert isinstance(job, Txt2Img)
    assert job.hires is not None
    assert (job.model.attention.merging, job.hires.model.attention.merging) == (first, second)
    assert f"Token merging ratio hr: {second}" in info["infotexts"][0]


# --- Hypertile ---


def test_hypertile(server: Server) -> None:
    overrides = {"hypertile_enable_unet": True, "hypertile_max_tile_unet": 512, "hypertile_enable_vae": True}
    body = {"override_settings": overrides, "width": 128, "batch_size": 2, "seed": 5}
    job, info = job_and_info(server, "txt2img", body)
    expected = Attention(0.0, TileRule(3, 512, 3), TileRule(3, 128, 3), 128, 64, 5)
    assert job.model.attention == expected, "and so for all images, with the first one's seed"
    assert server.engine.jobs[-2].model.attention == expected
    assert (
        "Hypertile U-Net: True, Hypertile U-Net max tile size: 512, Hypertile VAE: True"
        in info["infotexts"][0]
    )
    assert info["extra_generation_params"]["Hypertile VAE swap size"] is None


def test_hypertile_in_the_second_pass_alone(server: Server) -> None:
    overrides = {"hypertile_enable_unet_secondpass": True, "hypertile_max_depth_unet": 1}
    body = {"enable_hr": True, "denoising_strength": 0.5, "override_settings": overrides}
    job, info = job_and_info(server, "txt2img", body)
    assert job.model.attention == Attention()
    assert job.hires.model.attention == Attention(0.0, TileRule(1, 256, 3), None, 128, 128, 1)
    assert "Hypertile U-Net second pass: True, Hypertile U-Net max depth: 1" in info["infotexts"][0]


def test_hypertile_has_limits(server: Server) -> None:
    for option, value in (("swap_size", 0), ("max_depth", 4), ("max_tile", -1)):
        body = BASE | {"override_settings": {f"hypertile_{option}_unet": value}}
        assert server.post("txt2img", body).status_code == 422


# --- texts ---


def test_texts_read_the_old_way_tell_nothing_of_emphasis(server: Server) -> None:
    overrides = {"use_old_emphasis_implementation": True, "emphasis": "No norm"}
    job, info = job_and_info(server, "txt2img", {"prompt": "(cat)", "override_settings": overrides})
    assert job.prompt.old_emphasis
    assert "Emphasis" not in info["infotexts"][0]


@pytest.mark.parametrize(("checkpoint", "expected"), [(None, True), ("tiny-sd15-b", False)])
def test_the_second_pass_may_use_the_first_ones_networks(
    serve: Callable[..., Server], checkpoint: str | None, expected: bool
) -> None:
    body = {
        "enable_hr": True,
        "denoising_strength": 0.5,
        "hr_checkpoint_name": checkpoint,
        "override_settings": {"hires_fix_use_firstpass_conds": True},
    }
    job, _ = job_and_info(serve(), "txt2img", body)
    assert job.hires.first_networks is expected


def test_an_infotext_brings_its_attention_back(serve: Callable[..., Server]) -> None:
    server = serve()
    overrides = {
        "hypertile_enable_unet": True,
        "hypertile_swap_size_unet": 2,
        "hypertile_enable_vae": True,
        "token_merging_ratio": 0.25,
    }
    first, info = job_and_info(server, "txt2img", {"override_settings": overrides})
    again, _ = job_and_info(server, "txt2img", {"infotext": info["infotexts"][0]})
    assert again.model.attention == first.model.attention
    assert first.model.attention.merging == 0.25
