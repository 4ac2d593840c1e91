"""FLOPs of known networks, and the dry run of the GPU's comparisons."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import PATIENCE

from bench.floor import Flops, count, count_in, peak
from bench.gpu import PARTS, SCENARIOS, plan_of
from bench.random_checkpoint import KINDS, empty_text, empty_unet, empty_vae, write
from bench.servers import ROOT

TINY = ROOT / "tests" / "goldens" / "checkpoints" / "tiny-sd15.safetensors"


def test_flops_of_stable_diffusion() -> None:
    """As counted elsewhere: 0.803 TFLOP a row, 2.515 a decoding, 34.7 a picture of 20 steps."""
    kind = KINDS["sd15"]
    found = count_in(empty_unet(kind), empty_vae(kind), [empty_text(text) for text in kind.text], 512)
    assert found.row == pytest.approx(0.803e12, rel=2e-3)
    assert found.decode == pytest.approx(2.515e12, rel=2e-3)
    assert found.text == pytest.approx(0.013e12, rel=0.05)
    assert found.of_picture(20, 2) == pytest.approx(34.7e12, rel=2e-3)


def test_flops_of_a_file_grow_with_the_picture() -> None:
    small, large = count(TINY, 64), count(TINY, 128)
    assert large.text == small.text
    assert 4 * 0.9 < large.decode / small.decode < 4 * 1.1
    assert large.row > 3 * small.row


@pytest.mark.parametrize("name", ["tiny-sd15", "tiny-sdxl"])
def test_flops_of_a_folder(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    texts = [empty_text(text) for text in kind.text]
    assert count(write(name, tmp_path), 64) == count_in(empty_unet(kind), empty_vae(kind), texts, 64)


def test_flops_of_a_picture() -> None:
    assert Flops(row=5, decode=100, text=1).of_picture(steps=3, rows=2) == 2 * (3 * 5 + 1) + 100


def test_peak_of_each_side() -> None:
    found = peak("cpu", torch.float32, [32, 64], seconds=0.0)
    assert list(found) == [32, 64]
    assert all(1e6 < rate < 1e15 for rate in found.values())


def arguments(*, dry: bool) -> argparse.Namespace:
    return argparse.Namespace(dry=dry, device="cuda", rounds=2, flags="--max-batch-rows 64")


@pytest.mark.parametrize("part", PARTS)
def test_gpu_plans(part: str) -> None:
    real, dry = (plan_of(part, Path("here"), arguments(dry=dry)) for dry in (False, True))
    assert (real.device, real.precision, real.threads) == ("cuda", "fp16", (0,))
    assert (dry.device, dry.size) == ("cpu", 64)
    assert real.goals == dry.goals
    assert "naive" in real.goals
    assert real.flags == ("--max-batch-rows", "64")


@pytest.mark.slow
def test_gpu_dry_run(tmp_path: Path) -> None:
    """Both servers, the static batch and the floor, over HTTP on the processor."""
    seconds = 3 * PATIENCE  # six processes, one after the other, that import torch
    command = [sys.executable, "-m", "bench.gpu", "--dry", "--parts", "turbo", "--output", str(tmp_path)]
    command += ["--seconds", f"{seconds:.0f}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "turbo.json").read_text())
    assert found["failed"] == {}
    assert [line["name"].partition(": ")[2] for line in found["lines"]] == [
        *("ours / NAIVE", "ours / own static batch", "device's thread / own static batch", "ours / floor")
    ]
    assert all(line["ratio"] > 0 for line in found["lines"])
    assert SCENARIOS["turbo"] == ("identical",)
    assert {one["kind"] for one in found["rounds"]["identical c=2"]} == {"ours", "naive"}
