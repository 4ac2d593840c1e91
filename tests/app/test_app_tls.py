"""The certificate: files that are of no use, and ones that are replaced under a running server."""

import asyncio
import calendar
import gc
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from certificates import ENDS, Client, Maker
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from patience import PATIENCE, wait_until
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sdserver.app.handshakes import COLLECT_AFTER
from sdserver.app.limits import ConnectionLimits
from sdserver.app.servers import Guard, Serving, bind
from sdserver.app.tls import Tls, ends_at, read_pair
from sdserver.errors import SettingsError

USUAL = ConnectionLimits()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def no_certificate(maker: Maker) -> None:
    maker.certificate.write_text("This is none.")


def swapped(maker: Maker) -> None:
    certificate = maker.certificate.read_bytes()
    maker.certificate.write_bytes(maker.key.read_bytes())
    maker.key.write_bytes(certificate)


def no_key(maker: Maker) -> None:
    maker.key.write_bytes(maker.certificate.read_bytes())


def of_another(maker: Maker) -> None:
    certificate = maker.certificate.read_bytes()
    maker.write()
    maker.certificate.write_bytes(certificate)


def of_another_kind(maker: Maker) -> None:
    certificate = maker.certificate.read_bytes()
    maker.write(key_type=trustme.KeyType.RSA)
    maker.certificate.write_bytes(certificate)


def issuer_first(maker: Maker) -> None:
    maker.certificate.write_bytes(maker.ca.cert_pem.bytes() + maker.certificate.read_bytes())


def encrypted(maker: Maker) -> None:
    key = load_pem_private_key(maker.key.read_bytes(), None)
    how = BestAvailableEncryption(b"tell nobody")
    maker.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))


def encrypted_as_of_old(maker: Maker) -> None:
    key = load_pem_private_key(maker.key.read_bytes(), None)
    how = BestAvailableEncryption(b"tell nobody")
    maker.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, how))


def damaged(maker: Maker) -> None:
    lines = maker.certificate.read_text().splitlines()
    lines[3] = "A" * len(lines[3])
    maker.certificate.write_text("\n".join(lines) + "\n")


def damaged_key(maker: Maker) -> None:
    lines = maker.key.read_text().splitlines()
    maker.key.write_text("\n".join([lines[0], lines[1][:20], lines[-1]]) + "\n")


def unreadable(maker: Maker) -> None:
    maker.key.unlink()
    maker.key.symlink_to("/proc/self/mem")  # whose first page nobody may read, root neither


def huge(maker: Maker) -> None:
    with maker.key.open("ab") as opened:
        opened.truncate(10**9)


FAULTS: dict[Callable[[Maker], None], str] = {
    no_certificate: "certificate.pem holds no certificate; --tls-certfile needs one in PEM form.",
    swapped: "certificate.pem holds no certificate; --tls-certfile needs one in PEM form.",
    no_key: "key.pem holds no private key; --tls-keyfile needs one in PEM form.",
    of_another: "key.pem does not belong to the first certificate in .*certificate.pem; give the two",
    of_another_kind: "key.pem does not belong to the first certificate in .*certificate.pem; give the two",
    issuer_first: "does not belong to the first certificate .*own certificate before those that vouch for it",
    encrypted: "key.pem is encrypted; give --tls-keyfile one without a password .openssl pkey",
    encrypted_as_of_old: "key.pem is encrypted; give --tls-keyfile one without a password .openssl pkey",
    damaged: "certificate.pem and .*key.pem cannot be used .*; have the certificate issued anew.",
    damaged_key: "certificate.pem and .*key.pem cannot be used .*; have the certificate issued anew.",
    unreadable: "key.pem cannot be read .Input/output error.; let the server's user read it.",
    huge: "key.pem is larger than 1,000,000 bytes; give another.",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_files_that_are_of_no_use_are_refused(spoil: Callable[[Maker], None], maker: Maker) -> None:
    maker.write()
    read_pair(maker.certificate, maker.key)
    spoil(maker)
    with pytest.raises(SettingsError, match=FAULTS[spoil]) as refused:
        Tls(maker.certificate, maker.key)
    assert len(str(refused.value).splitlines()) == 1


def test_a_key_that_everybody_may_read_and_an_old_certificate_are_told(maker: Maker) -> None:
    maker.write()
    for mode in (0o600, 0o640, 0o400):
        maker.key.chmod(mode)
        assert Tls(maker.certificate, maker.key).notices() == []
    maker.key.chmod(0o644)
    (notice,) = Tls(maker.certificate, maker.key).notices()
    assert notice == f"Everybody on this machine may read the TLS key {maker.key}; chmod o-r ends that."
    maker.key.chmod(0o600)
    (notice,) = Tls(maker.certificate, maker.key, ENDS.timestamp).notices()
    assert notice == f"The TLS certificate {maker.certificate} ended on 2049-12-31 23:59 UTC; renew it."


@pytest.mark.parametrize("year", [2025, 2049, 2050, 9999])
def test_the_end_is_that_which_the_certificate_names(year: int, maker: Maker) -> None:
    maker.write(ENDS.replace(year=year))
    found = x509.load_pem_x509_certificate(maker.certificate.read_bytes())
    der = found.public_bytes(Encoding.DER)
    assert ends_at(der) == calendar.timegm(found.not_valid_after_utc.timetuple())
    for length in range(0, 100, 7):
        with pytest.raises(ValueError, match=r"cut off|does not match"):
            ends_at(der[:length])


async def greet(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(f"{scope['scheme']} {scope['path']}")(scope, receive, send)


def served(tls: Tls, test: Callable[[int], None], limits: ConnectionLimits = USUAL) -> None:
    """Run the test, in a thread, against a server."""

    async def live() -> None:
        bound = bind("127.0.0.1", 0, "--port")
        port = bound.getsockname()[1]
        server = Serving(greet, bound, tls=tls.context, guard=Guard(limits))
        assert server.address.startswith("https://localhost:")
        await server.start()
        try:
            await asyncio.to_thread(test, port)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(live(), PATIENCE))


def test_a_new_certificate_is_for_new_handshakes_and_old_connections_live_on(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(*maker.write())
    first = maker.serial

    def test(port: int) -> None:
        old = Client(maker, port)
        assert (old.serial, old.ask("/a")) == (first, "https /a")
        maker.write(ENDS - timedelta(days=1))
        second = maker.serial
        assert tls.renew() == "The TLS certificate was read anew; it ends on 2049-12-30 23:59 UTC."
        assert tls.ends_at == (ENDS - timedelta(days=1)).timestamp()
        new = Client(maker, port)
        assert (new.serial, new.ask("/b")) == (second, "https /b")
        assert (old.serial, old.ask("/c")) == (first, "https /c")
        assert caplog.records == []
        of_another(maker)
        assert tls.renew() is None
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "stays as it was: The TLS key" in record.getMessage()
        assert tls.ends_at == (ENDS - timedelta(days=1)).timestamp()
        third = Client(maker, port)
        assert (third.serial, third.ask("/d")) == (second, "https /d")
        for each in (old, new, third):
            each.close()

    served(tls, test)


def test_the_new_certificate_is_also_for_clients_that_name_no_host(maker: Maker) -> None:
    tls = Tls(*maker.write())

    def test(port: int) -> None:
        maker.write()
        assert tls.renew()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        maker.ca.configure_trust(context)
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.maximum_version = newest
            with (
                socket.create_connection(("127.0.0.1", port), PATIENCE) as raw,
                context.wrap_socket(raw) as connection,
            ):
                der = connection.getpeercert(binary_form=True)
                assert der
                assert x509.load_der_x509_certificate(der).serial_number == maker.serial

    served(tls, test)


def test_old_versions_of_tls_are_refused(maker: Maker) -> None:
    tls = Tls(*maker.write())

    def test(port: int) -> None:
        assert spoken(maker, port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert spoken(maker, port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with (
            pytest.warns(DeprecationWarning, match="TLSv1"),
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            spoken(maker, port, ssl.TLSVersion.TLSv1_1)

    served(tls, test)


def spoken(maker: Maker, port: int, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    maker.ca.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        return connection.version()


def silent_ones(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(count)]


def test_handshakes_must_end_in_time(maker: Maker) -> None:
    def test(port: int) -> None:
        connections = silent_ones(port, 3)
        connections[0].sendall(bytes.fromhex("160301"))  # the beginning of one
        assert [each.recv(1) for each in connections] == [b""] * 3
        for each in connections:
            each.close()

    served(Tls(*maker.write()), test, ConnectionLimits(head_seconds=0.5))


def test_where_there_are_too_many_handshakes_the_oldest_make_room(maker: Maker) -> None:
    def test(port: int) -> None:
        silent = silent_ones(port, 12)
        assert [each.recv(1) for each in silent[:8]] == [b""] * 8
        client = Client(maker, port)
        assert client.ask("/x") == "https /x"
        assert silent[8].recv(1) == b""
        assert client.ask("/y") == "https /y"
        others = [Client(maker, port) for _ in range(3)]  # those that ended hold no place
        silent[9].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[9].recv(1)
        for each in (*silent, client, *others):
            each.close()

    served(Tls(*maker.write()), test, ConnectionLimits(most=4, most_per_address=0, head_seconds=2 * PATIENCE))


def test_failed_handshakes_leave_little_behind(maker: Maker) -> None:
    """Balancers that look by TCP alone whether the port is open make one every few seconds."""

    def alive() -> int:
        return sum(type(each) is SSLProtocol for each in gc.get_objects())

    def test(port: int) -> None:
        for _ in range(4):
            for each in silent_ones(port, COLLECT_AFTER):
                each.close()
            client = Client(maker, port)  # whose turn comes after theirs
            assert client.ask("/") == "https /"
            client.close()
        wait_until(lambda: alive() <= 2 * COLLECT_AFTER)

    gc.disable()
    try:
        served(Tls(*maker.write()), test, ConnectionLimits(head_seconds=60))
    finally:
        gc.enable()
