"""A1111's recorded answers: text vectors, network calls, pictures.

`tiny-sd15` is part of the repository. The other families' checkpoints are too large for it: their
tests run where SDSERVER_GOLDENS names the directory of all recorded answers.
"""

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_calls import decode, encode, pixels, predict, text_call, use
from PIL import Image
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Conditioning
from sdserver.jobs.job import Emphasis, Size

HERE = Path(__file__).parents[1] / "goldens"
SD15 = HERE / "checkpoints" / "tiny-sd15.safetensors"
ALL = os.environ.get("SDSERVER_GOLDENS")

needs_all = pytest.mark.skipif(ALL is None, reason="SDSERVER_GOLDENS does not name the recorded answers")
Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle("cpu", "fp32")


def arrays(path: Path) -> Arrays:
    with np.load(path) as archive:
        return dict(archive)


def check_networks(bundle: Bundle, checkpoint: Path, recorded: Arrays) -> None:
    contexts = recorded.get("unet_cond", recorded.get("unet_cond_crossattn"))
    assert contexts is not None
    vectors = recorded.get("unet_cond_vector")
    rows = [
        Conditioning(torch.tensor(context), None if vectors is None else torch.tensor(vectors[k]))
        for k, context in enumerate(contexts)
    ]
    parts = [recorded[name] for name in ("unet_x", "unet_c_concat") if name in recorded]
    x = torch.tensor(np.concatenate(parts, axis=1))
    got = predict(bundle, checkpoint, x, torch.tensor(recorded["unet_t"]), rows)
    torch.testing.assert_close(got, torch.tensor(recorded["unet_out"]), atol=1e-5, rtol=1e-5)
    (picture,) = decode(bundle, checkpoint, torch.tensor(recorded["vae_z"]))
    levels = torch.tensor((recorded["vae_dec"][0] + 1) / 2).clamp(0, 1) * 255
    difference = (pixels(picture) - levels.int().permute(1, 2, 0)).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3


def check_text(bundle: Bundle, checkpoint: Path, key: str, texts: list[str], expected: list[Tensor]) -> None:
    """`key` is `case|cs<clip skip>|<emphasis>`."""
    _, clip_skip, emphasis = key.split("|")
    modes: dict[str, Emphasis] = {
        "Original": "Original",
        "No norm": "No norm",
        "Ignore": "Ignore",
        "None": "None",
    }
    calls = [
        text_call(
            checkpoint,
            text,
            clip_skip=int(clip_skip.removeprefix("cs")),
            emphasis=modes[emphasis],
            size=Size(64, 64),
            variants=tuple(texts),
        )
        for text in texts
    ]
    for got, context in zip(encode(bundle, calls), expected, strict=True):
        found = got.context if context.ndim == 2 else got.vector
        assert found is not None
        torch.testing.assert_close(found, context, atol=1e-4, rtol=0)


def test_networks_of_sd15(bundle: Bundle) -> None:
    assert use(bundle, SD15).prediction == "epsilon"
    check_networks(bundle, SD15, arrays(HERE / "bundle" / "sd15_unet_vae.npz"))


def test_text_of_sd15(bundle: Bundle) -> None:
    recorded = arrays(HERE / "bundle" / "sd15_conditioning.npz")
    cases: dict[str, list[str]] = json.loads((HERE / "bundle" / "sd15_conditioning.json").read_text())
    for key, texts in cases.items():
        check_text(
            bundle, SD15, key, texts, [torch.tensor(recorded[f"{key}|{k}"]) for k in range(len(texts))]
        )


def euler(bundle: Bundle, size: Size, seed: int, steps: int) -> Tensor:
    """A1111's Euler with CFG 7, written out: the latent of "a cat on the moon" without "dog"."""
    alphas = torch.tensor(use(bundle, SD15).alphas, dtype=torch.float64)
    table = ((1 - alphas) / alphas).sqrt().log()
    times = np.linspace(999, 0, steps)
    sigmas = [*np.exp(np.interp(times, np.arange(1000), table.numpy())).tolist(), 0.0]
    texts = [text_call(SD15, "a cat on the moon"), text_call(SD15, "dog", is_negative=True)]
    conditionings = encode(bundle, texts)
    generator = torch.Generator().manual_seed(seed)
    x: Tensor = torch.empty(4, size.height // 8, size.width // 8).normal_(generator=generator) * sigmas[0]
    for (sigma, following), t in zip(pairwise(sigmas), times, strict=True):
        rows = (x / (sigma**2 + 1) ** 0.5).expand(2, -1, -1, -1)
        positive, negative = predict(bundle, SD15, rows, torch.full((2,), float(t)), conditionings)
        x += (negative + 7 * (positive - negative)) * (following - sigma)
    return x


@pytest.mark.parametrize(
    ("picture", "size", "seed", "steps"),
    [("euler_64x64.png", Size(64, 64), 1234, 6), ("euler_128x96.png", Size(128, 96), 77, 8)],
)
def test_pictures_of_sd15(bundle: Bundle, picture: str, size: Size, seed: int, steps: int) -> None:
    """96 pixels are 12 latent rows, which do not halve evenly: the place of the resize counts."""
    with Image.open(HERE / "bundle" / picture) as image:
        recorded = torch.tensor(np.asarray(image.convert("RGB"))).int()
    (got,) = decode(bundle, SD15, euler(bundle, size, seed, steps).unsqueeze(0))
    difference = (pixels(got) - recorded).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 5e-3


@needs_all
@pytest.mark.parametrize(
    ("group", "name", "prediction"),
    [
        ("sd15", "tiny-sd15", "epsilon"),
        ("sd2v", "tiny-sd2-v", "v"),
        ("sdxl", "tiny-sdxl", "epsilon"),
        ("inpaint_model", "tiny-sd15-inpainting", "epsilon"),
    ],
)
def test_all_families(bundle: Bundle, group: str, name: str, prediction: str) -> None:
    root = Path(str(ALL))
    checkpoint = root / "checkpoints" / f"{name}.safetensors"
    assert use(bundle, checkpoint).prediction == prediction
    tensors = root / "tensors" / group
    check_networks(bundle, checkpoint, arrays(tensors / "unet_vae.npz"))
    recorded = arrays(tensors / "conditioning.npz")
    cases = json.loads((tensors / "conditioning.json").read_text())
    textual_inversion = {key for key in cases if key == "ti" or key.startswith(("ti|", "ti_"))}
    for key in cases.keys() - textual_inversion:
        texts = [text for _, text in cases[key]["schedule"]]
        for part in ("", "|crossattn", "|vector"):
            names = [f"{key}|learned{k}{part}" for k in range(len(texts))]
            if names[0] in recorded:
                check_text(bundle, checkpoint, key, texts, [torch.tensor(recorded[name]) for name in names])


@needs_all
def test_alphas_of_all_families(bundle: Bundle) -> None:
    root = Path(str(ALL))
    for group, name in (("sd15", "tiny-sd15"), ("sd2v", "tiny-sd2-v"), ("sdxl", "tiny-sdxl")):
        recorded = arrays(root / "tensors" / group / "sigmas.npz")["alphas_cumprod"]
        assert use(bundle, root / "checkpoints" / f"{name}.safetensors").alphas == tuple(recorded.tolist())
