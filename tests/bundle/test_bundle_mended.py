"""What goes wrong on the device and is made good is told, once for each time."""

from typing import Any

import pytest
import torch
from bundle_calls import decode, random
from tiny_checkpoints import Write
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.vae import Autoencoder
from sdserver.calls import Decode
from sdserver.errors import OutOfMemory
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model


def short_of(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has decoding fail above so many rows, in pieces too."""
    run = Autoencoder.values

    def values(vae: Any, latents: Tensor, **options: Any) -> Tensor:
        if latents.shape[0] > most:
            raise torch.OutOfMemoryError("full")
        result: Tensor = run(vae, latents, **options)
        return result

    monkeypatch.setattr(Autoencoder, "values", values)


def test_memory_that_did_not_suffice_for_a_batch(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint("sd1")
    bundle, told = Bundle("cpu"), list[str]()
    bundle.tell_mended(told.append)
    latents = random(4, 4, 8, 8)
    short_of(2, monkeypatch)
    assert all(isinstance(each, Picture) for each in decode(bundle, path, latents))
    assert told == ["oom"]
    short_of(1, monkeypatch)
    decode(bundle, path, latents)
    assert told == ["oom"] * 4  # of four rows, then of two, twice


def test_memory_that_never_suffices_is_no_mend(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint("sd1")
    bundle, told = Bundle("cpu"), list[str]()
    bundle.tell_mended(told.append)
    short_of(0, monkeypatch)
    calls = [Decode(Model(str(path)), latent) for latent in random(2, 4, 8, 8)]
    assert [type(result) for result in bundle.run(calls)] == [OutOfMemory] * 2
    assert told == []


def test_a_vae_that_goes_on_in_fp32_is_told_once(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint("sd1")
    bundle, told = Bundle("cpu"), list[str]()
    bundle.tell_mended(told.append)
    monkeypatch.setattr(Autoencoder, "_overflows", lambda vae, *_: vae.upcasts == 0)
    for _ in range(3):
        decode(bundle, path, random(1, 4, 8, 8))
    assert told == ["nan"]
