"""Textual inversions inside a LoRA's file stand for their names while the LoRA is applied."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import assert_close, encode, random, text_call
from safetensors.torch import save_file
from tiny_checkpoints import Tensors, Write
from torch import Tensor

from sdserver.bundle import embeddings
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.embeddings import EmbeddingFiles
from sdserver.bundle.tokenizer import tokenize
from sdserver.calls import EncodeText
from sdserver.errors import UnusableAdapter
from sdserver.jobs.model import Adapter, Embedding

NAME = "stylexyz"
INNER = {"safetensors": "emb_params", "textual inversion": "string_to_param.*"}


def words(model: Any, text: str) -> Tensor:
    """The token vectors of a text in one of a checkpoint's encoders."""
    (ids,) = tokenize([text], "clip")
    table: Tensor = getattr(model, "text_model", model).embeddings.token_embedding.weight
    return table[ids].clone()


def lora(path: Path, tensors: Tensors) -> Adapter:
    """A LoRA that changes nothing but for the textual inversions inside."""
    save_file(tensors, path)
    return Adapter("lora", str(path), 0.5, 0.5)


def under(call: EncodeText, *adapters: Adapter, known: tuple[Embedding, ...] = ()) -> EncodeText:
    return replace(call, model=replace(call.model, adapters=adapters, embeddings=known))


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER.keys())
def test_their_names_count_only_while_the_lora_is_applied(
    checkpoint: Write, tmp_path: Path, inner: str
) -> None:
    path, original = checkpoint("sd1")
    vectors = words(original.text[0], "small dog")
    active = lora(tmp_path / "a.safetensors", {f"bundle_emb.{NAME}.{inner}": vectors})
    named, spelled = text_call(path, f"a {NAME}, cat"), text_call(path, "a small dog, cat")
    bundle = Bundle("cpu", "fp32")
    (expected,), (plain,) = encode(bundle, [spelled]), encode(bundle, [named])
    (got,) = encode(bundle, [under(named, active)])
    assert_close(got.context, expected.context)
    assert got.embeddings == (NAME,)
    (after,) = encode(bundle, [named])
    assert torch.equal(after.context, plain.context)
    assert not torch.allclose(after.context, got.context, atol=1e-3)


def test_sdxl_has_vectors_for_each_encoder(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sdxl")
    inner = zip(("clip_l", "clip_g"), original.text, strict=True)
    tensors = {f"bundle_emb.{NAME}.{key}": words(model, "small dog") for key, model in inner}
    active = lora(tmp_path / "a.safetensors", tensors)
    bundle = Bundle("cpu", "fp32")
    (expected,) = encode(bundle, [text_call(path, "a small dog")])
    (got,) = encode(bundle, [under(text_call(path, f"a {NAME}"), active)])
    assert_close(got.context, expected.context)
    assert got.embeddings == (NAME,)


def test_of_one_name_a_file_that_fits_is_meant_then_the_first_lora(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sd1")
    text = original.text[0]
    first, second = (
        lora(tmp_path / f"{word}.safetensors", {f"bundle_emb.{NAME}.emb_params": words(text, word)})
        for word in ("dog", "tree")
    )
    fitting, wide = (Embedding(NAME, str(tmp_path / name)) for name in ("f.safetensors", "w.safetensors"))
    save_file({"emb_params": words(text, "house")}, fitting.path)
    save_file({"emb_params": random(1, 33)}, wide.path)
    call = text_call(path, f"a {NAME}")
    for known, meant in (((fitting,), "house"), ((wide,), "dog"), ((), "dog")):
        bundle = Bundle("cpu", "fp32")
        (expected,) = encode(bundle, [text_call(path, f"a {meant}")])
        (got,) = encode(bundle, [under(call, first, second, known=known)])
        assert_close(got.context, expected.context)


def test_one_of_another_width_is_plain_text(checkpoint: Write, tmp_path: Path) -> None:
    path, _ = checkpoint("sd1")
    active = lora(tmp_path / "a.safetensors", {f"bundle_emb.{NAME}.emb_params": random(1, 33)})
    bundle = Bundle("cpu", "fp32")
    (plain,) = encode(bundle, [text_call(path, f"a {NAME}")])
    (got,) = encode(bundle, [under(text_call(path, f"a {NAME}"), active)])
    assert torch.equal(got.context, plain.context)
    assert got.embeddings == ()


def test_a_lora_is_looked_into_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    reader = embeddings.bundled_embeddings

    def counted(path: Path, *, allow_pickle: bool) -> dict[str, dict[str, Tensor]]:
        reads.append(path)
        return reader(path, allow_pickle=allow_pickle)

    monkeypatch.setattr(embeddings, "bundled_embeddings", counted)
    files = EmbeddingFiles(allow_pickle=False)
    without = lora(tmp_path / "a.safetensors", {"x.alpha": torch.tensor(1.0)})
    assert [files.bundled([without, without]) for _ in range(3)] == [{}] * 3
    assert len(reads) == 1
    lora(tmp_path / "a.safetensors", {f"bundle_emb.{NAME}.emb_params": random(2, 4)})
    os.utime(without.path, ns=(1, 1))
    assert [(known.name, vectors.count) for known, vectors in files.bundled([without]).items()] == [(NAME, 2)]
    assert len(reads) == 2


def test_damaged_ones_are_refused(tmp_path: Path) -> None:
    files = EmbeddingFiles(allow_pickle=False)
    several = {f"bundle_emb.{NAME}.a": random(1, 4), f"bundle_emb.{NAME}.b": random(1, 4)}
    with pytest.raises(UnusableAdapter, match=NAME):
        files.bundled([lora(tmp_path / "a.safetensors", several)])
    with pytest.raises(UnusableAdapter, match="cannot be read"):
        files.bundled([Adapter("lora", str(tmp_path / "gone.safetensors"), 1, 1)])
    assert files.bundled([Adapter("hypernetwork", str(tmp_path / "gone.pt"), 1, 1)]) == {}
