"""Certificates for tests, and a client that trusts them alone."""

import re
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import trustme
from cryptography import x509
from patience import PATIENCE

ENDS = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
Written = tuple[Path, Path]


class Maker:
    """Issues certificates and writes them where the server reads them."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"

    def write(self, ends: datetime = ENDS, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> Written:
        leaf = self.ca.issue_cert("localhost", not_after=ends, key_type=key_type)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.key.chmod(0o600)
        return self.certificate, self.key

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number


class Client:
    """A connection that trusts the maker's certificates alone."""

    def __init__(self, maker: Maker, port: int) -> None:
        context = ssl.create_default_context()
        maker.ca.configure_trust(context)
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE)
        try:
            self.socket = context.wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise

    @property
    def serial(self) -> int:
        der = self.socket.getpeercert(binary_form=True)
        assert der
        return x509.load_der_x509_certificate(der).serial_number

    def ask(self, path: str = "/") -> str:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while not (found := re.search(rb"(?is)content-length: (\d+).*?\r\n\r\n(.*)", answer)) or len(
            found[2]
        ) < int(found[1]):
            part = self.socket.recv(9999)
            assert part, answer
            answer += part
        return found[2].decode()

    def close(self) -> None:
        self.socket.close()
