"""An engine gives back what it has not begun, and nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_job

from sdserver.engine.messages import Returned
from tests.engine.test_engine import TERMINAL, Bench

IDS = st.lists(st.sampled_from("abcdef"), unique=True)


def test_what_waits_is_given_back_and_what_runs_goes_on():
    bench = Bench(max_running=1)
    for name in "abc":
        bench.engine.submit(toy_job(name, steps=2))
    bench.engine.step()
    bench.engine.recall(["a", "c", "nobody", "c"])
    assert bench.of(Returned) == [Returned("c")]
    bench.finish()
    assert [event.job for event in bench.of(TERMINAL)] == ["a", "b"]


@settings(max_examples=40, deadline=None)
@given(IDS, IDS, st.integers(0, 5))
def test_each_job_is_given_back_or_ends(there, wanted, steps):
    bench = Bench(max_running=2)
    for name in there:
        bench.engine.submit(toy_job(name, steps=2))
    for _ in range(steps):
        bench.engine.step()
    bench.engine.recall(wanted)
    bench.finish()
    ended = [event.job for event in bench.of(TERMINAL)]
    given_back = [message.job for message in bench.of(Returned)]
    assert sorted(ended + given_back) == sorted(there)
    assert set(given_back) <= set(wanted)
