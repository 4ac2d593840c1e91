"""The baseline: FastAPI around the stock diffusers pipeline, one picture at a time, Pillow's PNG and json.

    python -m bench.naive CHECKPOINT --port 7861 --threads 1

It answers `POST /sdapi/v1/txt2img` for the fields of `bench.mix`. The networks are diffusers' own, loaded
from the same file or folder, with attention and memory order as they come, in eager mode. One thread owns
the device, which is its lock; pictures are encoded outside of it.
"""

import argparse
import base64
import io
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch
import uvicorn
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from PIL import Image
from transformers import CLIPTokenizer

from sdserver.bundle.device import resolve
from sdserver.bundle.load import prepare
from sdserver.bundle.tokenizer import clip_tokenizer

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SCHEDULERS: Final = {
    "Euler": EulerDiscreteScheduler,
    "Euler a": EulerAncestralDiscreteScheduler,
    "DPM++ 2M": DPMSolverMultistepScheduler,
    "DDIM": DDIMScheduler,
}
NOISE: Final = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOKENS: Final = 77


def load(checkpoint: Path, device: str, dtype: torch.dtype) -> Any:
    """The stock pipeline of a diffusers folder, or of a single file of Stable Diffusion 1."""
    if checkpoint.is_dir():
        pipeline = DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=dtype, local_files_only=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = _configurations(checkpoint, Path(folder))
            pipeline = StableDiffusionPipeline.from_single_file(
                str(checkpoint),
                config=folder,
                tokenizer=tokenizer,
                safety_checker=None,
                torch_dtype=dtype,
                local_files_only=True,
            )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _configurations(checkpoint: Path, folder: Path) -> CLIPTokenizer:
    """Write what diffusers asks the network for: the configurations of a single file's networks."""
    with prepare(checkpoint, allow_pickle=False) as read:
        parts = read(resolve("cpu", "fp32", "sdpa"))
    (text,) = parts.text
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=TOKENS)
    pipeline = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=parts.unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1, **NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_config(folder)
    for name in ("unet", "vae", "scheduler"):
        getattr(pipeline, name).save_config(folder / name)
    text.config.save_pretrained(folder / "text_encoder")
    return tokenizer


class Naive:
    """The pipeline and the one thread that may use it."""

    def __init__(self, pipeline: Any, threads: int) -> None:
        self._pipeline = pipeline
        self._noise = dict(pipeline.scheduler.config)
        begin = (lambda: torch.set_num_threads(threads)) if threads else None
        self._lock = ThreadPoolExecutor(1, initializer=begin)

    def txt2img(self, body: dict[str, Any]) -> bytes:
        """The answer's bytes."""
        picture = self._lock.submit(self._generate, body).result()
        file = io.BytesIO()
        picture.save(file, "PNG")
        encoded = base64.b64encode(file.getvalue()).decode()
        info = json.dumps({"seed": body["seed"], "all_seeds": [body["seed"]]})
        return json.dumps({"images": [encoded], "parameters": body, "info": info}).encode()

    def _generate(self, body: dict[str, Any]) -> Image.Image:
        self._pipeline.scheduler = SCHEDULERS[body["sampler_name"]].from_config(self._noise)
        result = self._pipeline(
            prompt=body["prompt"],
            negative_prompt=body["negative_prompt"],
            num_inference_steps=body["steps"],
            guidance_scale=body["cfg_scale"],
            width=body["width"],
            height=body["height"],
            generator=torch.Generator("cpu").manual_seed(body["seed"]),
        )
        picture: Image.Image = result.images[0]
        return picture


def application(naive: Naive) -> FastAPI:
    """The route."""
    app = FastAPI()

    @app.post("/sdapi/v1/txt2img")
    async def txt2img(request: Request) -> Response:
        content = await run_in_threadpool(naive.txt2img, await request.json())
        return Response(content, media_type="application/json")

    return app


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves it to torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    args = parser.parse_args()
    pipeline = load(args.checkpoint, args.device, DTYPES[args.precision])
    uvicorn.run(application(Naive(pipeline, args.threads)), port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
