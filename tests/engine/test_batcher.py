from collections.abc import Hashable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sdserver.engine.batcher import JOINING, Batcher


@dataclass(frozen=True)
class Call:
    name: str
    key: str

    def batch_key(self) -> tuple[Hashable, ...]:
        return (self.key,)


def names(batch):
    return [pending.call.name for pending in batch]


def test_the_longest_waiting_call_decides_the_key():
    batcher = Batcher(lambda _: 8)
    batcher.add("a", [Call("a0", "x")])
    batcher.add("b", [Call("b0", "y")])
    batcher.add("c", [Call("c0", "x"), Call("c1", "x")])
    assert names(batcher.next_batch()) == ["a0", "c0", "c1"]
    assert names(batcher.next_batch()) == ["b0"]
    assert batcher.next_batch() == []


def test_a_batch_keeps_to_its_budget_and_the_rest_stays_first_in_line():
    batcher = Batcher(lambda key: 2 if key == ("x",) else 1)
    batcher.add("a", [Call(f"a{k}", "x") for k in range(3)])
    batcher.add("b", [Call("b0", "y")])
    assert names(batcher.next_batch()) == ["a0", "a1"]
    batcher.add("c", [Call("c0", "x")])
    assert names(batcher.next_batch()) == ["a2", "c0"]


def test_a_budget_below_one_still_runs_one_row():
    batcher = Batcher(lambda _: 0)
    batcher.add("a", [Call("a0", "x"), Call("a1", "x")])
    assert names(batcher.next_batch()) == ["a0"]


def test_dropping_an_owner_leaves_the_others():
    batcher = Batcher(lambda _: 8)
    batcher.add("a", [Call("a0", "x")])
    batcher.add("b", [Call("b0", "x")])
    batcher.drop("a")
    assert names(batcher.next_batch()) == ["b0"]
    assert len(batcher) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz"), st.integers(1, 4)), max_size=30),
    st.integers(1, 5),
)
def test_every_call_runs_once_in_batches_of_one_key(arrivals, budget):
    batcher = Batcher(lambda _: budget)
    added = []
    for number, (owner, key, count) in enumerate(arrivals):
        calls = [Call(f"{number}.{k}", key) for k in range(count)]
        batcher.add(owner, calls)
        added += calls
    ran = []
    while batch := batcher.next_batch():
        assert len({pending.key for pending in batch}) == 1
        assert len(batch) <= budget
        ran += [pending.call for pending in batch]
    assert sorted(ran, key=str) == sorted(added, key=str)
    for key in "xyz":
        assert [c for c in ran if c.key == key] == [c for c in added if c.key == key]


def turns(seconds, count, joining=()):
    """Whose batches run where a job of every key always waits, each a batch of its own."""
    batcher = Batcher(lambda _: 8)
    for key in (*seconds, *joining):
        batcher.add(key, [Call(key, key)])
    ran = []
    for _ in range(count):
        (pending,) = batch = batcher.next_batch()
        ran.append(pending.owner)
        batcher.ran(batch, seconds.get(pending.owner, 0.0))
        if pending.owner in seconds:
            batcher.add(pending.owner, [pending.call])
    return ran


def test_what_lets_a_job_join_goes_first():
    assert turns({"predict": 1.0, "decode": 1.0}, 4, sorted(JOINING))[:2] == sorted(JOINING)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 10.0), min_size=2))
def test_all_are_slowed_by_the_same_factor(seconds):
    ran = turns(seconds, 400)
    spent = {key: ran.count(key) * seconds[key] for key in seconds}
    slowest = max(seconds.values())
    assert max(spent.values()) - min(spent.values()) <= 2 * slowest


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 10.0), min_size=2))
def test_nobody_waits_longer_than_the_others_take_to_draw_level(seconds):
    ran = turns(seconds, 400)
    for key in seconds:
        most = 1 + sum(1 + seconds[key] / other for name, other in seconds.items() if name != key)
        waits = [0]
        for name in ran:
            if name == key:
                waits.append(0)
            else:
                waits[-1] += 1
        assert max(waits) <= most + len(seconds)


def test_a_key_that_was_away_has_saved_nothing_up():
    batcher = Batcher(lambda _: 1)
    for _ in range(50):
        batcher.add("a", [Call("a", "x")])
        batcher.ran(batcher.next_batch(), 1.0)
    order = []
    for key in "xyxyxyxy":
        batcher.add(key, [Call(key, key)])
    while batch := batcher.next_batch():
        order += names(batch)
        batcher.ran(batch, 1.0)
    assert sorted(order[:4]) == ["x", "x", "y", "y"]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz")), min_size=1, max_size=30))
def test_a_dropped_owner_has_no_row_in_any_later_batch(arrivals):
    batcher = Batcher(lambda _: 3)
    for owner, key in arrivals:
        batcher.add(owner, [Call(owner, key), Call(owner, key)])
    batcher.ran(batcher.next_batch(), 1.0)
    batcher.drop("a")
    left = []
    while batch := batcher.next_batch():
        left += names(batch)
    assert "a" not in left
    assert len(left) >= sum(2 for owner, _ in arrivals if owner != "a") - 3


def test_time_is_taken_of_what_takes_turns():
    batcher = Batcher(lambda _: 8)
    for key in (*sorted(JOINING), "predict"):
        batcher.add(key, [Call(key, key)])
    asked = {}
    while batch := batcher.next_batch():
        asked[batch[0].owner] = batcher.wants_time(batch)
    assert asked == {"predict": True, **dict.fromkeys(JOINING, False)}
