import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.errors import InvalidField, SettingsError
from sdserver.prompt.styles import MAX_FILE_BYTES, Style, apply_styles, read_styles

GOLDENS = Path(__file__).parents[1] / "goldens/prompt"
TINY = Style("Tiny Style", "masterpiece, {prompt}, tiny style", "blurry, lowres")


def test_reads_a1111s_file() -> None:
    assert read_styles(GOLDENS / "styles.csv") == (
        TINY,
        Style("Append Style", "watercolor", ""),
        Style("Neg Only", "", "ugly"),
    )


@pytest.mark.parametrize("case", json.loads((GOLDENS / "styles.json").read_text("utf-8")))
def test_golden(case: dict[str, list[str]]) -> None:
    styles = read_styles(GOLDENS / "styles.csv")
    applied = apply_styles(str(case["prompt"]), str(case["negative_prompt"]), case["styles"] or [], styles)
    assert applied == (case["all_prompts"][0], case["all_negative_prompts"][0])


def test_no_file_holds_no_styles(tmp_path: Path) -> None:
    assert read_styles(tmp_path / "styles.csv") == ()


@pytest.mark.parametrize(
    ("content", "styles"),
    [
        ("", []),
        ("name,prompt,negative_prompt\n", []),
        ("\ufeffname,prompt,negative_prompt\na,b,c\n", [("a", "b", "c")]),
        ("name,text\na,b\n", [("a", "b", "")]),
        ("name,prompt\na\n,x\n#c,d\n", [("a", "", "")]),
        ("name,prompt,negative_prompt,extra\na,b,c,d,e\n", [("a", "b", "c")]),
        ("name,prompt\na,1\nb,2\na,3\n", [("a", "3", ""), ("b", "2", "")]),
        ('name,prompt\r\na,"x, ""y""\r\nz"\r\n', [("a", 'x, "y"\nz', "")]),
    ],
)
def test_odd_files(tmp_path: Path, content: str, styles: list[tuple[str, str, str]]) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(content.encode())
    assert read_styles(path) == tuple(Style(*style) for style in styles)


@pytest.mark.parametrize(
    "content",
    [
        b"name,prompt\na,\xff\n",
        b"title,prompt\na,b\n",
        b"name,prompt\na," + b"x" * 200_000,
        b"#" * (MAX_FILE_BYTES + 1),
    ],
    ids=["encoding", "columns", "field", "size"],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"styles\.csv"):
        read_styles(path)


def test_a_folder_is_no_styles_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="repair or remove it"):
        read_styles(tmp_path)


def test_without_names_nothing_changes_and_unknown_names_strip() -> None:
    assert apply_styles(" a ", "", [], [TINY]) == (" a ", "")
    assert apply_styles(" a ", " b ", ["Nope"], [TINY]) == ("a", "b")


def test_a_placeholder_takes_the_prompt_so_far_and_is_not_filled_twice() -> None:
    styles = [Style("x", "<{prompt}|{prompt}>", "no {prompt}"), Style("y", "then", "")]
    assert apply_styles("{prompt}", "n", ["y", "x"], styles) == ("<{prompt}, then|{prompt}, then>", "no n")


def test_styles_cannot_blow_a_prompt_up() -> None:
    doubling = [Style("x", "{prompt}{prompt}", "")]
    with pytest.raises(InvalidField, match="exceeds 1000000 characters") as caught:
        apply_styles("a", "", ["x"] * 1000, doubling)
    assert caught.value.field == "styles"


CELLS = st.text(st.sampled_from('ab,"{}\n;é #'))


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS.map("n".__add__), CELLS, CELLS), unique_by=lambda row: row[0]))
def test_writing_and_reading_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("name", "prompt", "negative_prompt"), *rows])
    assert read_styles(path) == tuple(Style(*row) for row in rows)
