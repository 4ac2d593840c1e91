"""What a client shows to be let in: a user's name and password, or a key."""

import hashlib
from dataclasses import dataclass, field

SHORT_KEY = 16
"""Keys of fewer characters can be guessed."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One user who may call the API. The password shows in no repr."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key that may call the API. The key itself is not kept.

    Attributes:
        name: whose it is, for people; may be empty.
        digest: SHA-256 of the key.
    """

    name: str
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, key: str, name: str = "") -> "ApiKey":
        """The key as it is kept."""
        return cls(name, hashlib.sha256(key.encode()).digest())
