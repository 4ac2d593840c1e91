"""Jobs that were on their way when their engine died: each runs again alone, and not for ever. Pure."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from sdserver.engine.member import Member

MAX_CRASHES: Final = 2


class Suspects:
    """The suspects in the order in which they run, and how many engines each has ended.

    A suspect waits for the engine that it may have ended, so that it ends no other one; unless that engine is
    out of order or died of something else meanwhile.
    """

    def __init__(self) -> None:
        self._homes: dict[str, Member | None] = {}
        self._crashes: dict[str, int] = {}

    def __contains__(self, job: str) -> bool:
        return job in self._homes

    def died(self, home: Member, victims: Sequence[str]) -> list[str]:
        """An engine died and had begun these jobs; those that are not tried again."""
        rest = {
            job: None if one is home and not home.is_only else one
            for job, one in self._homes.items()
            if job not in victims
        }
        self._homes = {**dict.fromkeys(victims, home), **rest}
        for victim in victims:
            self._crashes[victim] = self._crashes.get(victim, 0) + 1
        return [victim for victim in victims if self._crashes[victim] >= MAX_CRASHES]

    def forget(self, job: str) -> None:
        """A job is over."""
        self._homes.pop(job, None)
        self._crashes.pop(job, None)

    def clear(self) -> None:
        """Nothing runs any more."""
        self._homes.clear()

    def sendable(self, members: Sequence[Member], held: Collection[str]) -> Iterator[tuple[str, Member]]:
        """Which can run now, and where; what is sent in between counts.

        Args:
            members: all engines.
            held: jobs that engines have.
        """
        for job, home in tuple(self._homes.items()):
            for member in members if job not in held else ():
                if member.is_ready and not member.sent and (member is home or _is_lost(home)):
                    yield job, member
                    break

    def needs_room(self, held: Collection[str]) -> bool:
        """Whether one waits for whichever engine has nothing else to do."""
        return any(job not in held and _is_lost(home) for job, home in self._homes.items())


def _is_lost(home: Member | None) -> bool:
    """Whether a suspect need not wait for this engine."""
    return home is None or bool(home.failed or home.unfit)
