"""What people see of a download."""

import io

import pytest

from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.progress import ProgressPrinter

MB = 1_000_000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, seconds: int, total: int | None = 1000 * MB, per_second: int = 4) -> str:
    now = [0.0]
    printer = ProgressPrinter(stream, lambda: now[0])
    for tick in range(seconds * per_second + 1):
        now[0] = tick / per_second
        done = 1000 * MB * tick // (seconds * per_second)
        eta = None if total is None else seconds - now[0]
        printer(DownloadProgress("m.safetensors", done, total, 1000 * MB / seconds, eta, done))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        (1, 2),  # the first and the last
        (20, 5),  # 0, 5, 10, 15, 20 s
        (100, 11),  # every 10 %
        (1200, 21),  # every minute
    ],
)
def test_lines_in_a_log_are_few(seconds: int, lines: int) -> None:
    text = show(io.StringIO(), seconds)
    assert len(text.splitlines()) == lines
    assert "\r" not in text
    assert text.endswith("100 %, 1000 of 1000 MB, " + f"{1000 / seconds:.1f} MB/s\n")


def test_an_unknown_total() -> None:
    text = show(io.StringIO(), 20, total=None)
    assert "%" not in text
    assert len(text.splitlines()) == 5


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    frames = show(Terminal(), 5, per_second=20).split("\r")[1:]
    assert 15 <= len(frames) <= 27
    assert {len(frame.rstrip("\n")) for frame in frames} == {99}
    assert frames[0].startswith("[....")
    assert frames[-1].startswith("[####")
    assert frames[-1].endswith("\n")
    assert sum(frame.endswith("\n") for frame in frames) == 1
    shares = [frame.count("#") for frame in frames]
    assert shares == sorted(shares)


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    frames = show(Terminal(), 2).split("\r")[1:]
    assert {len(frame.rstrip("\n")) for frame in frames} == {19}


def test_a_log_of_another_encoding() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ProgressPrinter(stream)(DownloadProgress("träum.safetensors", 1, 2, 3.0, None, 1))
    assert b"tr?um" in raw.getvalue()
