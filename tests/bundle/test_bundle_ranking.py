"""CLIP's features are transformers' own, whatever file they come from; other files say what is wrong."""

import io
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from authors_layouts import openai_state, tiny_clip, write_openai, write_script_archive
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sdserver.bundle import clip_names, ranking
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.script_archive import read_script_archive
from sdserver.calls import PictureFeature, TextFeatures
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture
from tests.bundle.test_bundle_captioner import image, noise

TEXTS = ("a cat", "painting by somebody", "a dog &amp; a cat, " * 40, "x")
SQUARE = {"height": 32, "width": 32}


def pixels(picture: Picture) -> Tensor:
    """The picture as transformers' own processor prepares it."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE, do_convert_rgb=True)
    return processor(images=[image(picture)], return_tensors="pt")["pixel_values"]


def seen_by(network: Any, picture: Picture) -> Tensor:
    with torch.no_grad():
        seen = network.vision_model(pixel_values=pixels(picture)).pooler_output
        return functional.normalize(network.visual_projection(seen)[0], dim=0)


def asked(path: Path, *calls: Any, allow_pickle: bool = True) -> list[Any]:
    bundle = Bundle("cpu", allow_pickle=allow_pickle)
    return [bundle.run([call])[0] for call in calls]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same network as OpenAI's archive, as plain tensors, and in Hugging Face's folder."""
    place = tmp_path_factory.mktemp("clip")
    network = write_openai(place / "ViT-L-14.pt")
    write_openai(place / "ViT-L-14.safetensors")
    torch.save(openai_state(network), place / "plain.pt")
    network.save_pretrained(place / "folder")
    return place, network


@pytest.mark.parametrize("name", ["ViT-L-14.pt", "ViT-L-14.safetensors", "plain.pt", "folder"])
def test_features_are_the_networks(files: tuple[Path, Any], name: str) -> None:
    place, network = files
    path = str(place / name)
    pictures = [noise(1), noise(2, 64, 33), noise(3, 32, 90)]
    *found, texts = asked(
        place, *(PictureFeature(path, picture) for picture in pictures), TextFeatures(path, TEXTS)
    )
    for feature, picture in zip(found, pictures, strict=True):
        assert torch.allclose(feature, seen_by(network, picture), atol=2e-3)
    short = [49406, 320, 2368, 49407]  # "a cat", by OpenAI's numbers
    with torch.no_grad():
        said = network.text_model(input_ids=torch.tensor([short])).pooler_output
        expected = functional.normalize(network.text_projection(said)[0], dim=0)
    assert torch.allclose(texts[0], expected, atol=1e-5)
    assert torch.allclose(texts.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)
    assert (texts @ texts.T).triu(1).max() < 0.999, "texts differ"


def test_the_published_file_tells_its_network() -> None:
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
    wanted = CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    with torch.device("meta"):
        original = CLIPModel(wanted)
    state = clip_names.renamed(openai_state(original))
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in original.state_dict().items()
    }
    found = clip_names.configuration(state)
    for name in ("text_config", "vision_config"):
        mine, theirs = (getattr(one, name).to_dict() for one in (found, wanted))
        assert {key: mine[key] for key in theirs if "token_id" not in key} == {
            key: value for key, value in theirs.items() if "token_id" not in key
        }
    assert found.projection_dim == 768


def test_texts_are_read_once(files: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []
    real = ranking.Clips._read
    monkeypatch.setattr(
        ranking.Clips, "_read", lambda self, clip, texts: (read.append(texts), real(self, clip, texts))[1]
    )
    path, bundle = str(files[0] / "folder"), Bundle("cpu")
    first, again, other = (bundle.run([TextFeatures(path, texts)])[0] for texts in (TEXTS, TEXTS, TEXTS[:1]))
    assert torch.equal(first, again)
    assert torch.allclose(other[0], first[0], atol=1e-5)
    assert read == [TEXTS, TEXTS[:1]]
    monkeypatch.setattr(ranking, "KEPT_BYTES", 1)
    for texts in (TEXTS, TEXTS[1:], TEXTS):
        bundle.run([TextFeatures(path, texts)])
    assert read[2:] == [TEXTS[1:], TEXTS]


@pytest.mark.parametrize("size", [(1, 4000), (3000, 2), (1, 1)])
def test_narrow_pictures_cost_no_more_than_others(files: tuple[Path, Any], size: tuple[int, int]) -> None:
    (feature,) = asked(files[0], PictureFeature(str(files[0] / "folder"), noise(1, *size)))
    assert feature.isfinite().all()


def test_pictures_are_cut_in_the_middle(files: tuple[Path, Any]) -> None:
    colours = np.zeros((20, 400, 3), np.uint8)
    colours[:, 190:210] = np.asarray(noise_image(20, 20))
    wide = Picture(400, 20, colours.tobytes())
    middle = Picture(20, 20, noise_image(20, 20).tobytes())
    first, second = (
        asked(files[0], PictureFeature(str(files[0] / "folder"), picture))[0] for picture in (wide, middle)
    )
    assert torch.allclose(first, second, atol=0.05)


def noise_image(width: int, height: int) -> Image.Image:
    return image(noise(9, width, height))


@pytest.mark.parametrize("name", ["ViT-L-14.pt", "plain.pt"])
def test_pickles_need_to_be_allowed(files: tuple[Path, Any], name: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=rf"{name} is a pickle.*--allow-pickle"):
        asked(files[0], PictureFeature(str(files[0] / name), noise(1)), allow_pickle=False)


# TorchScript archives


def test_an_archives_tensors_are_those_that_torch_reads(tmp_path: Path) -> None:
    state = {
        "a.b.0.weight": torch.arange(12.0).reshape(3, 4).T.contiguous(),
        "a.small": torch.ones(3, dtype=torch.float16),
        "scale": torch.tensor(2.5),
    }
    write_script_archive(tmp_path / "x.pt", state)
    found = read_script_archive(tmp_path / "x.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def rewritten(file: Path, member: str, content: bytes, *, packed: bool = False) -> None:
    """The archive with one of its files in other words."""
    with zipfile.ZipFile(file) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    (name,) = (name for name in parts if name.endswith(member))
    parts[name] = content
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as new:
        for each, data in parts.items():
            new.writestr(each, data)


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_code_in_an_archive_is_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "x.pt", tmp_path / "mark"
    write_script_archive(file, {"w": torch.ones(2)})
    rewritten(file, "/data.pkl", pickle.dumps(_Hostile(mark), 2))
    with pytest.raises(UnreadableCheckpoint, match=r"x\.pt.*which is no tensor"):
        read_script_archive(file)
    assert not mark.exists()


def storage_pickle(*arguments: Any, key: str = "0", count: int = 2) -> bytes:
    """A module with a tensor that is described as the test says."""

    storage = object()

    class Writer(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", count) if obj is storage else None

    class Described:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (storage, *arguments, False, None)

    written = io.BytesIO()
    Writer(written, 2).dump(Described())
    inner = written.getvalue()[2:-1]
    # A module of the class __torch__.M with the tensor as its part "w".
    return b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00w" + inner + b"sb."


@pytest.mark.parametrize(
    "tree",
    [
        storage_pickle(0, (3,), (1,)),
        storage_pickle(1, (2,), (1,)),
        storage_pickle(-1, (2,), (1,)),
        storage_pickle(0, (2,), (-1,)),
        storage_pickle(0, (10**12, 10**12), (1, 1)),
        storage_pickle(0, (10**6, 10**6), (0, 0)),
        storage_pickle(0, (2.0,), (1,)),
        storage_pickle(0, 2, 1),
        storage_pickle(0, (2,), (1,), key="../x"),
        storage_pickle(0, (2,), (1,), count=10**9),
        b"",
    ],
)
def test_trees_that_lie_are_errors(tmp_path: Path, tree: bytes) -> None:
    file = tmp_path / "x.pt"
    write_script_archive(file, {"w": torch.ones(2)})
    rewritten(file, "/data.pkl", storage_pickle(0, (2,), (1,)))
    assert torch.equal(read_script_archive(file)["w"], torch.ones(2))
    rewritten(file, "/data.pkl", tree)
    with pytest.raises(UnreadableCheckpoint, match=r"x\.pt cannot be read"):
        read_script_archive(file)


def test_damage_anywhere_is_an_error_or_no_matter(tmp_path: Path) -> None:
    file, random = tmp_path / "x.pt", np.random.default_rng(1)
    write_script_archive(file, {"w": torch.ones(2), "a.0.b": torch.ones(2, 2)})
    with zipfile.ZipFile(file) as archive:
        (tree,) = (archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    errors = 0
    for _ in range(200):
        broken = bytearray(tree)
        for place in random.integers(0, len(tree), 3):
            broken[place] = random.integers(0, 256)
        rewritten(file, "/data.pkl", bytes(broken))
        try:
            read_script_archive(file)
        except UnreadableCheckpoint:
            errors += 1
    assert errors > 0
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UnreadableCheckpoint, match=r"x\.pt"):
        read_script_archive(file)


def test_packed_numbers_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    write_script_archive(file, {"w": torch.zeros(1000)})
    rewritten(file, "/data/0", bytes(4000), packed=True)
    with pytest.raises(UnreadableCheckpoint, match="packed"):
        read_script_archive(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual.conv1.weight": None}, "lacks vision_model.embeddings.patch_embedding.weight"),
        ({"token_embedding.weight": torch.zeros(100, 128)}, "sizes that CLIP does not have"),
        ({"ln_final.bias": None}, "lacks text_model.final_layer_norm.bias"),
        ({"visual.transformer.resblocks.1.attn.in_proj_weight": torch.zeros(3, 128)}, "damaged"),
    ],
)
def test_files_of_another_network_say_so(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = {**openai_state(tiny_clip()), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "ViT-L-14.pt")
    with pytest.raises(UnreadableCheckpoint, match=words) as caught:
        asked(tmp_path, PictureFeature(str(tmp_path / "ViT-L-14.pt"), noise(1)))
    assert "ViT-L-14.pt" in str(caught.value)


def test_folders_of_another_network_say_so(files: tuple[Path, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(files[0] / "folder", tmp_path / "folder"))
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"clip"', '"siglip"'))
    with pytest.raises(UnsupportedCheckpoint, match="folder"):
        asked(tmp_path, PictureFeature(str(folder), noise(1)))
    with pytest.raises(UnreadableCheckpoint, match="gone"):
        asked(tmp_path, PictureFeature(str(tmp_path / "gone"), noise(1)))
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(UnreadableCheckpoint, match=r"x\.pt"):
        asked(tmp_path, TextFeatures(str(tmp_path / "x.pt"), ("a",)))
