"""Files to networks: what is read, in which memory, and how much of it."""

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from bundle_calls import use
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_checkpoints import Write

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.device import Placement
from sdserver.bundle.folder_files import weight_files
from sdserver.bundle.load import prepare
from sdserver.bundle.safetensors_file import open_safetensors
from sdserver.bundle.staging import Staging
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from tests.bundle.test_bundle_round_trip import write_folder

CPU = torch.device("cpu")
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (2, 3, 1, 4)])
def test_tensors_are_those_that_the_library_reads(
    tmp_path: Path, kind: torch.dtype, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"one": torch.ones(3), "x": (torch.rand(shape) * 9).to(kind)}, path, {"format": "pt"})
    with open_safetensors(path) as file:
        found = file.tensor("x")
        assert file.shapes == {"one": (3,), "x": shape}
    wanted = load_file(path)["x"]
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert torch.equal(found, wanted)


def test_a_file_that_is_cut_short_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1000)}, path)
    with open_safetensors(path) as file:
        os.truncate(path, 200)
        with pytest.raises(OSError, match="ends too early"):
            file.tensor("x")


def test_a_type_that_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = json.dumps({"x": {"dtype": "U16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with open_safetensors(path) as file, pytest.raises(SafetensorError, match="U16"):
        file.tensor("x")


@given(sizes=st.lists(st.integers(0, 100), max_size=8))
@settings(deadline=None)
def test_staging_gives_what_is_asked_for_in_the_same_memory(sizes: list[int]) -> None:
    staging, largest = Staging(CPU), 0
    for size in sizes:
        before = staging._buffers[0].data_ptr()
        taken = staging.take(size)
        assert len(taken) == size
        assert size > largest or taken.data_ptr() == before or not size
        largest = max(largest, size)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_no_network_holds_on_to_the_buffer_that_its_tensors_came_through(
    checkpoint: Write, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = checkpoint(family)  # type: ignore[arg-type]
    buffers: list[torch.Tensor] = []
    take = Staging.take

    def watched(self: Staging, size: int) -> torch.Tensor:
        buffers.append(take(self, size))
        return buffers[-1]

    monkeypatch.setattr(Staging, "take", watched)
    with prepare(path, allow_pickle=False) as read:
        parts = read(Placement(CPU, torch.float32, False))
    places = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    networks = (parts.unet, parts.vae, *parts.text)
    assert not places & {
        one.untyped_storage().data_ptr() for network in networks for one in network.parameters()
    }
    assert read.numbers == sum(one.numel() for network in networks for one in network.parameters())
    assert read.family == family


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (
            ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"],
            ["diffusion_pytorch_model.fp16.safetensors"],
        ),
        (
            ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.non_ema.safetensors"],
            ["diffusion_pytorch_model.safetensors"],
        ),
        (
            [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (2, 1)],
            [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)],
        ),
        (
            [f"model.fp16-0000{k}-of-00002.safetensors" for k in (1, 2)],
            [f"model.fp16-0000{k}-of-00002.safetensors" for k in (1, 2)],
        ),
    ],
)
def test_which_files_of_a_folder_are_read(tmp_path: Path, names: list[str], wanted: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path)] == wanted


def test_a_folder_with_pickles_alone(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(UnreadableCheckpoint, match="cannot be read"):
        weight_files(tmp_path)


def split_in_two(file: Path) -> None:
    tensors = sorted(load_file(file).items())
    half = len(tensors) // 2
    for k, some in ((1, tensors[:half]), (2, tensors[half:])):
        save_file(dict(some), file.with_name(f"{file.stem}-0000{k}-of-00002.safetensors"))
    file.unlink()


def old_names(file: Path) -> None:
    """The autoencoder's attention as older versions of diffusers named it."""
    new = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = load_file(file)
    for name in list(tensors):
        for now, before in new.items():
            if f".attentions.0.{now}" in name:
                tensors[name.replace(now, before)] = tensors.pop(name)
    save_file(tensors, file)


def test_folders_saved_in_parts_or_long_ago(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sd1")
    folder = write_folder(tmp_path / "folder", "sd1", deepcopy(original))
    split_in_two(folder / "unet" / "diffusion_pytorch_model.safetensors")
    old_names(folder / "vae" / "diffusion_pytorch_model.safetensors")
    place = Placement(CPU, torch.float32, False)
    with prepare(folder, allow_pickle=False) as read, prepare(path, allow_pickle=False) as reference:
        found, wanted = read(place), reference(place)
    for one, other in zip(
        (found.unet, found.vae, *found.text), (wanted.unet, wanted.vae, *wanted.text), strict=True
    ):
        mine, theirs = one.state_dict(), other.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert all(mine[name].stride() == theirs[name].stride() for name in mine)


def test_a_folder_that_lacks_a_tensor_keeps_what_is_loaded(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sd1")
    folder = write_folder(tmp_path / "folder", "sd1", deepcopy(original))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.bias"]
    save_file(tensors, file)
    bundle = Bundle("cpu", "fp32")
    use(bundle, path)
    with pytest.raises(UnreadableCheckpoint, match=r"missing \(conv_in.bias"):
        use(bundle, folder)
    path.unlink()
    use(bundle, path)


def test_a_folder_of_odd_dimensions(checkpoint: Write, tmp_path: Path) -> None:
    _, original = checkpoint("sd1")
    folder = write_folder(tmp_path / "folder", "sd1", deepcopy(original))
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": "many"}))
    with pytest.raises(UnsupportedCheckpoint, match="make no network"):
        use(Bundle("cpu", "fp32"), folder)


def test_each_tensor_is_converted_on_its_way(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    with prepare(path, allow_pickle=False) as read:
        parts = read(Placement(CPU, torch.float16, False))
    assert {one.dtype for one in parts.unet.parameters()} == {torch.float16}
    assert not any(one.is_meta for one in parts.unet.parameters())
