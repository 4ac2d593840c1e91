"""The kinds of option values: how text becomes a value, whichever source the text came from.

A reader raises ValueError with a noun phrase that says what is wanted ("a whole number from 0 to 9");
the caller puts the option's name before it. The phrase never holds the text itself: it may be a secret.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sdserver.settings.credential import SHORT_KEY, ApiKey, Credential

MOST_DEVICES: Final = 64


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of one option is read.

    Attributes:
        read: text, and the folder that relative paths start from, to the value.
        metavar: the value's name in the help; empty for a switch, whose value may be left out.
        toml: types of value that the settings file may hold.
        split: text to the texts of several values, for options that may be given more than once.
    """

    read: Callable[[str, Path], object]
    metavar: str = ""
    toml: tuple[type, ...] = (str,)
    split: Callable[[str], list[str]] | None = None


def _commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _before_schemes(text: str) -> list[str]:
    """Split a list of addresses; a blank inside a path does not separate."""
    return [part for part in re.split(r"\s+(?=[A-Za-z][A-Za-z0-9+.-]*://)", text.strip()) if part]


def _printable(text: str, wanted: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(wanted)
    return text.strip()


def switch() -> Kind:
    """On or off."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }

    def read(text: str, _base: Path) -> bool:
        if text.strip().lower() not in words:
            raise ValueError("true or false")
        return words[text.strip().lower()]

    return Kind(read, toml=(bool,))


def integer(low: int, high: int, metavar: str = "N") -> Kind:
    """A whole number, both ends included."""
    wanted = f"a whole number from {low} to {high}"

    def read(text: str, _base: Path) -> int:
        if not re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) or not low <= int(text) <= high:
            raise ValueError(wanted)
        return int(text)

    return Kind(read, metavar, (int,))


def seconds(high: float) -> Kind:
    """A length of time from 0 to `high` seconds, which may have a fraction."""
    wanted = f"a number of seconds from 0 to {high:g}"

    def read(text: str, _base: Path) -> float:
        if not re.fullmatch(r"\s*[0-9]{1,12}(\.[0-9]{0,12})?\s*", text) or float(text) > high:
            raise ValueError(wanted)
        return float(text)

    return Kind(read, "SECONDS", (int, float))


def choice(*names: str, aliases: Mapping[str, str] | None = None) -> Kind:
    """One of `names`, in any case; `aliases` maps other spellings to them."""
    spellings = {name: name for name in names} | dict(aliases or {})

    def read(text: str, _base: Path) -> str:
        if text.strip().lower() not in spellings:
            raise ValueError("one of " + ", ".join(spellings))
        return spellings[text.strip().lower()]

    return Kind(read, "|".join(names))


def matching(pattern: str, wanted: str, metavar: str) -> Kind:
    """Text that matches `pattern` as a whole, in lower case."""

    def read(text: str, _base: Path) -> str:
        if not re.fullmatch(pattern, text.strip().lower()):
            raise ValueError(wanted)
        return text.strip().lower()

    return Kind(read, metavar)


def devices() -> Kind:
    """Several devices, each for an engine of its own; a number is that of a GPU. May name one repeatedly."""
    wanted = "devices separated by commas: numbers of GPUs, or names such as cuda:0, xpu:1, mps and cpu"

    def read(text: str, _base: Path) -> tuple[str, ...]:
        found = _commas(text.lower())
        if not found or len(found) > MOST_DEVICES or text.count(",") != len(found) - 1:
            raise ValueError(wanted)
        if not all(re.fullmatch("[0-9]{1,3}|cpu|mps|(cuda|xpu):[0-9]{1,3}", name) for name in found):
            raise ValueError(wanted)
        return tuple(f"cuda:{int(name)}" if name.isdigit() else name for name in found)

    return Kind(read, "DEVICES")


def host() -> Kind:
    """An address or host name to listen on."""

    def read(text: str, _base: Path) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", text.strip().strip("[]")):
            raise ValueError("an address or host name such as 127.0.0.1")
        return text.strip().strip("[]")

    return Kind(read, "ADDRESS")


def path() -> Kind:
    """A file or folder; relative ones start from the source's folder, `~` is the user's home."""
    wanted = "the path of a file or folder"

    def read(text: str, base: Path) -> Path:
        name = _printable(text, wanted)
        try:
            return base / Path(name).expanduser()
        except RuntimeError:
            raise ValueError("a path without ~, for this user has no home folder") from None

    return Kind(read, "PATH")


def subpath() -> Kind:
    """A path prefix: empty, or `/like/this`."""

    def read(text: str, _base: Path) -> str:
        bare = text.strip().strip("/")
        if not re.fullmatch(r"[A-Za-z0-9._~/-]*", bare) or ".." in bare.split("/") or "//" in bare:
            raise ValueError("a path prefix such as /sd")
        return f"/{bare}" if bare else ""

    return Kind(read, "PREFIX")


def regex() -> Kind:
    """A regular expression of Python."""

    def read(text: str, _base: Path) -> str:
        try:
            return re.compile(text).pattern
        except re.error:
            raise ValueError("a regular expression") from None

    return Kind(read, "REGEX")


def sources() -> Kind:
    """Addresses or paths to fetch one file from, in order of preference."""
    wanted = "an address such as https://host/file.safetensors, or a path"
    return Kind(lambda text, _base: _printable(text, wanted), "URL", (str, list), _before_schemes)


def upload_url() -> Kind:
    """Where pictures are sent: a bucket, or a web address with or without places for an object's key."""
    wanted = (
        "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or https://host/path/, "
        "without user and password"
    )

    def read(text: str, _base: Path) -> str:
        url = text.strip()
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError(wanted) from None
        if not re.fullmatch(r"[!-~]+", url) or not parts.hostname or "@" in parts.netloc or "#" in url:
            raise ValueError(wanted)
        is_bucket = parts.scheme in {"s3", "gs", "az"}
        if not is_bucket and parts.scheme not in {"http", "https"}:
            raise ValueError(wanted)
        if is_bucket and not re.fullmatch(r"[A-Za-z0-9._/-]*", parts.netloc + parts.path + parts.query):
            raise ValueError(wanted)
        if is_bucket and ("?" in url or {"..", "."} & set(parts.path.split("/"))):
            raise ValueError(wanted)
        if set(re.findall(r"[{][^}]*[}]?", url)) - {"{key}", "{name}"}:
            raise ValueError(f"{wanted}; in a web address {{key}} and {{name}} may stand")
        return url

    return Kind(read, "URL")


def names(metavar: str) -> Kind:
    """One of several names, which commas separate."""

    def read(text: str, _base: Path) -> str:
        return _printable(text, "names separated by commas")

    return Kind(read, metavar, (str, list), _commas)


def origins() -> Kind:
    """Web origins such as https://page.example, or `*`."""

    def read(text: str, _base: Path) -> str:
        if text.strip() != "*" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#]+/?", text.strip()):
            raise ValueError("origins such as https://page.example, separated by commas")
        return text.strip().rstrip("/")

    return Kind(read, "ORIGINS", (str, list), _commas)


def host_names() -> Kind:
    """Names of hosts, without ports; `.example.com` for all below a domain, `*` for all."""

    def read(text: str, _base: Path) -> str:
        name = text.strip().lower().rstrip(".")
        if name != "*" and not re.fullmatch(r"\.?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", name):
            raise ValueError("names of hosts without ports, separated by commas")
        return name

    return Kind(read, "NAMES", (str, list), _commas)


def networks() -> Kind:
    """IP addresses and networks, `*` for all."""

    def read(text: str, _base: Path) -> str:
        try:
            return "*" if text.strip() == "*" else str(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            raise ValueError("addresses or networks such as 10.0.0.0/8, separated by commas") from None

    return Kind(read, "ADDRESSES", (str, list), _commas)


def credentials() -> Kind:
    """User names and passwords as AUTOMATIC1111 writes them: `u:p,u2:p2`.

    Only the first colon separates, so a password may hold more of them (AUTOMATIC1111's would not start).
    A list in the settings file is not split, so there a password may hold a comma.
    """

    def read(text: str, _base: Path) -> Credential:
        user, colon, password = text.partition(":")
        if not colon or not user.strip() or not password:
            raise ValueError("user:password, several separated by commas")
        return Credential(user.strip(), password)

    return Kind(read, "USER:PASSWORD", (str, list), _commas)


def admin_key() -> Kind:
    """A key that nobody guesses, kept as its digest."""

    def read(text: str, _base: Path) -> ApiKey:
        key = text.strip()
        if not re.fullmatch(rf"[!-~]{{{SHORT_KEY},}}", key):
            raise ValueError(f"at least {SHORT_KEY} visible ASCII characters")
        return ApiKey.of(key)

    return Kind(read, "KEY")
