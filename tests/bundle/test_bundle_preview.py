"""Previews by each method, and that nothing later depends on them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import decode, pixels, random, use
from safetensors.torch import save_file
from taesd import decoder as original
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.colours import COLOURS, Palettes, cheap, fitted
from sdserver.bundle.detect import detect
from sdserver.bundle.device import resolve
from sdserver.bundle.small_vae import read_half
from sdserver.bundle.vae import Autoencoder
from sdserver.bundle.weights import open_weights
from sdserver.calls import Preview
from sdserver.errors import EngineFailure, UnreadableCheckpoint
from sdserver.jobs.events import Picture, PreviewMethod
from sdserver.jobs.model import Model


def looks(
    bundle: Bundle, path: Path, latents: Sequence[Tensor], method: PreviewMethod
) -> list[Picture | Exception]:
    results = bundle.run([Preview(Model(str(path)), latent, method) for latent in latents])
    return [result for result in results if isinstance(result, Picture | Exception)]


def shown(bundle: Bundle, path: Path, latent: Tensor, method: PreviewMethod) -> Picture:
    (picture,) = looks(bundle, path, [latent], method)
    assert isinstance(picture, Picture), picture
    return picture


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("channel", [None, 0, 1, 2, 3])
def test_a_cheap_preview_is_a_linear_map_of_each_cell(family: Any, channel: int | None) -> None:
    latent = torch.zeros(1, 4, 2, 3)
    colours = COLOURS[family]
    expected = torch.tensor(colours.base)
    if channel is not None:
        latent[0, channel, 1, 2] = 0.5
        expected = expected + 0.5 * torch.tensor(colours.factors[channel])
    (picture,) = cheap(latent, colours)
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == (3, 2)
    levels = pixels(picture)
    assert levels[1, 2].tolist() == [int(value) for value in (expected + 1) / 2 * 255]
    assert levels[0, 0].tolist() == [int((value + 1) / 2 * 255) for value in colours.base]


def test_sdxl_has_colours_of_its_own_and_no_number_is_black() -> None:
    latent = random(1, 4, 2, 2)
    sd1, sd2, sdxl = (cheap(latent, COLOURS[family]) for family in ("sd1", "sd2", "sdxl"))
    assert sd1 == sd2 != sdxl
    latent[0, :, 0, 0] = float("nan")
    (picture,) = cheap(latent, COLOURS["sd1"])
    assert isinstance(picture, Picture)
    assert pixels(picture)[0, 0].tolist() == [0, 0, 0]


class ColourVae:
    """Latents of its own, the last channel of which is not used; every cell is 8 pixels wide and high."""

    factors = torch.tensor([[0.3, -0.2, 0.1], [0.1, 0.2, -0.2], [-0.2, 0.1, 0.3], [0.0, 0.0, 0.0]])

    def look(self, latents: Tensor) -> list[Picture | Exception]:
        values = torch.einsum("chw,cr->hwr", latents[0], self.factors) + 0.1
        large = values.repeat_interleave(8, 0).repeat_interleave(8, 1)
        levels = ((large + 1) / 2 * 255).round().to(torch.uint8)
        return [Picture(large.shape[1], large.shape[0], levels.numpy().tobytes())]


def test_the_colours_of_other_latents_are_found_out() -> None:
    vae: Any = ColourVae()
    colours = fitted(vae)
    assert colours is not None
    torch.testing.assert_close(torch.tensor(colours.factors), vae.factors, atol=0.003, rtol=0)
    torch.testing.assert_close(torch.tensor(colours.base), torch.full((3,), 0.1), atol=0.003, rtol=0)


def test_a_vae_that_makes_no_pictures_keeps_its_familys_colours() -> None:
    class NoVae:
        is_original = False

        def look(self, _: Tensor) -> list[Picture | Exception]:
            return [EngineFailure("not a number")]

    vae: Any = NoVae()
    assert Palettes().of(vae, "sdxl") == COLOURS["sdxl"]


def test_colours_are_found_out_once(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32")
    use(bundle, path)
    seen: list[Tensor] = []
    look = Autoencoder.look

    def counted(vae: Autoencoder, latents: Tensor) -> list[Picture | Exception]:
        seen.append(latents)
        return look(vae, latents)

    monkeypatch.setattr(Autoencoder, "look", counted)
    first, second = (shown(bundle, path, random(4, 4, 4), "cheap") for _ in range(2))
    assert first == second
    assert len(seen) == 1


@pytest.fixture
def tiny_is_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tiny VAE for Stable Diffusion's own."""
    monkeypatch.setattr("sdserver.bundle.vae.ORIGINAL_WIDTHS", (32, 32, 64))


def test_taesd_is_not_asked_about_latents_that_it_was_not_made_for(checkpoint: Write, tmp_path: Path) -> None:
    path, _ = checkpoint("sd1")
    save_file(original().state_dict(), tmp_path / "taesd_decoder.safetensors")
    bundle = Bundle("cpu", "fp32", approx_dir=str(tmp_path))
    use(bundle, path)
    assert shown(bundle, path, random(4, 4, 4), "taesd").width == 4


@pytest.mark.usefixtures("tiny_is_original")
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_taesd_decodes_as_its_author_does(checkpoint: Write, tmp_path: Path, ending: str) -> None:
    path, _ = checkpoint("sd1")
    taesd, file = original(), tmp_path / f"taesd_decoder.{ending}"
    if ending == "pth":
        torch.save(taesd.state_dict(), file)
    else:
        save_file(taesd.state_dict(), file)
    bundle = Bundle("cpu", "fp32", approx_dir=str(tmp_path), allow_pickle=True)
    use(bundle, path)
    latents = random(2, 4, 5, 6)
    pictures = looks(bundle, path, list(latents), "taesd")
    expected = (taesd(latents).clamp(0, 1) * 255).int().permute(0, 2, 3, 1)
    for picture, wanted in zip(pictures, expected, strict=True):
        assert isinstance(picture, Picture)
        assert (picture.width, picture.height) == (48, 40)
        assert (pixels(picture) - wanted).abs().max() <= 1
        assert wanted.float().std() > 1, "not all one colour"


def damaged(kind: str, folder: Path) -> None:
    """Put a file there that is no decoder of TAESD."""
    state, file = original().state_dict(), folder / "taesd_decoder.safetensors"
    match kind:
        case "shape":
            save_file(state | {"1.weight": torch.zeros(64, 16, 3, 3)}, file)
        case "key":
            save_file(state | {"20.weight": torch.zeros(1)}, file)
        case "lacking":
            save_file({name: value for name, value in state.items() if name != "19.bias"}, file)
        case "rubbish":
            file.write_bytes(b"rubbish")
        case "pickle":
            torch.save(state, folder / "taesd_decoder.pth")
        case "sdxl's":
            save_file(state, folder / "taesdxl_decoder.safetensors")


@pytest.mark.usefixtures("tiny_is_original")
@pytest.mark.parametrize("kind", ["none", "shape", "key", "lacking", "rubbish", "pickle", "sdxl's"])
def test_without_a_sound_file_taesd_is_cheap_and_says_so_once(
    checkpoint: Write, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = checkpoint("sd1")
    damaged(kind, tmp_path)
    bundle = Bundle("cpu", "fp32", approx_dir=str(tmp_path))
    use(bundle, path)
    latent = random(4, 4, 4)
    with caplog.at_level(logging.WARNING):
        found = [shown(bundle, path, latent, "taesd") for _ in range(3)]
    assert found == [shown(bundle, path, latent, "cheap")] * 3
    assert len([one for one in caplog.records if "cheap method" in one.getMessage()]) == 1


@pytest.mark.usefixtures("tiny_is_original")
def test_a_file_that_is_put_there_later_is_found(checkpoint: Write, tmp_path: Path) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32", approx_dir=str(tmp_path))
    use(bundle, path)
    latent = random(4, 4, 4)
    assert shown(bundle, path, latent, "taesd").width == 4
    save_file(original().state_dict(), tmp_path / "taesd_decoder.safetensors")
    assert shown(bundle, path, latent, "taesd").width == 32


def test_a_damaged_decoder_is_told_by_name(tmp_path: Path) -> None:
    damaged("shape", tmp_path)
    with pytest.raises(UnreadableCheckpoint, match=r"taesd_decoder\.safetensors holds no decoder"):
        read_half(tmp_path / "taesd_decoder.safetensors", "decoder", allow_pickle=False)


def test_a_full_preview_is_the_decoded_picture(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32")
    use(bundle, path)
    latent = random(4, 6, 5)
    assert [shown(bundle, path, latent, "full")] == decode(bundle, path, latent[None])


def test_a_preview_loads_no_checkpoint(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1", name="one")
    other, _ = checkpoint("sd2", name="two")
    bundle = Bundle("cpu", "fp32")
    use(bundle, other)
    for method in ("cheap", "taesd", "full"):
        (result,) = looks(bundle, path, [torch.zeros(4, 2, 2)], method)
        assert isinstance(result, EngineFailure)
    path.unlink()


class HalfVae(nn.Module):
    """Decodes to the latent's first channels, in half precision to no number where they exceed 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float16))
        self.dtypes: list[torch.dtype] = []

    def decode(self, sample: Tensor, *, return_dict: bool) -> tuple[Tensor]:
        assert not return_dict
        assert sample.dtype == self.weight.dtype
        self.dtypes.append(sample.dtype)
        image = sample[:, :3]
        return (image if sample.dtype == torch.float32 else image.masked_fill(image > 1, float("nan")),)


def test_a_look_that_overflows_does_not_change_how_pictures_are_made(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    with open_weights(path, allow_pickle=False) as weights:
        spec = detect(weights, None).spec
    vae = HalfVae()
    autoencoder = Autoencoder(vae, spec, resolve("cpu", "fp16", "sdpa"))
    (look,) = autoencoder.look(torch.full((1, 4, 2, 2), 2 * spec.latent_scale))
    assert isinstance(look, Picture)
    assert set(look.pixels) == {255}
    autoencoder.decode(torch.full((1, 4, 2, 2), 0.5 * spec.latent_scale))
    assert vae.dtypes == [torch.float16, torch.float32, torch.float16]
    assert vae.weight.dtype == torch.float16
