"""Flags, environment and settings files to one `Settings`.

What is given later wins: defaults; `config.toml` beside start.sh (an image's own defaults); `config.toml`
in the data folder, or the file `--config` names; `SDSERVER_*` variables; AUTOMATIC1111's `COMMANDLINE_ARGS`;
flags. An option with several values is replaced as a whole, not added to.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdserver.errors import SettingsError
from sdserver.settings.arguments import Arguments
from sdserver.settings.config_file import read_config_file
from sdserver.settings.credential_files import read_admin_key, read_keys, read_users
from sdserver.settings.environment import read_environment
from sdserver.settings.layer import Given, Layer
from sdserver.settings.model import LOOPBACK, LOOPBACK_HOSTS, Settings, options
from sdserver.settings.option import Option

CONFIG_NAME = "config.toml"
_FOLDERS = (
    "ckpt_dir",
    "models_dir",
    "vae_dir",
    "lora_dir",
    "lyco_dir_backcompat",
    "embeddings_dir",
    "hypernetwork_dir",
    "esrgan_models_path",
    "realesrgan_models_path",
    "gfpgan_models_path",
    "codeformer_models_path",
    "clip_models_path",
)
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what --listen asks for
WILDCARDS = frozenset({ANY_ADDRESS, "::"})


def program_root() -> Path | None:
    """The folder of start.sh when the package runs from its source tree, None when it was installed."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "start.sh").is_file() else None


def load(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    cwd: Path | None = None,
    root: Path | None = None,
) -> Settings:
    """Fold all sources into one `Settings`.

    Args:
        argv: the flags, without the program's name. `--help` and `--version` are `help.information`'s.
        environ: the environment's variables.
        cwd: what relative paths in flags and variables start from; the current folder if None.
        root: folder of start.sh; `program_root()` if None.

    Raises:
        SettingsError: one sentence that names the option and says what it needs, never its value.
    """
    known = {option.name: option for option in options()}
    cwd = (cwd or Path.cwd()).absolute()
    root = root or program_root()
    upper, notices = _flags_and_variables(argv, environ, known, cwd)
    base = _file(root / CONFIG_NAME, known) if root else {}
    named = _last(upper, "config")
    layers = [base, *([_file(_path(known, named), known, must_exist=True)] if named else []), *upper]
    data_dir = _data_dir(_last(layers, "data_dir"), known, cwd, root)
    if not named and data_dir != root:
        found = _file(data_dir / CONFIG_NAME, known)
        if "data_dir" in found:
            raise SettingsError(f"data_dir in {data_dir / CONFIG_NAME} has no effect there; use --data-dir.")
        layers.insert(1, found)
    for layer in layers:
        _apply_listen(layer, known)
    return _settings(_merged(layers), known, data_dir, notices)


def _flags_and_variables(
    argv: Sequence[str], environ: Mapping[str, str], known: Mapping[str, Option], cwd: Path
) -> tuple[list[Layer], list[str]]:
    variables, notices = read_environment(environ, known, cwd)
    try:
        words = shlex.split(environ.get("COMMANDLINE_ARGS", ""))
    except ValueError:
        raise SettingsError("COMMANDLINE_ARGS has a quote that is not closed.") from None
    inherited = Arguments(known, cwd, " in COMMANDLINE_ARGS")
    inherited.read(words)
    flags = Arguments(known, cwd)
    flags.read(argv)
    seen = dict.fromkeys([*notices, *inherited.notices, *flags.notices])
    return [variables, inherited.layer, flags.layer], list(seen)


def _file(file: Path, known: Mapping[str, Option], must_exist: bool = False) -> Layer:
    return read_config_file(file, known) if must_exist or file.is_file() else {}


def _last(layers: Sequence[Layer], name: str) -> Given | None:
    return next((layer[name][-1] for layer in reversed(layers) if name in layer), None)


def _merged(layers: Sequence[Layer]) -> Layer:
    return {name: given for layer in layers for name, given in layer.items()}


def _value(option: Option, text: str, given: Given) -> object:
    try:
        return option.kind.read(text, given.base)
    except ValueError as error:
        raise SettingsError(f"{given.source} needs {error}.") from None


def _path(known: Mapping[str, Option], given: Given) -> Path:
    value = _value(known["config"], given.text, given)
    assert isinstance(value, Path)  # noqa: S101 - the kind of this option is a path
    return value


def _data_dir(given: Given | None, known: Mapping[str, Option], cwd: Path, root: Path | None) -> Path:
    if given is not None:
        folder = _path(known, given)
        if not folder.is_dir():
            raise SettingsError(
                f"{given.source} names {folder}, which is no folder; create it or name another."
            )
        return folder.resolve()
    if (cwd / "models" / "Stable-diffusion").is_dir() or root is None:
        return cwd.resolve()
    return root.resolve()


def _apply_listen(layer: Layer, known: Mapping[str, Option]) -> None:
    """Let `listen` decide the host, unless the same source also names one."""
    if "listen" in layer and "host" not in layer:
        given = layer["listen"][-1]
        address = ANY_ADDRESS if _value(known["listen"], given.text, given) else LOOPBACK
        layer["host"] = [Given(address, given.source, given.base)]


def _settings(merged: Layer, known: Mapping[str, Option], data_dir: Path, notices: list[str]) -> Settings:
    values: dict[str, Any] = {}
    for name, given in merged.items():
        option = known[name]
        found = [_value(option, text, item) for item in given for text in item.texts(option.kind) or [""]]
        values[name] = tuple(dict.fromkeys(found)) if option.kind.split else found[-1]
    values["data_dir"] = data_dir
    values["models_dir"] = values.get("models_dir", data_dir / "models").resolve()
    values.setdefault("maintenance_host", values.get("host", LOOPBACK))
    values["listen"] = values.get("host", LOOPBACK) in WILDCARDS
    for users, file in (("api_auth", "api_auth_file"), ("gradio_auth", "gradio_auth_path")):
        if values.get(file):
            values[users] = values.get(users, ()) + read_users(values[file])
    if values.get("api_keys_file"):
        values["api_keys"], told = read_keys(values["api_keys_file"])
        notices.extend(told)
    if values.get("admin_key_file"):
        values["admin_key"] = read_admin_key(values["admin_key_file"])
    settings = Settings(**values)
    _check(settings)
    is_open = not (settings.api_auth or settings.gradio_auth or settings.api_keys)
    if is_open and settings.host not in LOOPBACK_HOSTS:
        notices.append(
            f"Everybody who reaches {settings.host} may use the API; --api-auth asks for a password."
        )
    return Settings(**values, notices=tuple(notices))


def _check(settings: Settings) -> None:
    """Refuse settings that contradict each other or the files that are there."""
    if (settings.tls_certfile is None) != (settings.tls_keyfile is None):
        raise SettingsError("--tls-certfile and --tls-keyfile need each other; give both or neither.")
    for file in (settings.tls_certfile, settings.tls_keyfile):
        if file is not None and not file.is_file():
            raise SettingsError(f"The TLS file {file} does not exist.")
    if settings.devices and settings.device != "auto":
        raise SettingsError("--device and --devices contradict each other; give one.")
    for name in _FOLDERS:
        folder = getattr(settings, name)
        if folder is not None and folder.exists() and not folder.is_dir():
            raise SettingsError(f"--{name.replace('_', '-')} names {folder}, which is no folder.")
    hosts = {settings.host, settings.maintenance_host}
    if settings.port == settings.maintenance_port != 0 and (len(hosts) == 1 or hosts & WILDCARDS):
        raise SettingsError(
            f"--port and --maintenance-port are both {settings.port}; give one of them another."
        )
