"""Compares a server with AUTOMATIC1111's recorded answers and tells of every case.

PYTHONPATH=tests/support .venv/bin/python -m tests.conformance.survey --goldens DIR --group samplers
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.corpus import read_cases
from tests.conformance.corpus_compare import sequence_text
from tests.conformance.corpus_run import Outcome, run_corpus, save_pictures

LAST_WORDS = 2500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print what differs; 0 if nothing does."""
    asked = _parser().parse_args(arguments)
    cases = read_cases(asked.goldens, asked.group, asked.case)
    if not cases:
        print("No case is of that group and name.", file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    flags = [*(["--deterministic"] if asked.deterministic else []), *asked.flag]
    began = time.monotonic()

    outcomes: list[Outcome] = []

    def told(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not asked.quiet or outcome.differences:
            print(line(outcome, asked.most), flush=True)  # noqa: T201 - a command's output
        if asked.save is not None:
            save_pictures(outcome, asked.save)

    def said(text: str) -> None:
        if text and any(outcome.answer is None or outcome.answer.status >= 500 for outcome in outcomes):
            print(text[-LAST_WORDS:])  # noqa: T201 - a command's output

    try:
        run_corpus(cases, jobs=asked.jobs, flags=flags, mix=asked.mix, told=told, said=said)
    except RuntimeError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's output
        return 3
    finally:
        print(summary(outcomes, time.monotonic() - began))  # noqa: T201 - a command's output
    return int(any(outcome.differences for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="survey", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--goldens", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--group", nargs="+", default=[], help="only these groups")
    parser.add_argument("--case", default="*", help="only cases whose name (or GROUP/NAME) matches this glob")
    parser.add_argument("--jobs", type=int, default=16, help="requests under way at once")
    parser.add_argument("--mix", type=int, help="shuffle the cases with this seed")
    parser.add_argument("--deterministic", action="store_true", help="start the server so")
    parser.add_argument("--flag", action="append", default=[], help="another flag of the server: --flag=--x")
    parser.add_argument("--quiet", action="store_true", help="leave equal cases out")
    parser.add_argument("--most", type=int, default=8, help="differences shown per case")
    parser.add_argument("--save", type=Path, help="write our pictures below this folder")
    return parser


def line(outcome: Outcome, most: int) -> str:
    """What came of a case."""
    text = f"{outcome.verdict:8} {outcome.case.id}"
    if outcome.verdict == "refused" and outcome.answer is not None:
        return f"{text}: {outcome.answer.status} {outcome.answer.reason[:200]}"
    return f"{text}: {sequence_text(outcome.differences, most)}" if outcome.differences else text


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Numbers per group."""
    counts: dict[str, Counter[str]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.case.id):
        counts.setdefault(outcome.case.group, Counter())[outcome.verdict] += 1
    counts["all"] = sum(counts.values(), Counter())
    rows = [f"{'group':18} {'cases':>6} {'equal':>6} {'differ':>6} {'refused':>7}"]
    rows += [
        f"{group:18} {count.total():6} {count['equal']:6} {count['differs']:6} {count['refused']:7}"
        for group, count in counts.items()
    ]
    return "\n".join(["", *rows, f"{seconds:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
