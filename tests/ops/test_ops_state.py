"""The node's state machine."""

from dataclasses import FrozenInstanceError

import pytest

from sdserver.engine.messages import BatchRan, Beat, Loaded, LoadFailed, MemoryFacts
from sdserver.jobs.events import Failed
from sdserver.ops.downloads.progress import DownloadProgress, SpeedMeter
from sdserver.ops.state import ERRORS, HISTORY, MAY_FOLLOW, Node, Phase


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(clock: Clock) -> Node:
    return Node("1.2.3", clock)


LOADED = Loaded("/models/m.safetensors", "sd1", "cuda:0", "float16", 3.5)
MEMORY = MemoryFacts(1, 2, 3, 4)


def test_the_usual_life(node: Node, clock: Clock) -> None:
    for phase in ("downloading", "loading", "ready", "restarting", "ready", "draining"):
        assert not node.facts().started or phase != "loading"
        clock.now += 10
        assert node.enter(phase)  # type: ignore[arg-type]  # the loop's str
    clock.now += 2.5
    facts = node.facts()
    assert (facts.phase, facts.phase_age, facts.uptime, facts.started) == ("draining", 2.5, 62.5, True)
    assert [(c.phase, c.age) for c in facts.history[:3]] == [
        ("starting", 62.5),
        ("downloading", 52.5),
        ("loading", 42.5),
    ]


@pytest.mark.parametrize(
    ("first", "late"),
    [("draining", "ready"), ("draining", "restarting"), ("failed", "ready"), ("failed", "draining")],
)
def test_late_events_revive_nothing(node: Node, first: Phase, late: Phase) -> None:
    node.enter(first, "why")
    assert not node.enter(late, "late")
    facts = node.facts()
    assert (facts.phase, facts.reason, facts.started) == (first, "why", False)


def test_every_phase_can_fail_and_each_is_reachable() -> None:
    assert all("failed" in after for phase, after in MAY_FOLLOW.items() if phase != "failed")
    assert set().union(*MAY_FOLLOW.values()) == set(MAY_FOLLOW) - {"starting"}


def test_entering_again_renews_the_reason_only(node: Node, clock: Clock) -> None:
    node.enter("loading", "one")
    clock.now += 5
    assert node.enter("loading", "two")
    facts = node.facts()
    assert (facts.reason, facts.phase_age, len(facts.history)) == ("two", 5.0, 2)


def test_history_and_errors_are_bounded(node: Node) -> None:
    node.enter("loading")
    for number in range(100):
        node.enter("ready")
        node.enter("restarting", str(number))
        node.observe(Failed(f"job/{number}", "EngineFailure", "a prompt"))
    facts = node.facts()
    assert len(facts.history) == HISTORY
    assert facts.history[-1].reason == "99"
    assert [e.id for e in facts.errors] == [f"job/{n}" for n in range(100 - ERRORS, 100)]


def test_what_the_engine_says(node: Node, clock: Clock) -> None:
    assert node.facts().beat_age is None
    node.observe(LOADED)
    node.observe(Beat(MEMORY, 1, 2))
    clock.now += 4
    node.observe(BatchRan("predict", 8, 0.1))
    clock.now += 1
    facts = node.facts()
    assert (facts.model, facts.memory, facts.beat_age) == (LOADED, MEMORY, 1.0)
    assert facts.phase == "starting"  # the front decides about phases
    node.observe(LoadFailed("/m", "UnreadableCheckpoint", "It is damaged."))
    assert node.facts().model == LOADED, "another one could not be loaded: this one goes on serving"
    node.observe(LoadFailed(LOADED.checkpoint, "UnreadableCheckpoint", "It is damaged."))
    assert node.facts().model is None
    assert [(e.error, e.id) for e in node.facts().errors] == 2 * [("UnreadableCheckpoint", "")]


def test_errors_quote_no_prompt(node: Node) -> None:
    node.observe(Failed("id/0", "EngineFailure", "a red circle"))
    assert "circle" not in repr(node.facts())


def test_a_restart_forgets_what_the_engine_held(node: Node) -> None:
    node.enter("loading")
    node.enter("ready")
    node.observe(LOADED)
    node.observe(Beat(MEMORY, 0, 0))
    node.engine_restarted("exit code 70")
    facts = node.facts()
    assert (facts.phase, facts.reason, facts.restarts) == ("restarting", "exit code 70", 1)
    assert (facts.model, facts.memory, facts.beat_age) == (None, None, None)
    node.engine_restarted("again")
    assert node.facts().restarts == 2


def test_hostile_text_is_tamed(node: Node) -> None:
    node.observe(Failed("a\x1b[31m\n\ud800" + "x" * 1000, "E" * 1000, ""))
    node.enter("failed", "line\nbreak " + "y" * 1000)
    facts = node.facts()
    assert facts.errors[0].id.startswith("a?[31m??xxx")
    assert max(len(facts.errors[0].id), len(facts.errors[0].error)) == 128
    assert facts.reason.startswith("line?break")
    assert len(facts.reason) == 500


def test_facts_do_not_change_afterwards(node: Node) -> None:
    facts = node.facts()
    node.progressed(DownloadProgress("m", 1, 2, 3.0, 4.0, 1))
    node.enter("loading")
    assert facts.phase == "starting"
    assert facts.download is None
    with pytest.raises(FrozenInstanceError):
        facts.phase = "ready"  # type: ignore[misc]  # that is the point


def test_speed_is_that_of_the_window(clock: Clock) -> None:
    meter = SpeedMeter(10.0, clock)
    assert meter.speed == 0.0
    for _ in range(50):
        clock.now += 1
        meter.add(1000)
    assert meter.speed == pytest.approx(1000)
    assert meter.full
    for _ in range(20):
        clock.now += 1
        meter.add(10)
    assert meter.speed == pytest.approx(10)
    clock.now += 30
    assert meter.speed < 10
