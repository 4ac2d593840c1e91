"""Pictures and latents by TAESD in the place of the VAE."""

from pathlib import Path

import pytest
import torch
from bundle_calls import pixels, random
from safetensors.torch import save_file
from taesd import decoder as original
from taesd import encoder
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Decode, Encode, UseModel
from sdserver.errors import MissingModel, UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model, VaeMethod


def rig(path: Path, folder: Path, method: VaeMethod = "taesd") -> tuple[Bundle, Model]:
    """A bundle whose checkpoint's files for previews are in a folder, and a model that uses TAESD."""
    bundle = Bundle("cpu", "fp32", approx_dir=str(folder / "VAE-approx"), allow_pickle=True)
    return bundle, Model(str(path), encoder=method, decoder=method)


def put(folder: Path, name: str, network: nn.Module) -> None:
    folder.mkdir(exist_ok=True)
    if name.endswith(".pth"):
        torch.save(network.state_dict(), folder / name)
    else:
        save_file(network.state_dict(), folder / name)


@pytest.mark.parametrize(
    ("folder", "ending"), [("VAE-approx", "safetensors"), ("VAE-taesd", "safetensors"), ("VAE-taesd", "pth")]
)
def test_taesd_stands_for_the_vae_both_ways(
    checkpoint: Write, tmp_path: Path, folder: str, ending: str
) -> None:
    path, _ = checkpoint("sd1")
    put(tmp_path / folder, f"taesd_encoder.{ending}", encoder())
    put(tmp_path / folder, f"taesd_decoder.{ending}", original())
    bundle, model = rig(path, tmp_path)
    bundle.run([UseModel(model)])
    given, latents = random(2, 3, 32, 40).clamp(-1, 1), random(2, 4, 5, 6)
    found = bundle.run([Encode(model, one) for one in given])
    torch.testing.assert_close(
        torch.stack([one for one in found if isinstance(one, Tensor)]),
        encoder()((given + 1) / 2),
        atol=1e-5,
        rtol=1e-4,
    )
    told = original()(latents)
    values = bundle.run([Decode(model, one, as_values=True) for one in latents])
    torch.testing.assert_close(
        torch.stack([one for one in values if isinstance(one, Tensor)]), told * 2 - 1, atol=1e-5, rtol=1e-4
    )
    for picture, wanted in zip(bundle.run([Decode(model, one) for one in latents]), told, strict=True):
        assert isinstance(picture, Picture)
        levels = (wanted.clamp(0, 1) * 255).int().permute(1, 2, 0)
        assert (pixels(picture) - levels).abs().max() <= 1


def test_each_direction_is_chosen_for_itself_and_makes_its_own_batches(
    checkpoint: Write, tmp_path: Path
) -> None:
    path, _ = checkpoint("sd1")
    put(tmp_path / "VAE-taesd", "taesd_decoder.safetensors", original())
    bundle, full = rig(path, tmp_path, "full")
    half = Model(str(path), decoder="taesd")
    bundle.run([UseModel(half)])
    latent, given = random(4, 4, 4), random(3, 32, 32)
    (by_vae,), (by_taesd,) = (bundle.run([Decode(model, latent)]) for model in (full, half))
    assert by_vae != by_taesd
    (one,), (other,) = (bundle.run([Encode(model, given)]) for model in (full, half))
    assert isinstance(one, Tensor) and isinstance(other, Tensor)  # noqa: PT018
    assert torch.equal(one, other)
    assert Decode(full, latent).batch_key() != Decode(half, latent).batch_key()
    both = Model(str(path), encoder="taesd")
    assert Encode(full, given).batch_key() != Encode(both, given).batch_key()


@pytest.mark.parametrize(
    ("family", "method", "name"),
    [
        ("sd1", {"decoder": "taesd"}, "taesd_decoder"),
        ("sd1", {"encoder": "taesd"}, "taesd_encoder"),
        ("sdxl", {"decoder": "taesd"}, "taesdxl_decoder"),
    ],
)
def test_a_missing_file_is_named_before_any_work(
    checkpoint: Write, tmp_path: Path, family: str, method: dict[str, VaeMethod], name: str
) -> None:
    path, _ = checkpoint(family)
    bundle, _ = rig(path, tmp_path)
    with pytest.raises(
        MissingModel, match=rf"{name}\.safetensors .* into models/VAE-approx or models/VAE-taesd"
    ):
        bundle.run([UseModel(Model(str(path), **method))])


def test_a_file_that_cannot_be_used_is_told_every_time(checkpoint: Write, tmp_path: Path) -> None:
    path, _ = checkpoint("sd1")
    put(tmp_path / "VAE-approx", "taesd_decoder.safetensors", encoder())
    bundle, model = rig(path, tmp_path)
    put(tmp_path / "VAE-approx", "taesd_encoder.safetensors", encoder())
    for _ in range(2):
        with pytest.raises(UnreadableCheckpoint, match="holds no decoder of TAESD"):
            bundle.run([UseModel(model)])
    put(tmp_path / "VAE-approx", "taesd_decoder.pth", original())
    (tmp_path / "VAE-approx/taesd_decoder.safetensors").unlink()
    bundle.run([UseModel(model)])
    strict = Bundle("cpu", "fp32", approx_dir=str(tmp_path / "VAE-approx"))
    with pytest.raises(UnsupportedCheckpoint, match="pickle"):
        strict.run([UseModel(model)])
