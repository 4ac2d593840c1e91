"""A device without a model: exact, cheap, and the same whatever shares a batch."""

import math
from dataclasses import replace

import numpy as np
import torch

from sdserver.calls import (
    Caption,
    Conditioning,
    Decode,
    Encode,
    EncodeText,
    FindFaces,
    ParseFace,
    Predict,
    Preview,
    RestoreFace,
    Upscale,
    UseModel,
)
from sdserver.errors import OutOfMemory, UnreadableCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.job import (
    Describe,
    Enlarge,
    FaceRestorer,
    Faces,
    FaceStep,
    Hires,
    Img2Img,
    Mask,
    Noise,
    Prompt,
    Refiner,
    Restore,
    Sampling,
    Size,
    Start,
    Txt2Img,
)
from sdserver.jobs.model import Model, ModelFacts

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS = tuple(float(alpha) for alpha in np.cumprod(1 - BETAS))
CHECKPOINT = "/models/toy.safetensors"
TOY_RESTORER = FaceRestorer("GFPGAN", "/models/GFPGAN.pth", "/models/detector.pth", "/models/parser.pth")


class ToyDevice:
    """Answers every call in fp64; texts that say `fault` fail, and so do checkpoints that say `bad`."""

    name = "toy"
    precision = "fp64"

    def __init__(self):
        self.batches = []
        self.loads = []
        self.unloads = 0
        self.keeping = None

    def run(self, calls):
        assert len({call.batch_key() for call in calls}) == 1
        self.batches.append((type(calls[0]).__name__, len(calls)))
        return [self.answer(call) for call in calls]

    def answer(self, call):
        match call:
            case UseModel(model):
                return self.facts(model)
            case EncodeText(model=model, text=text):
                return conditioning(model, text)
            case Predict(x=x, timestep=timestep, conditioning=given):
                return prediction(x, timestep, given.context.mean().item())
            case Encode(pixels=pixels):
                cells = torch.nn.functional.avg_pool2d(pixels.double(), 8)
                return torch.cat([cells, cells.mean(0, keepdim=True)]).float()
            case Decode(latent=latent) | Preview(latent=latent):
                return values(latent) if getattr(call, "as_values", False) else decoded(latent)
            case _:
                return beside(call)

    def settle(self):
        """It is never behind."""

    def unload(self):
        self.unloads += 1

    def keep(self, keeping):
        self.keeping = keeping

    def facts(self, model):
        self.loads.append(model.checkpoint)
        if "bad" in model.checkpoint:
            return UnreadableCheckpoint("The file is cut short.")
        return ModelFacts(model, "sd1", "epsilon", 4, ALPHAS, "inpainting" in model.checkpoint)


def conditioning(model, text):
    """Differs by text and checkpoint; as long as BREAK says; words that begin with `emb` are embeddings."""
    if "fault" in text:
        return OutOfMemory("No memory for this text.")
    level = sum(map(ord, text + model.checkpoint)) % 97 / 97
    names = tuple(word for word in text.split() if word.startswith("emb"))
    context = torch.full((77 * (text.count("BREAK") + 1), 2), level, dtype=torch.float64)
    return Conditioning(context, embeddings=names)


def prediction(x, timestep, level):
    """Of all channels, those of an inpainting checkpoint included."""
    wave = math.sin(timestep / 100) + level
    beside = x[4:].double().mean() if len(x) > 4 else 0.0
    return torch.tanh(x[:4].double() * (0.5 + wave / 4) + wave + beside).float()


def decoded(latent):
    """A pixel a cell; the levels wrap, so that small differences show."""
    flat = (latent[:3] * 64).remainder(256).floor().to(torch.uint8)
    height, width = flat.shape[1:]
    return Picture(width, height, flat.permute(1, 2, 0).contiguous().numpy().tobytes())


def values(latent):
    """Every cell 8 pixels wide and high."""
    return latent[:3].float().repeat_interleave(8, 1).repeat_interleave(8, 2)


def enlarged(picture):
    """Every pixel four times as wide and high."""
    rows = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)
    large = rows.repeat(4, axis=0).repeat(4, axis=1)
    return Picture(large.shape[1], large.shape[0], large.tobytes())


def beside(call):
    """What no checkpoint is needed for."""
    match call:
        case FindFaces(picture=picture):
            return face_in(picture)
        case RestoreFace(face=face):
            return Picture(face.width, face.height, bytes(255 - level for level in face.pixels))
        case ParseFace(face=face):
            return b"\xff" * (face.width * face.height)
        case Upscale(picture=picture) | Caption(picture=picture):
            return enlarged(picture) if isinstance(call, Upscale) else described(picture)


FACE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)


def face_in(picture):
    """Pictures that are wider than high are one face, as high as they; others have none."""
    if picture.width <= picture.height:
        return ()
    scale = picture.height / 512
    return (tuple((x * scale, y * scale) for x, y in FACE),)


def described(picture):
    return f"a toy of shade {sum(picture.pixels) % 251}"


JOB = Txt2Img(
    "r/0",
    Model(CHECKPOINT),
    Prompt("a toy", "", 1, "Original", 20),
    Size(64, 64),
    Noise(1, 1, 0.0, None, 0, "CPU"),
    Sampling("Euler", "Automatic", 4, 7.0, 1.0, 0.0, 0.0, math.inf, 1.0, 0.0, 0.0, 0.0, False),
)


def toy_job(
    id,
    *,
    text="a toy",
    seed=1,
    steps=4,
    sampler="Euler",
    schedule="Automatic",
    cfg=7.0,
    size=64,
    checkpoint=CHECKPOINT,
):
    return replace(
        JOB,
        id=id,
        model=Model(checkpoint),
        prompt=replace(JOB.prompt, positive=text),
        size=Size(size, size),
        noise=replace(JOB.noise, seed=seed, subseed=seed),
        sampling=replace(JOB.sampling, sampler=sampler, schedule=schedule, steps=steps, cfg_scale=cfg),
    )


def toy_hires(job, *, upscaler="Latent", path="", scale=2, strength=0.6, model=None, **changes):
    """The job with a second pass; `changes` are those of `Hires`' other fields."""
    size = Size(int(job.size.width * scale), int(job.size.height * scale))
    hires = Hires(
        size,
        size,
        upscaler,
        path,
        model or job.model,
        job.prompt,
        job.sampling,
        Start(strength, exact_steps=True),
    )
    return replace(job, hires=replace(hires, **changes))


def toy_picture(width, height, seed=1):
    """Colours without a pattern."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(width, height, values.tobytes())


def toy_img2img(job, *, strength=0.6, mask=None, init=None, **changes):
    """The same asked of img2img; `changes` are those of `Img2Img`'s other fields."""
    init = init or toy_picture(job.size.width, job.size.height, job.noise.seed)
    start = changes.pop("start", Start(strength, exact_steps=False))
    return Img2Img(
        job.id,
        job.model,
        job.prompt,
        job.size,
        job.noise,
        job.sampling,
        start,
        init,
        mask=mask,
        guidance=job.guidance,
        refiner=job.refiner,
        **changes,
    )


def toy_enlarge(id, *, size=100, side=16, seed=1):
    """A square picture enlarged by a network, whose factor is 4."""
    return Enlarge(id, toy_picture(side, side, seed), Size(size, size), "Net", "/models/net.pth")


def toy_describe(id, *, side=16, seed=1, beams=1):
    """A square picture put into words."""
    return Describe(id, toy_picture(side, side, seed), "/models/BLIP", beams, 8, 16)


def toy_faces(job):
    """The job's picture twice as wide, which is a face, and that restored."""
    size = Size(2 * job.size.width, job.size.height)
    return replace(job, size=size, faces=Faces(TOY_RESTORER, keeps_picture=True))


def toy_restore(id, *, side=16, seed=1):
    """A picture that is a face restored and laid over it by half."""
    return Restore(id, toy_picture(2 * side, side, seed), (FaceStep(TOY_RESTORER, 0.5),))


def toy_mask(size, content="original", *, is_rounded=True, left=255, weight=1.0):
    """Paints the left half of a square, by `left` of 255."""
    row = bytes([left] * (size // 2) + [0] * (size // 2))
    cells = bytes([left] * (size // 16) + [0] * (size // 16))
    return Mask(row * size, cells * (size // 8), is_rounded, content, weight)


def toy_refiner(switch_at, *, by_steps=False):
    return Refiner(Model("/models/refiner.safetensors"), switch_at, by_steps)
