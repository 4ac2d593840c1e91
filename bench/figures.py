"""From single answers to the figures of a round, and from rounds to ratios. Numbers only."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answered:
    """One request's fate.

    Attributes:
        began: when it was due, in seconds of the round's clock.
        ended: when the last byte of its answer was there.
        work: see `mix.Asked.work`.
        error: why it does not count, empty if it does.
    """

    began: float
    ended: float
    work: float
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round.

    Attributes:
        pictures: good answers that were counted.
        errors: answers that were not good, by their reason.
        seconds: of the window in which they ended.
        throughput: pictures a second.
        work_rate: UNet rows of 512x512 pixels a second.
        p50, p90, p99: seconds from when a request was due to its answer.
    """

    pictures: int
    errors: dict[str, int]
    seconds: float
    throughput: float
    work_rate: float
    p50: float
    p90: float
    p99: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def round_of(answers: Sequence[Answered], seconds: float) -> Round:
    """The figures of what was answered within a window."""
    good = [answer for answer in answers if not answer.error]
    errors: dict[str, int] = {}
    for answer in answers:
        if answer.error:
            errors[answer.error] = errors.get(answer.error, 0) + 1
    latencies = sorted(answer.seconds for answer in good)
    return Round(
        pictures=len(good),
        errors=errors,
        seconds=seconds,
        throughput=len(good) / seconds if seconds > 0 else 0.0,
        work_rate=sum(answer.work for answer in good) / seconds if seconds > 0 else 0.0,
        p50=percentile(latencies, 50),
        p90=percentile(latencies, 90),
        p99=percentile(latencies, 99),
    )


def window(answers: Sequence[Answered], skipped: int, counted: int) -> Round:
    """The figures between the end of the last skipped answer and that of the last counted one.

    Raises:
        ValueError: there are fewer answers than that.
    """
    if skipped < 1 or len(answers) < skipped + counted:
        raise ValueError(f"{len(answers)} answers are too few to skip {skipped} and count {counted}.")
    ordered = sorted(answers, key=lambda answer: answer.ended)
    chosen = ordered[skipped : skipped + counted]
    return round_of(chosen, chosen[-1].ended - ordered[skipped - 1].ended)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank); NaN of nothing."""
    if not ordered:
        return math.nan
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(0, rank - 1)]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: two medians, and how they stand to each other.

    Attributes:
        ours, theirs: each round's value.
        unit: of both.
        goal: what the ratio shall be, such as ">= 4" or "<= 0.85"; empty for none.
    """

    name: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    unit: str
    goal: str = ""

    @property
    def ratio(self) -> float:
        """Ours by theirs."""
        theirs = median(self.theirs)
        return median(self.ours) / theirs if theirs else math.nan

    @property
    def is_met(self) -> bool | None:
        """Whether the ratio is what it shall be; None where nothing is asked of it."""
        if not self.goal:
            return None
        relation, number = self.goal.split()
        return self.ratio >= float(number) if relation == ">=" else self.ratio <= float(number)

    def as_json(self) -> dict[str, Any]:
        """Plain values, the medians and the ratio among them."""
        found = {"ours_median": median(self.ours), "theirs_median": median(self.theirs)}
        return asdict(self) | found | {"ratio": self.ratio, "is_met": self.is_met}


def median(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return statistics.median(values) if values else math.nan


def table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table."""
    rows = [("what", "ours", "other", "unit", "ratio", "goal", "met")]
    for line in lines:
        met = {None: "", True: "yes", False: "no"}[line.is_met]
        values = [f"{median(side):.4g}" for side in (line.ours, line.theirs)]
        rows.append((line.name, *values, line.unit, f"{line.ratio:.3f}", line.goal, met))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    text = [_row(row, widths) for row in rows]
    return "\n".join([text[0], _row(["-" * width for width in widths], widths), *text[1:]])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
