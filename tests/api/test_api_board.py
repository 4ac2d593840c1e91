"""The board: every accepted request is known by one id, ends once, and leaves nothing behind."""

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from toy import JOB

from sdserver.api.answer.answer import Encoded
from sdserver.api.board import MAX_REMEMBERED, Board
from sdserver.api.engine import Engine
from sdserver.api.entry import ENDS, USUAL_STEPS, Entry
from sdserver.api.shelf import Shelf
from sdserver.engine.messages import StopMode
from sdserver.engine.ticket import Ticket
from sdserver.errors import EngineFailure, InvalidField, TaskExists
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent, Picture, Previewed, Progress, Started
from sdserver.jobs.job import Enlarge, Job, Size

NOW = datetime(2026, 11, 21, 10, 20, 30, tzinfo=UTC)
DOT = Picture(1, 1, b"\0\0\0")


class Outcome:
    """A result of some size."""

    headers: dict[str, str] = {}  # noqa: RUF012 - as the protocol has it

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.pictures: tuple[Encoded, ...] = ()

    def body(self) -> bytes:
        return b"{}"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Hand:
    """An engine that does nothing of its own."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.continued: list[bool] = []

    def submit(
        self,
        request_id: str,
        jobs: Sequence[Job],
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        continues: bool = False,
    ) -> Ticket:
        ticket = Ticket(request_id, jobs, self._stop, on_event=on_event)
        self.tickets.append(ticket)
        self.continued.append(continues)
        return ticket

    def _stop(self, jobs: Sequence[str], mode: StopMode) -> None:
        for ticket in self.tickets:
            for job in ticket.unfinished:
                if job.id in jobs:
                    has_begun = mode != "drop" and job.id in ticket.started
                    end = Finished(job.id, DOT, interrupted=True) if has_begun else Cancelled(job.id)
                    ticket.observe(end)


def jobs_of(name: str, count: int = 1) -> list[Job]:
    return [Enlarge(f"{name}/{k}", DOT, Size(2, 2), "Lanczos", "") for k in range(count)]


def images_of(name: str, count: int) -> list[Job]:
    """Jobs of 3 steps."""
    return [replace(JOB, id=f"{name}/{k}", sampling=replace(JOB.sampling, steps=3)) for k in range(count)]


def engine_of(hand: Hand) -> Engine:
    return cast(Engine, hand)


async def settled() -> None:
    """Let all that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def made(outcome: Outcome | None = None) -> Outcome:
    return outcome or Outcome()


async def failing() -> Outcome:
    raise EngineFailure("The device is gone.")


async def endless() -> Outcome:
    await asyncio.Event().wait()
    return Outcome()


def on_board(test: Callable[[Board, Clock], Coroutine[Any, Any, None]], max_bytes: int = 100) -> None:
    """Run a test on a loop with a board that keeps results for 60 seconds."""

    async def run() -> None:
        clock = Clock()
        await test(Board(max_bytes, 60, clock), clock)

    asyncio.run(run())


async def kept(board: Board, name: str, size: int = 10) -> Entry:
    """An entry that completed, and whose result is kept."""
    entry = board.open("txt2img", name, NOW)
    entry.is_kept = True
    board.run(entry, made(Outcome(size)))
    await settled()
    return entry


@pytest.mark.parametrize("name", ["task(abc)", "a/b c", "~", "x" * 200])
def test_ids_of_clients_own(name: str) -> None:
    entry = Board(1, 1).open("txt2img", name, NOW)
    assert entry.id == name
    assert entry.request_id != name
    assert entry.timestamp == "20261121102030"


@pytest.mark.parametrize("name", [" a", "a ", "a\nb", "é", "x" * 201, "\x7f"])
def test_ids_that_are_no_use(name: str) -> None:
    with pytest.raises(InvalidField, match="force_task_id"):
        Board(1, 1).open("txt2img", name, NOW)


def test_ids_are_random_without() -> None:
    board = Board(1, 1)
    assert len({board.open("txt2img", name, NOW).id for name in (None, "", None)}) == 3


def test_an_id_is_free_again_when_its_request_ended() -> None:
    async def test(board: Board, _clock: Clock) -> None:
        first = board.open("txt2img", "a", NOW)
        task = board.run(first, endless())
        with pytest.raises(TaskExists, match="'a'"):
            board.open("txt2img", "a", NOW)
        assert board.find("a") is first
        first.stop("drop")
        await asyncio.wait([task])
        assert first.state == "cancelled"
        second = await kept(board, "a")
        assert board.find("a") is second
        assert board.entries() == (second,)
        third = board.open("txt2img", "a", NOW)
        assert board.result_of(second) is None
        assert board.entries() == (third,)

    on_board(test)


def test_ends() -> None:
    async def test(board: Board, clock: Clock) -> None:
        entries = {name: board.open("txt2img", name, NOW) for name in ("good", "bad", "gone")}
        board.run(entries["good"], made())
        board.run(entries["bad"], failing())
        board.run(entries["gone"], endless())
        entries["gone"].stop("drop")
        clock.now += 5
        await settled()
        assert [entry.state for entry in entries.values()] == ["completed", "failed", "cancelled"]
        assert [entry.ended for entry in entries.values()] == [1005.0] * 3
        failure = entries["bad"].failure
        assert failure is not None
        assert (failure.kind, failure.message, failure.status) == (
            "EngineFailure",
            "The device is gone.",
            500,
        )
        assert board.active() == ()
        assert board.last is entries["gone"]

    on_board(test)


def test_an_error_that_nobody_raised_on_purpose_is_told_to_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken() -> Outcome:
        raise KeyError("secret")

    async def test(board: Board, _clock: Clock) -> None:
        entry = board.open("txt2img", "a", NOW)
        board.run(entry, broken())
        await settled()
        assert entry.failure is not None
        assert "secret" not in entry.failure.message
        assert entry.failure.status == 500

    on_board(test)
    assert "KeyError: 'secret'" in caplog.text


def test_the_oldest_that_runs_is_shown_and_the_others_have_places() -> None:
    async def test(board: Board, _clock: Clock) -> None:
        hand = Hand()
        first, second, third = (board.open("txt2img", name, NOW) for name in "abc")
        for entry in (first, second, third):
            entry.submit(engine_of(hand), jobs_of(entry.id))
        assert board.current is first
        hand.tickets[1].observe(Started("b/0"))
        assert board.current is second
        assert [board.place(entry) for entry in (first, second, third)] == [1, 0, 2]
        assert board.waiting == (first, third)

    on_board(test)


class TestIdempotency:
    """Requests that repeat a key."""

    @staticmethod
    def opened(board: Board, work: Coroutine[Any, Any, Outcome]) -> Entry:
        entry = board.open("txt2img", None, NOW)
        entry.is_kept = True
        board.remember("key", "print", entry)
        board.run(entry, work)
        return entry

    def test_they_join_while_it_runs_and_while_the_result_is_kept(self) -> None:
        async def test(board: Board, clock: Clock) -> None:
            entry = self.opened(board, made())
            assert board.replayed("key", "print") is entry
            await settled()
            clock.now += 60
            assert board.replayed("key", "print") is entry
            assert board.replayed("other", "print") is None
            clock.now += 1
            assert board.replayed("key", "print") is None

        on_board(test)

    def test_another_request_with_the_key_is_refused(self) -> None:
        async def test(board: Board, clock: Clock) -> None:
            self.opened(board, made())
            for _ in range(2):
                with pytest.raises(InvalidField, match="choose a new key"):
                    board.replayed("key", "another")
                await settled()
            clock.now += 61
            assert board.replayed("key", "another") is None

        on_board(test)

    @pytest.mark.parametrize("is_cancelled", [False, True])
    def test_one_that_failed_or_was_cancelled_is_tried_again(self, is_cancelled: bool) -> None:
        async def test(board: Board, _clock: Clock) -> None:
            first = self.opened(board, endless() if is_cancelled else failing())
            if is_cancelled:
                first.stop("drop")
                assert board.replayed("key", "print") is None
            await settled()
            assert board.replayed("key", "another") is None
            second = self.opened(board, made())
            await settled()
            board.forget(first)
            assert board.replayed("key", "print") is second

        on_board(test)

    def test_long_keys(self) -> None:
        with pytest.raises(InvalidField, match="255"):
            Board(1, 1).replayed("x" * 256, "print")


def test_results_are_kept_for_a_while() -> None:
    async def test(board: Board, clock: Clock) -> None:
        entry = await kept(board, "a")
        clock.now += 60
        assert board.result_of(entry) is not None
        clock.now += 0.1
        assert board.result_of(entry) is None
        assert board.find("a") is entry
        assert entry.state == "completed"
        assert board.shelf.bytes == 0

    on_board(test)


def test_results_are_kept_within_the_budget_and_the_newest_always() -> None:
    async def test(board: Board, _clock: Clock) -> None:
        entries = [await kept(board, name, 40) for name in "abc"]
        assert [board.result_of(entry) is not None for entry in entries] == [False, True, True]
        large = await kept(board, "large", 1000)
        assert [board.result_of(entry) is not None for entry in (*entries, large)] == [False] * 3 + [True]
        board.forget(large)
        assert board.find("large") is None
        assert board.shelf.bytes == 0

    on_board(test)


def test_unfinished_entries_are_not_forgotten() -> None:
    board = Board(1, 1)
    entry = board.open("txt2img", "a", NOW)
    board.forget(entry)
    assert board.find("a") is entry


def test_so_many_ended_ones_are_remembered() -> None:
    async def test(board: Board, _clock: Clock) -> None:
        waiting = board.open("txt2img", "waiting", NOW)
        for number in range(MAX_REMEMBERED + 5):
            entry = board.open("txt2img", str(number), NOW)
            entry.is_kept = True
            board.remember(str(number), "print", entry)
            board.run(entry, made(Outcome(0)))
            await settled()
        assert len(board.entries()) == MAX_REMEMBERED + 1
        assert board.find("4") is None
        assert board.replayed("4", "print") is None
        assert board.replayed("5", "print") is board.find("5")
        assert board.find("waiting") is waiting

    on_board(test)


@pytest.mark.parametrize("end", ["unkept", "forgotten", "expired", "failed", "replaced"])
def test_nothing_of_a_request_is_held_when_it_is_over(end: str) -> None:
    """Neither its body nor its result nor its pictures."""

    class Body:
        pass

    async def test(board: Board, clock: Clock) -> None:
        hand = Hand()
        entry = board.open("img2img", "a", NOW)
        entry.is_kept = end != "unkept"
        board.remember("key", "print", entry)

        async def work(body: Body, outcome: Outcome) -> Outcome:
            ticket = entry.submit(engine_of(hand), jobs_of("a"))
            await ticket.results()
            assert body is not None
            if end == "failed":
                raise EngineFailure("broken")
            return outcome

        body, outcome = Body(), Outcome()
        held = [weakref.ref(body), weakref.ref(outcome)]
        board.run(entry, work(body, outcome))
        del body, outcome, work
        await settled()
        held.append(weakref.ref(hand.tickets[0]))
        hand.tickets.pop().observe(Finished("a/0", DOT))
        await settled()
        if end == "forgotten":
            board.forget(entry)
        elif end == "expired":
            clock.now += 61
            assert board.result_of(entry) is None
        elif end == "replaced":
            board.open("img2img", "a", NOW)
        gc.collect()
        assert [ref() for ref in held] == [None] * 3

    on_board(test)


class TestEntry:
    """What an entry tells, and how it is stopped."""

    @staticmethod
    def entry() -> tuple[Entry, Hand, Clock]:
        clock, hand = Clock(), Hand()
        return Entry("a", "r", "txt2img", "0", clock), hand, clock

    def test_tally_of_parts(self) -> None:
        async def test(_board: Board, _clock: Clock) -> None:
            entry, hand, _ = self.entry()
            first = entry.submit(engine_of(hand), images_of("a", 2))
            entry.expected = 4
            tally = entry.tally
            assert (tally.images, tally.done, tally.steps, tally.steps_done) == (4, 0, 12, 0)
            first.observe(Started("a/0"))
            first.observe(Previewed("a/0", 1, DOT))
            assert (entry.state, entry.previews, entry.preview_step) == ("running", (DOT,), 1)
            for name in ("a/0", "a/1"):
                first.observe(Finished(name, DOT))
            second = entry.submit(engine_of(hand), images_of("b", 2))
            assert [ticket.id for ticket in hand.tickets] == ["r", "r.1"]
            assert hand.continued == [False, True]
            second.observe(Finished("b/0", DOT))
            tally = entry.tally
            assert (tally.images, tally.done, tally.steps, tally.steps_done) == (4, 3, 12, 9)
            assert entry.preview_step == 1
            third = entry.submit(engine_of(hand), images_of("c", 1))
            assert entry.tally.images == 5
            assert third.id == "r.2"
            entry.end("completed")
            assert (entry.tally.images, entry.tally.done) == (5, 3)

        on_board(test)

    def test_enlarging_says_nothing_about_the_steps_of_images_to_come(self) -> None:
        async def test(_board: Board, _clock: Clock) -> None:
            entry, hand, _ = self.entry()
            entry.expected = 9
            enlarging = entry.submit(engine_of(hand), jobs_of("a"))
            assert (entry.tally.images, entry.tally.steps) == (10, 9 * USUAL_STEPS + 1)
            enlarging.observe(Finished("a/0", DOT))
            assert entry.share < 0.01
            tiles = entry.submit(engine_of(hand), images_of("b", 9))
            assert (entry.tally.images, entry.tally.steps) == (10, 9 * 3 + 1)
            before = entry.share
            for tile in tiles.jobs:
                tiles.observe(Progress(tile.id, 1, 6))
                assert entry.share >= before
                before = entry.share

        on_board(test)

    @pytest.mark.parametrize(
        ("modes", "stopped"),
        [
            (["skip"], "skip"),
            (["interrupt", "skip"], "interrupt"),
            (["skip", "interrupt"], "interrupt"),
            (["drop", "interrupt"], "drop"),
        ],
    )
    def test_what_is_stopped_stays_stopped(self, modes: list[StopMode], stopped: StopMode) -> None:
        async def test(_board: Board, _clock: Clock) -> None:
            entry, _, _ = self.entry()
            for mode in modes:
                entry.stop(mode)
            assert entry.stopped == stopped

        on_board(test)

    def test_one_that_was_interrupted_before_its_first_part_does_nothing(self) -> None:
        async def test(_board: Board, _clock: Clock) -> None:
            entry, hand, _ = self.entry()
            entry.stop("interrupt")
            ticket = entry.submit(engine_of(hand), jobs_of("a", 2))
            ends = await asyncio.wait_for(ticket.results(), PATIENCE)
            assert ends == (Cancelled("a/0"), Cancelled("a/1"))

        on_board(test)

    def test_times(self) -> None:
        async def test(_board: Board, _clock: Clock) -> None:
            entry, hand, clock = self.entry()
            assert (entry.created, entry.began, entry.elapsed) == (1000.0, None, 0.0)
            ticket = entry.submit(engine_of(hand), jobs_of("a"))
            clock.now = 1010.0
            ticket.observe(Started("a/0"))
            clock.now = 1015.0
            assert (entry.began, entry.elapsed) == (1010.0, 5.0)
            entry.end("completed")
            clock.now = 1100.0
            assert (entry.ended, entry.elapsed) == (1015.0, 5.0)

        on_board(test)

    def test_changes_come_together_for_whoever_looks_late(self) -> None:
        async def test(_board: Board, _clock: Clock) -> None:
            entry, hand, _ = self.entry()
            waiter = asyncio.ensure_future(entry.changed(entry.changes))
            await settled()
            assert not waiter.done()
            ticket = entry.submit(engine_of(hand), jobs_of("a"))
            for step in range(50):
                ticket.observe(Progress("a/0", step, 50))
            assert await waiter == entry.changes > 50
            over = asyncio.ensure_future(entry.over())
            await settled()
            assert not over.done()
            entry.end("failed")
            await asyncio.wait_for(over, PATIENCE)
            await entry.over()

        on_board(test)


def test_a_shelf_counts_what_it_keeps() -> None:
    clock = Clock()
    shelf = Shelf(10, 60, clock)
    shelf.put("a", "A", 4)
    shelf.put("b", "B", 4)
    shelf.put("a", "C", 5)
    assert (shelf.bytes, shelf.get("a"), shelf.get("b")) == (9, "C", "B")
    shelf.put("c", "D", 2)
    assert (shelf.bytes, shelf.get("b"), shelf.get("a")) == (7, None, "C")
    shelf.drop("nothing")
    clock.now += 61
    assert (shelf.get("c"), shelf.bytes) == (None, 0)


OPERATIONS = ("open", "begin", "finish", "fail", "interrupt", "skip", "drop", "tick")


class Play:
    """Entries of two parts, and what may happen to them."""

    def __init__(self, board: Board, *, is_kept: bool) -> None:
        self.board, self.is_kept, self.hand = board, is_kept, Hand()
        self.entries: list[Entry] = []
        self.ends: dict[Entry, str] = {}

    async def work(self, entry: Entry) -> Outcome:
        for part in ("", ".1"):
            await entry.submit(engine_of(self.hand), jobs_of(f"{entry.id}{part}", 2)).results()
        return Outcome()

    def open(self) -> None:
        entry = self.board.open("txt2img", None, NOW)
        entry.is_kept = self.is_kept
        self.board.run(entry, self.work(entry))
        self.entries.append(entry)

    @property
    def unfinished(self) -> list[tuple[Ticket, str]]:
        return [(ticket, job.id) for ticket in self.hand.tickets for job in ticket.unfinished]

    def tell(self, operation: str, number: int) -> None:
        """An event of one of the unfinished jobs."""
        unfinished = self.unfinished
        if unfinished:
            ticket, job = unfinished[number % len(unfinished)]
            events: dict[str, JobEvent] = {
                "begin": Started(job),
                "finish": Finished(job, DOT),
                "fail": Failed(job, "EngineFailure", "broken"),
            }
            ticket.observe(events[operation])

    async def act(self, operation: str, number: int) -> None:
        if operation == "tick":
            await settled()
        elif operation == "open":
            self.open()
        elif operation in ("begin", "finish", "fail"):
            self.tell(operation, number)
        elif self.entries:
            self.entries[number % len(self.entries)].stop(cast(StopMode, operation))

    async def finish(self) -> None:
        """Let all come to its end."""
        for _ in range(3):
            await settled()
            for _ in self.unfinished:
                self.tell("finish", 0)
        await settled()

    def check(self) -> None:
        for entry in self.entries:
            if entry.state in ENDS:
                assert self.ends.setdefault(entry, entry.state) == entry.state
        unfinished = {entry for entry in self.entries if entry.state not in ENDS}
        assert set(self.board.active()) == unfinished

    def check_ends(self) -> None:
        assert set(self.ends) == set(self.entries)
        for entry, state in self.ends.items():
            assert (entry.failure is not None) == (state == "failed")
            assert (self.board.result_of(entry) is not None) == (self.is_kept and state == "completed")
            if state != "failed":
                assert (state == "cancelled") == (entry.stopped == "drop")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 5)), max_size=40), st.booleans())
def test_every_entry_ends_in_exactly_one_state(moves: list[tuple[str, int]], is_kept: bool) -> None:
    """Whatever happens to entries in whatever order."""

    async def test(board: Board, _clock: Clock) -> None:
        play = Play(board, is_kept=is_kept)
        for operation, number in moves:
            await play.act(operation, number)
            play.check()
        await play.finish()
        play.check()
        play.check_ends()

    on_board(test, max_bytes=10**6)


def test_places_count_from_one() -> None:
    board = Board(1, 1)
    entries = [board.open("txt2img", None, NOW) for _ in range(4)]
    assert [board.place(entry) for entry in entries] == list(itertools.islice(itertools.count(1), 4))


def test_the_end_waits_for_what_was_accepted_and_drops_the_rest() -> None:
    async def test(board: Board, _clock: Clock) -> None:
        short = board.open("txt2img", "short", NOW)
        gate = asyncio.Event()
        told: list[str] = []

        async def gated() -> Outcome:
            await gate.wait()
            return Outcome()

        async def after() -> None:
            await short.over()
            told.append("short")

        board.run(short, gated())
        draining = asyncio.create_task(board.drained(60))
        await settled()
        assert not draining.done()
        board.follow(asyncio.create_task(after()))
        gate.set()
        await draining
        assert (short.state, told) == ("completed", ["short"])
        long = board.open("txt2img", "long", NOW)
        board.run(long, endless())
        await board.drained(0.01)
        await settled()
        assert long.state == "cancelled"

    on_board(test)
