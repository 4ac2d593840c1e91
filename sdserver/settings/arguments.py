"""Flags to a layer of settings. `-` and `_` are the same in a flag's name; `--name=value` works too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdserver.errors import SettingsError
from sdserver.settings.a1111_flags import FLAGS, Flag
from sdserver.settings.layer import Given, Layer, suggestion
from sdserver.settings.option import Option

INFORMATION = ("-h", "--help", "--version")


@dataclass(slots=True)
class Arguments:
    """Reads flags, left to right, into `layer` and `notices`.

    Attributes:
        origin: what errors add about the place, such as ` in COMMANDLINE_ARGS`.
    """

    options: Mapping[str, Option]
    base: Path
    origin: str = ""
    layer: Layer = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def read(self, tokens: Sequence[str]) -> None:
        """Read all flags.

        Raises:
            SettingsError: an unknown flag, a missing value, or a value without a flag.
        """
        rest = list(tokens)
        previous = "the start"
        while rest:
            token = rest.pop(0)
            if token in INFORMATION:
                continue
            shown, equals, value = token.partition("=")
            if not shown.startswith("-") or not shown.strip("-"):
                raise SettingsError(
                    f"The argument after {previous}{self.origin} belongs to no option; options start with --."
                )
            previous = shown
            key = shown.removeprefix("--").replace("-", "_") if shown != "-f" else "f"
            self._flag(key, shown, [value] if equals else None, rest)

    def _flag(self, key: str, shown: str, inline: list[str] | None, rest: list[str]) -> None:
        if key in self.options:
            takes = 1 if self.options[key].kind.metavar else 0
            values = self._values(shown, takes, inline, rest, switch=True)
            self._give(key, values[0] if values else "true", shown)
        elif key in FLAGS:
            values = self._values(shown, FLAGS[key].takes, inline, rest)
            self._translate(FLAGS[key], values, shown)
        else:
            raise SettingsError(self._unknown(key, shown))

    def _values(
        self, shown: str, takes: int, inline: list[str] | None, rest: list[str], switch: bool = False
    ) -> list[str]:
        if inline is not None:
            if takes == 0 and not switch:
                raise SettingsError(f"{shown}{self.origin} takes no value.")
            return inline
        values: list[str] = []
        while rest and len(values) < (takes if takes >= 0 else len(values) + 1):
            if rest[0].startswith("--") or (values and rest[0].startswith("-")):
                break
            values.append(rest.pop(0))
        if takes and not values:
            raise SettingsError(f"{shown}{self.origin} needs a value.")
        return values

    def _give(self, option: str, text: str, shown: str) -> None:
        if option == "config" and text.lower().endswith((".yaml", ".yml")):
            self._notice(
                "--config with a .yaml file has no effect here: a checkpoint's kind is seen from its tensors."
            )
            return
        if option == "precision" and text.lower() == "autocast" and option in self.layer:
            return
        self.layer.setdefault(option, []).append(Given(text, shown + self.origin, self.base))

    def _translate(self, flag: Flag, values: list[str], shown: str) -> None:
        if not flag.only_for or flag.only_for.intersection(value.lower() for value in values):
            for option, text in flag.sets:
                self._give(option, text.replace("{}", values[0]) if values else text, shown)
        if flag.note:
            self._notice(f"--{flag.name} {flag.note}")

    def _notice(self, line: str) -> None:
        if line not in self.notices:
            self.notices.append(line)

    def _unknown(self, key: str, shown: str) -> str:
        names = [name.replace("_", "-") for name in (*self.options, *FLAGS)]
        hint = suggestion(key.replace("_", "-"), [*names, "help", "version"], "--")
        return f"Unknown option {shown}{self.origin}{hint or '; --help lists all.'}"
