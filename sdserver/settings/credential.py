"""A user's name and password."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credential:
    """One user who may call the API. The password shows in no repr."""

    user: str
    password: str = field(repr=False)
