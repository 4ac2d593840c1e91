"""Memory does not suffice: halves first, then pieces, then an error; and nothing of it stays."""

import random as chance
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bundle_calls import decode, encode, pixels, predict, random, text_call
from tiny_checkpoints import Write
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.text import TextEncoders
from sdserver.bundle.unet import Network
from sdserver.bundle.vae import Autoencoder, in_pieces
from sdserver.calls import Decode, Encode
from sdserver.errors import NansException, OutOfMemory
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model

STAGES = ((TextEncoders, "encode"), (Network, "predict"), (Autoencoder, "_decode"), (Autoencoder, "_encode"))
SIDE = 40


def spied(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> list[tuple[int, int]]:
    """Has decoding or encoding fail above so many numbers of one call; the sizes that it was called with."""
    module = "decoder" if name == "_decode" else "encoder"
    run, seen = getattr(Autoencoder, name), list[tuple[int, int]]()

    def short(vae: Any, *arguments: Any) -> Tensor:
        def check(_module: object, inputs: tuple[Tensor, ...]) -> None:
            seen.append((inputs[0].shape[0], inputs[0].shape[-1]))
            if inputs[0].numel() > most:
                raise torch.OutOfMemoryError("full")

        hook = getattr(vae._vae, module).register_forward_pre_hook(check)
        try:
            result: Tensor = run(vae, *arguments)
        finally:
            hook.remove()
        return result

    monkeypatch.setattr(Autoencoder, name, short)
    return seen


def test_a_picture_too_large_at_once_is_decoded_in_pieces(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    latents = random(2, 4, SIDE, SIDE)
    whole = decode(bundle, path, latents)
    with monkeypatch.context() as patch:
        seen = spied(patch, "_decode", 4 * 32 * 32)
        pieces = decode(bundle, path, latents)
    assert seen[:3] == [(2, SIDE), (1, SIDE), (1, SIDE)], "the halves come first"
    assert max(side for _, side in seen[3:]) <= SIDE
    assert any(side <= 32 for _, side in seen[3:])
    assert "in pieces" in caplog.text
    for one, other in zip(whole, pieces, strict=True):
        assert (one.width, one.height) == (other.width, other.height)
        # The random tiny network's norms see each piece alone: alike, not the same.
        assert (pixels(one) - pixels(other)).abs().float().mean() < 30
    assert decode(bundle, path, latents) == whole, "the next picture is made at once again"


def test_a_picture_is_encoded_in_pieces(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    call = Encode(Model(str(path)), random(3, 8 * SIDE, 8 * SIDE).clamp(-1, 1))
    (whole,) = bundle.run([call])
    with monkeypatch.context() as patch:
        spied(patch, "_encode", 3 * 256 * 256)
        (pieces,) = bundle.run([call])
    assert isinstance(whole, Tensor)
    assert isinstance(pieces, Tensor)
    assert pieces.shape == whole.shape
    (again,) = bundle.run([call])
    assert isinstance(again, Tensor)
    assert torch.equal(again, whole)


def test_where_pieces_do_not_fit_either_it_fails_alone(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    latent = random(4, SIDE, SIDE)
    with monkeypatch.context() as patch:
        spied(patch, "_decode", 0)
        (failed,) = bundle.run([Decode(Model(str(path)), latent)])
        seamless = bundle.run([Decode(Model(str(path), tiling=True), latent)])
    assert isinstance(failed, OutOfMemory)
    assert isinstance(seamless[0], OutOfMemory), "a picture whose edges meet would have seams within"
    assert isinstance(bundle.run([Decode(Model(str(path)), latent)])[0], Picture)


def test_pieces_leave_no_trace() -> None:
    whole = {"use_tiling": False, "tile_latent_min_size": 64, "tile_sample_min_size": 512}
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1, 1, 1, 1)), **whole)
    pieces: dict[str, object] = {}

    def fail() -> None:
        with in_pieces(vae, 32):
            pieces.update({name: getattr(vae, name) for name in whole})
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert pieces == {"use_tiling": True, "tile_latent_min_size": 32, "tile_sample_min_size": 256}
    assert {name: getattr(vae, name) for name in whole} == whole


@pytest.mark.parametrize("seed", range(4))
def test_what_follows_a_lack_of_memory_is_what_it_was_before(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whichever stage fails, and at whichever call."""
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    draw = chance.Random(seed)

    def everything() -> tuple[list[Tensor], Tensor, list[Picture], Tensor]:
        texts = encode(bundle, [text_call(path, "a cat"), text_call(path, "a dog")])
        x = random(2, 4, 8, 8)
        predicted = predict(bundle, path, x, torch.tensor([500.0, 20.0]), texts)
        (latent,) = bundle.run([Encode(Model(str(path)), random(3, 64, 64).clamp(-1, 1))])
        assert isinstance(latent, Tensor)
        return [text.context for text in texts], predicted, decode(bundle, path, x), latent

    def failing_once(stage: tuple[type, str]) -> None:
        owner, name = stage
        run = getattr(owner, name)
        left = [draw.randrange(2)]

        def fails(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise torch.OutOfMemoryError("full")
            return run(*arguments, **options)

        monkeypatch.setattr(owner, name, fails)

    before = everything()
    for stage in draw.sample(STAGES, 3):
        failing_once(stage)
        everything()
        monkeypatch.undo()
    after = everything()
    assert all(torch.equal(one, other) for one, other in zip(before[0], after[0], strict=True))
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])


def test_whose_result_is_no_number_is_told(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    latents = random(2, 4, 8, 8)
    latents[0, 0, 0, 0] = torch.nan
    failed, made = bundle.run([Decode(Model(str(path)), latent) for latent in latents])
    assert isinstance(failed, NansException)
    assert "UNet" in str(failed)
    assert isinstance(made, Picture)
    bundle.check_numbers(False)
    black, same = bundle.run([Decode(Model(str(path)), latent) for latent in latents])
    assert isinstance(black, Picture)
    assert 0 in black.pixels
    assert same == made
    latents[0] = torch.nan
    (black,) = decode(bundle, path, latents[:1])
    assert set(black.pixels) == {0}
