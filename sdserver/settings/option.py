"""What is known of one setting beside its type, and how its value is shown."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from sdserver.settings.credential import ApiKey, Credential
from sdserver.settings.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of one setting beside its type; kept in the dataclass field's metadata.

    Attributes:
        shown_default: the default as the help names it.
        secret: its value appears in no repr, help, error or report.
    """

    name: str
    group: str
    kind: Kind
    text: str
    shown_default: str
    secret: bool


def option(group: str, kind: Kind, default: T, text: str, *, shown: str = "", secret: bool = False) -> T:
    """A dataclass field with what is known of the setting in its metadata."""
    meta = {"option": (group, kind, text, shown, secret)}
    return field(default=default, repr=not secret, metadata=meta)


def public_value(value: object, secret: bool) -> object:
    """The value for reports: a secret as `***`, an address without login and query."""
    match value:
        case tuple():
            return [public_value(item, secret) for item in value]
        case Credential() | ApiKey():
            return "***"
        case Path():
            return str(value)
        case str() if secret and "://" in value:
            return without_secrets(value)
        case _:
            return value


def without_secrets(url: str) -> str:
    """The address without user, password, query and fragment, each of which may hold a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def shown_default(default: object) -> str:
    """A default as the help names it."""
    match default:
        case bool():
            return "on" if default else "off"
        case float():
            return f"{default:g}"
        case _:
            return str(default)
