"""The engine over the toy device: what programs are sent, what becomes of faults and stops."""

from dataclasses import replace
from itertools import count, groupby

import pytest
from toy import (
    CHECKPOINT,
    ToyDevice,
    toy_describe,
    toy_enlarge,
    toy_hires,
    toy_img2img,
    toy_job,
    toy_refiner,
)

from sdserver.calls import Predict, UseModel
from sdserver.engine.batcher import Batcher
from sdserver.engine.costs import WINDOW, Costs
from sdserver.engine.engine import Engine
from sdserver.engine.messages import BatchRan, Loaded, LoadFailed, Unloaded
from sdserver.jobs.events import Cancelled, Failed, Finished, Progress, Started
from sdserver.programs.table import program_for

TERMINAL = (Finished, Failed, Cancelled)


def ticking():
    """A clock that says another second whenever it is asked."""
    return map(float, count()).__next__


class Bench:
    def __init__(self, max_running=16, rows=16, device=None, clock=None, costs=None):
        self.device = device or ToyDevice()
        self.events = []
        batcher = Batcher(lambda _: rows, costs=costs)
        self.engine = Engine(
            self.device,
            program_for,
            batcher,
            self.events.append,
            max_running,
            clock or ticking(),
        )

    def finish(self, limit=5000):
        for _ in range(limit):
            if not self.engine.busy:
                return self
            self.engine.step()
        raise AssertionError("the engine never comes to rest")

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def end_of(self, job_id):
        (end,) = [event for event in self.of(TERMINAL) if event.job == job_id]
        return end


def test_a_job_reports_its_life_in_order():
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=3))
    bench.finish()
    mine = [event for event in bench.events if not isinstance(event, BatchRan)]
    assert [type(event) for event in mine] == [Started, Loaded, Progress, Progress, Progress, Finished]
    assert [(event.step, event.steps) for event in bench.of(Progress)] == [(1, 3), (2, 3), (3, 3)]
    assert len(mine[-1].picture.pixels) == 8 * 8 * 3


def test_mixed_samplers_steps_and_prompts_share_batches():
    bench = Bench()
    mix = [("Euler", 5), ("Euler a", 7), ("DPM++ 2M", 6), ("Heun", 4), ("DDIM", 8), ("DPM++ SDE", 3)]
    for k, (sampler, steps) in enumerate(mix):
        bench.engine.submit(toy_job(f"j{k}", sampler=sampler, steps=steps, seed=k, text=f"toy {k}"))
    bench.finish()
    assert len(bench.of(Finished)) == len(mix)
    sizes = [ran.rows for ran in bench.of(BatchRan) if ran.kind == "predict"]
    assert max(sizes) == 2 * len(mix)
    assert len(sizes) == 7, "as many batches as the longest job has evaluations"


def test_a_scale_of_one_needs_no_negative_row():
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=3, cfg=1.0))
    bench.finish()
    assert [ran.rows for ran in bench.of(BatchRan) if ran.kind == "predict"] == [1, 1, 1]


def test_a_fault_fails_its_job_alone_and_names_the_error():
    bench = Bench()
    bench.engine.submit(toy_job("good"))
    bench.engine.submit(toy_job("bad", text="a fault"))
    bench.finish()
    assert isinstance(bench.end_of("good"), Finished)
    assert bench.end_of("bad") == Failed("bad", "OutOfMemory", "No memory for this text.")


def test_a_device_that_raises_fails_the_batch_and_the_engine_goes_on():
    bench = Bench()
    run = bench.device.run
    bench.device.run = lambda calls: run(calls) if len(calls) < 4 else 1 / 0
    bench.engine.submit(toy_job("a"))
    bench.engine.submit(toy_job("b"))
    bench.finish()
    assert bench.end_of("a").error == bench.end_of("b").error == "EngineFailure"
    bench.engine.submit(toy_job("c"))
    bench.finish()
    assert isinstance(bench.end_of("c"), Finished)


@pytest.mark.parametrize("mode", ["interrupt", "skip"])
def test_an_interrupted_job_keeps_what_it_has(mode):
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=50))
    while len(bench.of(Progress)) < 10:
        bench.engine.step()
    bench.engine.stop("a", mode)
    bench.finish()
    assert bench.end_of("a").interrupted
    assert len(bench.of(Progress)) == 10


def test_a_job_interrupted_before_its_first_step_is_cancelled():
    bench = Bench()
    bench.engine.submit(toy_job("a"))
    bench.engine.step()
    bench.engine.stop("a", "interrupt")
    bench.finish()
    assert bench.end_of("a") == Cancelled("a")


def test_a_dropped_job_ends_at_once_and_frees_its_place():
    bench = Bench(max_running=1)
    bench.engine.submit(toy_job("a", steps=50))
    bench.engine.submit(toy_job("b"))
    for _ in range(6):
        bench.engine.step()
    bench.engine.stop("a", "drop")
    assert bench.end_of("a") == Cancelled("a")
    bench.finish()
    assert isinstance(bench.end_of("b"), Finished)


def test_stopping_waiting_and_unknown_jobs():
    bench = Bench(max_running=1)
    bench.engine.submit(toy_job("a"))
    bench.engine.step()
    bench.engine.submit(toy_job("b"))
    bench.engine.stop("b", "interrupt")
    bench.engine.stop("nobody", "drop")
    assert bench.end_of("b") == Cancelled("b")
    bench.finish()
    assert isinstance(bench.end_of("a"), Finished)


def test_no_more_programs_run_than_may():
    bench = Bench(max_running=3)
    for k in range(7):
        bench.engine.submit(toy_job(f"j{k}"))
    while bench.engine.busy:
        bench.engine.step()
        assert bench.engine.running <= 3
    assert len(bench.of(Finished)) == 7


@pytest.mark.parametrize(
    ("load_seconds", "switches"), [(10.0, ["x", "y"]), (0.0, ["x", "y", "x"])], ids=["slow", "instant"]
)
def test_jobs_for_two_checkpoints_in_turn_switch_seldom_where_switching_is_slow(load_seconds, switches):
    class Slow(ToyDevice):
        def run(self, calls):
            is_switch = isinstance(calls[0], UseModel) and self.loads[-1:] != [calls[0].model.checkpoint]
            time[0] += load_seconds if is_switch else 1.0
            return super().run(calls)

    time = [0.0]
    bench = Bench(device=Slow(), clock=lambda: time[0])
    bench.engine.load("/models/x")
    for k, name in enumerate(["x", "x", "y", "x", "y", "y"]):
        bench.engine.submit(toy_job(f"j{k}", checkpoint=f"/models/{name}", steps=9))
        for _ in range(2):
            bench.engine.step()
    bench.finish()
    loads = [path.removeprefix("/models/") for path in bench.device.loads]
    assert [name for name, _ in groupby(loads)] == switches


def test_loading_takes_its_turn_and_tells():
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=5))
    bench.engine.load("/models/other")
    bench.engine.load("/models/bad")
    bench.finish()
    kinds = [type(event) for event in bench.events if isinstance(event, Finished | Loaded | LoadFailed)]
    assert kinds == [Loaded, Finished, Loaded, LoadFailed]
    (failed,) = bench.of(LoadFailed)
    assert (failed.error, failed.message) == ("UnreadableCheckpoint", "The file is cut short.")
    bench.engine.submit(toy_job("b", checkpoint=CHECKPOINT))
    bench.finish()
    assert isinstance(bench.end_of("b"), Finished)
    told = [event.checkpoint for event in bench.of(Loaded)]
    assert told == [CHECKPOINT, "/models/other", CHECKPOINT], "jobs that load are told of too, once"


def test_a_checkpoint_that_cannot_be_loaded_fails_the_job():
    bench = Bench()
    bench.engine.submit(toy_job("a", checkpoint="/models/bad"))
    bench.finish()
    assert bench.end_of("a").error == "UnreadableCheckpoint"


class SwitchingDevice(ToyDevice):
    """Notes the checkpoint of each batch."""

    def __init__(self):
        super().__init__()
        self.order = []

    def run(self, calls):
        checkpoint = calls[0].model.checkpoint
        if self.order[-1:] != [checkpoint]:
            self.order.append(checkpoint)
        return super().run(calls)


def switching_bench(jobs):
    bench = Bench(device=SwitchingDevice())
    for job in jobs:
        bench.engine.submit(job)
    return bench


def step_until_parked(bench):
    """Until the refined job has done the two evaluations that its own checkpoint does."""
    while [event.job for event in bench.of(Progress)].count("refined") < 2:
        bench.engine.step()


REFINER = toy_refiner(0.5).model.checkpoint


def test_refined_jobs_switch_together():
    jobs = [replace(toy_job(f"j{k}", steps=4 + k, seed=k), refiner=toy_refiner(0.5)) for k in range(5)]
    bench = switching_bench([*jobs, toy_job("plain", steps=20)]).finish()
    assert bench.device.order == [CHECKPOINT, REFINER]
    assert len(bench.of(Finished)) == 6


def test_nothing_begins_while_calls_are_parked_so_that_their_checkpoint_comes():
    refined = replace(toy_job("refined", steps=4), refiner=toy_refiner(0.5))
    bench = switching_bench([refined, toy_job("mate", steps=20)])
    step_until_parked(bench)
    for k in range(3):
        bench.engine.submit(toy_job(f"late{k}", steps=20))
    bench.finish()
    assert bench.device.order == [CHECKPOINT, REFINER, CHECKPOINT]
    ends = [event.job for event in bench.of(Finished)]
    assert ends[:2] == ["mate", "refined"]
    assert len(ends) == 5


@pytest.mark.parametrize("mode", ["interrupt", "drop"])
def test_parked_jobs_can_be_stopped(mode):
    refined = replace(toy_job("refined", steps=4), refiner=toy_refiner(0.5))
    bench = switching_bench([refined, toy_job("mate", steps=20)])
    step_until_parked(bench)
    bench.engine.stop("refined", mode)
    bench.finish()
    assert isinstance(bench.end_of("refined"), Finished if mode == "interrupt" else Cancelled)
    assert isinstance(bench.end_of("mate"), Finished)
    assert REFINER not in bench.device.order


def test_all_kinds_of_jobs_share_batches():
    bench = Bench()
    plain = toy_job("a", steps=5, size=128)
    bench.engine.submit(plain)
    bench.engine.submit(toy_img2img(replace(plain, id="b"), strength=0.99))
    bench.engine.submit(toy_hires(toy_job("c", steps=5)))
    bench.finish()
    rows = [ran.rows for ran in bench.of(BatchRan) if ran.kind == "predict"]
    assert max(rows) == 4
    assert [(event.step, event.steps) for event in bench.of(Progress) if event.job == "c"][-1] == (10, 10)


def order_of(bench, *kinds):
    return [(type(event).__name__, getattr(event, "job", "")) for event in bench.of(kinds)]


def test_enlarging_needs_no_checkpoint_and_loads_none():
    bench = Bench()
    bench.engine.submit(toy_enlarge("e"))
    bench.finish()
    assert bench.device.loads == []
    picture = bench.end_of("e").picture
    assert (picture.width, picture.height) == (100, 100)


def test_enlarging_waits_for_no_checkpoint_and_lets_none_wait():
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=9))
    bench.engine.step()
    bench.engine.submit(toy_job("b", steps=2, checkpoint="/models/other.safetensors"))
    bench.engine.submit(toy_enlarge("e", size=300))
    bench.finish()
    ends = [job for _, job in order_of(bench, Finished)]
    assert ends == ["e", "a", "b"]
    assert bench.device.loads == [CHECKPOINT, "/models/other.safetensors"]


def test_describing_waits_for_no_checkpoint_and_two_share_a_batch():
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=9))
    bench.engine.step()
    bench.engine.submit(toy_job("b", steps=2, checkpoint="/models/other.safetensors"))
    for k in range(3):
        bench.engine.submit(toy_describe(f"d{k}", seed=k, beams=1 if k < 2 else 4))
    bench.finish()
    assert [job for _, job in order_of(bench, Finished)] == ["d0", "d1", "d2", "a", "b"]
    assert [ran.rows for ran in bench.of(BatchRan) if ran.kind == "caption"] == [2, 1]
    texts = {bench.end_of(f"d{k}").text for k in range(3)}
    assert len(texts) == 3
    assert all(texts)
    assert bench.device.loads == [CHECKPOINT, "/models/other.safetensors"]


def test_a_stream_of_enlarging_does_not_hold_up_another_checkpoint():
    bench = Bench(max_running=2)
    bench.engine.submit(toy_job("a", steps=3))
    bench.engine.submit(toy_job("b", steps=3, checkpoint="/models/other.safetensors"))
    for k in range(60):
        bench.engine.submit(toy_enlarge(f"e{k}", seed=k))
        bench.engine.step()
        if any(event.job == "b" for event in bench.of(Finished)):
            break
    assert k < 30


def test_a_parked_pass_goes_on_while_pictures_are_enlarged():
    bench = Bench()
    bench.engine.submit(replace(toy_job("a", steps=4), refiner=toy_refiner(0.5)))
    for k in range(60):
        bench.engine.submit(toy_enlarge(f"e{k}", seed=k))
        bench.engine.step()
        if any(event.job == "a" for event in bench.of(Finished)):
            break
    assert k < 40


def test_unloading_takes_its_turn_and_the_next_job_brings_the_checkpoint_back():
    bench = Bench()
    bench.engine.submit(toy_job("a", steps=3))
    bench.engine.step()
    bench.engine.unload()
    bench.engine.submit(toy_job("b", steps=2))
    bench.finish()
    events = order_of(bench, Started, Finished, Loaded, Unloaded)
    assert events == [
        ("Started", "a"),
        ("Loaded", ""),
        ("Finished", "a"),
        ("Unloaded", ""),
        ("Started", "b"),
        ("Loaded", ""),
        ("Finished", "b"),
    ]
    assert bench.device.unloads == 1


def test_a_device_that_cannot_be_freed_says_so_and_goes_on():
    class Stuck(ToyDevice):
        def unload(self):
            raise RuntimeError("the device is stuck")

    bench = Bench(device=Stuck())
    bench.engine.unload()
    bench.engine.submit(toy_job("a", steps=2))
    bench.finish()
    assert bench.of(Unloaded) == [Unloaded("RuntimeError: the device is stuck")]
    assert len(bench.of(Finished)) == 1


class Asked(ToyDevice):
    """Keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def run(self, calls):
        self.asked.append(list(calls))
        return super().run(calls)


@pytest.mark.parametrize("mode", ["drop", "interrupt", "skip"])
def test_a_stopped_job_has_no_row_in_the_next_batch(mode):
    bench = Bench(device=Asked())
    for k in range(3):
        bench.engine.submit(toy_job(f"j{k}", seed=k, steps=20, text=f"toy {k}"))
    while len(bench.of(Progress)) < 9:
        bench.engine.step()
    device = bench.device
    contexts = {call.conditioning for call in device.asked[-1]}
    assert len(device.asked[-1]) == 6
    device.asked.clear()
    bench.engine.stop("j1", mode)
    while not any(isinstance(calls[0], Predict) for calls in device.asked):
        bench.engine.step()
    (batch,) = [calls for calls in device.asked if isinstance(calls[0], Predict)]
    assert len(batch) == 4
    assert len(contexts - {call.conditioning for call in batch}) == 2
    assert bench.engine.running == 2 or mode != "drop"


def test_pictures_of_one_size_are_no_more_than_fill_a_batch():
    bench = Bench(max_running=64, rows=6)
    for k in range(9):
        bench.engine.submit(toy_job(f"j{k}", steps=5))
    bench.engine.submit(toy_job("large", size=128, steps=5))
    bench.engine.step()
    assert bench.engine.running == 3
    bench.finish()
    assert [ran.rows for ran in bench.of(BatchRan) if ran.kind == "predict"].count(6) >= 15
    started = [event.job for event in bench.of(Started)]
    assert started == [*(f"j{k}" for k in range(9)), "large"]


def test_another_size_does_not_wait_for_a_full_one():
    bench = Bench(max_running=64, rows=6)
    for k in range(3):
        bench.engine.submit(toy_job(f"j{k}", steps=50))
    bench.engine.submit(toy_job("large", size=128, steps=5))
    bench.engine.step()
    assert bench.engine.running == 4


def test_the_next_job_begins_while_a_full_batch_is_decoded():
    bench = Bench(max_running=64, rows=2)
    bench.engine.submit(toy_job("a", steps=2))
    bench.engine.submit(toy_job("b", steps=2))
    bench.finish()
    order = [(ran.kind, bench.events.index(ran)) for ran in bench.of(BatchRan) if ran.kind == "decode"]
    begun = next(k for k, event in enumerate(bench.events) if event == Started("b"))
    assert begun < order[0][1]


def test_a_device_is_waited_for_where_its_time_is_taken():
    class Behind(ToyDevice):
        settled = 0

        def settle(self):
            self.settled += 1

    bench = Bench(device=Behind(), costs=Costs(every=10**6))
    bench.engine.submit(toy_job("a", steps=50))
    bench.finish()
    assert 2 * WINDOW <= bench.device.settled <= 4 * WINDOW
