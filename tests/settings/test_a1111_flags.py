"""AUTOMATIC1111's command lines start this server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdserver.settings.a1111_flags import FLAGS, ONE_OR_MORE, Flag
from sdserver.settings.cmd_flags import cmd_flags
from sdserver.settings.help import help_text
from sdserver.settings.model import Settings, options

Load = Callable[..., Settings]
OPTIONS = {option.name for option in options()}
SAMPLES = {
    "port": "1", "api-auth": "u:p", "gradio-auth": "u:p", "gradio-auth-path": "users", "device-id": "1",
    "cors-allow-origins": "https://a", "data-dir": "folder", "timeout-keep-alive": "5", "loglevel": "DEBUG",
    "precision": "full", "config": "v1-inference.yaml",
}  # fmt: skip


def test_all_of_v1_10_1() -> None:
    """121 of its own and 5 of the extensions it ships."""
    assert len(FLAGS) == 126


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_every_flag_is_accepted_and_told_once(settings: Load, tmp_path: Path, flag: Flag) -> None:
    if flag.name.startswith("tls-"):
        pytest.skip("they need each other; see test_settings_load")
    (tmp_path / "folder").mkdir()
    (tmp_path / "users").write_text("u:p")
    value = [] if flag.takes == 0 else [SAMPLES.get(flag.name, "value")]
    dashes = "-" if flag.name == "f" else "--"
    argv = [dashes + flag.name, *value]
    found = settings(*argv, *argv, "--port", "4321")
    assert found.port == 4321
    told = [line for line in found.notices if line.startswith(f"--{flag.name} ")]
    assert len(told) == (1 if flag.note or flag.name == "config" else 0)
    assert settings(dashes + flag.key, *value, "--port", "4321") == found
    assert f"{dashes}{flag.name}" in help_text()


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_every_flag_has_one_meaning(flag: Flag) -> None:
    assert {option for option, _ in flag.sets} <= OPTIONS
    assert flag.takes in (0, 1, ONE_OR_MORE)
    if flag.key in OPTIONS:
        assert not flag.note


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--ckpt", "/m/x.safetensors"], "checkpoint", Path("/m/x.safetensors")),
        (["--no-half"], "precision", "fp32"),
        (["--precision", "full", "--no-half"], "precision", "fp32"),
        (["--no-half", "--precision", "autocast"], "precision", "fp32"),
        (["--precision", "half"], "precision", "fp16"),
        (["--precision", "autocast"], "precision", "auto"),
        (["--xformers"], "attention", "xformers"),
        (["--opt-sdp-attention"], "attention", "sdpa"),
        (["--opt-sdp-no-mem-attention"], "attention", "sdpa"),
        (["--device-id", "2"], "device", "cuda:2"),
        (["--use-cpu", "all"], "device", "cpu"),
        (["--use-cpu", "interrogate", "sd", "--no-half"], "device", "cpu"),
        (["--use-cpu", "interrogate", "esrgan"], "device", "auto"),
        (["--use-ipex"], "device", "xpu"),
        (["--medvram"], "offload", "models"),
        (["--medvram-sdxl"], "offload", "models-sdxl"),
        (["--medvram", "--lowvram"], "offload", "layers"),
        (["--disable-safe-unpickle"], "allow_pickle", True),
        (["--server-name", "10.0.0.1"], "host", "10.0.0.1"),
        (["--subpath", "sd/x/"], "subpath", "/sd/x"),
        (["--loglevel", "WARNING"], "log_level", "warning"),
        (
            ["--cors-allow-origins", "https://a,http://b:1/"],
            "cors_allow_origins",
            ("https://a", "http://b:1"),
        ),
        (["--api-server-stop"], "api_server_stop", True),
        (["--timeout-keep-alive", "5"], "timeout_keep_alive", 5),
        (["--freeze-settings"], "freeze_settings", True),
        (
            ["--freeze-settings-in-sections", "API, Live previews"],
            "freeze_settings_in_sections",
            ("API", "Live previews"),
        ),
        (["--freeze-specific-settings", "sd_vae,rho"], "freeze_specific_settings", ("sd_vae", "rho")),
        (["--hide-ui-dir-config"], "hide_ui_dir_config", True),
        (["--no-prompt-history"], "no_prompt_history", True),
    ],
)
def test_translations(settings: Load, argv: list[str], field: str, value: object) -> None:
    assert getattr(settings(*argv), field) == value


def test_command_lines_of_known_wrappers(settings: Load, tmp_path: Path) -> None:
    """RunPod's worker, Golem's runtime, and AUTOMATIC1111's own advice for running on a CPU."""
    runpod = "--api --nowebui --port 3000 --no-hashing --ckpt /model.safetensors --skip-python-version-check"
    found = settings(
        *runpod.split(), "--skip-torch-cuda-test", "--skip-install", "--lowram", "--opt-sdp-attention"
    )
    assert (found.port, found.nowebui, found.attention) == (3000, True, "sdpa")
    golem = "--ckpt /m.safetensors --skip-torch-cuda-test --skip-python-version-check --skip-version-check"
    assert settings(*golem.split()).notices == ()
    cpu = "--use-cpu all --precision full --no-half --skip-torch-cuda-test"
    found = settings(env={"COMMANDLINE_ARGS": cpu})
    assert (found.device, found.precision) == ("cpu", "fp32")


def test_gradio_users_are_kept_apart(settings: Load, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("e:f")
    found = settings("--gradio-auth", "a:b", "--api-auth", "c:d", "--gradio-auth-path", "users")
    assert [user.user for user in found.api_auth] == ["c"]
    assert [user.user for user in found.gradio_auth] == ["a", "e"]
    assert found.notices == ()


def test_cmd_flags_tell_what_is_frozen(settings: Load) -> None:
    found = cmd_flags(settings("--freeze-specific-settings", "sd_vae, rho", "--hide-ui-dir-config"))
    assert found["freeze_specific_settings"] == "sd_vae,rho"
    assert found["freeze_settings_in_sections"] is None
    assert (found["freeze_settings"], found["hide_ui_dir_config"]) == (False, True)


@pytest.mark.parametrize("name", ["medvram", "medvram-sdxl", "lowvram"])
def test_cmd_flags_tell_what_takes_turns(settings: Load, name: str) -> None:
    found = cmd_flags(settings(f"--{name}"))
    others = {"medvram", "medvram_sdxl", "lowvram"}
    assert {key for key in others if found[key]} == {name.replace("-", "_")}


def test_cmd_flags(settings: Load, root: Path) -> None:
    found = cmd_flags(
        settings("--listen", "--api-auth", "u:canary", "--device-id", "1", "--no-half", "--subpath=sd")
    )
    assert set(found) == set(FLAGS)
    assert (found["listen"], found["port"], found["device_id"], found["no_half"]) == (True, 8000, "1", True)
    assert (found["api_auth"], found["subpath"], found["data_dir"]) == ("***", "sd", str(root))
    assert (found["api"], found["medvram"], found["ckpt"], found["gradio_auth"]) == (True, False, None, None)
    assert (found["max_batch_count"], found["timeout_keep_alive"], found["precision"]) == (16, 30, "full")


def test_cmd_flags_hold_no_secrets(settings: Load, tmp_path: Path) -> None:
    for name in ("users", "more", "keys"):
        (tmp_path / name).write_text(f"{name}:canary" if name != "keys" else "canary-canary-canary")
    found = settings(
        "--api-auth=u:canary", "--api-auth-file=users", "--gradio-auth=u:canary", "--gradio-auth-path=more",
        "--api-keys-file=keys", "--model-url=https://canary:canary@h/x?token=canary", "--ngrok=canary",
    )  # fmt: skip
    shown = cmd_flags(found)
    assert "canary" not in str(shown)
    assert (shown["api_auth"], shown["gradio_auth"], shown["ngrok"]) == ("***", "***", None)
    assert shown["gradio_auth_path"] == str(tmp_path / "more")
