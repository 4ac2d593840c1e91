"""CPU time and kinship of processes, and thread counts."""

import os
import subprocess
import sys
import threading
import time

from bench.machine import facts
from bench.processes import (
    accepts,
    cpu_seconds,
    descendants,
    free_ports,
    side_thread_seconds,
    without_torch,
)
from bench.run import thread_counts


def test_cpu_seconds_count_work_and_not_waiting() -> None:
    before = cpu_seconds(os.getpid())
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    worked = cpu_seconds(os.getpid())
    time.sleep(0.2)
    assert 0.15 <= worked - before < 5
    assert cpu_seconds(os.getpid()) - worked < 0.15


def test_cpu_seconds_are_told_finer_than_the_kernels_ticks() -> None:
    before = cpu_seconds(os.getpid())
    sum(range(20_000))
    assert 0 < cpu_seconds(os.getpid()) - before < 0.5


def test_side_threads_count_without_the_first_and_the_ended() -> None:
    def work() -> None:
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass
        worked.set()
        ending.wait(30)

    worked, ending = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    before = side_thread_seconds(os.getpid())
    thread.start()
    worked.wait(30)
    until = time.thread_time() + 0.1
    while time.thread_time() < until:
        pass
    assert 0.15 <= side_thread_seconds(os.getpid()) - before < 0.3
    ending.set()
    thread.join()
    assert side_thread_seconds(os.getpid()) - before < 0.15


def test_ended_processes_took_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert cpu_seconds(process.pid) == side_thread_seconds(process.pid) == 0


def test_children_of_children_are_found() -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while len(found := list(descendants(process.pid))) < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(found) == 1
        assert {process.pid, *found} <= set(descendants(os.getpid()))
        assert without_torch(process.pid) == [process.pid, *found]


def test_processes_with_torch_are_left_out() -> None:
    code = "import torch; print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout
        process.stdout.readline()
        assert without_torch(process.pid) == []
        process.communicate(b"\n")


def test_free_ports_are_free() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert not any(accepts(port) for port in ports)


def test_thread_counts_end_with_all() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 4, 6)] == [(1,), (1, 2), (1, 2, 4), (1, 2, 4, 6)]


def test_facts_name_the_machine() -> None:
    found = facts()
    assert found["processor"]
    assert found["cores"] >= 1
    assert found["packages"]["torch"]
