"""Model files that lie: each is refused, little memory is taken, and what is loaded stays as it was."""

import json
import pickle
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import random
from tiny_checkpoints import Write

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Conditioning, Predict, UseModel
from sdserver.errors import SdServerError
from sdserver.jobs.model import Adapter, Model
from tests.bundle.test_adapters_networks import KOHYA, adapter, both, lora, predict, saved

MOST_GROWTH = 150_000_000
"""Bytes of memory that a file which is refused may cost."""


def header(entries: object, data: bytes = bytes(64), length: int | None = None) -> bytes:
    """A safetensors file with such a header, which says that it is so long."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def named(one: object, other: object) -> dict[str, object]:
    return {f"{KOHYA}.lora_up.weight": one, f"{KOHYA}.lora_down.weight": other}


GOOD = entry([2, 4], [0, 32])
HEADERS = {
    "length of 2^63": header(b"{}", length=2**63),
    "length of 2^64-1": header(b"{}", length=2**64 - 1),
    "length of a terabyte": header(b"{}", length=2**40),
    "length of 0": header(b"", length=0),
    "overlapping": header(named(GOOD, entry([2, 4], [16, 48]))),
    "all the same bytes": header({f"{KOHYA}.{k}.lora_up.weight": GOOD for k in range(1000)}),
    "behind the end": header(named(GOOD, entry([2, 4], [2**40, 2**40 + 32]))),
    "backwards": header(named(GOOD, entry([2, 4], [64, 32]))),
    "a hole": header(named(entry([2, 4], [16, 48]), entry([2, 2], [48, 64]))),
    "negative shape": header(named(GOOD, entry([-2, -4], [32, 64]))),
    "shape of 2^120": header(named(GOOD, entry([2**60, 2**60], [32, 64]))),
    "shape that overflows to what is there": header(named(GOOD, entry([2**63 + 4, 2], [32, 64]))),
    "more shape than bytes": header(named(GOOD, entry([2**20, 2**20], [32, 64]))),
    "shape of fractions": header(named(GOOD, entry([2.5, 4], [32, 64]))),
    "offsets of texts": header(named(GOOD, entry([2, 4], ["32", "64"]))),
    "unknown type": header(named(GOOD, entry([2, 4], [32, 64], "PY_OBJECT"))),
    "no object": header([1, 2, 3]),
    "nested deep": header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a number of 100,000 digits": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 100_000 + b"]}}"),
    "no UTF-8": header(b'{"\xff\xfe":1}'),
    "NUL": header(bytes(200)),
}


@pytest.fixture
def bundle(checkpoint: Write) -> tuple[Bundle, Path]:
    path, _ = checkpoint("sd1")
    return Bundle("cpu", "fp32"), path


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def both_ways(bundle: Bundle, path: Path, file: Path) -> list[Model]:
    """The file as an adapter of a checkpoint, and as a checkpoint."""
    return [Model(str(path), adapters=(adapter(str(file)),)), Model(str(file))]


def test_headers_that_lie(bundle: tuple[Bundle, Path], tmp_path: Path) -> None:
    found, path = bundle
    good, _ = both(tmp_path)
    before, changed = predict(found, path, []), predict(found, path, [adapter(good)])
    most = peak()
    for name, content in HEADERS.items():
        file = tmp_path / f"{name.replace(' ', '_')}.safetensors"
        file.write_bytes(content)
        for model in both_ways(found, path, file):
            with pytest.raises(SdServerError) as caught:
                found.run([UseModel(model)])
            assert len(str(caught.value)) < 1000, name
            assert file.name in str(caught.value), name
    assert peak() - most < MOST_GROWTH
    assert torch.equal(predict(found, path, []), before)
    assert torch.equal(predict(found, path, [adapter(good)]), changed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_are_no_numbers_leave_nothing_behind(
    bundle: tuple[Bundle, Path], tmp_path: Path, value: float
) -> None:
    found, path = bundle
    before = predict(found, path, [])
    tensors = {name: torch.full_like(tensor, value) for name, tensor in lora(KOHYA, 32, 32).items()}
    file = saved(tmp_path / "odd.safetensors", tensors)
    wild = predict(found, path, [adapter(file)])
    assert not torch.equal(wild, before)
    assert torch.equal(predict(found, path, []), before)
    again = Bundle("cpu", "fp32")
    assert torch.equal(predict(again, path, []), before)


def test_a_rank_of_100000_is_used_within_bounds_and_leaves_nothing_behind(
    bundle: tuple[Bundle, Path], tmp_path: Path
) -> None:
    found, path = bundle
    before, most = predict(found, path, []), peak()
    tensors = {
        f"{KOHYA}.lora_up.weight": random(32, 100_000, seed=1) * 1e-4,
        f"{KOHYA}.lora_down.weight": random(100_000, 32, seed=2) * 1e-4,
    }
    file = saved(tmp_path / "wide.safetensors", tensors)
    assert not torch.equal(predict(found, path, [adapter(file)]), before)
    assert peak() - most < MOST_GROWTH
    assert torch.equal(predict(found, path, []), before)


class Evil:
    """A pickle that calls something."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


def laughs(depth: int) -> list[Any]:
    """A list that names 2**depth others."""
    found: list[Any] = ["ha"]
    for _ in range(depth):
        found = [found, found]
    return found


def test_pickles_neither_run_code_nor_grow(bundle: tuple[Bundle, Path], tmp_path: Path) -> None:
    found, path = bundle
    found = Bundle("cpu", "fp32", allow_pickle=True)
    before, owned, most = predict(found, path, []), tmp_path / "owned", peak()
    harmless = {f"{KOHYA}.lora_up.weight": 1, "laughs": laughs(60)}
    pickles: list[object] = [
        harmless,
        Evil(Path.touch, str(owned)),
        Evil(exec, f"open({str(owned)!r}, 'w')"),
        Evil(bytearray, 2**40),
        Evil(torch.zeros, 2**40),
        Evil(torch.load, str(owned)),
        Evil(getattr, Path, "touch"),
        {"state_dict": laughs(60)},
        {"state_dict": Evil(bytearray, 2**40)},
        Evil(__import__, "antigravity"),
    ]
    for number, content in enumerate(pickles):
        for kind in ("zip", "old", "bare"):
            file = tmp_path / f"{number}-{kind}.pt"
            if kind == "bare":
                file.write_bytes(pickle.dumps(content))
            else:
                torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
            model = Model(str(path), adapters=(Adapter("lora", str(file), 1.0, 1.0),))
            if content is harmless:
                if kind == "zip":
                    found.run([UseModel(model)])  # it names nothing of the checkpoint
                continue
            # Torch's restricted unpickler makes byte arrays of any size: that is told as what it is.
            with pytest.raises(SdServerError, match=f"{file.name}|memory does not suffice"):
                found.run([UseModel(model)])
            assert not owned.exists(), file
    assert peak() - most < MOST_GROWTH
    assert torch.equal(predict(found, path, []), before)


def test_a_bad_file_fails_its_own_job_alone(bundle: tuple[Bundle, Path], tmp_path: Path) -> None:
    found, path = bundle
    before = predict(found, path, [])
    file = tmp_path / "bad.safetensors"
    file.write_bytes(HEADERS["overlapping"])
    model = Model(str(path), adapters=(adapter(str(file)),))
    with pytest.raises(SdServerError):
        found.run([Predict(model, random(4, 8, 8), 1.0, Conditioning(random(77, 32, seed=3)))])
    assert torch.equal(predict(found, path, []), before)
