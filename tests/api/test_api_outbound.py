"""Requests to addresses that clients name reach public hosts alone, and end."""

import asyncio
import gzip
import io
import re
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdserver.api.outbound import MAX_REDIRECTS, Outbound, is_public, resolve_host
from sdserver.errors import AddressRefused

Answer = Callable[[str], bytes] | bytes


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "#102030").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


def reply(body: bytes, headers: str = "Content-Type: image/png", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def moved(target: str, status: str = "302 Found") -> bytes:
    return reply(b"", f"Location: {target}", status)


@dataclass
class Web:
    """A server on the loopback that answers by path."""

    answers: dict[str, bytes] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    port: int = 0
    slowly: float = 0.0
    tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> "Web":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            length = re.search(rb"(?i)\ncontent-length: *([0-9]+)", head)
            self.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
            answer = self.answers[head.split()[1].decode()]
            for at in range(0, len(answer), 65_536 if not self.slowly else 8):
                writer.write(answer[at : at + (65_536 if not self.slowly else 8)])
                await writer.drain()
                await asyncio.sleep(self.slowly)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def names(**hosts: Sequence[str]) -> tuple[Callable[[str, int], Awaitable[Sequence[str]]], list[str]]:
    """A resolver that knows these hosts, and what it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return hosts.get(host.replace(".", "_"), ())

    return resolve, asked


def run(work: Callable[[Web], Awaitable[Any]], **web: Any) -> Any:
    async def go() -> Any:
        async with Web(**web) as server:
            return await work(server)

    return asyncio.run(go())


LOOPBACK = frozenset({"127.0.0.1"})


def outbound(**options: Any) -> Outbound:
    """One that may reach the test's server, and nothing else that is not public."""
    return Outbound(allows=lambda address: address in LOOPBACK or is_public(address), **options)


def fetch(address: str, answers: dict[str, bytes], client: Outbound | None = None, **web: Any) -> bytes:
    async def work(server: Web) -> bytes:
        used = client or outbound()
        return await used.get_picture(address.replace("PORT", str(server.port)))

    return bytes(run(work, answers=answers, **web))


HERE = "http://127.0.0.1:PORT"


def test_a_picture_is_fetched() -> None:
    assert fetch(f"{HERE}/a.png?x=1", {"/a.png?x=1": reply(PNG)}) == PNG


def test_a_picture_may_be_known_by_its_first_bytes() -> None:
    assert fetch(f"{HERE}/a", {"/a": reply(PNG, "Content-Type: application/octet-stream")}) == PNG


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1",
        "192.0.0.8", "2001:20::1", "3fff::1", "::", "::1",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:808:808::1", "2001:0:4136:e378::1", "nonsense", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="127.0.0.0/8"))
def test_no_spelling_of_a_private_address_is_public(address: Any) -> None:
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    for text in (
        str(address),
        f"::ffff:{address}",
        f"64:ff9b::{high:x}:{low:x}",
        f"2002:{high:x}:{low:x}::",
        f"::{high:x}:{low:x}",
    ):
        assert not is_public(text), text


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "0"]
)
def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused, match=r"local resource|not known|not valid|not a URL"):
        asyncio.run(Outbound().get_picture(f"http://{host}:9/a.png"))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ftp://example.com/a.png", "http://"),
        ("file:///etc/passwd", "http://"),
        ("http://user:secret@example.com/", "user name"),
        ("http://user@example.com/", "user name"),
        ("http:///a.png", "not valid"),
        ("http://example.com:99999/", "not valid"),
        ("http://example.com:0/", "not valid"),
        ("http://[fe80::1%25eth0]/", "not valid"),
        ("http://exa mple.com/", "not valid"),
        ("http://example.com/\r\nX: y", "not a URL"),
        ("http://example.com/" + "x" * 5000, "at most"),
        ("http://", "not valid"),
    ],
)
def test_strange_addresses_are_refused_before_anything_is_asked(address: str, sentence: str) -> None:
    resolve, asked = names(example_com=["8.8.8.8"])
    with pytest.raises(AddressRefused, match=sentence) as caught:
        asyncio.run(Outbound(resolve=resolve).get_picture(address))
    assert asked == []
    assert "secret" not in str(caught.value)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    resolve, _ = names(two_test=["8.8.8.8", "10.0.0.1"])
    with pytest.raises(AddressRefused, match="public one"):
        asyncio.run(Outbound(resolve=resolve).get_picture("http://two.test/"))


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked() -> None:
    """The second answer of a rebinding name server would be another address: nobody asks for it."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return answers.pop(0)

    async def work(server: Web) -> bytes:
        data = await outbound(resolve=resolve).get_picture(f"http://rebind.test:{server.port}/a")
        assert f"host: rebind.test:{server.port}".encode() in server.heads[0].lower()
        return data

    assert run(work, answers={"/a": reply(PNG)}) == PNG
    assert answers == [["10.0.0.1"]]


def test_a_second_address_is_tried_where_the_first_does_not_answer() -> None:
    resolve, _ = names(two_test=["127.0.0.2", "127.0.0.1"])
    client = Outbound(resolve=resolve, allows=lambda address: address.startswith("127."))
    assert fetch("http://two.test:PORT/a", {"/a": reply(PNG)}, client) == PNG


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Same", "308 Same"])
def test_redirects_are_followed(status: str) -> None:
    assert fetch(f"{HERE}/a", {"/a": moved("b/../c", status), "/c": reply(PNG)}) == PNG


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://[::1]/", "//169.254.169.254/latest", "file:///etc/passwd", "gopher:x"],
)
def test_redirects_are_checked_anew(target: str) -> None:
    with pytest.raises(AddressRefused, match=r"public one|http://"):
        fetch(f"{HERE}/a", {"/a": moved(target)})


def test_redirects_to_a_name_that_resolves_to_a_private_address_are_refused() -> None:
    resolve, asked = names(good_test=["127.0.0.1"], bad_test=["192.168.0.1"])
    with pytest.raises(AddressRefused, match="public one"):
        fetch("http://good.test:PORT/a", {"/a": moved("http://bad.test/")}, outbound(resolve=resolve))
    assert asked == ["good.test", "bad.test"]


def test_redirects_end() -> None:
    chain = {f"/{k}": moved(f"/{k + 1}") for k in range(MAX_REDIRECTS)} | {f"/{MAX_REDIRECTS}": reply(PNG)}
    assert fetch(f"{HERE}/0", chain) == PNG
    with pytest.raises(AddressRefused, match="more than 3 times"):
        fetch(f"{HERE}/a", {"/a": moved("/a")})


def test_a_slow_body_is_given_up() -> None:
    with pytest.raises(AddressRefused, match=r"within 0\.2 seconds"):
        fetch(f"{HERE}/a", {"/a": reply(PNG * 10)}, outbound(timeout=0.2), slowly=0.05)


def test_a_slow_name_server_is_given_up() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(10)
        return []

    with pytest.raises(AddressRefused, match="within"):
        asyncio.run(Outbound(timeout=0.05, resolve=resolve).get_picture("http://slow.test/"))


@pytest.mark.parametrize("tells_length", [True, False])
def test_what_is_too_large_is_given_up(tells_length: bool) -> None:
    answer = reply(PNG + bytes(3000))
    if not tells_length:
        head, body = answer.split(b"\r\n\r\n", 1)
        lines = [line for line in head.split(b"\r\n") if b"Length" not in line]
        answer = b"\r\n".join(lines) + b"\r\n\r\n" + body
    with pytest.raises(AddressRefused, match="at most 2,000 bytes"):
        fetch(f"{HERE}/a", {"/a": answer}, outbound(max_bytes=2000))


def test_a_compressed_body_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10**7))
    with pytest.raises(AddressRefused, match="compressed"):
        fetch(f"{HERE}/a", {"/a": reply(bomb, "Content-Type: image/png\r\nContent-Encoding: gzip")})


@pytest.mark.parametrize(
    "answer", [reply(b"<html>", "Content-Type: text/html"), reply(PNG, status="404 Not Found"), b"rubbish"]
)
def test_what_is_no_picture_is_refused(answer: bytes) -> None:
    with pytest.raises(AddressRefused, match=r"Invalid image url|connection failed"):
        fetch(f"{HERE}/a", {"/a": answer})


def test_nothing_of_the_environment_or_of_earlier_answers_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    async def work(server: Web) -> None:
        client = outbound()
        for _ in range(2):
            address = f"http://127.0.0.1:{server.port}/a"
            await client.get_picture(address, user_agent="me/1\r\nX-Evil: 1")
        heads = [head.decode().lower() for head in server.heads]
        assert len(heads) == 2
        assert not any("cookie:" in head or "authorization:" in head for head in heads)
        assert "user-agent: me/1x-evil: 1\r\n" in heads[0]

    run(work, answers={"/a": reply(PNG, "Content-Type: image/png\r\nSet-Cookie: a=b; Path=/")})


def test_json_is_posted() -> None:
    async def work(server: Web) -> None:
        await outbound().post_json(f"http://127.0.0.1:{server.port}/hook", {"id": "é"})
        assert server.heads[0].startswith(b"POST /hook ")
        assert server.bodies == ['{"id":"é"}'.encode()]

    run(work, answers={"/hook": reply(b"", "X: y", "204 No Content")})


@pytest.mark.parametrize("answer", [moved("/other", "307 Same"), reply(b"", "X: y", "500 Oops")])
def test_a_post_that_is_not_taken_is_told(answer: bytes) -> None:
    async def work(server: Web) -> None:
        with pytest.raises(AddressRefused, match="status"):
            await outbound().post_json(f"http://127.0.0.1:{server.port}/hook", {})
        assert len(server.heads) == 1

    run(work, answers={"/hook": answer})


def test_posts_to_private_addresses_are_refused() -> None:
    with pytest.raises(AddressRefused, match="public one"):
        asyncio.run(Outbound().post_json("http://127.0.0.1:9/", {}))


def test_the_systems_resolver_is_asked() -> None:
    assert "127.0.0.1" in asyncio.run(resolve_host("127.0.0.1", 80))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the host good.test, with its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=good.test", "-addext", "subjectAltName=DNS:good.test", "-days", "2"]
    made = subprocess.run([*command, "-keyout", str(path), "-out", "-"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


@pytest.mark.parametrize("host", ["good.test", "evil.test"])
def test_tls_verifies_the_name_not_the_number(certificate: Path, host: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    resolve, _ = names(good_test=["127.0.0.1"], evil_test=["127.0.0.1"])
    client = outbound(resolve=resolve, tls=ssl.create_default_context(cafile=certificate))
    if host == "good.test":
        assert fetch(f"https://{host}:PORT/a", {"/a": reply(PNG)}, client, tls=tls) == PNG
        with pytest.raises(AddressRefused, match="connection failed"):
            fetch(f"https://{host}:PORT/a", {"/a": reply(PNG)}, outbound(resolve=resolve), tls=tls)
    else:
        with pytest.raises(AddressRefused, match="connection failed"):
            fetch(f"https://{host}:PORT/a", {"/a": reply(PNG)}, client, tls=tls)
