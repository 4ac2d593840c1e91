"""Measure how well the demo checkpoint follows captions it was never trained on.

    PYTHONPATH=. python tools/demo_checkpoint/measure.py --count 200 --out docs/demo-accuracy.json

Caption k is drawn by `random.Random(31337)` (`--captions`) from held-out combinations of shape, colour
and background; its picture has seed k. What a picture shows is read off its pixels by `classify.py`.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from classify import classify
from PIL import Image
from render import Recipe, render
from scenes import single_shape

CAPTION_SEED = 31337


@dataclass(frozen=True, slots=True)
class Row:
    """One caption, what was asked and what was read."""

    caption: str
    seed: int
    asked: tuple[str, str, str]
    read: tuple[str | None, str | None, str]


def held_out(count: int, captions: int) -> list[tuple[str, tuple[str, str, str]]]:
    """Captions with their shape, colour and background."""
    rng = random.Random(captions)
    scenes = [single_shape(rng, held_out=True) for _ in range(count)]
    return [
        (
            scene.caption,
            (scene.fact("shape") or "", scene.fact("colour") or "", scene.fact("background") or ""),
        )
        for scene in scenes
    ]


def measure(
    checkpoint: Path, count: int, captions: int, recipe: Recipe
) -> tuple[list[Row], list[Image.Image]]:
    """Render and read every caption."""
    wanted = held_out(count, captions)
    pictures = render(checkpoint, [caption for caption, _ in wanted], range(count), recipe)
    rows = []
    for seed, ((caption, asked), picture) in enumerate(zip(wanted, pictures, strict=True)):
        seen = classify(picture)
        rows.append(Row(caption, seed, asked, (seen.shape, seen.colour, seen.background)))
    return rows, pictures


def share(rows: Sequence[Row], place: int) -> float:
    """The share of rows whose fact at `place` (shape, colour, background) is right."""
    return sum(row.asked[place] == row.read[place] for row in rows) / len(rows)


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures side by side."""
    width, height = pictures[0].size
    lines = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * width, lines * height))
    for index, picture in enumerate(pictures):
        canvas.paste(picture, ((index % columns) * width, (index // columns) * height))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/Stable-diffusion/demo.safetensors"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--captions", type=int, default=CAPTION_SEED, help="seed of the captions")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--sampler", default="DPM++ 2M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path, help="save the first 40 pictures side by side")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(args.size, args.size, args.steps, args.cfg, args.sampler)
    rows, pictures = measure(args.checkpoint, args.count, args.captions, recipe)
    result = {
        "count": len(rows),
        "recipe": asdict(recipe),
        "shape": share(rows, 0),
        "colour": share(rows, 1),
        "background": share(rows, 2),
        "all three": float(np.mean([row.asked == row.read for row in rows])),
    }
    print(json.dumps(result, indent=2))
    for row in rows:
        if row.asked != row.read:
            print(f"  seed {row.seed}: {row.caption!r} reads as {row.read}")
    if args.out:
        args.out.write_text(json.dumps(result | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if args.sheet:
        sheet(pictures[:40], 10).save(args.sheet)


if __name__ == "__main__":
    main()
