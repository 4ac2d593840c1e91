"""File names follow AUTOMATIC1111's patterns and no pattern leads out of `outputs`."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.images.files import Saver, SaveRules, next_counter
from sdserver.images.naming import NameFacts, expand

FACTS = NameFacts(
    seed=1234,
    first_seed=1234,
    last_seed=1235,
    steps=20,
    cfg_scale=7.0,
    width=512,
    height=768,
    sampler="DPM++ 2M",
    schedule="Karras",
    model_name="folder/model",
    model_hash="0123456789",
    prompt="a (red:1.2) cat, on\nthe: moon?",
    prompt_no_styles="a cat",
    negative_prompt="dog",
    styles=("One", "Two"),
    clip_skip=1,
    batch_size=1,
    batch_index=0,
    generation_index=0,
    images=1,
    job_timestamp="20260102030405",
    now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    max_prompt_words=3,
    image_hash=lambda: "0123456789abcdef" * 4,
)
PICTURES = SaveRules(
    "outputs/txt2img-images", "[date]", "[seed]", "", numbered=True, replace=True, write_text=False
)
GRIDS = replace(PICTURES, directory="outputs/txt2img-grids", name_pattern="", prefix="grid")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[seed]-[steps]-[cfg]", "1234-20-7.0"),
        ("[WIDTH]x[Height]", "512x768"),
        ("[sampler] [scheduler]", "DPM++ 2M Karras"),
        ("[sampler_scheduler]", "DPM++ 2M Karras"),
        ("[model_name]-[model_hash]", "folder_model-0123456789"),
        ("[date]", "2026-01-02"),
        ("[datetime]", "20260102030405"),
        ("[datetime<%Y_%H>]", "2026_03"),
        ("[datetime<%H><Asia/Tokyo>]", "12"),
        ("[datetime<%H><No/Where>]", "03"),
        ("[job_timestamp]", "20260102030405"),
        ("[prompt]", "a_(red_1.2)_cat,_on_the__moon_"),
        ("[prompt_spaces]", "a (red_1.2) cat, on_the_ moon_"),
        ("[prompt_words]", "a red 1"),
        ("[prompt_no_styles]", "a cat"),
        ("[prompt_hash]", "3e42523e"),
        ("[negative_prompt_hash<4>]", "cd63"),
        ("[styles]", "One, Two"),
        ("[hasprompt<cat|no><dog|nodog>]", "catnodog"),
        ("x[none]y", "xy"),
        ("[seed] [seed_first] [seed_last]", "1234 1234"),
        ("[generation_number]-[seed]", "-1234"),
        ("a[denoising]b", "b"),
        ("[vae_filename]", "NoneType"),
        ("[image_hash]", "0123456789abcdef" * 4),
        ("[image_hash<6>]", "012345"),
        ("[image_hash<0>]", "0123456789abcdef" * 4),
        ("[basename][user]", "img"),
        ("[clip_skip]-[negative_prompt_hash]", "1-cd6357ef"),
        ("[DateTime<%Y><America/New_York>]", "2026"),
        ("[datetime<%d %H><America/New_York>]", "01 22"),
        ("[datetime<>]", "20260102030405"),
        ("[seed] - [batch_number]", "1234"),
        ("[nope]-[seed]", "[nope]-1234"),
        ("plain", "plain"),
    ],
)
def test_tokens(pattern: str, expected: str) -> None:
    assert expand(pattern, FACTS) == expected


def test_batch_tokens_in_a_batch() -> None:
    facts = replace(FACTS, batch_size=2, batch_index=1, generation_index=3, images=4)
    assert expand("[batch_number]/[batch_size] [generation_number] [seed_last]", facts) == "2/2 4 1235"
    last = replace(facts, seed=1235)
    assert expand("[seed_first] [seed]", last) == "1234 1235"


def test_tokens_that_tell_of_img2img_and_the_vae() -> None:
    facts = replace(FACTS, denoising=0.5, vae_filename="kl-f8", user="me")
    assert expand("a [denoising] [vae_filename] [user]", facts) == "a 0.5 kl-f8 me"


def test_counters_go_on_from_the_greatest(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    first = saver.save(b"1", "png", PICTURES, FACTS, None)
    assert first == tmp_path / "outputs/txt2img-images/2026-01-02/00000-1234.png"
    assert first.read_bytes() == b"1"
    (first.parent / "00041-x.jpg").touch()
    (first.parent / "note-99999.txt").touch()
    assert saver.save(b"2", "png", PICTURES, FACTS, None).name == "00042-1234.png"
    assert next_counter(first.parent, "note") == 100_000


def test_grids_have_their_own_counter(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    assert [saver.save(b"g", "png", GRIDS, FACTS, None).name for _ in range(2)] == [
        "grid-0000.png",
        "grid-0001.png",
    ]


def test_many_threads_never_share_a_number(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: saver.save(bytes([i]), "png", PICTURES, FACTS, None), range(40)))
    assert len({path.name for path in paths}) == 40
    assert [path.read_bytes()[0] for path in paths] == list(range(40))
    assert not list(paths[0].parent.glob("*.tmp"))


def test_without_numbers_a_file_is_replaced_or_gets_a_suffix(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    plain = replace(PICTURES, numbered=False)
    assert [saver.save(b"a", "png", plain, FACTS, None).name for _ in range(2)] == ["1234.png"] * 2
    suffixed = replace(plain, replace=False)
    assert [saver.save(b"a", "png", suffixed, FACTS, None).name for _ in range(2)] == [
        "1234-1.png",
        "1234-2.png",
    ]


def test_the_infotext_stands_beside_the_picture(tmp_path: Path) -> None:
    path = Saver(tmp_path).save(b"a", "png", replace(PICTURES, write_text=True), FACTS, "猫\nSteps: 1")
    assert path.with_suffix(".txt").read_text("utf-8") == "猫\nSteps: 1\n"


@pytest.mark.parametrize(
    "directory", ["..", "/etc", "outputs/../..", "models", "outputs/../models", "outputs\0x", ""]
)
def test_folders_outside_outputs_are_refused(tmp_path: Path, directory: str) -> None:
    with pytest.raises(ValueError, match="not inside"):
        Saver(tmp_path).save(b"a", "png", replace(PICTURES, directory=directory), FACTS, None)
    assert not list(tmp_path.iterdir())


def test_a_link_that_the_operator_put_there_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/link").symlink_to(tmp_path / "elsewhere")
    Saver(tmp_path).save(b"a", "png", replace(PICTURES, directory="outputs/link"), FACTS, None)
    assert (tmp_path / "elsewhere/2026-01-02/00000-1234.png").read_bytes() == b"a"


def test_a_suffix_stands_behind_the_name(tmp_path: Path) -> None:
    saver, rules = Saver(tmp_path), replace(PICTURES, suffix="-mask")
    assert saver.save(b"a", "png", rules, FACTS, None).name == "00000-1234-mask.png"
    plain = replace(rules, numbered=False, replace=False)
    assert [saver.save(b"a", "png", plain, FACTS, None).name for _ in range(2)] == [
        "1234-mask.png",
        "1234-mask-1.png",
    ]


def test_a_copy_stands_beside_the_picture(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    path = saver.save(b"a", "png", replace(PICTURES, name_pattern="v1.5 [seed]"), FACTS, None)
    saver.save_copy(path, b"b", "jpg")
    found = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    assert found == {"00000-v1.5 1234.png": b"a", "00000-v1.5 1234.jpg": b"b"}


def test_the_history_is_the_latest_infotext(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    saver.remember("a long first one")
    saver.remember("猫\nSteps: 1")
    assert {each.name for each in tmp_path.iterdir()} == {"params.txt"}
    assert (tmp_path / "params.txt").read_text("utf-8") == "猫\nSteps: 1"


def test_the_history_may_be_off(tmp_path: Path) -> None:
    Saver(tmp_path, keeps_history=False).remember("x")
    assert not list(tmp_path.iterdir())


hostile = st.text(alphabet="./\\ a\0\n[]seedprompt:é", max_size=60)


@given(name=hostile, folder=hostile, prompt=hostile)
def test_no_pattern_leads_out(
    tmp_path_factory: pytest.TempPathFactory, name: str, folder: str, prompt: str
) -> None:
    root = tmp_path_factory.mktemp("out", numbered=True)
    rules = replace(PICTURES, name_pattern=name, directory_pattern=folder)
    path = Saver(root).save(b"a", "png", rules, replace(FACTS, prompt=prompt), None)
    assert path.resolve().is_relative_to(root / "outputs/txt2img-images")
    assert path.read_bytes() == b"a"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Saver(tmp_path).save(b"a", "png", PICTURES, FACTS, None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
