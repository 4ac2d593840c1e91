"""What `--help` and `--version` print."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import fill

from sdserver.settings.a1111_flags import FLAGS, ONE_OR_MORE, Flag
from sdserver.settings.model import options
from sdserver.settings.option import Option
from sdserver.settings.version import VERSION

WIDTH = 100
ORDER = (
    "Every option can also be a variable SDSERVER_NAME, or a line `name = value` in config.toml. What comes "
    "later in this list wins: defaults; config.toml beside start.sh; config.toml in the data folder, or the "
    "file of --config; SDSERVER_ variables; COMMANDLINE_ARGS; flags."
)
INTRODUCTION = (
    "usage: ./start.sh [OPTION]...   or   python -m sdserver [OPTION]...",
    "Serves Stable Diffusion over AUTOMATIC1111's HTTP API.",
    ORDER,
    "In a flag's name - and _ are the same. A switch is turned off again by --name=false.",
)


def information(argv: Sequence[str]) -> str | None:
    """The text to print instead of starting, if the flags ask for one."""
    if "-h" in argv or "--help" in argv:
        return help_text()
    return f"sdserver {VERSION}" if "--version" in argv else None


def help_text() -> str:
    """All options by group, then what AUTOMATIC1111's flags do here. Holds defaults, no given values."""
    lines = [fill(paragraph, WIDTH) for paragraph in INTRODUCTION]
    for group, members in groupby(options(), key=lambda option: option.group):
        lines += ["", f"{group}:", *(line for option in members for line in _option(option))]
    lines += [
        "",
        "Other:",
        *_entry("-h, --help", "Show this text."),
        *_entry("--version", "Show the release."),
    ]
    others = [
        flag
        for flag in FLAGS.values()
        if (flag.key, "{}") not in flag.sets and (flag.key, "true") not in flag.sets
    ]
    lines += ["", "AUTOMATIC1111's other flags, all of which are accepted:"]
    for flag in others:
        lines += _entry(_usage(flag), _meaning(flag))
    return "\n".join(lines)


def _option(option: Option) -> Iterator[str]:
    value = f" {option.kind.metavar}" if option.kind.metavar else ""
    yield from _entry(f"--{option.name.replace('_', '-')}{value}", f"{option.text} [{option.shown_default}]")


def _usage(flag: Flag) -> str:
    dashes = "-" if len(flag.name) == 1 else "--"
    return f"{dashes}{flag.name}{' VALUE' if flag.takes else ''}{'...' if flag.takes == ONE_OR_MORE else ''}"


def _meaning(flag: Flag) -> str:
    sets = [
        f"--{option.replace('_', '-')}{'' if text == 'true' else ' ' + text.replace('{}', 'VALUE')}"
        for option, text in flag.sets
    ]
    if sets and not flag.note:
        return f"means {' '.join(sets)}."
    return flag.note or "asks for what holds here anyway."


def _entry(usage: str, text: str) -> Iterator[str]:
    yield f"  {usage}"
    yield fill(text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
