"""Memory of tensors that are gone is kept for the next ones, and given back when asked for."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sdserver.bundle import heap

PAGES = """
import resource
import torch
from sdserver.bundle import heap

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(3, 2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

one = faults(2) // 2
held = heap.hold(2**30)
faults(40)
kept = faults(8)
before = resident()
heap.give_back()
print(one, held, kept, before - resident())
"""

on_glibc = pytest.mark.skipif(heap._glibc() is None, reason="needs glibc")


@on_glibc
def test_pages_are_kept_and_given_back() -> None:
    """In a process of its own, for that is for life. The tensors are of 48 MiB; glibc needs some
    of them to find places that fit."""
    done = subprocess.run(
        [sys.executable, "-c", PAGES],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "0"},
    )
    one, held, kept, given_back = done.stdout.split()
    pages = 48 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert int(one) >= pages
    assert held == "True"
    assert int(kept) < pages // 10
    assert int(given_back) > pages // 2


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert heap.hold(1) is False
    heap.give_back()
