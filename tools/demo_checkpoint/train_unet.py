"""Train the UNet and the text encoder on captioned scenes, coarse to fine.

    PYTHONPATH=. python tools/demo_checkpoint/train_unet.py --minutes 110 --out unet.pt --log unet.log

Stages share the time: scenes at 64 pixels teach what words mean, at 128 pixels what shapes look like,
and mixed sizes up to 256 pixels that a scene fills its canvas. `--resume` goes on
from an earlier run's weights, from the stage that `--begin` (a fraction of the whole) falls into.
`--large` has stages of its own, for finished weights: mixed sizes up to 512 pixels.
"""

import argparse
import copy
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from latents import encode
from networks import text_encoder, unet
from scenes import Scene, any_scene, draw, portrait
from torch import Tensor

from sdserver.bundle.tokenizer import END_ID, START_ID, clip_tokenizer

TOKENS = 77
NEUTRAL = 0  # row of words never seen in training; its embedding stays zero
OFFSET_NOISE = 0.2  # makes mean colours uncertain at the first step at every size, as at inference
SNR_CLAMP = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"


@dataclass(frozen=True, slots=True)
class Stage:
    """Train until `until` (fraction of the time) on sizes drawn as (weight, width, height, batch)."""

    until: float
    tokens: int
    sizes: tuple[tuple[float, int, int, int], ...]


STAGES = (
    Stage(0.32, 40, ((1.0, 64, 64, 48),)),
    Stage(0.57, TOKENS, ((0.9, 128, 128, 24), (0.05, 96, 128, 24), (0.05, 128, 96, 24))),
    Stage(
        0.70, TOKENS, ((0.55, 128, 128, 24), (0.35, 256, 256, 6), (0.05, 192, 256, 6), (0.05, 256, 192, 6))
    ),
    Stage(0.80, TOKENS, ((0.50, 128, 128, 24), (0.50, 256, 256, 6))),
    Stage(1.0, TOKENS, ((0.80, 128, 128, 24), (0.20, 256, 256, 6))),
)
LARGE_STAGES = (
    Stage(0.75, TOKENS, ((0.25, 128, 128, 24), (0.20, 256, 256, 6), (0.55, 512, 512, 4))),
    Stage(1.0, TOKENS, ((0.65, 128, 128, 24), (0.10, 256, 256, 6), (0.25, 512, 512, 4))),
)
# From this width on, portraits are drawn more often: they have most to arrange.
LARGE_PORTRAITS = {256: 0.25, 512: 0.5}


class Vocabulary:
    """CLIP's token ids that captions use, as consecutive rows; row 0 is every other token."""

    def __init__(self, rng: random.Random, captions: int = 20000) -> None:
        self.tokenizer = clip_tokenizer()
        seen = {START_ID, END_ID}
        for _ in range(captions):
            seen.update(self.tokenizer(any_scene(rng).caption).input_ids)
        self.ids = (-1, *sorted(seen))
        self.row = {token: row for row, token in enumerate(self.ids)}

    def rows(self, caption: str, length: int) -> list[int]:
        """Row numbers of one caption, with start, end and end-padding."""
        ids = self.tokenizer(caption).input_ids[:length]
        ids += [END_ID] * (length - len(ids))
        return [self.row.get(token, NEUTRAL) for token in ids]


def unknown_words(rng: random.Random, caption: str) -> str:
    """Now and then a word that training does not know, so that such words do no harm."""
    if rng.random() > 0.1 or not caption:
        return caption
    words = caption.split(" ")
    words.insert(rng.randint(0, len(words)), rng.choice(("zebra", "quantum", "lofty", "vivid", "rendered")))
    return " ".join(words)


def sample(
    rng: random.Random, vocabulary: Vocabulary, size: tuple[int, int, int], tokens: int
) -> tuple[Tensor, Tensor]:
    """Latents (n, 4, h/8, w/8) and token rows (n, tokens) of fresh scenes; one caption in ten is empty."""
    width, height, count = size
    extra = LARGE_PORTRAITS.get(width, 0.0)
    scenes: list[Scene] = [portrait(rng) if rng.random() < extra else any_scene(rng) for _ in range(count)]
    supersample = 2 if width <= 64 else 1
    pixels = np.stack([np.asarray(draw(scene, width, height, supersample)) for scene in scenes])
    captions = ["" if rng.random() < 0.1 else unknown_words(rng, scene.caption) for scene in scenes]
    rows = torch.tensor([vocabulary.rows(caption, tokens) for caption in captions])
    return encode(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1), rows


def noise_levels() -> Tensor:
    """Cumulative alphas of Stable Diffusion's scaled-linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def noise_loss(
    model: torch.nn.Module, text: torch.nn.Module, latents: Tensor, rows: Tensor, alphas: Tensor
) -> Tensor:
    """Min-SNR weighted error of the predicted noise."""
    count = latents.shape[0]
    noise = torch.randn_like(latents) + OFFSET_NOISE * torch.randn(count, 4, 1, 1)
    share = (torch.arange(count) + torch.rand(count)) / count
    # Large canvases differ from small ones in composition, which the noisy steps decide.
    noisier = {32: 1 / 2, 64: 1 / 3}.get(latents.shape[-1], 1.0)
    t = (share**noisier * 1000).long().clamp(max=999)
    alpha = alphas[t].view(-1, 1, 1, 1)
    noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).contiguous(
        memory_format=torch.channels_last
    )
    context = text(rows).last_hidden_state
    predicted = model(noisy, t, encoder_hidden_states=context).sample
    snr = alphas[t] / (1 - alphas[t])
    weight = snr.clamp(max=SNR_CLAMP) / snr
    error = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
    # Small SNR weighs 1 in eps terms; a floor keeps the last, clean steps learning too.
    return (error * weight.clamp(min=0.05)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=110)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--resume", type=Path, help="weights to begin with")
    parser.add_argument("--begin", type=float, default=0.0, help="fraction of the whole to begin at")
    parser.add_argument("--large", action="store_true", help="train finished weights on larger canvases")
    parser.add_argument("--out", type=Path, default=Path("unet.pt"))
    parser.add_argument("--log", type=Path, default=Path("unet.log"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    vocabulary = Vocabulary(random.Random(7))
    model = unet().to(memory_format=torch.channels_last)
    text = text_encoder(len(vocabulary.ids))
    if args.resume:
        earlier = torch.load(args.resume, weights_only=True)
        assert tuple(earlier["ids"]) == vocabulary.ids
        model.load_state_dict(earlier["unet"])
        text.load_state_dict(earlier["text"])
    with torch.no_grad():
        text.get_input_embeddings().weight[NEUTRAL] = 0
    parameters = [*model.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-3)
    averaged = [copy.deepcopy(model), copy.deepcopy(text)]
    alphas = noise_levels()
    count = sum(p.numel() for p in parameters)
    log = args.log.open("w", buffering=1)
    log.write(f"{count} parameters, {len(vocabulary.ids)} token rows\n")
    started, step, images, mean_loss = time.monotonic(), 0, 0, 1.0

    def save() -> None:
        state = {"unet": averaged[0].state_dict(), "text": averaged[1].state_dict(), "ids": vocabulary.ids}
        torch.save(state, args.out.with_suffix(".tmp"))
        args.out.with_suffix(".tmp").replace(args.out)

    while (done := args.begin + (1 - args.begin) * (time.monotonic() - started) / (60 * args.minutes)) < 1:
        stage = next(s for s in (LARGE_STAGES if args.large else STAGES) if done < s.until)
        rate = (
            args.rate
            * min(1.0, (step + 1) / (50 if args.resume else 200))
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        _, *size = rng.choices(stage.sizes, [s[0] for s in stage.sizes])[0]
        latents, rows = sample(rng, vocabulary, tuple(size), stage.tokens)
        loss = noise_loss(model, text, latents, rows, alphas)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        text.get_input_embeddings().weight.grad[NEUTRAL] = 0
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, images = step + 1, images + latents.shape[0]
        mean_loss += 0.01 * (loss.item() - mean_loss)
        decay = min(0.999, (step + 1) / (step + 20))
        with torch.no_grad():
            for slow, fast in zip(averaged, (model, text), strict=True):
                torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - decay)
        if step % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            log.write(
                f"step {step} images {images} minutes {minutes:.1f} done {done:.3f} loss {mean_loss:.4f}\n"
            )
        if step % 250 == 0:
            save()
    save()


if __name__ == "__main__":
    main()
