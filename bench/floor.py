"""The limit of the device: the FLOPs of a picture over the matrix products' peak, measured in this run.

    python -m bench.floor CHECKPOINT --size 64 --steps 20

FLOPs are counted by torch on the networks without data, two for a multiply and add: the UNet's rows, one
decoding, the texts. The peak is the best of several square products. Prints JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdserver.bundle.detect import detect
from sdserver.bundle.parts import empty_text, empty_unet, empty_vae
from sdserver.bundle.sidecar import read_sidecar
from sdserver.bundle.weights import open_weights

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOKENS: Final = 77
SDXL_NUMBERS: Final = 6


@dataclass(frozen=True, slots=True)
class Flops:
    """Of one UNet row, of one decoding, and of one text by all encoders."""

    row: int
    decode: int
    text: int

    def of_picture(self, steps: int, rows: int) -> int:
        """Of all of it, with so many rows a step."""
        return rows * (steps * self.row + self.text) + self.decode


def peak(device: str, dtype: torch.dtype, sides: Sequence[int], seconds: float) -> dict[int, float]:
    """The best FLOP/s of a product of two square matrices, by their side.

    Args:
        device: as torch names it.
        dtype: of the matrices.
        sides: of the matrices.
        seconds: how long each side is tried at least.
    """
    found: dict[int, float] = {}
    for side in sides:
        one, other = (torch.ones(side, side, device=device, dtype=dtype).mul_(0.01) for _ in range(2))
        _seconds(device, lambda one=one, other=other: one @ other)  # type: ignore[misc]
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            times.append(_seconds(device, lambda one=one, other=other: one @ other))  # type: ignore[misc]
        found[side] = 2 * side**3 / min(times)
    return found


def _seconds(device: str, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - began


def count(checkpoint: Path, size: int) -> Flops:
    """The FLOPs of a checkpoint's networks for pictures of so many pixels a side."""
    unet, vae, texts = _folder(checkpoint) if checkpoint.is_dir() else _file(checkpoint)
    return count_in(unet, vae, texts, size)


def count_in(unet: Any, vae: Any, texts: Sequence[nn.Module], size: int) -> Flops:
    """The same of networks without data."""
    side = size // 8
    with torch.device("meta"):
        latent = torch.empty(1, unet.config.in_channels, side, side)
        context = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
        given = {"encoder_hidden_states": context, **_vector(unet)}
        tokens = torch.zeros(1, TOKENS, dtype=torch.long)
        decoded = torch.empty(1, vae.config.latent_channels, side, side)
    return Flops(
        row=_counted(lambda: unet(latent, torch.zeros(1, device="meta"), **given)),
        decode=_counted(lambda: vae.decode(decoded)),
        text=sum(_counted(lambda text=text: text(tokens)) for text in texts),  # type: ignore[misc]
    )


def _counted(work: Callable[[], object]) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _vector(unet: Any) -> dict[str, Any]:
    """What SDXL's UNet takes beside the text."""
    width = unet.config.projection_class_embeddings_input_dim
    if width is None:
        return {}
    if unet.config.addition_embed_type != "text_time":
        return {"class_labels": torch.empty(1, width)}
    pooled = width - SDXL_NUMBERS * unet.config.addition_time_embed_dim
    numbers = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, SDXL_NUMBERS)}
    return {"added_cond_kwargs": numbers}


def _file(path: Path) -> tuple[Any, Any, list[nn.Module]]:
    with open_weights(path, allow_pickle=False) as weights:
        layout = detect(weights, read_sidecar(path)).layout
    return empty_unet(layout.unet), empty_vae(layout.vae), [empty_text(spec) for spec in layout.text]


def _folder(path: Path) -> tuple[Any, Any, list[nn.Module]]:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(path / "vae"))
        texts = [_text(place) for place in sorted(path.glob("text_encoder*"))]
    return unet, vae, texts


def _text(path: Path) -> nn.Module:
    kind = CLIPTextModelWithProjection if path.name == "text_encoder_2" else CLIPTextModel
    encoder: nn.Module = kind(AutoConfig.from_pretrained(path, local_files_only=True))
    return encoder


def main() -> int:
    """Print what was measured and counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves it to torch")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2, help="a step")
    parser.add_argument("--sides", type=int, nargs="+", help="of the matrices")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each side")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sides = args.sides or ([512, 1024, 2048] if args.device == "cpu" else [4096, 8192, 16384])
    peaks = peak(args.device, DTYPES[args.precision], sides, args.seconds)
    flops = count(args.checkpoint, args.size)
    picture, best = flops.of_picture(args.steps, args.rows), max(peaks.values())
    found = {
        "peak_flops": best,
        "peaks": peaks,
        "flops": {"row": flops.row, "decode": flops.decode, "text": flops.text, "picture": picture},
        "seconds_per_picture": picture / best,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
