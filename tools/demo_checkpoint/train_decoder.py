"""Train the VAE decoder to draw scenes from their latents.

python tools/demo_checkpoint/train_decoder.py --minutes 40 --out decoder.pt --log decoder.log
"""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from latents import CELL, encode
from networks import decoder
from scenes import any_scene, draw, portrait

CROP = 64


def crop(rng: random.Random, size: int) -> np.ndarray:
    """A size x size crop of a random scene at a random scale; flat crops are drawn again."""
    for _ in range(4):
        scene = portrait(rng) if rng.random() < 0.35 else any_scene(rng)
        side = max(size, rng.choice((128, 128, 128, 128, 192, 256, 256, 512)))
        picture = draw(scene, side, side, supersample=3 if side <= 256 else 2)
        x, y = (CELL * rng.randint(0, (side - size) // CELL) for _ in range(2))
        pixels = np.asarray(picture.crop((x, y, x + size, y + size)))
        if pixels.std(axis=(0, 1)).max() > 4 or rng.random() < 0.1:
            break
    return pixels


def batch(rng: random.Random, count: int, size: int) -> torch.Tensor:
    """Pixels (count, 3, size, size) in [-1, 1]."""
    stack = np.stack([crop(rng, size) for _ in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("decoder.pt"))
    parser.add_argument("--log", type=Path, default=Path("decoder.log"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    net = decoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-3)
    started, step, images, mean_loss = time.monotonic(), 0, 0, 0.0
    log = args.log.open("w", buffering=1)
    test_rng = random.Random(99)
    held = batch(test_rng, 8, 128)
    while (done := (time.monotonic() - started) / (60 * args.minutes)) < 1:
        rate = 1.5e-3 * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        count, size = (2, 128) if rng.random() < 0.25 else (8, CROP)
        pixels = batch(rng, count, size)
        latents = encode(pixels)
        latents = latents + 0.04 * torch.randn_like(latents)
        drawn = net(latents.contiguous(memory_format=torch.channels_last))
        loss = F.l1_loss(drawn, pixels) + F.mse_loss(drawn, pixels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step, images = step + 1, images + count
        mean_loss = loss.item() if step == 1 else 0.98 * mean_loss + 0.02 * loss.item()
        if step % 100 == 0:
            with torch.no_grad():
                error = F.mse_loss(net(encode(held)).clamp(-1, 1), held).item()
            psnr = 10 * math.log10(4 / error)
            log.write(
                f"step {step} images {images} minutes {done * args.minutes:.1f} "
                f"loss {mean_loss:.4f} psnr {psnr:.2f}\n"
            )
            torch.save(net.state_dict(), args.out)
    torch.save(net.state_dict(), args.out)


if __name__ == "__main__":
    main()
