"""The field `infotext` fills what a client did not send, as AUTOMATIC1111 does."""

import json
from typing import Any

import pytest

from sdserver.api.infotext_field import Filled, Tab, fill, uses_emphasis
from sdserver.api.option_rules import defaults
from sdserver.api.options import Snapshot
from sdserver.errors import InvalidField, UnknownCheckpoint
from sdserver.prompt.styles import Style
from tests.api.conftest import GOLDENS

RECORDED = json.loads((GOLDENS / "infotext_field.json").read_text(encoding="utf-8"))
TEXT = "a cat\nNegative prompt: dog\nSteps: 5, Sampler: Euler, CFG scale: 5.5, Seed: 42, Size: 64x96"


def title_of(name: str) -> str:
    if name.startswith("tiny-sd15-b"):
        return "tiny-sd15-b.safetensors [fb2af093b0]"
    raise UnknownCheckpoint(f"There is no checkpoint {name!r}.")


def filled(text: str, tab: Tab = "txt2img", sent: tuple[str, ...] = (), **options: Any) -> Filled:
    return fill(text, tab, sent, Snapshot({**defaults(), **options}), (), title_of)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_recorded_requests(case: dict[str, Any]) -> None:
    request, expected = case["request"], case["parameters"]
    found = filled(request["infotext"], case["tab"], tuple(request))
    assert not found.fields.keys() & request.keys()
    same = {name: expected[name] for name in found.fields}
    # As text, so that 7 and 7.0 are not the same.
    assert json.dumps(dict(found.fields)) == json.dumps(same)
    assert json.dumps(dict(found.overrides)) == json.dumps(expected["override_settings"])


@pytest.mark.parametrize("name", ["infotext_full", "infotext_subseed", "infotext_refiner"])
def test_all_that_was_recorded_is_filled(name: str) -> None:
    (case,) = (case for case in RECORDED if case["name"] == name)
    found = filled(case["request"]["infotext"]).fields
    for field in (
        "prompt",
        "seed",
        "steps",
        "sampler_name",
        "cfg_scale",
        "width",
        "subseed",
        "refiner_checkpoint",
    ):
        if case["parameters"][field] not in (None, -1):
            assert found[field] == case["parameters"][field]


def test_nothing_is_filled_from_nothing() -> None:
    assert filled("") == Filled({}, {})


def test_a_hires_pass_needs_no_sampler_of_its_own() -> None:
    found = filled(f"{TEXT}, Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 3").fields
    assert (found["enable_hr"], found["hr_scale"], found["hr_second_pass_steps"]) == (True, 1.5, 3)
    assert (found["hr_sampler_name"], found["hr_scheduler"]) == ("Use same sampler", "Use same scheduler")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", False),
        (", Denoising strength: 0.5", False),  # of an img2img picture
        (", Hires upscale: 2", False),
        (", Denoising strength: 0.5, Hires resize: 128x128", True),
        (", Denoising strength: 0.5, Hires upscaler: Latent", True),
        (", Denoising strength: 0.5, First pass size: 0x0", True),
    ],
)
def test_a_hires_pass_is_asked_for_only_where_the_text_tells_of_one(extra: str, expected: bool) -> None:
    assert filled(TEXT + extra).fields["enable_hr"] is expected


def test_seed_resize_is_not_swapped() -> None:
    found = filled(f"{TEXT}, Seed resize from: 320x512", "img2img").fields
    assert (found["seed_resize_from_w"], found["seed_resize_from_h"]) == (320, 512)


def test_img2img_takes_seeds_steps_sampler_and_refiner_alone() -> None:
    text = f"{TEXT}, Denoising strength: 0.4, Refiner: tiny-sd15-b [fb2af093b0], Refiner switch at: 0.5"
    assert filled(text, "img2img").fields == {
        "steps": 5,
        "seed": 42,
        "sampler_name": "Euler",
        "scheduler": "Automatic",
        "refiner_checkpoint": "tiny-sd15-b.safetensors [fb2af093b0]",
        "refiner_switch_at": 0.5,
    }


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("DPM++ 2M", "Karras", ("DPM++ 2M", "Automatic")),
        ("DPM++ 2M", "Exponential", ("DPM++ 2M", "Exponential")),
        ("DPM++ 2M Karras", None, ("DPM++ 2M", "Automatic")),
        ("DPM++ 2M SDE Karras", None, ("DPM++ 2M SDE", "Karras")),
        ("Euler a", "Karras", ("Euler a", "Karras")),
        ("no such", None, ("no such", "Automatic")),
    ],
)
def test_samplers_and_schedules_are_taken_apart(
    sampler: str, schedule: str | None, expected: tuple[str, str]
) -> None:
    extra = f", Schedule type: {schedule}" if schedule else ""
    found = filled(f"x\nSteps: 5, Sampler: {sampler}, Seed: 1{extra}").fields
    assert (found["sampler_name"], found["scheduler"]) == expected


def test_an_unknown_refiner_stays_to_be_refused() -> None:
    assert filled(f"{TEXT}, Refiner: gone").fields["refiner_checkpoint"] == "gone"


def test_options_are_overridden_where_they_differ() -> None:
    text = f"{TEXT}, Clip skip: 2, RNG: CPU, Discard penultimate sigma: True, VAE: x.pt, Model hash: abc"
    assert filled(text).overrides == {
        "always_discard_next_to_last_sigma": True,
        "CLIP_stop_at_last_layers": 2,
        "randn_source": "CPU",
        "sd_vae": "x.pt",
    }
    current = {"CLIP_stop_at_last_layers": 2.0, "randn_source": "CPU", "sd_vae": "x.pt"}
    assert filled(text, **current).overrides == {"always_discard_next_to_last_sigma": True}
    # Texts say only what is not at its default.
    assert filled(TEXT, **current).overrides == {"CLIP_stop_at_last_layers": 1, "randn_source": "GPU"}
    assert filled(text, disable_weights_auto_swap=False).overrides["sd_model_checkpoint"] == "abc"
    assert filled(f"{TEXT}, Face restoration: CodeFormer").overrides == {"face_restoration": True}


def test_styles_are_found_in_the_prompt() -> None:
    styles = (Style("S", "{prompt}, tiny", ""),)
    found = fill(
        "a cat, tiny\nSteps: 1, Seed: 2, Sampler: Euler",
        "txt2img",
        (),
        Snapshot(defaults()),
        styles,
        title_of,
    )
    assert (found.fields["prompt"], found.fields["styles"]) == ("a cat", ["S"])


@pytest.mark.parametrize("value", ["many", "1" * 5000, "1e400", "nan"])
def test_a_value_of_the_wrong_kind_is_named(value: str) -> None:
    with pytest.raises(InvalidField, match="'CFG scale'"):
        filled(f"x\nSteps: 5, Sampler: Euler, Seed: 1, CFG scale: {value}")
    with pytest.raises(InvalidField):
        filled(f"{TEXT}, Clip skip: {value}")


@pytest.mark.parametrize("size", ["axb", "0x0", "9" * 5000 + "x1"])
def test_old_hires_texts_are_read_whatever_they_say(size: str) -> None:
    text = f"x\nSteps: 5, Sampler: Euler, Seed: 1, First pass size: {size}, First pass size-1: {'9' * 5000}"
    assert filled(text, "img2img").fields["seed"] == 1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", False),
        ("(a cat)", True),
        ("(a:1)", False),
        ("\\(a\\)", False),
        ("[a:b:3]", True),
        ("a BREAK b", False),
    ],
)
def test_emphasis_is_a_weight_other_than_one(prompt: str, expected: bool) -> None:
    assert uses_emphasis(prompt) is expected
