"""What loading costs: the command tells all of it, for a file that was just written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load import memory, size_of
from bench.random_checkpoint import write_file


def test_memory_is_the_kernels_count() -> None:
    assert 0 < memory("VmRSS") <= memory("VmHWM")
    with pytest.raises(KeyError):
        memory("VmNone")


def test_the_size_of_a_folder_is_that_of_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "one.safetensors").write_bytes(b"12345")
    (tmp_path / "unet" / "config.json").write_bytes(b"{}")
    assert size_of(tmp_path) == size_of(tmp_path / "unet" / "one.safetensors") == 5


def test_two_text_encoders_are_no_single_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder"):
        write_file("tiny-sdxl", tmp_path)


def test_a_checkpoint_is_written_loaded_and_makes_a_picture(tmp_path: Path) -> None:
    checkpoint = write_file("tiny-sd15", tmp_path)
    assert write_file("tiny-sd15", tmp_path) == checkpoint
    command = [sys.executable, "-m", "bench.load", str(checkpoint), "--precision", "fp32", "--threads", "1"]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["found"]
    assert told["file_bytes"] == checkpoint.stat().st_size
    assert told["imported_bytes"] < told["peak_bytes"] <= told["peak_with_picture_bytes"]
    assert told["first_picture_seconds"] >= told["import_seconds"] + told["load_seconds"]
    assert told["ratio"] == pytest.approx((told["peak_bytes"] - told["imported_bytes"]) / told["file_bytes"])
