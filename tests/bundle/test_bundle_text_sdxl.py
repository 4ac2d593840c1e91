"""What SDXL alone is conditioned on: sizes, crop, scores, and the layer of its first encoder."""

from dataclasses import replace
from pathlib import Path

import torch
from bundle_calls import assert_close, encode, text_call
from tiny_checkpoints import POOLED, Write
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.device import resolve
from sdserver.bundle.embeddings import EmbeddingFiles
from sdserver.bundle.load import prepare
from sdserver.bundle.text import TextEncoders
from sdserver.calls import Conditioning, EncodeText
from sdserver.errors import InvalidField


def asking(call: EncodeText, **wishes: object) -> EncodeText:
    return replace(call, prompt=replace(call.prompt, **wishes))  # type: ignore[arg-type]


def embedded(*numbers: float) -> Tensor:
    """Sinusoids of 256 values each, cosines first."""
    angles = torch.tensor(numbers)[:, None] * 10000 ** (-torch.arange(128) / 128)
    return torch.cat([angles.cos(), angles.sin()], dim=1).flatten()


def tail(conditioning: Conditioning) -> Tensor:
    assert conditioning.vector is not None
    return conditioning.vector[POOLED:]


def test_crop_coordinates(checkpoint: Write) -> None:
    path, _ = checkpoint("sdxl")
    plain = text_call(path, "cat")
    first, cropped = encode(Bundle("cpu"), [plain, asking(plain, crop_top=16, crop_left=32)])
    torch.testing.assert_close(tail(first), embedded(96, 64, 0, 0, 96, 64), atol=1e-4, rtol=0)
    torch.testing.assert_close(tail(cropped), embedded(96, 64, 16, 32, 96, 64), atol=1e-4, rtol=0)


def test_a_refiner_is_given_scores(checkpoint: Write) -> None:
    path, _ = checkpoint("sdxl")
    placement = resolve("cpu", "fp32", "auto")
    with prepare(Path(path), allow_pickle=False) as read:
        parts = read(placement)
    parts = replace(parts, spec=replace(parts.spec, is_refiner=True))
    text = TextEncoders(parts, placement, EmbeddingFiles(allow_pickle=False))
    wishes = {"high_aesthetic": 7.5, "low_aesthetic": 1.5, "crop_left": 8}
    with torch.no_grad():
        high, low = text.encode(
            [asking(text_call(path, "cat", is_negative=negative), **wishes) for negative in (False, True)]
        )
    assert isinstance(high, Conditioning)
    assert isinstance(low, Conditioning)
    torch.testing.assert_close(tail(high), embedded(96, 64, 0, 8, 7.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(tail(low), embedded(96, 64, 0, 8, 1.5), atol=1e-4, rtol=0)


def test_clip_skip_holds_for_the_first_encoder_where_asked(checkpoint: Write) -> None:
    path, original = checkpoint("sdxl")
    bundle = Bundle("cpu")
    width = original.text[0].config.hidden_size  # type: ignore[union-attr]
    calls = [text_call(path, "cat", clip_skip=skip) for skip in (1, 2, 3)]
    plain = encode(bundle, calls)
    skipping = encode(bundle, [asking(call, sdxl_clip_l_skip=True) for call in calls])
    assert all(torch.equal(one.context, plain[0].context) for one in plain)
    assert_close(skipping[1].context, plain[0].context)
    for index in (0, 2):
        assert not torch.allclose(skipping[index].context[:, :width], plain[0].context[:, :width], atol=1e-3)
        assert_close(skipping[index].context[:, width:], plain[0].context[:, width:])
    (refused,) = bundle.run([asking(text_call(path, "cat", clip_skip=9), sdxl_clip_l_skip=True)])
    assert isinstance(refused, InvalidField)
