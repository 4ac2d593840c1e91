"""A settings file (TOML: `name = value` lines) to a layer of settings."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from sdserver.errors import SettingsError
from sdserver.settings.layer import Given, Layer, suggestion
from sdserver.settings.option import Option

WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    list: "a list",
}


def read_config_file(file: Path, options: Mapping[str, Option]) -> Layer:
    """The file's settings. Relative paths in it start from its own folder.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or holds an unknown name or a value of a
            wrong type.
    """
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings file {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"The settings file {file} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The settings file {file} is not valid TOML: {error}.") from None
    layer: Layer = {}
    for written, value in content.items():
        key = written.replace("-", "_")
        if key not in options or key == "config":
            hint = suggestion(key, list(options)) or "; --help lists all."
            raise SettingsError(f"Unknown setting {written} in {file}{hint}")
        layer[key] = _given(options[key], value, f"{written} in {file}", file.absolute().parent)
    return layer


def _given(option: Option, value: object, source: str, base: Path) -> list[Given]:
    if type(value) not in option.kind.toml:
        wanted = " or ".join(WANTED[kind] for kind in option.kind.toml)
        raise SettingsError(f"{source} needs {wanted}.")
    if isinstance(value, list):
        if not all(type(item) is str for item in value):
            raise SettingsError(f"{source} needs a list of texts in quotes.")
        return [Given(item, source, base, single=True) for item in value]
    return [Given(str(value), source, base)]
