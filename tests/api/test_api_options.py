"""Options: set all or nothing, kept on disk, never leaking from one request into the next."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.api.option_rules import (
    CHOICES,
    RANGES,
    RESTRICTED,
    defaults,
    normalise,
)
from sdserver.api.option_sections import PATHS, SECTIONS, Freeze, sections_of
from sdserver.api.options import Options
from sdserver.api.quirks import a1111_status
from sdserver.errors import InvalidField, SettingsError, SettingsFrozen
from sdserver.jobs.job import Txt2Img
from tests.api.conftest import OTHER_SHA, Server

BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 1}


def test_the_whole_answer_can_be_posted_back(serve: Callable[..., Server]) -> None:
    server = serve()
    options = server.get("options").json()
    assert len(options) >= 285
    response = server.post("options", options)
    assert (response.status_code, response.json()) == (200, None)
    assert server.get("options").json() == options
    assert server.engine.loads == []


def test_values_are_normalised(serve: Callable[..., Server]) -> None:
    server = serve()
    changes = {
        "CLIP_stop_at_last_layers": 2,
        "eta_noise_seed_delta": 31337.0,
        "samples_save": "false",
        "eta_ddim": "0.5",
    }
    assert server.post("options", changes).status_code == 200
    options = server.get("options").json()
    assert json.dumps(options["CLIP_stop_at_last_layers"]) == "2.0"
    assert json.dumps(options["eta_noise_seed_delta"]) == "31337"
    assert options["samples_save"] is False
    assert options["eta_ddim"] == 0.5


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"nope": 1}, "There is no option 'nope'"),
        ({"jpeg_quality": "x"}, "'jpeg_quality' cannot be set"),
        ({"jpeg_quality": 0}, "from 1 to 100"),
        ({"samples_save": "maybe"}, "'samples_save' cannot be set"),
        ({"grid_background_color": "url(x)"}, "a colour such as"),
        ({"quicksettings_list": "x"}, "value is not a valid list"),
        ({"localization": "x" * 10_001}, "too long"),
        ({"fp8_storage": "On"}, "must be one of Disable"),
        ({"sd_vae": "nope.safetensors"}, "There is no VAE 'nope.safetensors'"),
        ({"img2img_background_color": "red"}, "a colour such as"),
    ],
)
def test_nothing_is_set_when_one_is_wrong(
    serve: Callable[..., Server], bad: dict[str, object], sentence: str
) -> None:
    server = serve()
    before = server.get("options").json()
    response = server.post("options", {"eta_ddim": 0.25} | bad | {"sd_model_checkpoint": "tiny-sd15-b"})
    assert response.status_code == 422
    assert sentence in response.json()["detail"]
    assert server.get("options").json() == before
    assert server.engine.loads == []
    assert not (server.data_dir / "config.json").exists()


def test_restricted_options_stay_as_they_are(serve: Callable[..., Server]) -> None:
    server = serve()
    assert server.post("options", {"api_enable_requests": False, "api_useragent": "x"}).status_code == 200
    assert server.get("options").json()["api_enable_requests"] is True


def test_a_new_checkpoint_is_loaded_before_the_answer(serve: Callable[..., Server]) -> None:
    server = serve()
    assert server.post("options", {"sd_model_checkpoint": "tiny-sd15-b"}).status_code == 200
    assert server.engine.loads == ["/models/tiny-sd15-b.safetensors"]
    options = server.get("options").json()
    assert options["sd_model_checkpoint"] == "tiny-sd15-b.safetensors [fb2af093b0]"
    assert options["sd_checkpoint_hash"] == OTHER_SHA
    assert server.post("txt2img", BASE).status_code == 200
    assert server.engine.jobs[0].model.checkpoint == "/models/tiny-sd15-b.safetensors"


@pytest.mark.parametrize(("name", "status"), [("nope", 404), ("broken", 500), ("", 404)])
def test_a_checkpoint_that_cannot_be_used_changes_nothing(
    serve: Callable[..., Server], name: str, status: int
) -> None:
    server = serve()
    before = server.get("options").json()
    response = server.post("options", {"sd_model_checkpoint": name, "eta_ddim": 0.25})
    assert response.status_code == status
    assert list(response.json()) == ["error", "detail", "body", "errors"]
    assert server.get("options").json() == before


def test_options_survive_a_restart(serve: Callable[..., Server]) -> None:
    first = serve()
    first.post("options", {"eta_ddim": 0.25, "sd_model_checkpoint": "tiny-sd15-b"})
    second = serve()
    assert second.get("options").json()["eta_ddim"] == 0.25
    assert second.get("options").json()["sd_model_checkpoint"] == "tiny-sd15-b.safetensors [fb2af093b0]"
    assert not list(first.data_dir.glob("*.tmp"))


def test_overrides_do_not_leak(serve: Callable[..., Server]) -> None:
    server = serve()
    before = server.get("options").json()
    overrides = {
        "CLIP_stop_at_last_layers": 2,
        "sd_model_checkpoint": "tiny-sd15-b",
        "eta_noise_seed_delta": 5,
    }
    info = json.loads(server.post("txt2img", BASE | {"override_settings": overrides}).json()["info"])
    assert info["clip_skip"] == 2
    assert info["sd_model_name"] == "tiny-sd15-b"
    assert info["sd_model_hash"] == "fb2af093b0"
    assert server.get("options").json() == before
    server.post("txt2img", BASE)
    assert server.engine.jobs[-1].prompt.clip_skip == 1
    assert server.engine.jobs[-1].model.checkpoint == "/models/tiny-sd15.safetensors"


def test_overrides_stay_if_asked_but_not_on_disk(serve: Callable[..., Server]) -> None:
    server = serve()
    body = BASE | {"override_settings": {"eta_ddim": 0.3}, "override_settings_restore_afterwards": False}
    assert server.post("txt2img", body).status_code == 200
    assert server.get("options").json()["eta_ddim"] == 0.3
    assert not (server.data_dir / "config.json").exists()


def test_an_overridden_checkpoint_stays_by_its_title(serve: Callable[..., Server]) -> None:
    server = serve()
    overrides = {"sd_model_checkpoint": "tiny-sd15-b"}
    body = BASE | {"override_settings": overrides, "override_settings_restore_afterwards": False}
    assert server.post("txt2img", body).json()["parameters"]["override_settings"] == overrides
    title = "tiny-sd15-b.safetensors [fb2af093b0]"
    assert server.get("options").json()["sd_model_checkpoint"] == title
    assert title in [model["title"] for model in server.get("sd-models").json()]


def test_the_hash_option_follows_an_overridden_checkpoint_that_stays(serve: Callable[..., Server]) -> None:
    server = serve()
    overrides = {"sd_model_checkpoint": "tiny-sd15-inpainting"}
    body = BASE | {"override_settings": overrides, "override_settings_restore_afterwards": False}
    assert server.post("txt2img", body).status_code == 200
    assert server.get("options").json()["sd_checkpoint_hash"] == "b608562db2" + "0" * 54


def test_overrides_of_a_refused_request_do_not_stay(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.full = True
    body = BASE | {"override_settings": {"eta_ddim": 0.3}, "override_settings_restore_afterwards": False}
    assert server.post("txt2img", body).status_code == 503
    assert server.get("options").json()["eta_ddim"] == 0.0


def test_foreign_keys_of_a_config_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"some_extension": {"a": [1]}, "eta_ddim": 0.5, "jpeg_quality": "bad"}')
    options = Options(path)
    assert options.snapshot()["eta_ddim"] == 0.5
    assert options.snapshot()["jpeg_quality"] == 80.0
    assert "some_extension" not in options.snapshot()
    options.save()
    assert json.loads(path.read_text())["some_extension"] == {"a": [1]}


@pytest.mark.parametrize("content", ["{", "[1]", "\xff", "[" * 100_000])
def test_an_unreadable_config_is_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match="repair or remove it"):
        Options(path)


def test_the_values_of_an_existing_config_act(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"fp8_storage": "Enable", "sd_vae_decode_method": "Bogus"}')
    server = serve()
    assert server.post("txt2img", BASE).status_code == 200
    (job,) = server.engine.jobs
    assert isinstance(job, Txt2Img)
    assert (job.model.storage, job.model.decoder) == ("fp8", "full"), "what cannot be used is the default"


def test_snapshots_do_not_change(tmp_path: Path) -> None:
    options = Options(tmp_path / "config.json")
    before = options.snapshot()
    options.apply({"eta_ddim": 0.7})
    assert before["eta_ddim"] == 0.0
    assert options.snapshot()["eta_ddim"] == 0.7


def test_the_rules_fit_the_defaults() -> None:
    known = defaults()
    assert {*CHOICES, *RANGES, *RESTRICTED} <= known.keys()
    for key, value in known.items():
        assert normalise(key, value, value) == value


@pytest.mark.parametrize("nothing", ["", None])
def test_overriding_with_no_checkpoint_keeps_the_chosen_one(
    serve: Callable[..., Server], nothing: str | None
) -> None:
    server = serve()
    overrides = {"sd_model_checkpoint": nothing}
    assert server.post("txt2img", {"steps": 1, "override_settings": overrides}).status_code == 200
    assert server.engine.jobs[0].model.checkpoint == "/models/tiny-sd15.safetensors"


def test_numbers_that_no_answer_can_hold_are_refused(serve: Callable[..., Server]) -> None:
    server = serve()
    for value in ("1" * 30, 1e300, -(2**64)):
        assert server.post("options", {"lora_in_memory_limit": value}).status_code == 422
    assert server.get("options").status_code == 200


def other_spelling(value: object) -> object:
    """The same value as another client's JSON would have it."""
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return int(value)
        case int():
            return float(value)
        case _:
            return value


@given(st.data())
def test_what_was_got_may_be_posted_back_in_any_spelling_and_sets_nothing(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = Options(Path(folder) / "config.json")
        options.apply({"CLIP_stop_at_last_layers": 2.0, "samples_format": "avif", "face_restoration": False})
        got = dict(options.snapshot())
        keys = data.draw(st.sets(st.sampled_from(sorted(got))))
        sent = {key: other_spelling(value) if key in keys else value for key, value in got.items()}
        assert options.parse(json.loads(json.dumps(sent)), "options") == {}


def test_mere_texts_are_read_only(serve: Callable[..., Server]) -> None:
    server = serve()
    before = server.get("options").json()
    changes = dict.fromkeys(key for key in before if key.endswith("explanation") or key == "settings_in_ui")
    assert len(changes) >= 4
    assert server.post("options", dict.fromkeys(changes, "<b>mine</b>")).status_code == 200
    assert server.get("options").json() == before


@pytest.mark.parametrize(
    ("freeze", "frozen", "free"),
    [
        (Freeze(everything=True), "eta_ddim", None),
        (Freeze(everything=True), "sd_model_checkpoint", None),
        (Freeze(sections=frozenset({"sampler-params", "vae"})), "eta_ddim", "samples_format"),
        (Freeze(sections=frozenset({"Sampler parameters"})), "eta_ddim", "CLIP_stop_at_last_layers"),
        (Freeze(sections=frozenset({"ui"})), "localization", "return_grid"),
        (Freeze(sections=frozenset({"Live previews"})), "show_progress_type", "localization"),
        (Freeze(sections=frozenset({"sd"})), "sd_model_checkpoint", "sd_vae"),
        (Freeze(keys=frozenset({"samples_format"})), "samples_format", "eta_ancestral"),
        (Freeze(paths=True), "samples_filename_pattern", "samples_format"),
        (Freeze(paths=True), "outdir_img2img_grids", "save_to_dirs"),
    ],
)
def test_frozen_options_are_refused(tmp_path: Path, freeze: Freeze, frozen: str, free: str | None) -> None:
    options = Options(tmp_path / "config.json", freeze)
    values = {
        "eta_ddim": 0.5,
        "sd_model_checkpoint": "tiny-sd15-b",
        "samples_format": "jpg",
        "sd_vae": "x",
        "localization": "y",
        "CLIP_stop_at_last_layers": 2,
        "return_grid": False,
        "show_progress_type": "Full",
        "eta_ancestral": 0.5,
        "samples_filename_pattern": "[seed]",
        "outdir_img2img_grids": "outputs/x",
        "save_to_dirs": False,
    }
    with pytest.raises(SettingsFrozen, match="is disabled: the server runs with --"):
        options.parse({frozen: values[frozen]}, "options")
    if free is not None:
        assert list(options.parse({free: values[free]}, "options")) == [free]
    assert options.parse(dict(options.snapshot()), "options") == {}
    assert options.parse({"sd_model_checkpoint": ""}, "override_settings") in (
        {},
        {"sd_model_checkpoint": ""},
    )


def test_sections_cover_all_options() -> None:
    known = defaults()
    sections = sections_of(known)
    assert all(sections[key] for key in known)
    assert {first for first, _, _ in SECTIONS} | PATHS <= known.keys()
    for key, section in {
        "jpeg_quality": "saving-images",
        "directories_max_prompt_words": "saving-to-dirs",
        "hires_fix_refiner_pass": "sd",
        "overlay_inpaint": "img2img",
        "sd_hypernetwork": "extra_networks",
        "enable_pnginfo": "infotext",
        "rho": "Sampler parameters",
        "enable_prompt_comments": "sd",
    }.items():
        assert section in sections[key]


def test_what_is_frozen_is_answered_by_403_and_nothing_is_set(tmp_path: Path) -> None:
    server = Server(tmp_path, freeze=Freeze(everything=True))
    try:
        before = server.get("options").json()
        response = server.post("options", {"eta_ddim": 0.5})
        assert (response.status_code, response.json()["error"]) == (403, "HTTPException")
        assert "--freeze-settings" in response.json()["detail"]
        assert server.post("options", before).status_code == 200
        override = BASE | {"override_settings": {"eta_ddim": 0.5}}
        assert server.post("txt2img", override).status_code == 403
        assert server.post("txt2img", BASE | {"override_settings": {"eta_ddim": 0.0}}).status_code == 200
        assert server.get("options").json() == before
    finally:
        server.close()


def test_with_the_quirks_what_is_frozen_has_the_status_of_there() -> None:
    assert a1111_status(SettingsFrozen("x"), 403) == 500


def test_null_resets_an_option() -> None:
    assert normalise("jpeg_quality", None, 80.0) == 80.0
    with pytest.raises(InvalidField):
        normalise("jpeg_quality", [], 80.0)
