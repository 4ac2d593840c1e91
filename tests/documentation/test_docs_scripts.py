"""docs/api.md tells of every script and each of its arguments, and of no others."""

import json
import re

import pytest

from sdserver.api.always_on import IDLE, SOFT_INPAINTING
from sdserver.api.scripts import prompt_lines
from sdserver.api.scripts.script import Script
from sdserver.api.scripts.table import SCRIPTS
from sdserver.api.scripts.xyz_axes import AXES
from tests.documentation.conftest import codes, read, rows, section

ALWAYS_ON = "### Scripts that are always on"
NO_LABEL = "(a text)"
KINDS = {
    "of whole numbers": ("whole", False),
    "of numbers": ("number", False),
    "of texts": ("text", False),
    "with choices": ("text", True),
    "of none": ("none", False),
}
"""How the list of axes calls them: kind, and whether values come as a list."""


def table_of(script: Script) -> list[list[str]]:
    return list(rows(section(read("api.md"), ALWAYS_ON if script.is_always_on else f"### {script.title}")))


def test_every_script_has_a_section() -> None:
    told = re.findall(r"^### (.+)$", section(read("api.md"), "## Scripts"), re.MULTILINE)
    selectable = [script.title for script in SCRIPTS if not script.is_always_on]
    assert sorted(told) == sorted({*selectable, ALWAYS_ON.removeprefix("### ")})


@pytest.mark.parametrize(
    "script",
    [script for script in SCRIPTS if not script.is_always_on or script.title.lower() == SOFT_INPAINTING],
    ids=lambda script: f"{script.title}-{script.tabs[0]}",
)
def test_each_argument_and_its_default(script: Script) -> None:
    table = table_of(script)
    assert [row[0] for row in table] == [str(place) for place in range(len(script.arguments))]
    assert [row[1] for row in table] == [argument.label or NO_LABEL for argument in script.arguments]
    for row, argument in zip(table, script.arguments, strict=True):
        if argument.label:
            assert json.loads(codes(row[2])[0]) == argument.value, argument.label


@pytest.mark.parametrize(
    "script", [one for one in SCRIPTS if not one.is_always_on], ids=lambda one: one.title
)
def test_each_choice_is_told_and_the_tabs(script: Script) -> None:
    text = section(read("api.md"), f"### {script.title}")
    for tab in script.tabs:
        assert tab in text
    for row, argument in zip(table_of(script), script.arguments, strict=True):
        if argument.choices and not callable(argument.choices):
            told = {*codes(row[3]), *(json.loads(codes(row[2])[0]) if "some of these" in row[3] else ())}
            assert set(argument.choices) <= told


def test_each_script_that_is_always_on_is_named() -> None:
    told = {name.lower() for name in codes(section(read("api.md"), ALWAYS_ON))}
    assert told >= IDLE | {SOFT_INPAINTING}
    assert told >= {script.title.lower() for script in SCRIPTS if script.is_always_on}


def test_each_axis_of_a_plot_stands_with_its_kind() -> None:
    _, _, text = section(read("api.md"), "### X/Y/Z plot").partition("Axes:\n")
    known = {axis.label: (axis.kind, axis.has_choices) for axis in AXES}
    told = {}
    for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        kind = KINDS[item.partition(":")[0]]
        told |= {name: kind for name in codes(item) if name in known}
    told["Prompt order"] = known["Prompt order"]  # stands with the texts
    assert told == known


def test_each_setting_of_a_line() -> None:
    module = vars(prompt_lines)
    text = section(read("api.md"), "### Prompts from file or textbox").partition("A line is")[2]
    acting, _, idle = text.partition("without effect")
    assert set(codes(acting)) == {*module["_TEXTS"], *module["_FIELDS"], *module["_OTHERS"]}
    assert set(codes(idle)) == module["_IDLE"]
    for name in codes(text):
        prompt_lines.read_line(f"--{name} 1", guesses=False)
