"""Styles: named prompt templates from a `styles.csv` in AUTOMATIC1111's format."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdserver.errors import InvalidField, SettingsError

MAX_FILE_BYTES = 16 * 2**20
MAX_PROMPT_LENGTH = 1_000_000

_PLACEHOLDER = "{prompt}"


@dataclass(frozen=True, slots=True)
class Style:
    """A named pair of templates; empty ones change nothing."""

    name: str
    prompt: str
    negative_prompt: str


def read_styles(path: Path) -> tuple[Style, ...]:
    """The styles of a CSV file with the columns name, prompt (or text) and negative_prompt.

    Rows whose name is empty or starts with `#` are skipped; of several with one name the last counts, at
    the first one's place. A file that does not exist holds no styles.

    Raises:
        SettingsError: the file cannot be read, is longer than `MAX_FILE_BYTES`, or is no such table.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"The styles file {path} is longer than {MAX_FILE_BYTES} bytes: shorten it.")
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restval=""))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, csv.Error) as error:
        message = f"The styles file {path} cannot be read ({error}): repair or remove it."
        raise SettingsError(message) from error
    if rows and "name" not in rows[0]:
        raise SettingsError(f"The styles file {path} has no column 'name': add a line of headings.")
    column = "prompt" if rows and "prompt" in rows[0] else "text"
    styles = (Style(row["name"], row.get(column, ""), row.get("negative_prompt", "")) for row in rows)
    return tuple({s.name: s for s in styles if s.name and not s.name.startswith("#")}.values())


def apply_styles(
    prompt: str, negative_prompt: str, names: Sequence[str], styles: Iterable[Style]
) -> tuple[str, str]:
    """The two prompts after the named styles, in order.

    A template's `{prompt}` stands for the prompt so far; a template without it is appended after a comma.
    A name that is not known only strips the prompts' white space, as in AUTOMATIC1111.

    Raises:
        InvalidField: a prompt would grow beyond `MAX_PROMPT_LENGTH` characters.
    """
    known = {style.name: style for style in styles}
    for name in names:
        style = known.get(name, Style(name, "", ""))
        prompt = _merge(style.prompt, prompt)
        negative_prompt = _merge(style.negative_prompt, negative_prompt)
    return prompt, negative_prompt


def _merge(template: str, prompt: str) -> str:
    length = len(template) + len(prompt) * max(1, template.count(_PLACEHOLDER))
    if length > MAX_PROMPT_LENGTH:
        message = f"With these styles the prompt exceeds {MAX_PROMPT_LENGTH} characters: use fewer."
        raise InvalidField("styles", message)
    if _PLACEHOLDER in template:
        return template.replace(_PLACEHOLDER, prompt)
    return ", ".join(filter(None, (prompt.strip(), template.strip())))
