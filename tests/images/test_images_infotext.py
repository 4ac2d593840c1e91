"""Infotexts equal AUTOMATIC1111's, and reading gives back what was written."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.images.infotext import InfoValue, quote, render, split, unquote
from sdserver.images.infotext_reader import read

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/images/infotext.json").read_text())


@pytest.mark.parametrize(("text", "expected"), GOLDEN["parse"])
def test_reads_as_automatic1111(text: str, expected: dict[str, InfoValue]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(("value", "expected"), GOLDEN["quote"])
def test_quotes_as_automatic1111(value: InfoValue, expected: InfoValue) -> None:
    assert quote(value) == str(expected)


def test_known_keys_have_their_place_and_version_is_last() -> None:
    values: dict[str, InfoValue] = {
        "Version": "v1",
        "Eta": 0.5,
        "RNG": "NV",
        "Seed": 3,
        "Schedule type": "Karras",
    }
    values |= {"Steps": 6, "User": "me", "Sampler": "Euler a", "Clip skip": None}
    expected = (
        "Steps: 6, Sampler: Euler a, Schedule type: Karras, Seed: 3, RNG: NV, Eta: 0.5, Version: v1, User: me"
    )
    assert render("p", "", values) == f"p\n{expected}"


def test_an_empty_prompt_leaves_no_empty_line() -> None:
    assert render("", "", {"Steps": 1}) == "Steps: 1"
    assert render("", "no", {"Steps": 1}) == "Negative prompt: no\nSteps: 1"


def test_a_value_equal_to_its_key_is_printed_once() -> None:
    assert render("p", "", {"Tiling": "Tiling", "Seed": 0}) == "p\nSeed: 0, Tiling"


@given(st.text(max_size=40).filter(lambda text: not (text.startswith('"') and text.endswith('"'))))
def test_unquote_inverts_quote(text: str) -> None:
    assert unquote(quote(text)) == text


@pytest.mark.parametrize("part", ["aa", 'aa:"', 'aa:"\\\\",', 'aa:"\\",', "aa bb-", '"', "\\"])
def test_hostile_lines_take_linear_time(part: str) -> None:
    started = time.perf_counter()
    split("p\n" + part * 40_000)
    assert time.perf_counter() - started < 3


words = st.text(alphabet="abcXYZ (),:.é猫", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(
    words,
    words,
    st.dictionaries(st.sampled_from(["Foo", "Bar baz", "Key/1"]), words.filter(lambda w: '"' not in w)),
)
def test_split_inverts_render(prompt: str, negative: str, extra: dict[str, str]) -> None:
    extra = {key: value for key, value in extra.items() if key != value}
    values: dict[str, InfoValue] = {"Steps": 20, "Sampler": "Euler", "Size": "512x768", "Version": "v1.10.1"}
    found_prompt, found_negative, found = split(render(prompt, negative, values | extra))
    assert (found_prompt, found_negative) == (prompt, negative)
    assert (
        found
        == {"Steps": "20", "Sampler": "Euler", "Size-1": "512", "Size-2": "768", "Version": "v1.10.1"} | extra
    )
