"""Random modules -> a file in the original layout -> the bundle: the same outputs as the modules."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import assert_close, decode, encode, pixels, predict, random, text_call, use
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import load_file, save_file
from tiny_checkpoints import POOLED, Original, Write
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.tokenizer import END_ID, START_ID, tokenize
from sdserver.calls import Conditioning
from sdserver.errors import UnsupportedCheckpoint
from sdserver.jobs.job import Size
from sdserver.jobs.model import Family

FAMILIES: tuple[Family, ...] = ("sd1", "sd2", "sdxl")


@pytest.fixture
def bundle() -> Bundle:
    return Bundle("cpu")


def expected_prediction(
    original: Original, x: Tensor, t: Tensor, context: Tensor
) -> tuple[Tensor, Tensor | None]:
    """What the original UNet gives, and SDXL's vector in the one piece that conditionings have."""
    unet: Any = original.unet
    if unet.config.addition_embed_type is None:
        return unet(x, t, context).sample, None
    pooled = random(len(x), POOLED, seed=3)
    numbers = torch.tensor([[96.0, 64, 0, 0, 96, 64]]).expand(len(x), -1)
    embedded = get_timestep_embedding(numbers.flatten(), 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    added = {"text_embeds": pooled, "time_ids": numbers}
    vector = torch.cat([pooled, embedded.reshape(len(x), -1)], dim=1)
    return unet(x, t, context, added_cond_kwargs=added).sample, vector


def check_prediction(bundle: Bundle, path: Path, original: Original, channels: int = 4) -> None:
    x, t = random(2, channels, 8, 8, seed=1), torch.tensor([10.25, 700.5])
    width: int = original.unet.config.cross_attention_dim  # type: ignore[union-attr,assignment]
    context = random(2, 77, width, seed=2)
    expected, vector = expected_prediction(original, x, t, context)
    rows = [Conditioning(context[k], None if vector is None else vector[k]) for k in range(2)]
    got = predict(bundle, path, x, t, rows)
    assert got.dtype == torch.float32
    assert_close(got, expected)
    alone = torch.cat([predict(bundle, path, x[k : k + 1], t[k : k + 1], rows[k : k + 1]) for k in range(2)])
    assert_close(alone, got)


@pytest.mark.parametrize("family", FAMILIES)
def test_network_and_decoder(bundle: Bundle, checkpoint: Write, family: Family) -> None:
    path, original = checkpoint(family)
    assert use(bundle, path).family == family
    check_prediction(bundle, path, original)
    latents = random(2, 4, 6, 8, seed=4)
    vae: Any = original.vae
    scale = 0.13025 if family == "sdxl" else 0.18215
    images = vae.decode(latents / scale).sample
    expected = (((images + 1) / 2).clamp(0, 1) * 255).permute(0, 2, 3, 1)
    for picture, image in zip(decode(bundle, path, latents), expected, strict=True):
        assert (picture.width, picture.height) == (32, 24)
        difference = image - pixels(picture)
        assert -1e-3 < difference.min() <= difference.max() < 1 + 1e-3  # truncated, not rounded
        assert difference.mean() > 0.3


def rows_of_ids(text: str, kind: str) -> Tensor:
    (ids,) = tokenize([text], "clip" if kind == "clip" else "open_clip")
    pad = END_ID if kind == "clip" else 0
    return torch.tensor([[START_ID, *ids, END_ID] + [pad] * (75 - len(ids))])


TEXT = "a cat, “on” the moon"


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_text_of_sd1(bundle: Bundle, checkpoint: Write, clip_skip: int) -> None:
    path, original = checkpoint("sd1")
    clip: Any = original.text[0]
    output = clip(rows_of_ids(TEXT, "clip"), output_hidden_states=True)
    expected = clip.final_layer_norm(output.hidden_states[-clip_skip])[0]
    (got,) = encode(bundle, [text_call(path, TEXT, clip_skip=clip_skip)])
    assert_close(got.context, expected)
    assert got.vector is None


def test_text_of_sd2_is_the_last_layer_but_one(bundle: Bundle, checkpoint: Write) -> None:
    path, original = checkpoint("sd2")
    clip: Any = original.text[0]
    output = clip(rows_of_ids(TEXT, "open_clip"), output_hidden_states=True)
    expected = clip.final_layer_norm(output.hidden_states[-2])[0]
    for got in encode(bundle, [text_call(path, TEXT, clip_skip=skip) for skip in (1, 4)]):
        assert_close(got.context, expected)


def test_text_of_sdxl_joins_both_encoders_and_sizes(bundle: Bundle, checkpoint: Write) -> None:
    path, original = checkpoint("sdxl")
    clip: Any = original.text[0]
    open_clip: Any = original.text[1]
    small = clip(rows_of_ids(TEXT, "clip"), output_hidden_states=True)
    large = open_clip(rows_of_ids(TEXT, "open_clip"), output_hidden_states=True)
    (got,) = encode(bundle, [text_call(path, TEXT, size=Size(width=640, height=768))])
    expected = torch.cat([small.hidden_states[-2][0], large.hidden_states[-2][0]], dim=1)
    assert_close(got.context, expected)
    numbers = torch.tensor([768.0, 640, 0, 0, 768, 640])
    sizes = get_timestep_embedding(numbers, 256, flip_sin_to_cos=True, downscale_freq_shift=0).flatten()
    assert got.vector is not None
    assert_close(got.vector, torch.cat([large.text_embeds[0], sizes]))


@pytest.mark.parametrize("channels", [8, 9])
def test_networks_with_more_inputs(bundle: Bundle, checkpoint: Write, channels: int) -> None:
    path, original = checkpoint("sd1", in_channels=channels)
    facts = use(bundle, path)
    assert (facts.inpainting, facts.latent_channels) == (channels == 9, 4)
    check_prediction(bundle, path, original, channels)


def test_heads_come_from_the_yaml_beside(bundle: Bundle, checkpoint: Write) -> None:
    path, original = checkpoint("sd2", head_channels=16)
    yaml = "model: {params: {parameterization: v, unet_config: {params: {num_head_channels: 16}}}}"
    path.with_suffix(".yaml").write_text(yaml)
    assert use(bundle, path).prediction == "v"
    check_prediction(bundle, path, original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_any_stored_number_format_is_cast(bundle: Bundle, checkpoint: Write, dtype: torch.dtype) -> None:
    path, original = checkpoint("sd1")
    stored = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in load_file(path).items()
    }
    save_file(stored, path)
    with torch.no_grad():
        for module in (original.unet, original.vae, *original.text):
            for value in module.parameters():
                value.copy_(value.to(dtype).float())
    check_prediction(bundle, path, original)


def test_old_text_names_and_idle_tensors(bundle: Bundle, checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    (expected,) = encode(Bundle("cpu"), [text_call(path, TEXT)])
    stored = {
        name.replace("transformer.text_model.", "transformer."): value
        for name, value in load_file(path).items()
    }
    stored["model_ema.diffusion_modeltime_embed0weight"] = torch.zeros(2)
    stored["first_stage_model.loss.logvar"] = torch.zeros(1)
    stored["betas"] = torch.zeros(1000)
    save_file(stored, path)
    (got,) = encode(bundle, [text_call(path, TEXT)])
    torch.testing.assert_close(got.context, expected.context, atol=0, rtol=0)


@pytest.mark.parametrize("nested", [False, True])
def test_pickles_are_read_only_when_allowed(checkpoint: Write, nested: bool) -> None:
    path, original = checkpoint("sd1")
    stored = load_file(path)
    pickled = path.with_suffix(".ckpt")
    torch.save({"state_dict": stored, "epoch": 7} if nested else stored, pickled)
    with pytest.raises(UnsupportedCheckpoint, match="pickle"):
        use(Bundle("cpu"), pickled)
    check_prediction(Bundle("cpu", allow_pickle=True), pickled, original)


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_folder(checkpoint: Write, family: Family, tmp_path: Path) -> None:
    path, original = checkpoint(family)
    folder = write_folder(tmp_path / "folder", family, deepcopy(original))
    bundle = Bundle("cpu", max_cached=2)
    facts = use(bundle, folder)
    assert (facts.family, facts.prediction) == (family, "v")
    assert facts.alphas == use(bundle, path).alphas
    check_prediction(bundle, folder, original)
    call = {"clip_skip": 2, "size": Size(64, 96)}
    (got,) = encode(bundle, [text_call(folder, TEXT, **call)])  # type: ignore[arg-type]
    (expected,) = encode(bundle, [text_call(path, TEXT, **call)])  # type: ignore[arg-type]
    assert_close(got.context, expected.context)
    latents = random(1, 4, 8, 8)
    (first,), (second,) = decode(bundle, folder, latents), decode(bundle, path, latents)
    assert (pixels(first) - pixels(second)).abs().max() <= 1


def write_folder(folder: Path, family: Family, original: Original) -> Path:
    """As diffusers saves it; SD 2 comes without the last layer of its text encoder."""
    text: tuple[Any, ...] = original.text
    parts: dict[str, Any] = {"unet": original.unet, "vae": original.vae, "text_encoder": text[0]}
    if family == "sdxl":
        parts["text_encoder_2"] = text[1]
    if family == "sd2":
        del text[0].encoder.layers[-1]
        text[0].config.num_hidden_layers -= 1
    parts["vae"].register_to_config(scaling_factor=0.13025 if family == "sdxl" else 0.18215)
    index: dict[str, object] = {"_class_name": "StableDiffusionPipeline"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = ["library", type(part).__name__]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
