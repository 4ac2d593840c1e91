"""Jobs whose attention is made cheaper, on real networks: alone and among others."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bundle_calls import assert_close, pixels
from tiny_checkpoints import Write
from torch import Tensor
from toy import toy_hires, toy_img2img, toy_job, toy_mask

from sdserver.bundle.bundle import Bundle, Result
from sdserver.calls import Decode, DeviceCall
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.jobs.events import Finished, JobEvent
from sdserver.jobs.job import Job, Recovery, SoftInpainting
from sdserver.jobs.model import Attention, Model, TileRule
from sdserver.programs.table import program_for

TILED = Attention(unet=TileRule(3, 128, 3), vae=TileRule(3, 128, 2), width=256, height=256, seed=5)
MERGED = Attention(merging=0.5)
ATTENTIONS = {
    "plain": Attention(),
    "merged": MERGED,
    "tiled": TILED,
    "other draws": replace(TILED, seed=6),
    "both": replace(TILED, merging=0.3),
}


class Recording(Bundle):
    """Keeps the latents of finished pictures, by how attention was made cheaper."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.latents: dict[Attention, Tensor] = {}

    def run(self, calls: Sequence[DeviceCall]) -> list[Result]:
        self.latents |= {call.model.attention: call.latent for call in calls if isinstance(call, Decode)}
        return super().run(calls)


def made(bundle: Bundle, jobs: list[Job]) -> dict[str, Finished]:
    events: list[object] = []
    engine = Engine(bundle, program_for, Batcher(lambda _: 8), events.append, len(jobs))
    for job in jobs:
        engine.submit(job)
    while engine.busy:
        engine.step()
    ends = {event.job: event for event in events if isinstance(event, Finished)}
    assert len(ends) == len(jobs), [event for event in events if isinstance(event, JobEvent)]
    return ends


def job_with(path: Path, name: str, attention: Attention) -> Job:
    return replace(
        toy_job(name, steps=2, size=256, seed=len(name)), model=Model(str(path), attention=attention)
    )


def difference(one: Finished, other: Finished) -> int:
    return int((pixels(one.picture) - pixels(other.picture)).abs().max())


def test_mates_change_nothing(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Recording()
    jobs = [job_with(path, name, attention) for name, attention in ATTENTIONS.items()]
    together = made(bundle, jobs)
    latents = dict(bundle.latents)
    for job in jobs[:4]:
        (alone,) = made(bundle, [job]).values()
        assert difference(alone, together[job.id]) <= 1, job.id
        assert_close(bundle.latents[ATTENTIONS[job.id]], latents[ATTENTIONS[job.id]])


def test_each_changes_the_picture_and_only_its_own(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Recording()
    jobs = [replace(job_with(path, "x", attention), id=name) for name, attention in ATTENTIONS.items()]
    made(bundle, jobs)
    latents = dict(bundle.latents)
    for name in ("merged", "tiled", "other draws", "both"):
        assert (latents[ATTENTIONS[name]] - latents[Attention()]).abs().max() > 1e-3, name
    assert (latents[ATTENTIONS["other draws"]] - latents[TILED]).abs().max() > 1e-4
    made(bundle, [jobs[0]])
    assert_close(bundle.latents[Attention()], latents[Attention()])


def test_the_passes_of_a_job_may_differ(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    job = replace(toy_job("a", steps=1, size=64), model=Model(str(path)))
    second = toy_hires(job, model=Model(str(path), attention=MERGED))
    ends = made(Bundle("cpu"), [toy_hires(job), replace(second, id="b")])
    assert difference(ends["a"], ends["b"]) > 1


def test_soft_inpainting_tells_what_is_new(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    job = replace(toy_job("a", steps=3, size=64), model=Model(str(path)))
    # This VAE halves the sides but twice.
    mask = replace(toy_mask(128, is_rounded=False), soft=SoftInpainting())
    asked = replace(toy_img2img(job, mask=mask), size=replace(job.size, width=128, height=128))
    (end,) = made(Bundle("cpu"), [asked]).values()
    new_parts = torch.frombuffer(bytearray(end.new_parts), dtype=torch.uint8).reshape(16, 16).float()
    assert new_parts[:, :6].mean() > new_parts[:, 10:].mean()


def test_recovery_runs_on_real_networks(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    job = replace(toy_job("a", steps=2, size=128), model=Model(str(path)))
    recovery = Recovery("a", "b", 2, 1.5, 0.25, sigma_adjustment=False)
    init = toy_img2img(job).init
    small = replace(job, size=replace(job.size, width=256, height=256))
    (end,) = made(Bundle("cpu"), [replace(toy_img2img(small, init=init), recovery=recovery)]).values()
    assert pixels(end.picture).float().std() > 0
