"""Which folder is the captioner's, and what is said where there is none."""

from pathlib import Path

import pytest

from sdserver.catalog.captioners import find_captioner
from sdserver.errors import MissingModel


def lay(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_the_place_itself_beats_folders_in_it_and_those_go_by_name(tmp_path: Path) -> None:
    place = tmp_path / "BLIP"
    lay(place / ".hidden", "config.json", "model.safetensors")
    lay(place / "a pickle", "config.json", "pytorch_model.bin")
    second = lay(place / "b10", "config.json", "model.safetensors")
    assert find_captioner(place) == second
    first = lay(place / "b9", "config.json", "model.safetensors.index.json")
    assert find_captioner(place) == first
    lay(place, "config.json", "model.safetensors")
    assert find_captioner(place) == place


def test_pickles_alone_are_no_network(tmp_path: Path) -> None:
    lay(tmp_path / "base", "config.json", "pytorch_model.bin")
    lay(tmp_path, "model_base_caption_capfilt_large.pth")
    with pytest.raises(MissingModel, match=r"base.*model\.safetensors.*pickles"):
        find_captioner(tmp_path)


def test_where_there_is_nothing(tmp_path: Path) -> None:
    lay(tmp_path / "file", "model.safetensors")
    (tmp_path / "no folder").touch()
    for place in (None, tmp_path / "gone", tmp_path, tmp_path / "no folder"):
        with pytest.raises(MissingModel, match="models/BLIP/"):
            find_captioner(place)
