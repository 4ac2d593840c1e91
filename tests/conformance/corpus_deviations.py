"""What may differ from the recorded answers, by name: `deviations.toml` beside this file.

A `deviation` is meant to stay: it names the cases, the differences that it covers, why, and where
docs/deviations.md argues it. A `later` names cases of what is not served yet: those must be refused
clearly, and the entry has to go once they are equal.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conformance.corpus_compare import Difference
from tests.conformance.corpus_run import Outcome

FILE = Path(__file__).parent / "deviations.toml"


@dataclass(frozen=True)
class Deviation:
    """Differences that are meant.

    Attributes:
        cases: patterns of `GROUP/NAME`.
        what: patterns of the differences' names.
        reason: why.
        see: file and heading that argues it.
        greatest: how much the values of a picture may differ.
        always: whether there is such a difference in every run.
    """

    cases: tuple[str, ...]
    what: tuple[str, ...]
    reason: str
    see: str
    greatest: int = 255
    always: bool = True

    def covers(self, case: str, difference: Difference) -> bool:
        named = any(matches(case, pattern) for pattern in self.cases)
        meant = any(matches(difference.what, pattern) for pattern in self.what)
        return named and meant and difference.greatest <= self.greatest


@dataclass(frozen=True)
class Later:
    """Cases that are not served yet.

    Attributes:
        cases: patterns of `GROUP/NAME`.
        reason: what is missing.
    """

    cases: tuple[str, ...]
    reason: str

    def names(self, case: str) -> bool:
        return any(matches(case, pattern) for pattern in self.cases)


@dataclass(frozen=True)
class Exceptions:
    """All that may differ."""

    deviations: tuple[Deviation, ...]
    later: tuple[Later, ...]

    def later_for(self, case: str) -> Later | None:
        """The entry that says why a case is not served yet."""
        return next((entry for entry in self.later if entry.names(case)), None)

    def unexplained(self, outcome: Outcome) -> list[Difference]:
        """The differences that no deviation covers."""
        case = outcome.case.id
        return [
            difference
            for difference in outcome.differences
            if not any(deviation.covers(case, difference) for deviation in self.deviations)
        ]

    def unused(self, outcomes: Iterable[Outcome]) -> list[str]:
        """The patterns of cases that cover no difference of any outcome."""
        seen = [(outcome.case.id, outcome.differences) for outcome in outcomes]
        unused: list[str] = []
        for deviation in self.deviations:
            for pattern in deviation.cases if deviation.always else ():
                narrow = replace(deviation, cases=(pattern,))
                if not any(narrow.covers(case, difference) for case, found in seen for difference in found):
                    unused.append(f"{pattern} ({deviation.reason})")
        for entry in self.later:
            unused += [
                f"{pattern} ({entry.reason})"
                for pattern in entry.cases
                if not any(matches(case, pattern) for case, _ in seen)
            ]
        return unused


def matches(text: str, pattern: str) -> bool:
    """Whether the pattern names the text; `*` in it stands for anything, all else for itself."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def read_exceptions(path: Path = FILE) -> Exceptions:
    """The named exceptions of a file."""
    content: dict[str, list[dict[str, Any]]] = tomllib.loads(path.read_text(encoding="utf-8"))
    deviations = [
        Deviation(**entry | {key: tuple(entry[key]) for key in ("cases", "what")})
        for entry in content.get("deviation", [])
    ]
    later = [Later(tuple(entry["cases"]), entry["reason"]) for entry in content.get("later", [])]
    return Exceptions(tuple(deviations), tuple(later))
