"""What a program is: a generator that yields device calls and returns its result."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from sdserver.calls import Call, DeviceCall
from sdserver.jobs.events import Picture, Used
from sdserver.jobs.job import Job

NOTHING_USED = Used()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A program's result.

    Attributes:
        interrupted: sampling was ended early on request.
        new_parts, text, first, before_faces: see `jobs.events.Finished`.
    """

    picture: Picture
    interrupted: bool = False
    used: Used = NOTHING_USED
    new_parts: bytes = b""
    text: str = ""
    first: Picture | None = None
    before_faces: Picture | None = None


# What is sent in depends on the call that was yielded (see `sdserver.calls`), hence Any.
Program = Generator[Call | list[DeviceCall], Any, Outcome]
ProgramTable = Callable[[Job], Program]
