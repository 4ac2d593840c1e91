"""Where uploads go: `--upload-url` taken apart, and what an object is called there."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import quote, urlsplit

Service = Literal["s3", "gs", "az", "http"]
SERVICES: Final[dict[str, Service]] = {"s3": "s3", "gs": "gs", "az": "az", "http": "http", "https": "http"}
MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
}
DIGITS: Final = 32
"""Of the SHA-256 in a key: 128 bits, so that no two pictures meet."""


@dataclass(frozen=True, slots=True)
class Target:
    """A place for objects.

    Attributes:
        service: how it is spoken to.
        bucket: or container; empty for `http`.
        prefix: before every key, without slashes around it; empty for `http`.
        url: for `http`, the address as given.
    """

    service: Service
    bucket: str = ""
    prefix: str = ""
    url: str = ""

    @property
    def shown(self) -> str:
        """For people: no path of a web address, for tokens may stand there."""
        if self.service != "http":
            return f"{self.service}://{self.bucket}/{self.prefix}"
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def address(self, key: str) -> str:
        """Where an object of that key is put; for `http` alone.

        `{key}` and `{name}` (the key's last part) stand for themselves; without either, the key follows
        the address's path.
        """
        name = key.rpartition("/")[2]
        if "{key}" in self.url or "{name}" in self.url:
            return self.url.replace("{key}", quote(key)).replace("{name}", quote(name))
        base, mark, query = self.url.partition("?")
        return f"{base.rstrip('/')}/{quote(key)}{mark}{query}"


def parse_target(url: str) -> Target:
    """Take an address apart that `settings.kinds.upload_url` let pass."""
    parts = urlsplit(url)
    service = SERVICES[parts.scheme]
    if service == "http":
        return Target("http", url=url)
    return Target(service, parts.netloc, parts.path.strip("/"))


def key_of(data: bytes, extension: str, saved_at: float) -> str:
    """An object's key: the day and the content's hash, so that sending it twice changes nothing.

    Nothing of the file's name is in it, for prompts may be in that.

    Args:
        data: the file.
        extension: of its format.
        saved_at: seconds since 1970; the day is UTC's.
    """
    day = datetime.fromtimestamp(saved_at, UTC).date().isoformat()
    return f"{day}/{hashlib.sha256(data).hexdigest()[:DIGITS]}.{extension}"


def media_type_of(extension: str) -> str:
    """A format's Content-Type."""
    return MEDIA_TYPES.get(extension, "application/octet-stream")
