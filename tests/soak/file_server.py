"""A web server on loopback that counts what it sends, and breaks its answers off as it is told."""

import email.utils
import hashlib
import json
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

LOOPBACK = "127.0.0.1"
PIECE = 16_384
SEND_BUFFER = 65_536
PATIENCE = 120.0
LAST_CHANGE = 1_700_000_000
NO_LINGER = struct.pack("ii", 1, 0)

Kind = Literal["cut", "reset", "stall", "refuse", "no range", "whole", "change", "liar"]
Validator = Literal["etag", "last-modified", "none"]
REFUSALS = (
    (503, lambda: "0"),
    (429, lambda: "1"),
    (503, lambda: email.utils.formatdate(time.time() + 1, usegmt=True)),
    (429, lambda: ""),
)


def checkpoint(size: int, seed: int) -> bytes:
    """A valid safetensors file of so many bytes, no two pieces of which are the same."""
    length = 160
    data = size - 8 - length
    header = {"w": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}
    text = json.dumps(header).encode().ljust(length)
    return length.to_bytes(8, "little") + text + random.Random(seed).randbytes(data)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one answer.

    Attributes:
        kind: `cut`: an orderly end too early. `reset`: the same by RST. `stall`: silence until the client
            leaves. `refuse`: 429 or 503. `no range`: 416 where a range is asked for. `whole`: 200 whatever
            range is asked for. `change`: the file is another from now on. `liar`: so too, but the range of
            the new one is sent to who asked for the old one's.
        at: the byte of the file from which on nothing is sent; of all kinds but the refusals.
    """

    kind: Kind
    at: int


@dataclass(slots=True)
class Sending:
    """An answer, and what came of it.

    Attributes:
        asked: the first byte asked for; None if no range was.
        begin: the first byte that was sent.
        sent: bytes of the file.
        left: the client went away before it had all that was sent.
        endured: the client waited for more for ever.
    """

    asked: int | None
    fault: Fault | None
    status: int = 0
    begin: int = 0
    sent: int = 0
    left: bool = False
    endured: bool = False


@dataclass
class ServedFile:
    """A file, its faults to come, one per answer, and its answers so far.

    Attributes:
        versions: its contents, one after the other.
        pause: seconds after each piece.
    """

    versions: list[bytes]
    validator: Validator = "etag"
    faults: deque[Fault] = field(default_factory=deque)
    pause: float = 0.0
    version: int = 0
    answers: list[Sending] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return self.versions[self.version]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def sent(self) -> int:
        """Bytes of the file in all answers."""
        return sum(answer.sent for answer in self.answers)

    @property
    def tag(self) -> str:
        """What tells this version from others."""
        if self.validator == "etag":
            return f'"v{self.version}"'
        changed = email.utils.formatdate(LAST_CHANGE + self.version, usegmt=True)
        return changed if self.validator == "last-modified" else ""


class FileServer:
    """Use it as `file_server()`.

    Attributes:
        files: by path.
        port: where it listens.
    """

    def __init__(self) -> None:
        self.files: dict[str, ServedFile] = {}
        self._socket = socket.create_server((LOOPBACK, 0), backlog=128)
        self.port = int(self._socket.getsockname()[1])
        self._open: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def url(self, path: str) -> str:
        """A file's address."""
        return f"http://{LOOPBACK}:{self.port}{path}"

    def settle(self) -> None:
        """Wait until all answers are over."""
        for thread in list(self._open):
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), "an answer does not end"

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        self.settle()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(connection,))
            self._open.add(thread)
            thread.start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        try:
            with connection, suppress(OSError):
                path, headers = _request(connection)
                if path:
                    _Answer(self.files[path], connection, headers).give()
        finally:
            self._open.discard(threading.current_thread())


class _Answer:
    def __init__(self, file: ServedFile, connection: socket.socket, headers: dict[str, str]) -> None:
        self._file, self._connection, self._headers = file, connection, headers
        wanted = headers.get("range", "")
        asked = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else None
        self._sending = Sending(asked, file.faults.popleft() if file.faults else None)
        file.answers.append(self._sending)

    def give(self) -> None:
        file, sending = self._file, self._sending
        kind = sending.fault.kind if sending.fault else None
        if kind == "refuse":
            status, after = REFUSALS[len(file.answers) % len(REFUSALS)]
            return self._head(status, {"Retry-After": after()} if after() else {}, 0)
        if kind in {"change", "liar"}:
            file.version += 1
        body, tag, fields = file.body, file.tag, {}
        if tag:
            fields["ETag" if file.validator == "etag" else "Last-Modified"] = tag
        if sending.asked is not None:
            if kind == "no range":
                return self._head(416, {"Content-Range": f"bytes */{len(body)}"}, 0)
            is_same = self._headers.get("if-range", tag) == tag
            if kind == "liar" or (is_same and kind != "whole"):
                sending.begin = sending.asked
                fields["Content-Range"] = f"bytes {sending.begin}-{len(body) - 1}/{len(body)}"
        self._head(206 if "Content-Range" in fields else 200, fields, len(body) - sending.begin)
        stop = (
            len(body) if sending.fault is None else max(sending.begin, min(len(body) - 1, sending.fault.at))
        )
        self._send(memoryview(body)[sending.begin : stop])
        return self._end(kind)

    def _head(self, status: int, fields: dict[str, str], length: int) -> None:
        self._sending.status = status
        fields |= {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Date": email.utils.formatdate(usegmt=True),
            "Connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._connection.sendall(f"HTTP/1.1 {status} Told\r\n{lines}\r\n".encode())

    def _send(self, rest: memoryview) -> None:
        file, sending = self._file, self._sending
        while rest:
            try:
                if _is_closed(self._connection):
                    raise ConnectionResetError
                count = self._connection.send(rest[:PIECE])
            except OSError:
                sending.left = True
                raise
            sending.sent += count
            rest = rest[count:]
            if file.pause:
                time.sleep(file.pause)

    def _end(self, kind: Kind | None) -> None:
        if kind == "reset":
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            return
        if kind != "stall":
            self._connection.shutdown(socket.SHUT_WR)
        try:
            while self._connection.recv(PIECE):
                pass
        except TimeoutError:
            self._sending.endured = True
        except ConnectionError:
            self._sending.left = True


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    is_readable = bool(select.select([connection], [], [], 0)[0])
    return is_readable and not connection.recv(1, socket.MSG_PEEK)


def _request(connection: socket.socket) -> tuple[str, dict[str, str]]:
    """The path and the headers; an empty path if none came."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = connection.recv(PIECE)
        if not data:
            return "", {}
        head += data
    first, *lines = head.decode().strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first.split()[1], {name.lower(): value.strip() for name, _, value in pairs}


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server, ended with the block."""
    server = FileServer()
    try:
        yield server
    finally:
        server.close()
