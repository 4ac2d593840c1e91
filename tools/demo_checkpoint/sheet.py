"""The README's contact sheet: 24 prompts, picture k from seed k.

PYTHONPATH=.:tools python tools/demo_checkpoint/sheet.py --out docs/demo.png
"""

import argparse
from pathlib import Path

import torch
from measure import sheet
from render import Recipe, render

PROMPTS = (
    "a red circle on a blue background",
    "a small yellow star on a black background, in the top left",
    "a green heart on a white background",
    "two purple triangles on a yellow background",
    "a big white cross on a red background",
    "a brown ring on a cyan background",
    "an orange diamond on a gray background",
    "a pink square at the bottom, green background",
    "three black hearts on a pink background",
    "a blue circle and a red square on a white background",
    "a yellow triangle above a blue star on a black background",
    "a large cyan star on a purple background",
    "four orange circles on a brown background",
    "a green cross next to a white ring on a blue background",
    "a little black diamond on the right, yellow background",
    "a purple heart on an orange background",
    "portrait of a young women, blue eyes, cinematic",
    "portrait of an old man, beard, green background",
    "portrait of a woman, red hair, green eyes",
    "man, blonde hair, smiling, orange background",
    "portrait of a girl, pink hair, brown eyes, cyan background",
    "portrait of a young man, black hair, blue eyes, purple background",
    "elderly woman, white hair, green eyes, black background",
    "portrait of a lady, brown hair, long hair, smiling, white background",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/Stable-diffusion/demo.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(args.size, args.size, 20, 5.0, "DPM++ 2M")
    sheet(render(args.checkpoint, PROMPTS, range(len(PROMPTS)), recipe), 8).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
