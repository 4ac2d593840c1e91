"""Texts that were encoded before are not encoded again, and never answered with another's."""

from dataclasses import replace

import pytest
import torch
from tiny_checkpoints import Write

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.encoder import TextEncoder
from sdserver.bundle.text_cache import TextCache
from sdserver.calls import Conditioning, EncodeText
from sdserver.jobs.job import Prompt, Size
from sdserver.jobs.model import Adapter, Embedding, Model

PROMPT = Prompt("a cat", "", 1, "Original", 20)
CALL = EncodeText(Model("m"), "a cat", PROMPT, Size(64, 64), is_negative=False)


def conditioning(size: int = 10) -> Conditioning:
    return Conditioning(torch.zeros(size, dtype=torch.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"text": "a dog"},
        {"is_negative": True},
        {"size": Size(64, 128)},
        {"variants": ("a cat", "a dog")},
        {"prompt": replace(PROMPT, clip_skip=2)},
        {"prompt": replace(PROMPT, emphasis="None")},
        {"prompt": replace(PROMPT, crop_top=8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_an_answer_depends_on_is_told_apart(change: dict[str, object]) -> None:
    cache = TextCache()
    cache.put(CALL, conditioning())
    assert cache.get(replace(CALL, **change)) is None  # type: ignore[arg-type]


def test_what_it_does_not_depend_on_is_not() -> None:
    cache, kept = TextCache(), conditioning()
    cache.put(CALL, kept)
    other = replace(CALL, model=Model("m", vae="v", tiling=True), prompt=replace(PROMPT, negative="dog"))
    assert cache.get(other) is kept


@pytest.mark.parametrize(
    "model",
    [Model("m", adapters=(Adapter("lora", "x", 1, 1),)), Model("m", embeddings=(Embedding("a", "x"),))],
    ids=["adapter", "embedding"],
)
def test_texts_that_files_have_a_say_in_are_not_kept(model: Model) -> None:
    cache = TextCache()
    cache.put(CALL, conditioning())
    cache.put(replace(CALL, model=model, text="b"), conditioning())
    assert cache.get(replace(CALL, model=model)) is None
    assert cache.get(replace(CALL, text="b")) is None


def test_those_not_asked_for_longest_go_first() -> None:
    cache = TextCache(max_bytes=80)
    first, second, third = (replace(CALL, text=text) for text in "abc")
    cache.put(first, conditioning())
    cache.put(second, conditioning())
    assert cache.get(first)
    cache.put(third, conditioning())
    assert [cache.get(call) is not None for call in (first, second, third)] == [True, False, True]
    cache.put(replace(CALL, text="large"), conditioning(21))
    assert cache.get(third), "what does not fit at all pushes nothing out"


def test_a_bundle_encodes_a_text_once(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    plain = TextEncoder.vectors

    def counting(self, *arguments, **more):  # type: ignore[no-untyped-def]
        encoded.append(1)
        return plain(self, *arguments, **more)

    monkeypatch.setattr(TextEncoder, "vectors", counting)
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    call = replace(CALL, model=Model(str(path)))
    other = replace(call, text="a dog")
    (first,) = bundle.run([call])
    rounds = len(encoded)
    again, fresh = bundle.run([call, other])
    assert again is first
    assert len(encoded) == 2 * rounds
    assert not torch.equal(fresh.context, first.context)
    bundle.unload()
    (anew,) = bundle.run([call])
    assert anew is not first
    assert torch.equal(anew.context, first.context)
