"""Links lead somewhere, Python in the documents compiles, and constants are what is said of them."""

import importlib
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from sdserver.ops.state import MAY_FOLLOW
from tests.documentation.conftest import DOCUMENTS, ROOT, codes, read, rows, section

LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CONSTANT = re.compile(r"\| ([\d.]+) \| `([\w.]+):(\w+)(?:\.(\w+))?` \|")
TEST = re.compile(r"`(test_\w+)`")
GROUPED = ("api", "app", "bundle", "engine", "images", "ops", "programs", "sampling")
"""Packages whose files docs/structure.md tells of in groups."""

UNFINISHED = re.compile(r"^@[A-Z]+@$", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives a document's headings."""
    headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if UNFINISHED.search(text):
        pytest.skip("the document holds a place that is still to be filled")
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_fences_are_closed_and_python_compiles(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "```" not in FENCE.sub("", text)
    for language, code in FENCE.findall(text):
        if language == "python":
            compile(code, path.name, "exec")


def test_every_document_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(readme)}
    decisions = ROOT / "docs" / "decisions"
    assert {path for path in DOCUMENTS[1:] if decisions not in path.parents} <= named


def test_constants_are_what_reliability_says() -> None:
    table = section(read("reliability.md"), "## Limits in time")
    found = CONSTANT.findall(table)
    head_and_rule = 2
    assert len(found) == table.count("\n|") - head_and_rule
    for value, module, name, attribute in found:
        constant = getattr(importlib.import_module(module), name)
        actual = getattr(constant(), attribute) if attribute else constant
        assert float(value) == actual, f"{module}:{name}"


def test_every_state_of_the_node_is_told() -> None:
    for phase in MAY_FOLLOW:
        assert f"`{phase}`" in read("reliability.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_are_there(path: Path) -> None:
    named = set(TEST.findall(path.read_text(encoding="utf-8")))
    files = (ROOT / "tests").rglob("test_*.py") if named else ()
    there = {
        name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
    }
    assert named <= there


def test_structure_tells_of_every_file_of_the_larger_packages() -> None:
    told = set()
    for row in rows(read("structure.md")):
        room, slash, _ = (codes(row[0]) or [""])[0].partition("/")
        if slash:
            told |= {f"{room}/{name.removeprefix(f'{room}/')}" for name in codes(row[0])}
    there = {
        f"{room}/{path.stem}"
        for room in GROUPED
        for path in (ROOT / "sdserver" / room).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert told == there
