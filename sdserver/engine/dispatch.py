"""Which engine a job goes to, and which engine gives one back for another. Pure.

Jobs wait in the front, in one line, and go to engines no sooner than these can use them. An engine that has
a job's checkpoint is preferred: bringing it to another counts as so many jobs more.
"""

from collections.abc import Collection, Sequence
from typing import Final

from sdserver.engine.member import Member, checkpoint_of
from sdserver.jobs.job import Job

SWITCH: Final = 2
"""Jobs that bringing a checkpoint to a device is worth."""


def chosen(job: Job, members: Sequence[Member], closed: Collection[Member] = ()) -> Member | None:
    """The engine that a job goes to now; None if it has to wait.

    Args:
        job: that waits for nobody of its checkpoint.
        members: all engines.
        closed: engines that are to be given nothing.
    """
    checkpoint = checkpoint_of(job)
    can = members
    if checkpoint is not None:
        can = [member for member in members if checkpoint not in member.refused] or members
    free = [member for member in can if member.is_open and member not in closed]
    if checkpoint is None:
        return _least(free)
    users = [member for member in can if member.is_ready and member.uses(checkpoint)]
    user = _least([member for member in free if member in users])
    other = _least([member for member in free if member not in users])
    if other is None or not users:
        return user or other
    # Where none of those that have the checkpoint is free, they are waited for, unless they have much to do.
    rival = user or _least(users)
    assert rival is not None  # noqa: S101 - there are users
    return other if len(other.sent) + SWITCH < len(rival.sent) else user


def moved(members: Sequence[Member], closed: Collection[Member] = ()) -> tuple[Member, Job, Member] | None:
    """A job that waits in one engine while another could begin it: from where, which, to where."""
    hungry = [member for member in members if member.is_open and member not in closed]
    hungry = [member for member in hungry if len(member.sent) == len(member.started)]
    for taker in sorted(hungry, key=lambda member: len(member.sent)):
        for giver in sorted(members, key=lambda member: -len(member.sent)):
            if len(taker.sent) + 2 > len(giver.sent):
                break
            job = next((job for job in giver.unbegun() if _suits(job, taker)), None)
            if job is not None:
                return giver, job, taker
    return None


def reserved(members: Sequence[Member]) -> Member | None:
    """The engine that is to run empty for a job that must run alone; None where one will be empty anyway."""
    ready = [member for member in members if member.is_ready]
    if len(ready) < len([member for member in members if not member.failed and not member.unfit]):
        return None
    return None if any(member.is_alone or not member.sent for member in ready) else _least(ready)


def _suits(job: Job, taker: Member) -> bool:
    """Whether an engine would begin it at once, and need not take its checkpoint from others."""
    checkpoint = checkpoint_of(job)
    if checkpoint is None:
        return True
    return checkpoint not in taker.refused and (not taker.sent or taker.uses(checkpoint))


def _least(members: Sequence[Member]) -> Member | None:
    return min(members, key=lambda member: (len(member.sent), member.number), default=None)
