"""Who is told of saved pictures sees each whole, before it has its name, and cannot prevent its saving."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sdserver.images.files import Saver, SaveRules
from sdserver.images.naming import NameFacts

FACTS = NameFacts(
    seed=1,
    first_seed=1,
    last_seed=1,
    steps=1,
    cfg_scale=7.0,
    width=64,
    height=64,
    sampler="Euler",
    schedule="Automatic",
    model_name="model",
    model_hash="",
    prompt="cat",
    prompt_no_styles="cat",
    negative_prompt="",
    styles=(),
    clip_skip=1,
    batch_size=1,
    batch_index=0,
    generation_index=0,
    images=1,
    job_timestamp="0",
    now=datetime(2026, 1, 2, tzinfo=UTC),
    max_prompt_words=3,
    image_hash=lambda: "0" * 64,
)
RULES = SaveRules("outputs/x", "", "[seed]", "", numbered=False, replace=True, write_text=True)


def test_each_picture_is_told_whole_before_it_has_its_name(tmp_path: Path) -> None:
    seen: list[tuple[bytes, str, list[str]]] = []

    def on_saved(path: Path, extension: str) -> None:
        named = sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))
        seen.append((path.read_bytes(), extension, named))

    saver = Saver(tmp_path, on_saved=on_saved)
    path = saver.save(b"one", "png", RULES, FACTS, "text")
    saver.save_copy(path, b"copy", "jpg")
    assert seen == [(b"one", "png", []), (b"copy", "jpg", ["1.png", "1.txt"])]


def test_what_is_said_is_passed_on_and_nothing_else_changes(tmp_path: Path) -> None:
    saver = Saver(tmp_path, on_saved=lambda _path, extension: f"no room for {extension}")
    problems: list[str] = []
    path = saver.save(b"one", "png", RULES, FACTS, None, problems)
    saver.save_copy(path, b"copy", "jpg", problems)
    assert problems == ["no room for png", "no room for jpg"]
    assert path.read_bytes() == b"one"
    assert {each.name for each in path.parent.iterdir()} == {"1.png", "1.jpg"}


def test_what_cannot_be_written_is_not_told(tmp_path: Path) -> None:
    seen: list[Path] = []
    saver = Saver(tmp_path, on_saved=lambda path, _extension: seen.append(path))
    (tmp_path / "outputs").write_text("in the way")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        saver.save(b"one", "png", replace(RULES, directory="outputs/x"), FACTS, None)
    assert seen == []
