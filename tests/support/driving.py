"""Programs driven by hand: without engine or model."""

from sdserver.calls import Interrupted, Report


def drive(program, answer):
    """Run a program to its end; returns its outcome and every call, lists flattened."""
    calls, wanted = [], next(program)
    try:
        while True:
            batch = wanted if isinstance(wanted, list) else [wanted]
            calls += batch
            wanted = program.send(answered(wanted, answer))
    except StopIteration as end:
        return end.value, calls


def answered(wanted, answer):
    """What a program that yielded `wanted` is sent."""
    return [answer(call) for call in wanted] if isinstance(wanted, list) else answer(wanted)


def interrupt(program, answer, until):
    """Drive a program, interrupt it at the first call that `until` holds for; its outcome and later calls.

    Raises:
        Interrupted: the program had nothing to show.
    """
    wanted = next(program)
    while not until(wanted):
        wanted = program.send(answered(wanted, answer))
    calls = []
    try:
        wanted = program.throw(Interrupted())
        while True:
            calls += wanted if isinstance(wanted, list) else [wanted]
            wanted = program.send(answered(wanted, answer))
    except StopIteration as end:
        return end.value, calls


def after_reports(count):
    """Holds from the call after `count` reports on."""
    seen = []

    def is_due(wanted):
        if isinstance(wanted, Report):
            seen.append(wanted)
            return False
        return len(seen) >= count

    return is_due


def of(calls, kind):
    """The calls of one kind."""
    return [call for call in calls if isinstance(call, kind)]
