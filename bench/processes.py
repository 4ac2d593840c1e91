"""Processes by their id: free ports, the CPU time they took. Linux only."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOOPBACK = "127.0.0.1"


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
    """CPU time of a process with all its threads, 0 if it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


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
