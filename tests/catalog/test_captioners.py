"""Which folder is the captioner's, and what is said where there is none."""

from pathlib import Path

import pytest

from sdserver.catalog import captioners
from sdserver.catalog.captioners import (
    BLIP_FILE,
    CLIP_FILE,
    DANBOORU_FILE,
    Captioner,
    find_captioner,
    find_clip,
    find_labeller,
    read_word_lists,
)
from sdserver.errors import MissingModel
from sdserver.jobs.job import WordList


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
    assert find_captioner(place) == Captioner(second)
    first = lay(place / "b9", "config.json", "model.safetensors.index.json")
    assert find_captioner(place) == Captioner(first)
    lay(place, "config.json", "model.safetensors")
    assert find_captioner(place) == Captioner(place)


def test_pickles_alone_are_no_network(tmp_path: Path) -> None:
    lay(tmp_path / "base", "config.json", "pytorch_model.bin")
    for allow_pickle in (False, True):
        with pytest.raises(MissingModel, match=r"base.*model\.safetensors.*pickles"):
            find_captioner(tmp_path, allow_pickle=allow_pickle)


def test_the_authors_file_needs_pickles_allowed_and_its_words(tmp_path: Path) -> None:
    place = lay(tmp_path / "BLIP", "other.pth", BLIP_FILE)
    lay(place / "pickled", "config.json", "pytorch_model.bin")
    with pytest.raises(MissingModel, match=rf"{BLIP_FILE}.*pickle.*--allow-pickle"):
        find_captioner(place)
    with pytest.raises(MissingModel, match=rf"{BLIP_FILE} is there.*vocab\.txt of bert-base-uncased"):
        find_captioner(place, allow_pickle=True)
    words = lay(place / "words", "tokenizer.json")
    assert find_captioner(place, allow_pickle=True) == Captioner(place / BLIP_FILE, words)
    lay(place, "vocab.txt")
    assert find_captioner(place, allow_pickle=True) == Captioner(place / BLIP_FILE, place)
    lay(place, "blip.safetensors")
    assert find_captioner(place) == Captioner(place / "blip.safetensors", place)
    folder = lay(place / "z", "config.json", "model.safetensors")
    assert find_captioner(place, allow_pickle=True) == Captioner(folder)


def test_the_labelling_network(tmp_path: Path) -> None:
    for place in (None, tmp_path / "gone", tmp_path):
        with pytest.raises(MissingModel, match=rf"put {DANBOORU_FILE} into models/torch_deepdanbooru/"):
            find_labeller(place, allow_pickle=True)
    lay(tmp_path, "a.pt", DANBOORU_FILE)
    assert find_labeller(tmp_path, allow_pickle=True) == tmp_path / DANBOORU_FILE
    with pytest.raises(MissingModel, match=rf"{DANBOORU_FILE}.*pickle.*--allow-pickle"):
        find_labeller(tmp_path, allow_pickle=False)
    lay(tmp_path, "b.safetensors")
    assert find_labeller(tmp_path, allow_pickle=False) == tmp_path / "b.safetensors"


def test_the_ranking_network(tmp_path: Path) -> None:
    places = [tmp_path / "given", tmp_path / "CLIP"]
    with pytest.raises(MissingModel, match=rf"put {CLIP_FILE}.*models/CLIP/"):
        find_clip(places, allow_pickle=True)
    lay(places[1], CLIP_FILE)
    assert find_clip(places, allow_pickle=True) == places[1] / CLIP_FILE
    with pytest.raises(MissingModel, match=rf"{CLIP_FILE}.*pickle.*--allow-pickle"):
        find_clip(places, allow_pickle=False)
    folder = lay(places[1] / "large", "config.json", "model.safetensors")
    assert find_clip(places, allow_pickle=False) == folder
    lay(places[0], "ViT-L-14.safetensors", "else.pt")
    assert find_clip(places, allow_pickle=False) == places[0] / "ViT-L-14.safetensors"


def test_lists_of_words(tmp_path: Path) -> None:
    empty, place = lay(tmp_path / "empty", "read.me"), lay(tmp_path / "interrogate", ".hidden.txt")
    places = [tmp_path / "gone", empty, place]
    assert read_word_lists(places, (), 0) == ()
    texts = {"artists": "\ufeff one \r\n\ntwo\nthree\n", "b.top3": "x\ny", "a.top2.more": "z", "none": "\n\n"}
    for name, text in texts.items():
        (place / f"{name}.txt").write_text(text, "utf-8", newline="")
    found = (WordList(("z",), 2), WordList(("one", "two", "three")), WordList(("x", "y"), 3))
    assert read_word_lists(places, (), 0) == found
    assert read_word_lists(places, {"artists", "a.top2.more"}, 0) == found[2:]
    assert [words.texts for words in read_word_lists(places, (), 1)] == [("z",), ("one",), ("x",)]
    lay(empty, "first.txt")
    assert read_word_lists(places, (), 0) == (), "the first place with lists counts"


def test_lists_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "artists.txt").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(MissingModel, match=r"artists\.txt.*UTF-8"):
        read_word_lists([tmp_path], (), 0)
    assert read_word_lists([tmp_path], ("artists",), 0) == ()
    monkeypatch.setattr(captioners, "LONGEST_LIST", 9)
    (tmp_path / "artists.txt").write_text("0123456789")
    with pytest.raises(MissingModel, match=r"artists\.txt is too long"):
        read_word_lists([tmp_path], (), 0)


def test_where_there_is_nothing(tmp_path: Path) -> None:
    lay(tmp_path / "file", "model.safetensors")
    (tmp_path / "no folder").touch()
    for place in (None, tmp_path / "gone", tmp_path, tmp_path / "no folder"):
        with pytest.raises(MissingModel, match="models/BLIP/"):
            find_captioner(place)
