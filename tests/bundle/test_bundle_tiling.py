from dataclasses import replace
from pathlib import Path

import torch
from bundle_calls import assert_close, random
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.tiling import Tiling
from sdserver.calls import Conditioning, Decode, Encode, Predict
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model

TEXT = Conditioning(random(77, 32))


def predicted(bundle: Bundle, model: Model, x: Tensor) -> Tensor:
    (result,) = bundle.run([Predict(model, x, 500.0, TEXT)])
    assert isinstance(result, Tensor)
    return result


def decoded(bundle: Bundle, model: Model, latent: Tensor) -> Tensor:
    (picture,) = bundle.run([Decode(model, latent)])
    assert isinstance(picture, Picture)
    flat = torch.frombuffer(bytearray(picture.pixels), dtype=torch.uint8)
    return flat.reshape(picture.height, picture.width, 3).float()


def models(path: Path) -> tuple[Model, Model]:
    plain = Model(str(path))
    return plain, replace(plain, tiling=True)


def test_the_network_knows_no_border_where_tiling_is_asked_for(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    plain, tiled = models(path)
    bundle, x = Bundle("cpu"), random(4, 16, 16)
    before = predicted(bundle, plain, x)
    moved = predicted(bundle, tiled, x.roll((8, 8), (1, 2)))
    assert_close(moved, predicted(bundle, tiled, x).roll((8, 8), (1, 2)))
    assert not torch.allclose(predicted(bundle, plain, x.roll(8, 1)), before.roll(8, 1), atol=1e-2)
    assert torch.equal(predicted(bundle, plain, x), before)


def test_the_decoder_knows_no_border_where_tiling_is_asked_for(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    plain, tiled = models(path)
    bundle, latent = Bundle("cpu"), random(4, 8, 8) * 0.2
    before = decoded(bundle, plain, latent)
    moved = decoded(bundle, tiled, latent.roll(3, 2))
    assert (moved - decoded(bundle, tiled, latent).roll(12, 1)).abs().max() <= 1
    assert (decoded(bundle, plain, latent.roll(3, 2)) - before.roll(12, 1)).abs().max() > 1
    assert torch.equal(decoded(bundle, plain, latent), before)


def test_the_encoder_pads_circularly_but_where_it_halves_the_sides(checkpoint: Write) -> None:
    path, original = checkpoint("sd1")
    _, tiled = models(path)
    pixels = random(3, 32, 32).clamp(-1, 1)
    (got,) = Bundle("cpu").run([Encode(tiled, pixels)])
    padded = [m for m in original.vae.encoder.modules() if isinstance(m, nn.Conv2d) and m.padding != (0, 0)]
    for convolution in padded:
        convolution.padding_mode = "circular"
    try:
        (posterior,) = original.vae.encode(pixels.unsqueeze(0), return_dict=False)  # type: ignore[operator]
    finally:
        for convolution in padded:
            convolution.padding_mode = "zeros"
    assert isinstance(got, Tensor)
    assert_close(got, posterior.mode()[0] * 0.18215)


def test_the_switch_goes_both_ways() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Linear(2, 2))
    tiling, x = Tiling(network[0]), torch.arange(9.0).reshape(1, 1, 3, 3)
    plain = network[0](x)
    tiling.switch(True)
    wrapped = network[0](x)
    tiling.switch(True)
    assert_close(network[0](x.roll(1, 2)), wrapped.roll(1, 2))
    tiling.switch(False)
    assert torch.equal(network[0](x), plain)
    assert not torch.equal(wrapped, plain)
