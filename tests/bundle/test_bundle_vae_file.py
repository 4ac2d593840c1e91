from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundle_calls import assert_close, random, use
from safetensors.torch import save_file
from tiny_checkpoints import Original, Write, make, tensors
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Decode, Encode, UseModel
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model

PREFIX = "first_stage_model."
PIXELS = random(3, 32, 32).clamp(-1, 1)


@pytest.fixture(scope="module")
def other() -> Original:
    return make("sd1", seed=5)


def vae_tensors(original: Original, prefix: str = "") -> dict[str, Tensor]:
    found = tensors("sd1", original)
    return {prefix + name.removeprefix(PREFIX): v for name, v in found.items() if name.startswith(PREFIX)}


def encoded(bundle: Bundle, model: Model) -> Tensor:
    (latent,) = bundle.run([Encode(model, PIXELS)])
    assert isinstance(latent, Tensor)
    return latent


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_vae_of_its_own_file_takes_the_place_of_the_checkpoints(
    checkpoint: Write, tmp_path: Path, other: Original, prefix: str
) -> None:
    path, _ = checkpoint("sd1")
    file = tmp_path / "vae.safetensors"
    extra = {f"{prefix}loss.logvar": torch.zeros(1), f"{prefix}model_ema.decay": torch.zeros(1)}
    save_file(vae_tensors(other, prefix) | extra, file)
    bundle, own = Bundle("cpu"), Model(str(path))
    before = encoded(bundle, own)
    (facts,) = bundle.run([UseModel(replace(own, vae=str(file)))])
    assert facts == replace(use(bundle, path), model=replace(own, vae=str(file)))
    (posterior,) = other.vae.encode(PIXELS.unsqueeze(0), return_dict=False)  # type: ignore[operator]
    got = encoded(bundle, replace(own, vae=str(file)))
    assert_close(got, posterior.mode()[0] * 0.18215)
    assert not torch.allclose(got, before, atol=1e-2)
    assert torch.equal(encoded(bundle, own), before)
    latent = random(4, 4, 4)
    pictures = bundle.run([Decode(replace(own, vae=str(file)), latent)])
    assert isinstance(pictures[0], Picture)
    assert pictures != bundle.run([Decode(own, latent)])


def test_a_whole_checkpoint_may_lend_its_vae(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    lender, lent = checkpoint("sdxl", name="lender")
    (posterior,) = lent.vae.encode(PIXELS.unsqueeze(0), return_dict=False)  # type: ignore[operator]
    got = encoded(Bundle("cpu"), Model(str(path), vae=str(lender)))
    assert_close(got, posterior.mode()[0] * 0.18215)


def test_a_file_that_changed_is_loaded_again(checkpoint: Write, tmp_path: Path, other: Original) -> None:
    path, original = checkpoint("sd1")
    file = tmp_path / "vae.safetensors"
    bundle, model = Bundle("cpu"), Model(str(path), vae=str(file))
    save_file(vae_tensors(other), file)
    first = encoded(bundle, model)
    save_file(vae_tensors(original) | {"loss.x": torch.zeros(1)}, file)
    assert not torch.allclose(encoded(bundle, model), first, atol=1e-2)


def test_pickles_are_read_if_that_is_allowed(checkpoint: Write, tmp_path: Path, other: Original) -> None:
    path, _ = checkpoint("sd1")
    torch.save({"state_dict": vae_tensors(other)}, tmp_path / "vae.ckpt")
    save_file(vae_tensors(other), tmp_path / "vae.safetensors")
    models = [Model(str(path), vae=str(tmp_path / f"vae.{ending}")) for ending in ("ckpt", "safetensors")]
    allowing = Bundle("cpu", allow_pickle=True)
    assert torch.equal(encoded(allowing, models[0]), encoded(allowing, models[1]))
    with pytest.raises(UnsupportedCheckpoint, match=r"vae\.ckpt"):
        Bundle("cpu").run([UseModel(models[0])])


def test_what_does_not_fit_is_refused_and_the_own_vae_stays(
    checkpoint: Write, tmp_path: Path, other: Original
) -> None:
    path, _ = checkpoint("sd1")
    sound = vae_tensors(other)
    wide = sound | {"decoder.conv_out.weight": torch.zeros(3, 33, 3, 3)}
    short = {name: value for name, value in sound.items() if name != "decoder.conv_out.bias"}
    bundle = Bundle("cpu")
    before = encoded(bundle, Model(str(path)))
    for index, (content, reason) in enumerate([(wide, "shape"), (short, "missing"), ({}, "missing")]):
        file = tmp_path / f"vae{index}.safetensors"
        save_file(content, file)
        with pytest.raises(UnreadableCheckpoint, match=rf"vae{index}.*{reason}"):
            bundle.run([UseModel(Model(str(path), vae=str(file)))])
    with pytest.raises(UnreadableCheckpoint, match="gone"):
        bundle.run([Encode(Model(str(path), vae=str(tmp_path / "gone.safetensors")), PIXELS)])
    assert torch.equal(encoded(bundle, Model(str(path))), before)
