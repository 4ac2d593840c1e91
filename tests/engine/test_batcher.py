from collections.abc import Hashable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sdserver.engine.batcher import Batcher


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
