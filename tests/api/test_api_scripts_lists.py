"""What clients are told of the scripts equals what AUTOMATIC1111 tells."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from sdserver.api.scripts.xyz_axes import HYPERTILE_AXES
from sdserver.images.codec import encode
from tests.api.conftest import Server

UPSCALERS, CHECKPOINTS = "Upscaler", "Checkpoint"
"""Arguments whose choices are what is installed."""


@pytest.fixture(scope="module")
def recorded(goldens: Callable[[str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = goldens("scripts")
    return found


def without_installed(scripts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **script,
            "args": [
                {**argument, "choices": None} if argument["label"] in (UPSCALERS, CHECKPOINTS) else argument
                for argument in script["args"]
            ],
        }
        for script in scripts
    ]


def test_names(server: Server, recorded: dict[str, Any]) -> None:
    assert server.get("scripts").json() == recorded["scripts"]


def test_arguments(server: Server, recorded: dict[str, Any]) -> None:
    answer = server.get("script-info").json()
    assert without_installed(answer) == without_installed(recorded["script-info"])


def test_choices_that_are_installed(server: Server) -> None:
    scripts = {(script["name"], script["is_img2img"]): script for script in server.get("script-info").json()}
    titles = [item["title"] for item in server.get("sd-models").json()]
    assert len(titles) > 1
    for is_img2img in (False, True):
        assert scripts["refiner", is_img2img]["args"][1]["choices"] == titles
    names = [item["name"] for item in server.get("upscalers").json()]
    assert scripts["sd upscale", True]["args"][2]["choices"] == names


@pytest.mark.parametrize("nowebui", [False, True])
def test_hypertile_s_axes_are_listed_with_the_page(serve: Callable[..., Server], nowebui: bool) -> None:
    answer = serve(flags={"nowebui": nowebui}).get("script-info").json()
    plots = [script for script in answer if script["name"] == "x/y/z plot"]
    assert len(plots) == 2
    names = [axis.label for axis in HYPERTILE_AXES]
    for plot in plots:
        for place in (0, 3, 6):
            choices = plot["args"][place]["choices"]
            assert (choices[-len(names) :] == names) is not nowebui
            assert choices.count(names[0]) == (not nowebui)


def test_every_listed_script_may_be_named_and_takes_the_listed_arguments(
    server: Server, recorded: dict[str, Any]
) -> None:
    image = base64.b64encode(encode(Image.new("RGB", (8, 8)), "png", None)).decode()
    lengths = {(item["name"], item["is_img2img"]): len(item["args"]) for item in recorded["script-info"]}
    for tab, names in recorded["scripts"].items():
        for name in names[: names.index("extra options")]:
            body = {"script_name": name.upper(), "script_args": [0] * 50, "init_images": [image]}
            answer = server.post(tab, body)
            assert answer.status_code == 422
            assert f"takes {lengths[name, tab == 'img2img']} arguments, not 50" in answer.text


def test_a_script_of_the_other_tab_is_not_found(server: Server) -> None:
    answer = server.post("txt2img", {"script_name": "Loopback"})
    assert answer.status_code == 422
    assert "not found" in answer.text


def test_too_many_arguments_are_refused(server: Server) -> None:
    answer = server.post("txt2img", {"script_name": "prompt matrix", "script_args": [False] * 6})
    assert answer.status_code == 422
    assert "takes 5 arguments, not 6" in answer.text
