"""Labels as a job of its own: which are told, and how they are written."""

from dataclasses import replace

import pytest
from driving import drive, of
from toy import toy_picture

from sdserver.calls import Report, Score
from sdserver.jobs.job import Label, LabelRules
from sdserver.programs.label import label, written

SCORES = (
    ("solo", 0.91),
    ("1girl", 0.99),
    ("rating:safe", 0.97),
    ("smile_(happy)", 0.5),
    ("long_hair", 0.499),
    ("a\\b", 0.7),
)
RULES = LabelRules()


def test_one_call_and_only_the_text_goes_back() -> None:
    job = Label("a", toy_picture(64, 64), "/models/x.pt", RULES)
    outcome, calls = drive(label(job), lambda _: SCORES)
    (call,) = of(calls, Score)
    assert call == Score(job.network, job.picture)
    assert outcome.text == written(SCORES, RULES)
    assert outcome.picture.pixels == b""
    assert [(told.step, told.steps) for told in of(calls, Report)] == [(1, 1)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, r"1girl, a\\b, smile \(happy\), solo"),
        ({"is_sorted": False}, r"1girl, solo, a\\b, smile \(happy\)"),
        ({"uses_spaces": False}, r"1girl, a\\b, smile_\(happy\), solo"),
        ({"escapes": False}, r"1girl, a\b, smile (happy), solo"),
        ({"threshold": 0.0}, r"1girl, a\\b, long hair, smile \(happy\), solo"),
        ({"threshold": 1.0}, ""),
        ({"left_out": frozenset({"smile_(happy)", "solo", ""})}, r"1girl, a\\b"),
        ({"shows_scores": True}, r"(1girl:0.990), (a\\b:0.700), (smile \(happy\):0.500), (solo:0.910)"),
    ],
)
def test_labels_are_written_as_by_a1111(changes: dict, text: str) -> None:
    assert written(SCORES, replace(RULES, **changes)) == text
