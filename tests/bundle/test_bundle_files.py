"""Files that cannot be loaded: each is refused with a sentence that says why."""

import json
from pathlib import Path

import pytest
import torch
from bundle_calls import use
from safetensors.torch import load_file, save_file
from tiny_checkpoints import Write

from sdserver.bundle.bundle import Bundle
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint

UNET = "model.diffusion_model."


def refused(path: Path, kind: type[Exception], words: str, *, allow_pickle: bool = False) -> None:
    with pytest.raises(kind, match=words):
        use(Bundle("cpu", allow_pickle=allow_pickle), path)


def test_missing_file_and_other_endings(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", UnreadableCheckpoint, r"none\.safetensors cannot be read")
    refused(tmp_path / "none.txt", UnsupportedCheckpoint, "must end in .safetensors")
    refused(tmp_path / "none.ckpt", UnsupportedCheckpoint, "pickle")
    refused(tmp_path / "none.ckpt", UnreadableCheckpoint, "cannot be read", allow_pickle=True)


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickles_of_both_formats(checkpoint: Write, is_zip: bool) -> None:
    path, _ = checkpoint("sd1")
    pickled = path.with_suffix(".ckpt")
    torch.save({"state_dict": load_file(path)}, pickled, _use_new_zipfile_serialization=is_zip)
    assert use(Bundle("cpu", allow_pickle=True), pickled).family == "sd1"


@pytest.mark.parametrize("size", [0, 7, 1000, 9_000_000])
def test_truncated_file(checkpoint: Write, size: int) -> None:
    path, _ = checkpoint("sd1")
    path.write_bytes(path.read_bytes()[:size])
    refused(path, UnreadableCheckpoint, r"tiny\.safetensors cannot be read, download it again")


def test_web_page_saved_as_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "page.safetensors"
    path.write_text("<!DOCTYPE html><html>" * 1000)
    refused(path, UnreadableCheckpoint, "download it again")


def test_lora_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_file({"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(2, 2)}, path)
    refused(path, UnsupportedCheckpoint, r"style\.safetensors: The file is a LoRA")


def test_missing_tensors(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    stored = load_file(path)
    del stored[f"{UNET}input_blocks.1.0.out_layers.3.bias"]
    save_file(stored, path)
    refused(path, UnreadableCheckpoint, r"missing \(down_blocks\.0\.resnets\.0\.conv2\.bias")


def test_tensors_that_nobody_knows(checkpoint: Write) -> None:
    extra = {f"{UNET}middle_block.3.weight": torch.zeros(1), f"{UNET}scaled_fp8": torch.zeros(1)}
    path, _ = checkpoint("sd1", extra)
    refused(path, UnsupportedCheckpoint, "middle_block.3.weight, .*scaled_fp8")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{UNET}time_embed.2.weight", (64, 128)),
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", (97, 32)),
        ("cond_stage_model.model.ln_final.weight", ()),
    ],
)
def test_tensors_of_a_wrong_shape(checkpoint: Write, name: str, shape: tuple[int, ...]) -> None:
    path, _ = checkpoint("sd2", {name: torch.zeros(shape)})
    refused(path, UnreadableCheckpoint, "shape")


def test_widths_that_no_network_has(checkpoint: Write) -> None:
    """Groups of channels are always 32."""
    path, _ = checkpoint(
        "sd1", {"first_stage_model.encoder.down.1.block.0.conv1.weight": torch.zeros(40, 32, 3, 3)}
    )
    refused(path, UnsupportedCheckpoint, "make no network")


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "owned"),)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, path)
    refused(path, UnreadableCheckpoint, "cannot be read", allow_pickle=True)
    assert not (tmp_path / "owned").exists()
    torch.save([1, 2], path)
    refused(path, UnreadableCheckpoint, "no tensors by name", allow_pickle=True)


def folder(path: Path, index: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "model_index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return path


def test_folders_of_other_kinds(tmp_path: Path) -> None:
    refused(tmp_path, UnreadableCheckpoint, r"model_index\.json cannot be read")
    refused(folder(tmp_path, "["), UnreadableCheckpoint, "cannot be read")
    refused(folder(tmp_path, []), UnreadableCheckpoint, "no configuration")
    refused(folder(tmp_path, {"unet": ["diffusers", "UNet2DConditionModel"]}), UnsupportedCheckpoint, "lacks")
    flux = {"transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    refused(folder(tmp_path, flux), UnsupportedCheckpoint, "lacks")
    refused(folder(tmp_path, {"unet": ["os", "system"]}), UnsupportedCheckpoint, "its unet is a system")
    good = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    refused(folder(tmp_path, good), UnreadableCheckpoint, r"unet/config\.json")
    for name in ("unet", "vae", "text_encoder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "scheduler").mkdir()
    noise = tmp_path / "scheduler" / "scheduler_config.json"
    noise.write_text('{"prediction_type": "sample"}')
    refused(tmp_path, UnsupportedCheckpoint, "predicts")
    noise.write_text('{"beta_schedule": "linear"}')
    refused(tmp_path, UnsupportedCheckpoint, "noise schedule")
    noise.write_text('{"beta_start": "low"}')
    refused(tmp_path, UnreadableCheckpoint, "beta_start")
    noise.write_text("{}")
    refused(tmp_path, UnreadableCheckpoint, "cannot be read")
