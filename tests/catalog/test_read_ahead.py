"""Files read ahead: a hint, which never fails."""

import os
from pathlib import Path

import pytest

from sdserver.catalog.read_ahead import read_ahead


def test_a_file_or_the_files_of_a_folder_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unet").mkdir()
    for name in ("one.safetensors", "unet/two.safetensors", "unet/config.json"):
        (tmp_path / name).write_bytes(b"x")
    asked: list[int] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, *_: asked.append(os.fstat(file).st_ino), raising=False
    )
    read_ahead(tmp_path / "one.safetensors")
    read_ahead(tmp_path)
    names = ("one.safetensors", "unet/two.safetensors")
    assert asked == [(tmp_path / name).stat().st_ino for name in names]


def test_what_is_not_there_or_not_possible_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ahead(tmp_path / "none.safetensors")
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    (tmp_path / "one.safetensors").write_bytes(b"x")
    read_ahead(tmp_path / "one.safetensors")
