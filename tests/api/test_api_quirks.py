"""With --a1111-quirks bad requests have AUTOMATIC1111's status, and unknown names its meaning."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import Server

BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 1}


@pytest.mark.parametrize(
    ("fields", "ours", "theirs"),
    [
        ({"steps": 0}, 422, 500),
        ({"width": 4}, 422, 500),
        ({"enable_hr": True}, 422, 500),
        ({"refiner_checkpoint": "nope"}, 404, 500),
        ({"override_settings": {"nope": 1}}, 422, 500),
        ({"script_name": "nope"}, 422, 422),
        ({"alwayson_scripts": {"nope": {}}}, 422, 422),
        ({"prompt": ["a"]}, 422, 422),
        ({"sampler_name": "Foo"}, 400, 200),
        ({"override_settings": {"sd_vae": "nope"}}, 422, 200),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, 404, 200),
    ],
)
def test_statuses(serve: Callable[..., Server], fields: dict[str, Any], ours: int, theirs: int) -> None:
    assert serve().post("txt2img", BASE | fields).status_code == ours
    assert serve(a1111_quirks=True).post("txt2img", BASE | fields).status_code == theirs


@pytest.mark.parametrize(
    ("sampler", "schedule", "meant"),
    [
        ("Foo", None, ("DPM++ 2M", "Karras")),
        ("Foo", "Exponential", ("DPM++ 2M", "Exponential")),
        ("Heun", "Foo", ("Heun", "Automatic")),
        ("Foo", "Foo", ("DPM++ 2M", "Karras")),
    ],
)
def test_unknown_samplers_and_schedules(
    serve: Callable[..., Server], sampler: str, schedule: str | None, meant: tuple[str, str]
) -> None:
    server = serve(a1111_quirks=True)
    body = BASE | {"sampler_name": sampler, "scheduler": schedule}
    assert json.loads(server.post("txt2img", body).json()["info"])["sampler_name"] == meant[0]
    sampling = server.engine.jobs[0].sampling
    assert (sampling.sampler, sampling.schedule) == meant


def test_an_unknown_checkpoint_is_dropped_from_the_echo_too(serve: Callable[..., Server]) -> None:
    overrides = {"sd_model_checkpoint": "nope", "eta_ddim": 0.5}
    answer = serve(a1111_quirks=True).post("txt2img", BASE | {"override_settings": overrides}).json()
    assert answer["parameters"]["override_settings"] == {"eta_ddim": 0.5}
    assert json.loads(answer["info"])["sd_model_name"] == "tiny-sd15"


def test_options_too(serve: Callable[..., Server]) -> None:
    assert serve().post("options", {"nope": 1}).status_code == 422
    assert serve(a1111_quirks=True).post("options", {"nope": 1}).status_code == 500
