"""Both sides of the step benchmark take the same step, and what is printed of it."""

from pathlib import Path

import pytest
import torch

from bench import steps
from bench.random_checkpoint import KINDS, write
from bench.steps import Setting, ours, report, stock


def test_both_sides_take_the_same_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(steps, "hold_freed", lambda: None)
    (text,) = KINDS["tiny-sd15"].text
    setting = Setting(write("tiny-sd15", tmp_path), text.width, size=64, threads=1)
    with torch.inference_mode():
        expected, got = stock(setting)(), ours(setting, "fp32")()
    assert expected.shape == (4, 8, 8)
    # Guidance makes what is rounded fourteen times as large.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    assert expected.std() > 0.1


def test_ratios_are_of_medians() -> None:
    found = {"stock fp32": [(4.0, 2.0), (9.0, 2.5), (5.0, 3.0)], "ours fp32": [(2.0, 2.0), (1.0, 1.0)]}
    told = report(found, {"stock fp32": 1, "ours fp32": 1})
    assert told["ratio"] == {"ours fp32": 0.3}
    assert told["cpu_ratio"] == {"ours fp32": 0.6}
    assert told["seconds"]["stock fp32"] == [4.0, 9.0, 5.0]
    assert told["cpu_seconds"]["ours fp32"] == [2.0, 1.0]
