"""Whatever shares its batches, a job's picture is its solo picture, and it ends exactly once."""

from dataclasses import replace
from functools import cache
from itertools import count as ticking

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from toy import (
    ToyDevice,
    toy_describe,
    toy_enlarge,
    toy_faces,
    toy_hires,
    toy_img2img,
    toy_job,
    toy_mask,
    toy_refiner,
    toy_restore,
)

from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import Unloaded, Watch
from sdserver.jobs.events import Cancelled, Failed, Finished, Previewed, Started
from sdserver.jobs.job import WithoutCheckpoint
from sdserver.jobs.model import Model
from sdserver.programs.table import program_for

INPAINTING = Model("/models/inpainting.safetensors")

PLANS = st.tuples(
    st.sampled_from(["Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "DDIM", "LCM"]),
    st.sampled_from(["Automatic", "Karras", "Exponential", "SGM Uniform"]),
    st.integers(2, 6),
    st.sampled_from([1.0, 4.5]),
    st.sampled_from(["a toy", "[a|b] toy", "one AND two :0.5", "a fault"]),
    st.sampled_from([64, 128]),
    st.integers(0, 3),
    st.sampled_from(
        [
            "txt2img",
            "refined",
            "hires",
            "hires picture",
            "img2img",
            "inpaint",
            "noise",
            "enlarge",
            "describe",
            "faces",
            "restore",
        ]
    ),
)


def job_of(job_id, plan):
    sampler, schedule, steps, cfg, text, size, seed, kind = plan
    job = toy_job(
        job_id, sampler=sampler, schedule=schedule, steps=steps, cfg=cfg, text=text, size=size, seed=seed
    )
    kinds = {
        "txt2img": lambda: job,
        "refined": lambda: replace(job, refiner=toy_refiner(0.5)),
        "hires": lambda: toy_hires(job, refiner=toy_refiner(0.6)),
        "hires picture": lambda: toy_hires(job, upscaler="Net", path="/models/net.pth", scale=1.5),
        "img2img": lambda: toy_img2img(job, strength=0.3 + seed / 5),
        "inpaint": lambda: toy_img2img(replace(job, model=INPAINTING), mask=toy_mask(size)),
        "noise": lambda: toy_img2img(job, mask=toy_mask(size, "latent noise")),
        "enlarge": lambda: toy_enlarge(job_id, seed=seed, side=size // 4),
        "describe": lambda: toy_describe(job_id, seed=seed, side=size // 4),
        "faces": lambda: toy_faces(job),
        "restore": lambda: toy_restore(job_id, seed=seed, side=size // 4),
    }
    return kinds[kind]()


@cache
def solo(plan):
    events = []
    engine = Engine(ToyDevice(), program_for, Batcher(lambda _: 16), events.append, 1)
    engine.submit(job_of("solo", plan))
    while engine.busy:
        engine.step()
    return events[-1]


class BatchMates(RuleBasedStateMachine):
    """Jobs arrive, are watched, are stopped and finish in any order, and checkpoints come and go."""

    @initialize(rows=st.integers(1, 9), running=st.integers(1, 6))
    def begin(self, rows, running):
        self.events = []
        self.jobs = {}
        self.stopped = set()
        self.unloads = 0
        clock = map(float, ticking())
        self.engine = Engine(
            ToyDevice(), program_for, Batcher(lambda _: rows), self.events.append, running, clock.__next__
        )

    @rule(plan=PLANS)
    def submit(self, plan):
        job_id = f"j{len(self.jobs)}"
        self.jobs[job_id] = plan
        self.engine.submit(job_of(job_id, plan))

    @precondition(lambda self: self.engine.busy)
    @rule(count=st.integers(1, 5))
    def step(self, count):
        for _ in range(count):
            self.engine.step()

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99), mode=st.sampled_from(["interrupt", "drop"]))
    def stop(self, pick, mode):
        job_id = f"j{pick % len(self.jobs)}"
        if not any(getattr(event, "job", None) == job_id for event in self.ends()):
            self.stopped.add(job_id)
        self.engine.stop(job_id, mode)

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99), every=st.integers(0, 2), method=st.sampled_from(["cheap", "full"]))
    def watch(self, pick, every, method):
        self.engine.watch(Watch((f"j{pick % len(self.jobs)}",), every, method))

    @rule()
    def unload(self):
        self.unloads += 1
        self.engine.unload()

    def ends(self):
        return [event for event in self.events if isinstance(event, Finished | Failed | Cancelled)]

    @invariant()
    def at_most_one_end(self):
        if hasattr(self, "events"):
            ended = [event.job for event in self.ends()]
            assert len(ended) == len(set(ended))

    def teardown(self):
        if not hasattr(self, "events"):
            return
        for _ in range(4000):
            if not self.engine.busy:
                break
            self.engine.step()
        assert not self.engine.busy, "somebody starves"
        ends = {event.job: event for event in self.ends()}
        assert ends.keys() == self.jobs.keys()
        for job_id, plan in self.jobs.items():
            end, alone = ends[job_id], solo(plan)
            if job_id in self.stopped:
                continue
            if isinstance(alone, Finished):
                assert (end.picture, end.text) == (alone.picture, alone.text)
            else:
                assert (end.error, end.message) == (alone.error, alone.message)
        assert len([event for event in self.events if isinstance(event, Unloaded)]) == self.unloads
        self.first_come_first_served()
        self.nothing_after_the_end()

    def first_come_first_served(self):
        """Jobs overtake only those that need another checkpoint than they do."""
        started = [event.job for event in self.events if isinstance(event, Started)]
        for needed in {self.checkpoint_of(job) for job in started}:
            same = [job for job in started if self.checkpoint_of(job) == needed]
            assert same == sorted(same, key=lambda name: int(name[1:])), "first come, first served"

    def checkpoint_of(self, name):
        job = job_of(name, self.jobs[name])
        return None if isinstance(job, WithoutCheckpoint) else job.model.checkpoint

    def nothing_after_the_end(self):
        ended = set()
        for event in self.events:
            if isinstance(event, Finished | Failed | Cancelled):
                ended.add(event.job)
            assert not (isinstance(event, Previewed) and event.job in ended)


TestBatchMates = BatchMates.TestCase
TestBatchMates.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
