"""Processes by their id: free ports, the CPU time they took. Linux only."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
_SCHEDULED = 2
"""Makes a process's id the id of its CPU clock, as the C library's `clock_getcpuclockid` does."""


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def accepts(port: int) -> bool:
    """Whether a TCP connection to the port stands."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=5).close()
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, to the nanosecond; 0 if it has ended."""
    try:
        return time.clock_gettime(~pid << 3 | _SCHEDULED)
    except OSError:
        return 0.0


def side_thread_seconds(pid: int) -> float:
    """CPU time of a process's living threads but its first, to the nanosecond; 0 if it has ended."""
    found = 0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        if thread.name != str(pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += int((thread / "schedstat").read_text().split()[0])
    return found / 1e9


def without_torch(pid: int) -> list[int]:
    """The process and those below it, but for those that hold torch: what is outside of the engine."""
    return [one for one in (pid, *descendants(pid)) if not _holds_torch(one)]


def descendants(pid: int) -> Iterator[int]:
    """The living processes below one."""
    parents = {int(folder.name): _stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    for child, fields in parents.items():
        if fields and int(fields[1]) == pid:
            yield child
            yield from descendants(child)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _holds_torch(pid: int) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
