"""Adapters on a loaded checkpoint: what they change, and that nothing of it stays."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import assert_close, random
from safetensors.torch import save_file
from tiny_checkpoints import Original, Tensors, Write, unet_tensors
from torch import Tensor, nn

from sdserver.bundle.adapters.adapted import Adapted
from sdserver.bundle.adapters.file import bundled_embeddings
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.device import resolve
from sdserver.bundle.load import prepare
from sdserver.bundle.parts import Parts
from sdserver.calls import Conditioning, EncodeText, Predict, UseModel
from sdserver.errors import UnusableAdapter
from sdserver.jobs.job import Prompt, Size
from sdserver.jobs.model import Adapter, Model

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
KOHYA = "lora_unet_" + KEY.replace(".", "_")
TEXT = "encoder.layers.0.mlp.fc1"
KOHYA_TEXT = "lora_te_text_model_" + TEXT.replace(".", "_")


def lora(name: str, up: int, down: int, *, seed: int = 1) -> Tensors:
    return {
        f"{name}.lora_up.weight": random(up, 2, seed=seed),
        f"{name}.lora_down.weight": random(2, down, seed=seed + 1),
    }


def product(tensors: Tensors, name: str) -> Tensor:
    return tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]


def saved(path: Path, tensors: Tensors) -> str:
    save_file(tensors, path)
    return str(path)


def both(folder: Path, *, seed: int = 1, name: str = "style") -> tuple[str, Tensors]:
    """A LoRA of one layer of the UNet and one of the text encoder."""
    tensors = lora(KOHYA, 32, 32, seed=seed) | lora(KOHYA_TEXT, 64, 32, seed=seed + 5)
    return saved(folder / f"{name}.safetensors", tensors), tensors


def adapter(path: str, weight: float = 1.0, unet: float | None = None) -> Adapter:
    return Adapter("lora", path, weight, weight if unet is None else unet)


def predict(bundle: Bundle, checkpoint: Path, adapters: Sequence[Adapter], count: int = 1) -> Tensor:
    model = Model(str(checkpoint), adapters=tuple(adapters))
    context = Conditioning(random(77, 32, seed=3))
    x = random(4, 8, 8)
    results = bundle.run([Predict(model, x, 500.0, context)] * count)
    assert isinstance(results[0], Tensor)
    return results[0]


def encode(bundle: Bundle, checkpoint: Path, adapters: Sequence[Adapter]) -> Tensor:
    model = Model(str(checkpoint), adapters=tuple(adapters))
    prompt = Prompt("a cat", "", 1, "Original", 20)
    (result,) = bundle.run([EncodeText(model, "a cat", prompt, Size(64, 64), False)])
    assert isinstance(result, Conditioning)
    return result.context


def reference(original: Original, path: str, added: Tensor) -> Tensor:
    """The prediction of diffusers' own UNet with something added to one of its weights."""
    unet: Any = copy.deepcopy(original.unet)
    unet.get_submodule(path).weight.data += added
    with torch.no_grad():
        (found,) = unet(
            random(1, 4, 8, 8), torch.tensor([500.0]), random(1, 77, 32, seed=3), return_dict=False
        )
    result: Tensor = found[0]
    return result


def loaded(path: Path) -> Parts:
    placement = resolve("cpu", "fp32", "sdpa")
    with prepare(path, allow_pickle=False) as read:
        return read(placement)


def adapted(parts: Parts, **options: Any) -> Adapted:
    return Adapted(parts, resolve("cpu", "fp32", "sdpa"), allow_pickle=False, **options)


def test_unet_and_text_encoder_follow_their_own_strengths(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    file, tensors = both(tmp_path)
    bundle = Bundle("cpu", "fp32")
    plain, plain_text = predict(bundle, path, []), encode(bundle, path, [])

    only_unet = [adapter(file, 0.0, 0.7)]
    assert_close(predict(bundle, path, only_unet), reference(original, KEY, 0.7 * product(tensors, KOHYA)))
    assert torch.equal(encode(bundle, path, only_unet), plain_text)

    only_text = [adapter(file, 0.7, 0.0)]
    assert torch.equal(predict(bundle, path, only_text), plain)
    text: Any = copy.deepcopy(original.text[0])
    text.get_submodule(TEXT).weight.data += 0.7 * product(tensors, KOHYA_TEXT)
    changed = encode(bundle, path, only_text)
    assert not torch.allclose(changed, plain_text, atol=1e-3)
    again = Bundle("cpu", "fp32")
    again.run([UseModel(Model(str(path)))])
    assert torch.equal(encode(again, path, only_text), changed)


def test_adapters_are_applied_one_after_the_other(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    first, tensors = both(tmp_path)
    scale = random(32, seed=9)
    ia3 = {f"{KOHYA}.weight": scale, f"{KOHYA}.on_input": torch.tensor(0)}
    second = saved(tmp_path / "scale.safetensors", ia3)
    own = original.unet.get_parameter(f"{KEY}.weight")
    merged = own + product(tensors, KOHYA)
    expected = reference(original, KEY, merged + merged * scale[:, None] - own)
    found = predict(Bundle("cpu", "fp32"), path, [adapter(first), adapter(second)])
    assert_close(found, expected)


def test_a_file_named_twice_counts_twice_with_its_last_strength(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    file, tensors = both(tmp_path)
    found = predict(Bundle("cpu", "fp32"), path, [adapter(file, 0.1), adapter(file, 0.4)])
    assert_close(found, reference(original, KEY, 0.8 * product(tensors, KOHYA)))


def test_a_bias_is_added_where_the_layer_has_none(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    tensors = {f"{KOHYA}.diff": random(32, 32), f"{KOHYA}.diff_b": random(32, seed=4)}
    file = saved(tmp_path / "full.safetensors", tensors)
    found = predict(Bundle("cpu", "fp32"), path, [adapter(file, 0.5)])
    unet: Any = copy.deepcopy(original)
    unet.unet.get_submodule(KEY).bias = nn.Parameter(0.5 * tensors[f"{KOHYA}.diff_b"])
    assert_close(found, reference(unet, KEY, 0.5 * tensors[f"{KOHYA}.diff"]))


def test_a_checkpoint_is_the_same_bytes_after_any_mix_of_adapters(checkpoint: Write, tmp_path: Path):
    path, _ = checkpoint("sd1")
    one, _ = both(tmp_path, name="one")
    two, _ = both(tmp_path, seed=20, name="two")
    sets: list[list[Adapter]] = [[], [adapter(one)], [adapter(two)], [adapter(one), adapter(two)]]
    alone = [
        (predict(Bundle("cpu", "fp32"), path, chosen), encode(Bundle("cpu", "fp32"), path, chosen))
        for chosen in sets
    ]
    for k, (first, _) in enumerate(alone):
        assert not any(torch.equal(first, other) for other, _ in alone[k + 1 :])
    bundle = Bundle("cpu", "fp32")
    for index in (1, 0, 2, 3, 1, 3, 0, 2, 0):
        assert torch.equal(predict(bundle, path, sets[index]), alone[index][0])
        assert torch.equal(encode(bundle, path, sets[index]), alone[index][1])


def test_switching_moves_pointers_and_writes_nothing(checkpoint: Write, tmp_path: Path):
    path, _ = checkpoint("sd1")
    file, _ = both(tmp_path)
    parts = loaded(path)
    networks = nn.ModuleList([parts.unet, *parts.text])
    before = {name: (value.data_ptr(), value.clone()) for name, value in networks.named_parameters()}
    adapters = adapted(parts)

    adapters.use((adapter(file),))
    during = {name: value.data_ptr() for name, value in networks.named_parameters()}
    moved = {name for name, place in during.items() if place != before[name][0]}
    assert moved == {f"0.{KEY}.weight", f"1.{TEXT}.weight"}

    adapters.use(())
    for name, value in networks.named_parameters():
        assert value.data_ptr() == before[name][0], name
        assert torch.equal(value, before[name][1]), name

    adapters.use((adapter(file),))
    assert {name: value.data_ptr() for name, value in networks.named_parameters()} == during


def test_overlays_beyond_the_limit_are_dropped_and_the_one_in_use_stays(checkpoint: Write, tmp_path: Path):
    path, _ = checkpoint("sd1")
    one, _ = both(tmp_path, name="one")
    two, _ = both(tmp_path, seed=20, name="two")
    parts = loaded(path)
    weight = parts.unet.get_submodule(KEY)

    def place(adapters: Adapted, file: str) -> int:
        adapters.use((adapter(file),))
        return weight.get_parameter("weight").data_ptr()

    size = 4 * (32 * 32 + 64 * 32)
    roomy, tight = adapted(parts, max_bytes=2 * size), adapted(parts, max_bytes=1)
    kept = [place(roomy, one), place(roomy, two)]
    assert [place(roomy, one), place(roomy, two)] == kept
    roomy.drop_unused()
    second = weight.get_parameter("weight")
    assert place(roomy, two) == kept[1] == second.data_ptr()
    roomy.use(())
    place(tight, one)
    first = weight.get_parameter("weight")  # held, so that its memory is not given to another
    place(tight, two)
    assert place(tight, one) != first.data_ptr()
    assert torch.equal(weight.get_parameter("weight"), first)


def test_a_file_that_was_replaced_is_read_again_by_the_next_job(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    file, _ = both(tmp_path)
    bundle = Bundle("cpu", "fp32")
    predict(bundle, path, [adapter(file)])
    tensors = lora(KOHYA, 32, 32, seed=77)
    saved(Path(file), tensors)
    bundle.run([UseModel(Model(str(path), adapters=(adapter(file),)))])
    found = predict(bundle, path, [adapter(file)])
    assert_close(found, reference(original, KEY, product(tensors, KOHYA)))


def test_a_linear_and_a_convolutional_projection_take_both_shapes(checkpoint: Write, tmp_path: Path):
    place = "down_blocks.0.attentions.0.proj_in"
    name = "lora_unet_" + place.replace(".", "_")
    flat = lora(name, 32, 32)
    tall = {key: value[:, :, None, None] for key, value in flat.items()}
    path, original = checkpoint("sd1")
    expected = reference(original, place, product(flat, name)[:, :, None, None])
    for label, tensors in (("flat", flat), ("tall", tall)):
        file = saved(tmp_path / f"{label}.safetensors", tensors)
        assert_close(predict(Bundle("cpu", "fp32"), path, [adapter(file)]), expected)


@pytest.mark.parametrize("parts", [("q", "k", "v"), ("q", "k", "v", "out")])
def test_open_clips_attention_changes_as_a_whole_or_not_at_all(
    checkpoint: Write, tmp_path: Path, parts: tuple[str, ...]
):
    path, _ = checkpoint("sd2")
    start = "lora_te_text_model_encoder_layers_0_self_attn_"
    tensors: Tensors = {}
    for part in parts:
        tensors |= lora(f"{start}{part}_proj", 32, 32)
    file = saved(tmp_path / "attention.safetensors", tensors)
    bundle = Bundle("cpu", "fp32")
    is_same = torch.equal(encode(bundle, path, []), encode(bundle, path, [adapter(file)]))
    assert is_same == (len(parts) == 3)


def test_sdxl_takes_original_names_and_one_prefix_per_text_encoder(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sdxl")
    parts = loaded(path)
    rows = original.unet.config.layers_per_block  # type: ignore[union-attr]
    named = unet_tensors(original.unet.state_dict(), rows)
    tensors: Tensors = {}
    for name, value in named.items():
        if name.endswith("attn2.to_v.weight"):
            tensors |= lora("lora_unet_" + name.removesuffix(".weight").replace(".", "_"), *value.shape)
    wanted = len(tensors) // 2
    tensors |= lora("lora_te1_text_model_encoder_layers_1_mlp_fc2", 32, 64)
    tensors |= lora("lora_te2_text_model_encoder_layers_0_mlp_fc2", 32, 64)
    networks = nn.ModuleList([parts.unet, *parts.text])
    before = {name: value.data_ptr() for name, value in networks.named_parameters()}
    adapted(parts).use((adapter(saved(tmp_path / "xl.safetensors", tensors)),))
    moved = [name for name, value in networks.named_parameters() if value.data_ptr() != before[name]]
    assert sum(name.endswith("attn2.to_v.weight") for name in moved) == wanted > 3
    assert [name for name in moved if not name.startswith("0.")] == [
        "1.encoder.layers.1.mlp.fc2.weight",
        "2.text_model.encoder.layers.0.mlp.fc2.weight",
    ]


def test_names_that_match_nothing_are_passed_over_with_a_warning(
    checkpoint: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path, _ = checkpoint("sd1")
    file = saved(tmp_path / "strange.safetensors", lora("lora_transformer_blocks_0", 8, 8))
    bundle = Bundle("cpu", "fp32")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(predict(bundle, path, [adapter(file)]), predict(bundle, path, []))
    assert "strange.safetensors names no layer" in caplog.text


def test_layers_that_do_not_fit_are_left_out_with_a_warning(
    checkpoint: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path, original = checkpoint("sd1")
    tensors = lora(KOHYA, 32, 32) | lora(KOHYA.replace("to_k", "to_v"), 32, 48)
    file = saved(tmp_path / "partly.safetensors", tensors)
    with caplog.at_level(logging.WARNING):
        found = predict(Bundle("cpu", "fp32"), path, [adapter(file)])
    assert_close(found, reference(original, KEY, product(tensors, KOHYA)))
    assert "1 of 2 layers do not fit" in caplog.text


def damaged(folder: Path) -> str:
    path = folder / "cut.safetensors"
    whole, _ = both(folder)
    path.write_bytes(Path(whole).read_bytes()[:-100])
    return str(path)


def test_a_bad_file_fails_alone_and_says_why(checkpoint: Write, tmp_path: Path):
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32")
    good, _ = both(tmp_path)
    plain, changed = predict(bundle, path, []), predict(bundle, path, [adapter(good)])
    bad = {
        "made for another family": saved(tmp_path / "xl.safetensors", lora(KOHYA, 32, 48)),
        "of a kind that is not known": saved(tmp_path / "odd.safetensors", {f"{KOHYA}.what": random(2)}),
        "cannot be read": damaged(tmp_path),
        "none.safetensors": str(tmp_path / "none.safetensors"),
        "is a pickle": str(tmp_path / "old.pt"),
    }
    torch.save(lora(KOHYA, 32, 32), tmp_path / "old.pt")
    for words, file in bad.items():
        for call in (UseModel, lambda model: Predict(model, random(4, 8, 8), 1.0, Conditioning(plain))):
            with pytest.raises(UnusableAdapter, match=words):
                bundle.run([call(Model(str(path), adapters=(adapter(good), adapter(file))))])
    assert torch.equal(predict(bundle, path, []), plain)
    assert torch.equal(predict(bundle, path, [adapter(good)]), changed)


def test_pickled_loras_are_read_where_pickles_are_allowed(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    tensors = lora(KOHYA, 32, 32)
    torch.save(tensors, tmp_path / "old.pt")
    bundle = Bundle("cpu", "fp32", allow_pickle=True)
    found = predict(bundle, path, [adapter(str(tmp_path / "old.pt"))])
    assert_close(found, reference(original, KEY, product(tensors, KOHYA)))


def test_embeddings_inside_a_file_are_found_by_name(tmp_path: Path):
    tensors = {
        "bundle_emb.glow.emb_params": random(2, 32),
        "bundle_emb.dusk.string_to_param.*": random(1, 32),
    }
    file = Path(saved(tmp_path / "bundle.safetensors", tensors | lora(KOHYA, 32, 32)))
    found = bundled_embeddings(file, allow_pickle=False)
    assert {name: list(parts) for name, parts in found.items()} == {
        "glow": ["emb_params"],
        "dusk": ["string_to_param.*"],
    }
    assert torch.equal(found["glow"]["emb_params"], tensors["bundle_emb.glow.emb_params"])
