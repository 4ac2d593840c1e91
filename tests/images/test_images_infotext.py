"""Infotexts equal AUTOMATIC1111's, and reading gives back what was written."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.images.infotext import MAX_PAIRS, InfoValue, quote, render, split, unquote
from sdserver.images.infotext_reader import Reading, read, take_styles

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
    started = time.thread_time()
    split("p\n" + part * 40_000)
    assert time.thread_time() - started < 3


@pytest.mark.parametrize(
    "part", ['a: "', "a: b, ", "Steps: 1, ", "a:", ", ", 'Lora hashes: "a: b", ', 'a: "\\"']
)
def test_a_megabyte_takes_four_times_the_time_of_a_quarter(part: str) -> None:
    quarter, whole = (min(reading(part, size) for _ in range(3)) for size in (250_000, 1_000_000))
    assert whole <= max(10 * quarter, 0.1)


@pytest.mark.parametrize("part", ["ab:,", 'ab: "\\n",', "ab: 1x1,", " :"])
def test_a_megabyte_of_values_is_read_soon(part: str) -> None:
    """0.1 s are promised; a noisy machine counts more."""
    assert min(reading(part, 1_000_000) for _ in range(3)) < 0.3


def test_values_without_end_are_not_read() -> None:
    line = ", ".join(f"Key {number}: {number}" for number in range(MAX_PAIRS + 10))
    assert split(f"p\n{line}") == ("p", "", {f"Key {number}": str(number) for number in range(MAX_PAIRS)})


def test_a_quotation_mark_that_is_not_closed_is_a_value_up_to_the_comma() -> None:
    assert split('p\nab: ",cd \\, Steps: 1, Seed: "a\\') == (
        *("p", ""),
        {"ab": '"', "Steps": "1", "Seed": '"a\\'},
    )


def reading(part: str, size: int) -> float:
    """CPU seconds."""
    text = "Steps: 1, " + (part * size)[:size]
    started = time.thread_time()
    read(text)
    return time.thread_time() - started


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


class Style:
    """A template."""

    def __init__(self, name: str, prompt: str, negative_prompt: str = "") -> None:
        self.name, self.prompt, self.negative_prompt = name, prompt, negative_prompt


STYLES = (Style("Wrap", "best {prompt} ever", "bad"), Style("End", "watercolor"), Style("Empty", ""))


@pytest.mark.parametrize(
    ("prompt", "negative", "expected"),
    [
        ("a cat", "", ([], "a cat", "")),
        ("a cat, watercolor", "", (["End"], "a cat", "")),
        ("watercolor", "", (["End"], "", "")),
        ("best a cat ever", "ugly, bad", (["Wrap"], "a cat", "ugly")),
        ("best a cat ever", "ugly", ([], "best a cat ever", "ugly")),
        ("best a cat ever, watercolor", "bad", (["Wrap", "End"], "a cat", "")),
        ("best a cat, watercolor ever", "bad", (["End", "Wrap"], "a cat", "")),
        ("best ever", "bad", ([], "best ever", "bad")),
    ],
)
def test_styles_are_taken_out_in_the_order_they_were_applied(
    prompt: str, negative: str, expected: tuple[list[str], str, str]
) -> None:
    assert take_styles(prompt, negative, STYLES) == expected


def test_templates_with_two_places_fit_nothing() -> None:
    styles = (Style("Twice", "{prompt} and {prompt}"),)
    assert take_styles("a and a", "", styles) == ([], "a and a", "")


HIRES = 'a cat, watercolor\nSteps: 1, Seed: 2, Sampler: Euler, Hires prompt: "{}", Version: {}'


def test_styles_of_the_hires_prompt_must_be_the_same() -> None:
    same = read(HIRES.format("a dog, watercolor", "v1.10.1"), Reading(styles=STYLES))
    assert (same["Prompt"], same["Hires prompt"], same["Styles array"]) == ("a cat", "a dog", ["End"])
    other = read(HIRES.format("a dog, ink", "v1.10.1"), Reading(styles=STYLES))
    assert (other["Prompt"], other["Hires prompt"]) == ("a cat, watercolor", "a dog, ink")
    assert "Styles array" not in other
    old = read(HIRES.format("a dog, ink", "v1.7.0"), Reading(styles=STYLES))
    assert (old["Prompt"], old["Hires prompt"]) == ("a cat", "a dog, ink")


def test_a_hypernetwork_of_old_texts_becomes_a_tag() -> None:
    text = "a cat\nSteps: 1, Seed: 2, Sampler: Euler, Hypernet: h, Hypernet strength: 0.5"
    assert read(text)["Prompt"] == "a cat<hypernet:h:0.5>"


def test_an_endless_version_is_none() -> None:
    assert read(f"x\nSteps: 1, Seed: 2, CFG scale: 7, Version: v{'9' * 6000}.1.1")["Steps"] == "1"
