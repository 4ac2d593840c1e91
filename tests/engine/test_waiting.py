"""What begins next, in a queue without an engine."""

from hypothesis import given
from hypothesis import strategies as st
from toy import toy_enlarge, toy_job

from sdserver.engine.messages import Load, Unload
from sdserver.engine.waiting import PATIENCE, Waiting


def queue_of(*items, clock=lambda: 0.0):
    waiting = Waiting(clock)
    for item in items:
        waiting.add(item)
    return waiting


def job(name):
    """Named after its checkpoint: `x1` needs `x`."""
    return toy_enlarge(name) if name[0] == "e" else toy_job(name, checkpoint=name[0])


def named(item):
    return getattr(item, "id", type(item).__name__)


def taken(waiting, checkpoint, *, switch=1.0, room=lambda _: True):
    """All that may begin one after the other while the running jobs use a checkpoint."""
    found = []
    while (item := waiting.take(checkpoint, room, switch)) is not None:
        found.append(named(item))
    return found


def test_without_running_jobs_the_first_begins():
    waiting = queue_of(job("y0"), job("x0"))
    assert named(waiting.take(None, lambda _: False, 0.0)) == "y0"
    assert len(waiting) == 1


def test_jobs_of_the_running_checkpoint_overtake_others_and_those_without_all():
    waiting = queue_of(job("x0"), job("y0"), job("x1"), job("e0"), job("z0"), job("x2"))
    assert taken(waiting, "x") == ["x0", "x1", "e0", "x2"]
    assert [one.id for one in waiting.jobs()] == ["y0", "z0"]


def test_nothing_overtakes_a_load_or_unload():
    for barrier in (Load("y"), Unload()):
        waiting = queue_of(job("x0"), barrier, job("x1"), job("e0"))
        assert taken(waiting, "x") == ["x0"]
        assert named(waiting.take_without_checkpoint()) == "e0"
    assert taken(queue_of(Load("x"), job("x1")), "x") == ["Load", "x1"]


def test_a_job_without_room_is_overtaken_by_none_of_its_checkpoint():
    waiting = queue_of(job("x0"), job("x1"))
    assert taken(waiting, "x", room=lambda one: one.id == "x1") == []


def test_a_job_waits_for_another_checkpoint_no_longer_than_a_few_switches():
    time = [100.0]
    waiting = queue_of(job("y0"), clock=lambda: time[0])
    for k in range(50):
        waiting.add(job(f"x{k}"))
        if not taken(waiting, "x", switch=3.0):
            break
        time[0] += 1.0
    assert k == PATIENCE * 3.0 + 1
    assert waiting.remove("y0")
    assert taken(waiting, "x", switch=3.0) == [f"x{k}"]


def test_each_that_waits_is_as_patient():
    time = [0.0]
    waiting = queue_of(job("y0"), job("x0"), clock=lambda: time[0])
    assert taken(waiting, "x") == ["x0"]
    time[0] = 99.0
    assert taken(waiting, "x") == []
    waiting.add(job("z0"))
    waiting.add(job("y1"))
    assert taken(waiting, "y") == ["y0", "y1"], "z0 is first in line only now"


def test_what_is_removed_never_begins():
    waiting = queue_of(job("x0"), job("x1"))
    assert waiting.remove("x0")
    assert not waiting.remove("x0")
    assert not waiting.remove("nobody")
    assert taken(waiting, "x") == ["x1"]


@given(st.lists(st.sampled_from(["x", "y", "z", "e", "load", "unload"]), max_size=30), st.integers(1, 5))
def test_everything_begins_once_and_in_order_within_its_checkpoint(kinds, length):
    """Whatever runs, for `length` turns each."""
    items = [
        {"load": Load("y"), "unload": Unload()}.get(kind) or job(f"{kind}{k}") for k, kind in enumerate(kinds)
    ]
    ticks = iter(range(10**6))
    waiting = queue_of(*items, clock=lambda: float(next(ticks)))
    running, began, checkpoint = {}, [], None
    for turn in range(10**4):
        running = {name: end for name, end in running.items() if end > turn}
        item = waiting.take(checkpoint if running else None, lambda _: True, 1.0)
        if item is None and not running:
            break
        if item is not None:
            began.append(item)
            if hasattr(item, "model"):
                assert not running or item.model.checkpoint == checkpoint, "a switch under a running job"
                checkpoint = item.model.checkpoint
                running[item.id] = turn + length
    assert not len(waiting)
    assert sorted(map(named, began)) == sorted(map(named, items))
    for checkpoint in "xyze":
        same = [int(named(item)[1:]) for item in began if named(item)[0] == checkpoint]
        assert same == sorted(same)
