"""Writes docs/settings.md from the tables of settings and of AUTOMATIC1111's flags.

python tools/document_settings.py
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from textwrap import fill

from sdserver.settings.a1111_flags import FLAGS, ONE_OR_MORE, Flag
from sdserver.settings.help import ORDER, WIDTH
from sdserver.settings.model import options
from sdserver.settings.option import Option

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sdserver"
TARGET = ROOT / "docs" / "settings.md"
NO_KEY = frozenset({"config"})
"""Settings that a settings file may not hold."""

OTHER_VARIABLES: Mapping[str, str] = {
    "COMMANDLINE_ARGS": "Flags, as AUTOMATIC1111's launcher takes them.",
    "PYTHON": "Read by start.sh: the Python (3.11 or newer) to make `.venv` with.",
    "SDSERVER_TORCH_INDEX": "Read by start.sh: the package index to take torch from.",
    "HF_TOKEN": "Token for downloads from Hugging Face.",
    "HF_ENDPOINT": "Mirror of Hugging Face that `hf://` addresses are fetched from.",
    "CIVITAI_TOKEN": "Token for downloads from Civitai.",
    "MODEL_URL_TOKEN": "Token for downloads from any other host.",
    "HTTPS_PROXY, HTTP_PROXY, NO_PROXY": "Proxies for downloads.",
    "SSL_CERT_FILE": "Certificate authorities (PEM) that downloads trust.",
}

HEAD = """# Settings

<!-- Written by tools/document_settings.py; a test compares. -->

{order}

- Flag: `-` and `_` are the same in its name. `--port=80` and `--port 80` are the same; a switch is on when
  named, and off by `--listen=false`.
- Variable: an empty one counts as unset, an unknown `SDSERVER_` one is told and ignored.
- Settings file: `name = value` lines in TOML (`port = 8080`, `listen = true`, `device = "cpu"`). Relative
  paths in it start from its own folder. An unknown name is an error.
- A setting with several values (marked +) is replaced as a whole, not added to.
- A wrong value ends the start with exit code 2 and one sentence that names the setting, never its value.
"""


def document() -> str:
    """The document's whole text."""
    order = re.sub(r"SDSERVER_\w*|config\.toml|--config|COMMANDLINE_ARGS", r"`\g<0>`", ORDER)
    parts = [HEAD.format(order=fill(order, WIDTH))]
    idle = unread()
    for group, members in groupby(options(), key=lambda option: option.group):
        parts.append(f"\n## {group}\n\n{table(members, idle)}")
    rows = (f"| `{name.replace(', ', '`, `')}` | {text} |" for name, text in OTHER_VARIABLES.items())
    parts.append("\n## Variables that are no settings\n\n| variable | meaning |\n| --- | --- |\n")
    parts += (f"{row}\n" for row in rows)
    parts.append(f"\n## AUTOMATIC1111's flags\n\n{''.join(flags())}")
    return "".join(parts)


def table(members: Iterable[Option], idle: frozenset[str]) -> str:
    """The settings of one group."""
    lines = ["| flag | variable | key | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for option in members:
        value = f" {option.kind.metavar}" if option.kind.metavar else ""
        several = " +" if option.kind.split else ""
        key = "none" if option.name in NO_KEY else f"`{option.name}`"
        text = option.text + (" **Has no effect yet.**" if option.name in idle else "")
        cells = (
            code(f"--{option.name.replace('_', '-')}{value}") + several,
            f"`SDSERVER_{option.name.upper()}`",
            key,
            option.shown_default,
            text,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def flags() -> Iterator[str]:
    """All of AUTOMATIC1111's flags, by what they do here."""
    names = {option.name for option in options()}
    same = [flag for flag in FLAGS.values() if flag.key in names]
    others = [flag for flag in FLAGS.values() if flag.key not in names]
    yield f"All {len(FLAGS)} flags of v1.10.1 and of its built-in extensions are accepted.\n"
    yield f"\n**Settings of the same name** (see above): {listed(same)}.\n"
    yield "\n**Other names for settings:**\n\n| flag | means | note |\n| --- | --- | --- |\n"
    for flag in others:
        if flag.sets:
            sets = " ".join(setting(flag, name, text) for name, text in flag.sets)
            note = sentence(flag.note) if flag.note else ""
            yield f"| {code(usage(flag))} | {sets} | {note} |\n"
    held = [flag for flag in others if not flag.sets and not flag.note]
    yield f"\n**Ask for what holds here anyway:** {listed(held)}.\n"
    yield "\n**Accepted, without effect;** the start says so in one line:\n\n| flags | why |\n| --- | --- |\n"
    reasons: dict[str, list[Flag]] = {}
    for flag in others:
        if not flag.sets and flag.note:
            reasons.setdefault(flag.note, []).append(flag)
    for note, members in reasons.items():
        yield f"| {listed(members)} | {sentence(note.removeprefix('has no effect here: '))} |\n"


def unread() -> frozenset[str]:
    """Settings that no code but the one that shows them asks for."""
    asked: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        if file.name == "cmd_flags.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_settings(node.value):
                asked.add(node.attr)
            elif file.name == "load.py" and isinstance(node, ast.Constant) and isinstance(node.value, str):
                asked.add(node.value)  # the loader folds some settings into others, by name
            elif isinstance(node, ast.Call) and is_flags_get(node.func):
                asked |= {str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)}
    return frozenset(option.name for option in options()) - asked


def is_settings(node: ast.expr) -> bool:
    """Whether an expression reads `settings` or `self._settings`."""
    return (isinstance(node, ast.Name) and node.id == "settings") or (
        isinstance(node, ast.Attribute) and node.attr == "_settings"
    )


def is_flags_get(node: ast.expr) -> bool:
    """Whether an expression reads `flags.get` or `config.flags.get`: settings under AUTOMATIC1111's names."""
    if not isinstance(node, ast.Attribute) or node.attr != "get":
        return False
    of = node.value
    return (isinstance(of, ast.Name) and of.id == "flags") or (
        isinstance(of, ast.Attribute) and of.attr == "flags"
    )


def usage(flag: Flag) -> str:
    """The flag as it is written."""
    dashes = "-" if len(flag.name) == 1 else "--"
    value = {0: "", ONE_OR_MORE: " VALUE..."}.get(flag.takes, " VALUE")
    return f"{dashes}{flag.name}{value}"


def setting(flag: Flag, name: str, text: str) -> str:
    """One of the settings that a flag stands for."""
    value = "" if text == "true" else " " + text.replace("{}", "VALUE" if flag.takes == 1 else "")
    return code(f"--{name.replace('_', '-')}{value}")


def listed(members: Iterable[Flag]) -> str:
    """Flags without their values."""
    return ", ".join(code(usage(flag).partition(" ")[0]) for flag in members)


def code(text: str) -> str:
    """Code inside a table, where a bare bar would end the cell."""
    return f"`{text}`".replace("|", "\\|")


def sentence(text: str) -> str:
    """With a capital, unless it begins with a file's name."""
    return text if "." in text.partition(" ")[0] else text[:1].upper() + text[1:]


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
