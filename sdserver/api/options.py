"""AUTOMATIC1111's options: state that clients read, change, and override for one request."""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sdserver.api.option_rules import RESTRICTED, OptionValue, defaults, normalise
from sdserver.api.option_sections import NOTHING_FROZEN, Freeze, sections_of
from sdserver.errors import InvalidField, SettingsError, SettingsFrozen

log = logging.getLogger(__name__)

CHECKPOINT: Final = "sd_model_checkpoint"
CHECKPOINT_HASH: Final = "sd_checkpoint_hash"
MAX_FILE_BYTES = 16 * 2**20


class Snapshot(Mapping[str, OptionValue]):
    """All options at one moment; never changes."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, OptionValue]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, key: str) -> OptionValue:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def flag(self, key: str) -> bool:
        """A switch."""
        return bool(self._values[key])

    def whole(self, key: str) -> int:
        """A whole number; AUTOMATIC1111 types some of them as floats."""
        return int(self.number(key))

    def number(self, key: str) -> float:
        """A number."""
        value = self._values[key]
        if not isinstance(value, int | float):
            raise TypeError(f"the option {key!r} is no number")
        return value

    def text(self, key: str) -> str:
        """Text; null is empty."""
        value = self._values[key]
        return "" if value is None else str(value)

    def overridden(self, overrides: Mapping[str, OptionValue]) -> "Snapshot":
        """These options with some replaced."""
        return Snapshot({**self._values, **overrides})


class Options:
    """The current options, kept in AUTOMATIC1111's `config.json`.

    The file may be AUTOMATIC1111's own: keys that are not known here are kept as they are, values
    that cannot be used are left out with a warning. Safe to use from several threads.

    Args:
        path: the file; it need not exist.
        freeze: what clients may not change.

    Raises:
        SettingsError: the file cannot be read.
    """

    def __init__(self, path: Path, freeze: Freeze = NOTHING_FROZEN) -> None:
        self._path = path
        self._defaults = defaults()
        self._freeze = freeze
        self._sections = sections_of(self._defaults)
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Snapshot], None]] = []
        stored = _read(path)
        self._foreign = {key: value for key, value in stored.items() if key not in self._defaults}
        self._values = dict(self._defaults)
        for key in self._defaults.keys() & stored.keys():
            try:
                self._values[key] = normalise(key, stored[key], self._defaults[key])
            except InvalidField as error:
                log.warning("in %s: %s Its default is used.", path, error)

    def snapshot(self) -> Snapshot:
        """All options now, in AUTOMATIC1111's order."""
        return Snapshot(self._values)

    def parse(self, changes: Mapping[str, object], field: str) -> dict[str, OptionValue]:
        """Changes as a client sent them, checked and normalised; nothing is set.

        Read-only options and those that would not change are left out.

        Args:
            changes: option names and values.
            field: what to name in an error where a key is not known.

        Raises:
            InvalidField: a key is not known, or a value is of the wrong kind or out of range.
            SettingsFrozen: clients may not change one of them.
        """
        unknown = [key for key in changes if key not in self._defaults]
        if unknown:
            shown = ", ".join(repr(key[:100]) for key in unknown[:3])
            raise InvalidField(field, f"There is no option {shown}; GET /sdapi/v1/options lists them.")
        parsed = {
            key: normalise(key, value, self._defaults[key])
            for key, value in changes.items()
            if key not in RESTRICTED
        }
        current = self._values
        changed = {key: value for key, value in parsed.items() if value != current[key]}
        # Some clients say by an empty name that they choose no checkpoint.
        self._freeze.check((key for key in changed if key != CHECKPOINT or changed[key]), self._sections)
        return changed

    def is_frozen(self, key: str) -> bool:
        """Whether clients may not change an option."""
        try:
            self._freeze.check([key], self._sections)
        except SettingsFrozen:
            return True
        return False

    def apply(self, changes: Mapping[str, OptionValue]) -> None:
        """Set options that `parse` has checked. The file is not written."""
        with self._lock:
            self._values = {**self._values, **changes}
        for listener in self._listeners:
            listener(self.snapshot())

    def follow(self, listener: Callable[[Snapshot], None]) -> None:
        """Tell somebody the options now and whenever some are set, in the thread that sets them."""
        self._listeners.append(listener)
        listener(self.snapshot())

    def save(self) -> None:
        """Write the file at once and whole. Blocks: call it in a worker thread.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            content = json.dumps({**self._foreign, **self._values}, indent=4, ensure_ascii=False)
            temporary = self._path.with_name(f".{self._path.name}.{os.urandom(6).hex()}.tmp")
            try:
                with temporary.open("x", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, object]:
    """What the file holds; nothing if there is none.

    Raises:
        SettingsError: it cannot be used. Going on would overwrite it at the next change.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it is longer than {MAX_FILE_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it holds no JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SettingsError(
            f"The options in {path} cannot be read ({error}): repair or remove it."
        ) from error
    return content
