"""The certificate that the API's port is served with. It may be replaced while the server runs."""

import logging
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sdserver.errors import SettingsError
from sdserver.settings.model import Settings

log = logging.getLogger(__name__)

_LARGEST: Final = 10**6
_CERTIFICATE: Final = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----")
_KEY: Final = "PRIVATE KEY-----"
_MISMATCH: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
"""How OpenSSL calls a key of another certificate; the last where it is of another kind, too."""
_VERSION, _SHORT_TIME = 0xA0, 0x17


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key.

    Attributes:
        context: what connections are encrypted by.
        ends_at: the certificate's end, in seconds since 1970.
    """

    context: ssl.SSLContext
    ends_at: float


class Tls:
    """Encrypts by the files as they were when they were last read.

    Args:
        certificate: of the server, followed by those that vouch for it (PEM).
        key: its private key (PEM), not encrypted.
        now: seconds since 1970.

    Attributes:
        context: for the listening socket. Each handshake gets the newest certificate by it.

    Raises:
        SettingsError: a file is of no use; the sentence says why.
    """

    def __init__(self, certificate: Path, key: Path, now: Callable[[], float] = time.time) -> None:
        self._certificate, self._key = certificate, key
        self._now = now
        self._pair = read_pair(certificate, key)
        self.context = self._pair.context
        self.context.sni_callback = self._choose

    @property
    def ends_at(self) -> float:
        """When the certificate ends, in seconds since 1970."""
        return self._pair.ends_at

    def notices(self) -> list[str]:
        """What the operator should change about the files."""
        found = []
        if self._key.stat().st_mode & stat.S_IROTH:
            found.append(f"Everybody on this machine may read the TLS key {self._key}; chmod o-r ends that.")
        if self.ends_at <= self._now():
            found.append(f"The TLS certificate {self._certificate} ended on {_day(self.ends_at)}; renew it.")
        return found

    def renew(self) -> str | None:
        """Read the files anew, for handshakes that begin from now on; connections that stand live on.

        Returns:
            What to say about it; None where the files are of no use and the old ones stay, which is logged.
        """
        try:
            self._pair = read_pair(self._certificate, self._key)
        except SettingsError as error:
            log.error("The TLS certificate stays as it was: %s", error)
            return None
        return f"The TLS certificate was read anew; it ends on {_day(self.ends_at)}."

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._pair.context


def tls_of(settings: Settings) -> Tls | None:
    """The settings' certificate and key; None where port 8000 has no TLS.

    Raises:
        SettingsError: a file is of no use; the sentence says why.
    """
    certificate, key = settings.tls_certfile, settings.tls_keyfile
    return Tls(certificate, key) if certificate and key else None


def read_pair(certificate: Path, key: Path) -> Pair:
    """A certificate and its key from their files.

    Raises:
        SettingsError: one of them is of no use; the sentence says why.
    """

    def is_encrypted() -> str:
        raise SettingsError(
            f"The TLS key {key} is encrypted; give --tls-keyfile one without a password "
            f"(openssl pkey -in {key} -out NEW.pem makes it)."
        )

    chain = _text(certificate)
    if not all(mark in chain for mark in _CERTIFICATE):
        raise SettingsError(f"{certificate} holds no certificate; --tls-certfile needs one in PEM form.")
    if _KEY not in _text(key):
        raise SettingsError(f"{key} holds no private key; --tls-keyfile needs one in PEM form.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, is_encrypted)
        return Pair(context, ends_at(_first_of(chain)))
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if reason in _MISMATCH:
            raise SettingsError(
                f"The TLS key {key} does not belong to the first certificate in {certificate}; give the two "
                "that were made together, the server's own certificate before those that vouch for it."
            ) from None
        raise SettingsError(
            f"The TLS files {certificate} and {key} cannot be used ({reason or 'damaged'}); "
            "have the certificate issued anew."
        ) from None
    except OSError as error:
        raise SettingsError(_unreadable(f"{certificate} or {key}", error)) from None


def ends_at(der: bytes) -> float:
    """When a certificate ends, in seconds since 1970 (RFC 5280, section 4.1).

    Raises:
        ValueError: it is no certificate.
    """
    try:
        certificate = _element(der, 0)[1]
        place = _element(der, certificate)[1]
        tag, _, end = _element(der, place)
        if tag == _VERSION:
            place = end
        for _ in range(3):  # serial number, algorithm of the signature, issuer
            place = _element(der, place)[2]
        validity = _element(der, place)[1]
        tag, start, end = _element(der, _element(der, validity)[2])
    except IndexError:
        raise ValueError("The certificate is cut off.") from None
    text = der[start:end].decode("ascii")
    if tag == _SHORT_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(der: bytes, place: int) -> tuple[int, int, int]:
    """The tag of what stands there, and where its content begins and ends."""
    length, start = der[place + 1], place + 2
    if length >= 0x80:
        width = length & 0x7F
        length = int.from_bytes(der[start : start + width])
        start += width
    return der[place], start, start + length


def _first_of(chain: str) -> bytes:
    begin, end = _CERTIFICATE
    body = chain.partition(begin)[2].partition(end)[0]
    return ssl.PEM_cert_to_DER_cert(f"{begin}{body}{end}")


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            found = opened.read(_LARGEST + 1)
    except OSError as error:
        raise SettingsError(_unreadable(str(file), error)) from None
    if len(found) > _LARGEST:
        raise SettingsError(f"The TLS file {file} is larger than {_LARGEST:,} bytes; give another.")
    return found.decode("latin-1")


def _unreadable(name: str, error: OSError) -> str:
    return f"The TLS file {name} cannot be read ({error.strerror}); let the server's user read it."


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
