"""What the page of settings is told of the options."""

from collections.abc import Callable
from typing import Any

from sdserver.api.option_effects import ABOUT
from sdserver.api.option_rules import CHOICES, RANGES, RESTRICTED, defaults, normalise
from sdserver.api.option_sections import Freeze
from tests.api.conftest import Server

KEYS = ["key", "section", "kind", "value", "default", "choices", "range", "acts", "about", "read_only"]


def facts(server: Server) -> dict[str, dict[str, Any]]:
    listed = server.request("GET", "/v1/options").json()["options"]
    assert all(list(option) == KEYS for option in listed)
    return {option["key"]: option for option in listed}


def test_every_option_is_told_with_its_value(serve: Callable[..., Server]) -> None:
    server = serve()
    server.post("options", {"jpeg_quality": 90, "tiling": True})
    found = facts(server)
    values = server.get("options").json()
    assert list(found) == list(values) == list(defaults())
    assert {key: option["value"] for key, option in found.items()} == values
    assert {key: option["default"] for key, option in found.items()} == defaults()
    assert {key for key, option in found.items() if option["acts"]} == set(ABOUT)
    assert {key for key, option in found.items() if option["read_only"]} == RESTRICTED | {
        "sd_checkpoint_hash"
    }
    assert found["jpeg_quality"] | {"about": ""} == {
        "key": "jpeg_quality", "section": "Saving images/grids", "kind": "number", "value": 90.0,
        "default": 80.0, "choices": None, "range": [1, 100], "acts": True, "about": "", "read_only": False,
    }  # fmt: skip
    assert found["lora_functional"]["section"] == "Compatibility"


def test_kinds_choices_and_ranges_are_those_that_are_checked(server: Server) -> None:
    for key, option in facts(server).items():
        assert (option["choices"] is not None) == (option["kind"] == "choice"), key
        if key in CHOICES:
            assert option["choices"] == list(CHOICES[key])
        for choice in option["choices"] or ():
            assert normalise(key, choice, option["default"]) == choice
        if option["kind"] in ("number", "whole"):
            assert option["range"] == (list(RANGES[key]) if key in RANGES else None)
            for end in option["range"] or ():
                assert normalise(key, end, option["default"]) == end
        elif option["kind"] == "switch":
            assert isinstance(option["default"], bool)
    kinds = {key: option["kind"] for key, option in facts(server).items()}
    assert kinds["grid_background_color"] == "colour"
    assert kinds["infotext_skip_pasting"] == "list"
    assert kinds["sd_checkpoint_cache"] == "whole"


def test_choices_that_depend_on_files(server: Server) -> None:
    found = facts(server)
    titles = [model["title"] for model in server.get("sd-models").json()]
    assert found["sd_model_checkpoint"]["choices"] == titles
    assert found["sd_vae"]["choices"] == ["Automatic", "None"]
    upscalers = [upscaler["name"] for upscaler in server.get("upscalers").json()]
    assert found["upscaler_for_img2img"]["choices"] == upscalers


def test_what_is_frozen_is_read_only(serve: Callable[..., Server]) -> None:
    server = serve(freeze=Freeze(sections=frozenset({"vae"}), keys=frozenset({"tiling"})))
    frozen = {key for key, option in facts(server).items() if option["read_only"]}
    assert {"tiling", "sd_vae"} <= frozen
    assert "jpeg_quality" not in frozen
