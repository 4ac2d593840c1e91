"""Sources, their order, and what each kind of value accepts."""

import dataclasses
import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest

from sdserver.errors import SettingsError
from sdserver.settings.credential import ApiKey, Credential
from sdserver.settings.help import help_text, information
from sdserver.settings.load import load
from sdserver.settings.model import Settings, options
from sdserver.settings.option import Option

Load = Callable[..., Settings]
DIGEST = "ab" * 32
ORIGINS = "--cors-allow-origins needs origins such as https://page.example, separated by commas."
DEVICES = (
    "--devices needs devices separated by commas: numbers of GPUs, or names such as cuda:0, xpu:1, mps "
    "and cpu."
)
STRAY = "The argument after --api-auth belongs to no option; options start with --."


def test_defaults(settings: Load, root: Path) -> None:
    found = settings()
    assert (found.host, found.port, found.maintenance_host, found.maintenance_port) == (
        "127.0.0.1", 8000, "127.0.0.1", 8001,
    )  # fmt: skip
    assert (found.max_queue, found.max_width, found.max_height, found.max_pixels) == (64, 2048, 2048, 2**22)
    assert (found.precision, found.device, found.attention, found.request_timeout) == (
        "auto",
        "auto",
        "auto",
        0,
    )
    assert found.data_dir == root
    assert found.models_dir == root / "models"
    assert found.outputs_dir == root / "outputs"
    assert found.notices == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,1", ("cuda:0", "cuda:1")),
        (" CPU , cpu", ("cpu", "cpu")),
        ("07", ("cuda:7",)),
        ("cuda:0,xpu:2,mps,cpu", ("cuda:0", "xpu:2", "mps", "cpu")),
    ],
)
def test_devices_are_numbers_of_gpus_or_names_and_may_be_repeated(
    settings: Load, text: str, expected: tuple[str, ...]
) -> None:
    assert settings("--devices", text).devices == expected
    assert settings("--devices", text).device == "auto"


def test_later_sources_win(settings: Load, root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    sources: list[Callable[[dict[str, str], list[str]], object]] = [
        lambda _env, _argv: (root / "config.toml").write_text("port = 1001\nmax_queue = 7\n"),
        lambda _env, _argv: (data / "config.toml").write_text("port = 1002\n"),
        lambda env, _argv: env.update(SDSERVER_PORT="1003"),
        lambda env, _argv: env.update(COMMANDLINE_ARGS="--port 1004"),
        lambda _env, argv: argv.extend(["--port", "1005"]),
    ]
    env: dict[str, str] = {}
    argv = ["--data-dir", str(data)]
    assert settings(*argv).port == 8000
    for number, add in enumerate(sources, 1001):
        add(env, argv)
        found = settings(*argv, env=env)
        assert found.port == number
        assert found.max_queue == 7


def test_config_replaces_the_data_folders_file_but_not_the_programs(
    settings: Load, root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (root / "config.toml").write_text("listen = true\n")
    (data / "config.toml").write_text("port = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("max-queue = 9\n")
    found = settings("--data-dir", str(data), "--config", "other.toml")
    assert (found.host, found.port, found.max_queue) == ("0.0.0.0", 8000, 9)
    assert found == settings("--data-dir", str(data), env={"SDSERVER_CONFIG": str(other)})


def test_config_of_the_program_may_name_the_data_folder(settings: Load, root: Path, tmp_path: Path) -> None:
    (root / "data").mkdir()
    (root / "config.toml").write_text('data_dir = "data"\n')
    (root / "data" / "config.toml").write_text("port = 5\n")
    found = settings()
    assert (found.data_dir, found.port) == (root / "data", 5)
    (root / "data" / "config.toml").write_text('data_dir = "elsewhere"\n')
    with pytest.raises(SettingsError, match="has no effect there"):
        settings()


def test_current_folder_is_the_data_folder_if_it_is_laid_out_so(
    settings: Load, root: Path, tmp_path: Path
) -> None:
    webui = tmp_path / "webui"
    (webui / "models").mkdir(parents=True)
    assert settings(cwd=webui).data_dir == root
    (webui / "models" / "Stable-diffusion").mkdir()
    assert settings(cwd=webui).data_dir == webui


@pytest.mark.parametrize("flag", ["--model_url", "--model-url"])
def test_both_spellings_and_forms(settings: Load, flag: str) -> None:
    assert settings(flag, "https://a/x").model_url == ("https://a/x",)
    assert settings(f"{flag}=https://a/x?k=v").model_url == ("https://a/x?k=v",)
    assert settings(flag, "https://a/x", flag, "/my models/x").model_url == ("https://a/x", "/my models/x")


def test_several_addresses_in_one_variable(settings: Load) -> None:
    env = {"SDSERVER_MODEL_URL": "/my models/a.safetensors https://b/x\nhttps://c/y"}
    assert settings(env=env).model_url == ("/my models/a.safetensors", "https://b/x", "https://c/y")
    assert settings("--model_url", "https://d", env=env).model_url == ("https://d",)


def test_listen(settings: Load, root: Path) -> None:
    found = settings("--listen")
    assert (found.host, found.maintenance_host, found.listen) == ("0.0.0.0", "0.0.0.0", True)
    assert settings("--listen", "--maintenance-host", "127.0.0.1").maintenance_host == "127.0.0.1"
    assert settings("--listen", "--host", "10.0.0.1").host == "10.0.0.1"
    assert settings("--host", "10.0.0.1").maintenance_host == "10.0.0.1"
    assert settings("--listen", env={"SDSERVER_HOST": "10.0.0.1"}).host == "0.0.0.0"
    (root / "config.toml").write_text("listen = true\n")
    assert settings().host == "0.0.0.0"
    assert settings("--listen=false").host == "127.0.0.1"
    assert settings("--host", "::1").listen is False


def test_port_stays_8000_without_page(settings: Load) -> None:
    assert settings("--nowebui", "--api").port == 8000


def test_credentials(settings: Load, root: Path, tmp_path: Path) -> None:
    users = (Credential("u", "p:q"), Credential("ü", "x y"))
    assert settings("--api-auth", "u:p:q, ü:x y").api_auth == users
    assert settings(env={"SDSERVER_API_AUTH": "u:p:q,ü:x y"}).api_auth == users
    (tmp_path / "users").write_text("u:p:q\n\nü:x y\n", "utf-8")
    assert settings("--api-auth-file", "users").api_auth == users
    (root / "config.toml").write_text('api_auth = ["u:a,b"]\n')
    assert settings().api_auth == (Credential("u", "a,b"),)


@pytest.mark.parametrize("text", ["", ",", "nobody", ":p", "u:", "u:p,x"])
def test_no_credentials_are_an_error_not_an_open_server(settings: Load, text: str) -> None:
    with pytest.raises(SettingsError, match="--api-auth needs user:password"):
        settings(f"--api-auth={text}")


def test_empty_file_of_users_is_an_error(settings: Load, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("\n")
    with pytest.raises(SettingsError, match="holds none"):
        settings("--api-auth-file", "users")


def test_keys(settings: Load, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(
        "\ufeff# ours\n\nsk-0123456789abcdef\r\nann\tsk-fedcba9876543210\nbob  sk-%\n"
    )
    found = settings("--listen", "--api-keys-file", "keys")
    keys = {"sk-0123456789abcdef": "", "sk-fedcba9876543210": "ann", "sk-%": "bob"}
    assert found.api_keys == tuple(ApiKey.of(key, name) for key, name in keys.items())
    assert [key.name for key in found.api_keys] == ["", "ann", "bob"]
    assert found.notices == (
        f"1 of the keys in {tmp_path / 'keys'} can be guessed; give them 16 characters or more.",
    )
    shown = repr(found) + str(found.public()) + repr(found.api_keys) + str(pickle.dumps(found))
    assert [key for key in keys if key in shown] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds none"),
        ("# one\n \n", "holds none"),
        ("a\nb c canary\n", "Line 2 of the file .* needs a key, or a name and a key"),
        ("ann canaryé", "Line 1 of"),
    ],
)
def test_files_without_keys_are_an_error(settings: Load, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys").write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        settings("--api-keys-file", "keys")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--api-auth-file", "--gradio-auth-path", "--api-keys-file"])
def test_credential_files_that_cannot_be_read(settings: Load, tmp_path: Path, flag: str) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings(flag, "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        settings(flag, "binary")


def test_empty_variables_count_as_unset(settings: Load) -> None:
    assert settings(env={"SDSERVER_PORT": "", "SDSERVER_API_AUTH": ""}) == settings()


def test_kubernetes_service_links_are_left_alone(settings: Load) -> None:
    links = {
        "SDSERVER_PORT": "tcp://10.0.0.1:8000",
        "SDSERVER_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SDSERVER_SERVICE_HOST": "10.0.0.1",
        "SDSERVER_SERVICE_PORT": "8000",
        "SDSERVER_SERVICE_PORT_HTTP": "8000",
    }
    found = settings(env=links)
    assert found.port == 8000
    assert len(found.notices) == 1


def test_unknown_variables_are_told(settings: Load) -> None:
    found = settings(env={"SDSERVER_PROT": "1", "SDSERVER_TORCH_INDEX": "x", "OTHER": "y"})
    assert found.notices == ("SDSERVER_PROT is no setting and was ignored; did you mean SDSERVER_PORT?",)


def test_open_server_is_told(settings: Load) -> None:
    assert "--api-auth" in settings("--listen").notices[0]
    for flag in ("--api-auth", "--gradio-auth"):
        assert settings("--listen", flag, "u:p").notices == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prot", "1"], "Unknown option --prot; did you mean --port?"),
        (["--model_ulr=https://u:secret@h"], "Unknown option --model_ulr; did you mean --model-url?"),
        (["--xyzzy"], "Unknown option --xyzzy; --help lists all."),
        (["-port", "1"], "Unknown option -port; did you mean --port?"),
        (["--port"], "--port needs a value."),
        (["--port", "--listen"], "--port needs a value."),
        (["--use-cpu"], "--use-cpu needs a value."),
        (["--medvram=1"], "--medvram takes no value."),
        (["--port", "http"], "--port needs a whole number from 0 to 65535."),
        (["--port", "65536"], "--port needs a whole number from 0 to 65535."),
        (["--port", "-1"], "--port needs a whole number from 0 to 65535."),
        (["--port", "²"], "--port needs a whole number from 0 to 65535."),
        (["--port", "1" * 5000], "--port needs a whole number from 0 to 65535."),
        (["--listen=maybe"], "--listen needs true or false."),
        (["--request-timeout", "nan"], "--request-timeout needs a number of seconds from 0 to 86400."),
        (["--request-timeout", "-1"], "--request-timeout needs a number of seconds from 0 to 86400."),
        (["--precision", "fp8"], "--precision needs one of auto, fp16, bf16, fp32, full, half, autocast."),
        (["--device", "gpu"], "--device needs auto, cpu, cuda, cuda:N, mps, xpu or xpu:N."),
        (["--device-id", "x"], "--device-id needs auto, cpu, cuda, cuda:N, mps, xpu or xpu:N."),
        (["--devices="], DEVICES),
        (["--devices", "0,,1"], DEVICES),
        (["--devices", "cpu,gpu"], DEVICES),
        (["--devices", "auto,cpu"], DEVICES),
        (["--devices", ",".join(65 * ["cpu"])], DEVICES),
        (["--devices", "0", "--device", "cpu"], "--device and --devices contradict each other; give one."),
        (["--model_sha256", "abc"], "--model_sha256 needs 64 hexadecimal digits."),
        (["--model_url="], "--model_url needs an address such as https://host/file.safetensors, or a path."),
        (["--host", "a b"], "--host needs an address or host name such as 127.0.0.1."),
        (["--subpath", "../x"], "--subpath needs a path prefix such as /sd."),
        (["--cors-allow-origins-regex", "("], "--cors-allow-origins-regex needs a regular expression."),
        (["--cors-allow-origins", "a.b"], ORIGINS),
        (["--data-dir", "a\0b"], "--data-dir needs the path of a file or folder."),
        (["--api-auth", "u:my", "password"], STRAY),
        (["--port", "8001"], "--port and --maintenance-port are both 8001; give one of them another."),
        (["--tls-keyfile", "k"], "--tls-certfile and --tls-keyfile need each other; give both or neither."),
    ],
)  # fmt: skip
def test_errors(settings: Load, argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(*argv)
    assert str(caught.value) == message


def test_errors_name_their_source(settings: Load, root: Path) -> None:
    with pytest.raises(SettingsError, match=r"^SDSERVER_PORT needs a whole number"):
        settings(env={"SDSERVER_PORT": "x"})
    with pytest.raises(SettingsError, match=r"^--port in COMMANDLINE_ARGS needs a whole number"):
        settings(env={"COMMANDLINE_ARGS": "--port x"})
    with pytest.raises(
        SettingsError, match=r"^Unknown option --prot in COMMANDLINE_ARGS; did you mean --port\?"
    ):
        settings(env={"COMMANDLINE_ARGS": "--prot x"})
    with pytest.raises(SettingsError, match="a quote that is not closed"):
        settings(env={"COMMANDLINE_ARGS": "--api-auth 'u:p"})
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings("--config", "missing.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 1", r"Unknown setting prot in .*config.toml; did you mean port\?"),
        ('port = "1"', r"port in .*config.toml needs a whole number\."),
        ("port = true", r"port in .*config.toml needs a whole number\."),
        ("listen = 1", r"listen in .*config.toml needs true or false\."),
        ("port = 70000", r"port in .*config.toml needs a whole number from 0 to 65535\."),
        ("model_url = [1]", r"model_url in .*config.toml needs a list of texts in quotes\."),
        ("[server]\nport = 1", r"Unknown setting server in"),
        ("port = ", r"is not valid TOML"),
        ("config = 'x'", r"Unknown setting config in"),
    ],
)
def test_errors_in_the_file(settings: Load, root: Path, content: str, message: str) -> None:
    (root / "config.toml").write_text(content)
    with pytest.raises(SettingsError, match=message):
        settings()


def test_file_that_is_no_text(settings: Load, root: Path) -> None:
    (root / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        settings()


def test_paths_start_from_their_source(settings: Load, root: Path, tmp_path: Path) -> None:
    (root / "config.toml").write_text('checkpoint = "a.safetensors"\n')
    assert settings().checkpoint == root / "a.safetensors"
    assert settings("--ckpt", "b").checkpoint == tmp_path / "b"
    assert settings(env={"SDSERVER_CHECKPOINT": "/c"}).checkpoint == Path("/c")


def test_missing_data_folder(settings: Load) -> None:
    with pytest.raises(SettingsError, match="which is no folder; create it or name another"):
        settings("--data-dir", "missing")


def test_tls_files_must_exist(settings: Load, tmp_path: Path) -> None:
    argv = ["--tls-certfile", "c.pem", "--tls-keyfile", "k.pem"]
    with pytest.raises(SettingsError, match="does not exist"):
        settings(*argv)
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).touch()
    assert settings(*argv).tls_keyfile == tmp_path / "k.pem"


def test_any_free_port_twice(settings: Load) -> None:
    assert settings("--port", "0", "--maintenance-port", "0").port == 0


def test_secrets_show_nowhere(settings: Load) -> None:
    canary = "canary"
    argv = [
        "--api-auth",
        f"u:{canary}",
        "--model_url",
        f"https://{canary}:{canary}@h/x?token={canary}#{canary}",
    ]
    found = settings(*argv)
    assert found.api_auth[0].password == canary
    assert canary in found.model_url[0]
    texts = [
        repr(found),
        str(found),
        repr(found.api_auth),
        str(found.public()),
        help_text(),
        str(found.notices),
    ]
    assert [text for text in texts if canary in text] == []
    assert found.public()["model_url"] == ["https://h/x"]
    for bad in (
        ["--api-auth", canary],
        ["--port", canary],
        ["--model_url", f"{canary}\x07x"],
        [f"--x={canary}"],
        [canary],
    ):
        with pytest.raises(SettingsError) as caught:
            settings(*bad)
        assert canary not in str(caught.value)
        assert caught.value.__cause__ is None


def test_settings_are_frozen_and_cross_processes(settings: Load) -> None:
    found = settings("--api-auth", "u:p")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.port = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own bytes


SAMPLES = {
    "": "true",
    "ADDRESS": "10.1.2.3",
    "ADDRESSES": "10.0.0.0/8",
    "DEVICE": "cuda:1",
    "DEVICES": "cuda:1,cpu",
    "HEX": DIGEST,
    "KEY": "0123456789abcdef",
    "N": "5000",
    "NAMES": "sd.example",
    "ORIGINS": "https://a.b",
    "PATH": "somewhere",
    "PREFIX": "/sd",
    "REGEX": "a+",
    "SECONDS": "12",
    "URL": "https://a/x",
    "USER:PASSWORD": "u:p",
}
SPECIAL = {"max_running": "9", "max_batch_rows": "9", "threads": "2"}


@pytest.mark.parametrize("option", list(options()), ids=lambda option: option.name)
def test_every_option_is_documented_and_yields_its_fields_type(
    settings: Load, tmp_path: Path, option: Option
) -> None:
    sample = (
        SPECIAL.get(option.name) or SAMPLES.get(option.kind.metavar) or option.kind.metavar.split("|")[-1]
    )
    (tmp_path / "somewhere").mkdir()
    assert f"--{option.name.replace('_', '-')}" in help_text()
    assert option.text.endswith(".")
    files = ("config", "api_auth_file", "gradio_auth_path", "api_keys_file", "admin_key_file")
    if option.name in files or option.name.startswith("tls"):
        return
    by_flag = settings(f"--{option.name}={sample}")
    assert by_flag == settings(env={f"SDSERVER_{option.name.upper()}": sample})
    value = getattr(by_flag, option.name)
    assert value != getattr(settings(), option.name)
    hint = get_type_hints(Settings)[option.name]
    if get_origin(hint) is tuple:
        assert isinstance(value, tuple)
        assert isinstance(value[0], get_args(hint)[0])
    elif isinstance(hint, type) or get_origin(hint) is UnionType:
        assert isinstance(value, hint)
        assert type(value) is not bool or hint is bool
    else:
        assert value in get_args(hint)


def test_the_operators_key_is_long_and_shown_nowhere(settings: Load, tmp_path: Path) -> None:
    key = "0123456789abcdef"
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    for found in (
        settings("--admin-key", key),
        settings(env={"SDSERVER_ADMIN_KEY": key}),
        settings("--admin-key-file", str(file)),
    ):
        assert found.admin_key is not None
        assert found.admin_key.digest == hashlib.sha256(key.encode()).digest()
        assert found.public()["admin_key"] == "***"
        assert key not in repr(found)
    assert settings().admin_key is None
    for short in (key[:-1], "0123456789 abcdef", "0123456789abcdeé", ""):
        file.write_text(short)
        for flags in (("--admin-key", short), ("--admin-key-file", str(file))):
            with pytest.raises(SettingsError, match="16 visible ASCII characters"):
                settings(*flags)


def test_information() -> None:
    assert information(["--port", "1"]) is None
    assert information(["--version"]) == "sdserver 0.1.0"
    assert information(["--port", "1", "-h"]) == help_text()
    assert max(len(line) for line in help_text().splitlines()) <= 100


def test_import_is_light() -> None:
    """The maintenance port answers within a second of the start, so nothing heavy may come with it."""
    program = (
        "import sys; from sdserver.settings.load import load; from sdserver.settings.help import information;"
        "load(sys.argv[1:], {});"
        "print([name for name in ('pydantic', 'asyncio', 'torch', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_load_finds_the_program_and_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "Stable-diffusion").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load([], {}).data_dir == tmp_path
