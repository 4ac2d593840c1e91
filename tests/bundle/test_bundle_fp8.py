"""Weights in 8 bits: which they are, that switching leaves no trace, and adapters upon them."""

from pathlib import Path

import pytest
import torch
from bundle_calls import assert_close, random, text_call
from safetensors.torch import load_file, save_file
from tiny_checkpoints import Write
from torch import Tensor

from sdserver.bundle.adapters.adapted import Adapted
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.detect import detect
from sdserver.bundle.device import resolve
from sdserver.bundle.fp8 import FP8, is_narrow, narrow, own_values
from sdserver.bundle.load import prepare
from sdserver.bundle.weights import open_weights
from sdserver.calls import Conditioning, Decode, Predict, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Adapter, Family, Model, ModelFacts, Storage

VAE = "first_stage_model."
FAMILIES: tuple[Family, ...] = ("sd1", "sd2", "sdxl")
UNCHANGED = ("embedding", "text_projection", "in_proj_", "positional")


def rounded(path: Path) -> Path:
    """The checkpoint with what A1111 puts into 8 bits rounded to them: whatever is a layer's own weight of
    two sides or more, and the bias beside it; OpenCLIP's fused projections are no layer's.
    """
    tensors = load_file(path)
    wide = {
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight") and tensor.ndim > 1
        if not name.startswith(VAE) and not any(word in name for word in UNCHANGED)
    }
    changed = {
        name: tensor.to(FP8).to(tensor.dtype) if name.rpartition(".")[0] in wide else tensor
        for name, tensor in tensors.items()
    }
    target = path.with_name(f"rounded-{path.name}")
    save_file(changed, target)
    return target


def evaluate(bundle: Bundle, model: Model, width: int, vector: int | None) -> Tensor:
    conditioning = Conditioning(random(77, width, seed=3), None if vector is None else random(vector, seed=4))
    bundle.run([UseModel(model)])
    (found,) = bundle.run([Predict(model, random(4, 8, 8, seed=1), 500.0, conditioning)])
    assert isinstance(found, Tensor), found
    return found


def encoded(bundle: Bundle, model: Model) -> Tensor:
    call = text_call(Path(model.checkpoint), "a (red:1.2) circle")
    (found,) = bundle.run([type(call)(model, call.text, call.prompt, call.size, is_negative=False)])
    assert isinstance(found, Conditioning), found
    return found.context


def sides(path: Path) -> tuple[int, int | None]:
    with open_weights(path, allow_pickle=False) as weights:
        spec = detect(weights, None).spec
    return spec.context_dim, spec.vector_dim


@pytest.mark.parametrize("family", FAMILIES)
def test_unet_and_text_encoders_are_as_if_the_file_were_rounded(checkpoint: Write, family: Family) -> None:
    path, _ = checkpoint(family)
    bundle, width = Bundle("cpu", "fp32"), sides(path)
    model, reference = Model(str(path), storage="fp8"), Model(str(rounded(path)))
    narrowed, text = evaluate(bundle, model, *width), encoded(bundle, model)
    (picture,) = bundle.run([Decode(model, random(4, 4, 4))])
    assert_close(narrowed, evaluate(bundle, reference, *width))
    assert_close(text, encoded(bundle, reference))
    full = Model(str(path))
    assert (narrowed - evaluate(bundle, full, *width)).abs().max() > 1e-3, "8 bits are no 32"
    assert (text - encoded(bundle, full)).abs().max() > 1e-3
    (own,) = bundle.run([Decode(full, random(4, 4, 4))])
    assert isinstance(own, Picture)
    assert picture == own, "the VAE stays as it is"


@pytest.mark.parametrize(
    ("storage", "family", "expected"),
    [
        ("full", "sdxl", False),
        ("fp8 for sdxl", "sdxl", True),
        ("fp8 for sdxl", "sd1", False),
        ("fp8", "sd2", True),
    ],
)
def test_when_weights_are_narrow(checkpoint: Write, storage: Storage, family: Family, expected: bool) -> None:
    path, _ = checkpoint(family)
    bundle = Bundle("cpu", "fp32")
    (facts,) = bundle.run([UseModel(Model(str(path), storage=storage))])
    assert isinstance(facts, ModelFacts)
    assert facts.is_fp8 is expected
    assert not is_narrow(storage, family, torch.device("mps"))


def test_switching_to_and_fro_leaves_no_trace_and_loads_only_when_it_must(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = checkpoint("sd1")
    read: list[str] = []

    def counted(path: Path, **options: bool) -> object:
        read.append(path.name)
        return prepare(path, **options)

    monkeypatch.setattr("sdserver.bundle.bundle.prepare", counted)
    bundle, width = Bundle("cpu", "fp32"), sides(path)
    models = [Model(str(path), storage=storage) for storage in ("full", "fp8 for sdxl", "fp8", "fp8", "full")]
    full, same, narrowed, again, back = (evaluate(bundle, model, *width) for model in models)
    assert torch.equal(full, back)
    assert torch.equal(full, same)
    assert torch.equal(narrowed, again)
    assert not torch.equal(full, narrowed)
    assert len(read) == 3


def lora(folder: Path) -> Adapter:
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    file = folder / "style.safetensors"
    up, down = random(32, 2, seed=7), random(2, 32, seed=8)
    save_file({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, file)
    return Adapter("lora", str(file), 1.0, 1.0)


@pytest.mark.parametrize("keeps", [False, True])
def test_adapters_change_the_narrow_weights_or_what_they_were(
    checkpoint: Write, tmp_path: Path, keeps: bool
) -> None:
    path, _ = checkpoint("sd1")
    with prepare(path, allow_pickle=False) as reading:
        parts = reading(resolve("cpu", "fp32", "auto"))
    place = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = parts.unet.get_submodule(place)
    before = layer.get_parameter("weight").detach().clone()
    narrow(parts, keeps_fp16=keeps)
    seen = own_values(layer, "weight")
    assert seen is not None
    assert torch.equal(seen, before.half().float() if keeps else before.to(FP8).float())
    assert own_values(layer, "bias") is None

    adapter = lora(tmp_path)
    Adapted(parts, resolve("cpu", "fp32", "auto"), allow_pickle=False).use((adapter,))
    change = random(32, 2, seed=7) @ random(2, 32, seed=8)
    merged = layer.get_parameter("weight")
    assert merged.dtype == FP8
    assert torch.equal(merged.float(), (seen + change).to(FP8).float())

    bundle, width = Bundle("cpu", "fp32"), sides(path)
    model = Model(str(path), adapters=(adapter,), storage="fp8", keeps_fp16=keeps)
    plain = evaluate(bundle, Model(str(path), storage="fp8", keeps_fp16=keeps), *width)
    changed = evaluate(bundle, model, *width)
    assert not torch.equal(changed, plain)
    assert torch.equal(evaluate(bundle, Model(str(path), storage="fp8", keeps_fp16=keeps), *width), plain)


def test_calls_on_other_weights_share_no_batch() -> None:
    models = [
        Model("a"),
        Model("a", storage="fp8"),
        Model("a", storage="fp8 for sdxl"),
        Model("a", storage="fp8", keeps_fp16=True),
    ]
    conditioning = Conditioning(torch.zeros(77, 4))
    keys = {Predict(model, torch.zeros(4, 2, 2), 1.0, conditioning).batch_key() for model in models}
    assert len(keys) == len({model.weights for model in models}) == len(models)
    assert Model("a", keeps_fp16=True).weights == "a"
