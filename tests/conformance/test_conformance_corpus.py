"""AUTOMATIC1111's recorded answers, asked again over HTTP; any difference without a name fails.

tests/goldens/a1111 holds a lean part. SDSERVER_GOLDENS may name a folder with all of them: it holds
`checkpoints`, `inputs`, `styles.csv` and one folder per group. What may differ, and why, is in
`deviations.toml`; docs/parity.md says how equal is equal.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from node import ROOT

from tests.conformance.conftest import Tell
from tests.conformance.corpus import Case, read_cases, split
from tests.conformance.corpus_compare import sequence_text
from tests.conformance.corpus_deviations import Exceptions, read_exceptions
from tests.conformance.corpus_run import Outcome, run_corpus

LEAN = ROOT / "tests" / "goldens" / "a1111"
WHOLE = Path(os.environ.get("SDSERVER_GOLDENS") or os.devnull)
MIX = 20240905
EVERY = int(os.environ.get("SDSERVER_LOAD_EVERY", "6"))
"""Of the cases under load one of so many is asked; 1 asks all of them."""

Outcomes = Mapping[str, Outcome]

lean_cases = read_cases(LEAN)
whole_cases = read_cases(WHOLE)
loaded_cases = split(whole_cases)[1][::EVERY]
needs_whole = pytest.mark.skipif(not whole_cases, reason="SDSERVER_GOLDENS names no folder of recordings")
needs_no_more = pytest.mark.skipif(bool(whole_cases), reason="test_whole asks these and all others")


def named(cases: Sequence[Case]) -> list[Any]:
    return [pytest.param(case, id=case.id) for case in cases]


@pytest.fixture(scope="module")
def exceptions() -> Exceptions:
    return read_exceptions()


@pytest.fixture(scope="module")
def lean(request: pytest.FixtureRequest) -> Outcomes:
    return asked(request, test_lean.__name__)


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> Outcomes:
    return asked(request, test_whole.__name__)


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Outcomes:
    return asked(request, test_under_load.__name__, "--deterministic", mix=MIX)


def asked(request: pytest.FixtureRequest, test: str, *flags: str, mix: int | None = None) -> Outcomes:
    """The outcomes of those cases that the run selected for a test."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    cases = [item.callspec.params["case"] for item in items if item.originalname == test]
    return {outcome.case.id: outcome for outcome in run_corpus(cases, flags=flags, mix=mix)}


def check(outcome: Outcome, exceptions: Exceptions) -> None:
    """Fail if a difference has no name; tell what is not served yet."""
    later = exceptions.later_for(outcome.case.id)
    differences = exceptions.unexplained(outcome)
    if later is None:
        assert not differences, sequence_text(differences)
    else:
        assert differences, f"equal; take it out of what is not served yet ({later.reason})"
        answer = outcome.answer
        assert answer is not None
        assert answer.status < 500 or answer.status == 501, sequence_text(differences)
        assert outcome.verdict == "refused" or not outcome.case.has_pictures, sequence_text(differences)
        pytest.xfail(f"{later.reason}: {sequence_text(differences, 1)}")


@needs_no_more
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", named(lean_cases))
def test_lean(lean: Outcomes, exceptions: Exceptions, case: Case) -> None:
    check(lean[case.id], exceptions)


@needs_whole
@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("case", named(whole_cases))
def test_whole(whole: Outcomes, exceptions: Exceptions, case: Case) -> None:
    check(whole[case.id], exceptions)


def test_every_deviation_is_argued(exceptions: Exceptions) -> None:
    for deviation in exceptions.deviations:
        name, _, heading = deviation.see.partition("#")
        lines = (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()
        headings = [line[3:].lower().replace(" ", "-") for line in lines if line.startswith("## ")]
        assert heading in headings, deviation.see


@needs_whole
@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_exception_is_used(whole: Outcomes, exceptions: Exceptions, tell: Tell) -> None:
    counts = Counter(outcome.verdict for outcome in whole.values())
    tell(f"whole corpus: {len(whole)} cases, " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    if len(whole) < len(whole_cases):
        pytest.skip("only some cases were asked")
    assert exceptions.unused(whole.values()) == []


@needs_whole
@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("case", named(loaded_cases))
def test_under_load(loaded: Outcomes, exceptions: Exceptions, case: Case) -> None:
    """Shuffled, sixteen at a time, in deterministic mode."""
    check(loaded[case.id], exceptions)
