"""What is sent is what is received, pictures without copies, and a closed end is told."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_job

from sdserver.engine.messages import BatchRan, Submit
from sdserver.engine.pipe import Wire
from sdserver.jobs.events import Finished, Picture, Progress

Ends = tuple[Wire, Wire]


@pytest.fixture(name="ends")
def made_ends() -> Iterator[Ends]:
    first, second = (Wire(end) for end in multiprocessing.Pipe(duplex=True))
    yield first, second
    first.close()
    second.close()


def picture(side: int) -> Picture:
    return Picture(side, side, os.urandom(side * side * 3))


def crossed(ends: Ends, *messages: object) -> list[object]:
    """What the second end receives of what the first sends meanwhile."""
    sending = threading.Thread(target=ends[0].send, args=(messages,))
    sending.start()
    try:
        return ends[1].receive()
    finally:
        sending.join()


@pytest.mark.parametrize("side", [1, 36, 37, 512])
def test_messages_and_their_pictures_arrive_as_they_were(ends: Ends, side: int) -> None:
    finished = Finished("a/0", picture(side), first=picture(side))
    sent = [finished, Progress("b/0", 1, 2), BatchRan("text", 1, 0.5)]
    received = crossed(ends, *sent)
    assert received == sent
    assert isinstance(received[0], Finished)
    assert type(received[0].picture.pixels) is bytes


def test_a_job_arrives_as_it_was(ends: Ends) -> None:
    job = replace(toy_job("a/0"), id="x" * 100_000)
    assert crossed(ends, Submit(job)) == [Submit(job)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 80), max_size=700))
def test_any_number_of_pictures_crosses_at_once(sides: list[int]) -> None:
    ends = tuple(Wire(end) for end in multiprocessing.Pipe(duplex=True))
    try:
        sent = [
            Finished(f"{n}", Picture(side, side, bytes([n % 256]) * side * side * 3))
            for n, side in enumerate(sides)
        ]
        assert crossed((ends[0], ends[1]), *sent) == sent
    finally:
        for end in ends:
            end.close()


def test_messages_stay_in_order(ends: Ends) -> None:
    many = [Progress("a", step, 200) for step in range(200)]
    sending = threading.Thread(target=lambda: [ends[0].send([message]) for message in many])
    sending.start()
    assert [message for _ in many for message in ends[1].receive()] == many
    sending.join()


def test_a_closed_end_is_told_to_the_other(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()
    with pytest.raises(OSError):  # noqa: PT011 - whichever the kernel says
        ends[1].send([Progress("a", 1, 2)])


def test_a_transmission_that_breaks_off_is_no_message(ends: Ends) -> None:
    """The engine was killed while it sent a picture."""
    raw = ends[0]._socket
    raw.sendall(b"\0\0\0\1" + (1000).to_bytes(8, "big") + b"half of it")
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()
