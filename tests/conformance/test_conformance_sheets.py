"""Recorded sheets with a legend: it is drawn with another typeface, the cells stand in the same places."""

import base64
import io
import json
from pathlib import Path
from typing import Final

import pytest
from node import ROOT
from PIL import Image

from tests.conformance.corpus import read_cases
from tests.conformance.corpus_compare import GREATEST_SHARE, picture_distance
from tests.conformance.corpus_run import run_corpus

LEAN = ROOT / "tests" / "goldens" / "a1111"
SIDE: Final = 64
CELLS: Final = {
    "scripts/xyz_18": [(48, 8), (113, 8), (48, 73), (113, 73)],
    "scripts/prompt_matrix_full": [(0, 8), (68, 8)],
}
"""The upper left corners of the recorded cells."""


@pytest.fixture(scope="module")
def sheets() -> dict[str, tuple[Image.Image, Image.Image]]:
    """Ours and the recorded one."""
    cases = [case for case in read_cases(LEAN, ["scripts"]) if case.id in CELLS]
    found: dict[str, tuple[Image.Image, Image.Image]] = {}
    for outcome in run_corpus(cases, jobs=len(cases)):
        assert outcome.answer is not None
        image = json.loads(outcome.answer.text)["images"][0]
        recorded = Path(LEAN, f"{outcome.case.id}.0.png")
        found[outcome.case.id] = (Image.open(io.BytesIO(base64.b64decode(image))), Image.open(recorded))
    return found


@pytest.mark.parametrize("case", CELLS)
def test_cells_are_equal(sheets: dict[str, tuple[Image.Image, Image.Image]], case: str) -> None:
    ours, recorded = sheets[case]
    assert ours.size == recorded.size
    for left, top in CELLS[case]:
        box = (left, top, left + SIDE, top + SIDE)
        _, share, _ = picture_distance(ours.crop(box), recorded.crop(box))
        assert share <= GREATEST_SHARE


@pytest.mark.parametrize("case", CELLS)
def test_the_legend_is_drawn_where_theirs_is(
    sheets: dict[str, tuple[Image.Image, Image.Image]], case: str
) -> None:
    ours, recorded = (image.convert("L").crop((0, 0, image.width, 8)) for image in sheets[case])
    boxes = [image.point(lambda value: 255 * (value < 128)).getbbox() for image in (ours, recorded)]
    assert all(boxes)
    for one, other in zip(*boxes, strict=True):
        assert abs(one - other) <= 4
