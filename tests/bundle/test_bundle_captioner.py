"""Captions are those that transformers' own BLIP makes of the same picture; damaged folders say so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_captioner import DEVIATION, MEAN, PREPROCESSOR, SIDE, WORDS, write_captioner
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from sdserver.bundle import captioner
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.caption_input import preparation_of
from sdserver.bundle.captioner import Captioners
from sdserver.bundle.device import resolve
from sdserver.calls import Caption
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture

PROMPTED = [2, 5, 6, 7, 3]  # [CLS] a picture of [SEP]


def noise(seed: int, width: int = 48, height: int = 40) -> Picture:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(width, height, values.tobytes())


def image(picture: Picture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)


def processed(picture: Picture) -> torch.Tensor:
    """The picture as transformers' own processor prepares it."""
    processor = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=DEVIATION, resample=3
    )
    return processor(images=[image(picture)], return_tensors="pt")["pixel_values"]


def said_by(network: Any, picture: Picture, **search: Any) -> str:
    """What the network itself makes of the picture, words put together by hand."""
    given = torch.tensor([PROMPTED])
    (tokens,) = network.generate(processed(picture), input_ids=given, do_sample=False, **search)
    words = [WORDS[token] for token in tokens[1:] if 5 <= token < len(WORDS)]
    assert words[:3] == ["a", "picture", "of"]
    return " ".join(words[3:]).replace(" ##", "")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("blip") / "tiny"
    return folder, write_captioner(folder)


@pytest.fixture
def folder(tmp_path: Path, original: tuple[Path, Any]) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original[0], tmp_path / "tiny"))


def captions(bundle: Bundle, folder: Path, *pictures: Picture, beams: int = 1, most: int = 16) -> list[Any]:
    return bundle.run([Caption(str(folder), picture, beams, 8, most) for picture in pictures])


def test_pictures_are_prepared_as_by_transformers(original: tuple[Path, Any]) -> None:
    for size in ((48, 40), (7, 90), (SIDE, SIDE), (200, 300)):
        picture = noise(1, *size)
        mine = preparation_of(original[0], SIDE).pixels(picture)
        assert torch.allclose(mine, processed(picture)[0], atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_the_networks_own(original: tuple[Path, Any], beams: int) -> None:
    folder, network = original
    bundle = Bundle("cpu")
    search = {"num_beams": beams, "min_length": 8, "max_length": 16}
    pictures = [noise(seed) for seed in range(4)]
    expected = [said_by(network, picture, **search) for picture in pictures]
    assert len(set(expected)) > 1, "the picture matters"
    assert captions(bundle, folder, *pictures, beams=beams) == expected
    assert [captions(bundle, folder, picture, beams=beams)[0] for picture in pictures] == expected


def test_lengths_count_the_prompt_and_end_where_the_network_does(folder: Path) -> None:
    picture = noise(0)
    (short,) = captions(Bundle("cpu"), folder, picture, most=9)
    assert len(short.split()) <= 5
    network = write_captioner(folder, max_position_embeddings=12)
    (longest,) = captions(Bundle("cpu"), folder, picture, most=200)
    assert longest == said_by(network, picture, num_beams=1, min_length=8, max_length=12)


def test_a_folder_is_read_again_once_it_changed_or_was_unloaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    real = captioner._load
    monkeypatch.setattr(captioner, "_load", lambda path, place: (loads.append(path), real(path, place))[1])
    bundle = Bundle("cpu")
    before = captions(bundle, folder, noise(0), noise(1))
    assert captions(bundle, folder, noise(0), noise(1)) == before
    assert len(loads) == 1
    bundle.unload()
    assert captions(bundle, folder, noise(0), noise(1)) == before
    assert len(loads) == 2
    network = write_captioner(folder, seed=5)
    after = captions(bundle, folder, noise(0), noise(1))
    search = {"num_beams": 1, "min_length": 8, "max_length": 16}
    assert after == [said_by(network, noise(seed), **search) for seed in (0, 1)] != before
    assert len(loads) == 3


def test_unloading_keeps_no_tensor(folder: Path) -> None:
    captioners = Captioners(resolve("cpu", "auto", "auto"))
    captioners.describe(str(folder), [noise(0)], 1, 5, 9)
    assert captioners._loaded is not None
    captioners.clear()
    assert captioners._loaded is None


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-200])


def told(name: str, **changes: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(content))

    return damage


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


PREPARED = "preprocessor_config.json"


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (without("config.json"), UnreadableCheckpoint, "cannot be read"),
        (written("config.json", "{"), UnreadableCheckpoint, "cannot be read"),
        (written("config.json", "[]"), UnreadableCheckpoint, "holds no object"),
        (told("config.json", model_type="blip-2"), UnsupportedCheckpoint, "only 'blip'"),
        (
            told("config.json", vision_config={"hidden_size": "x"}),
            UnreadableCheckpoint,
            "tiny cannot be read",
        ),
        (told("config.json", text_config={}), UnreadableCheckpoint, "tiny"),
        (cut("model.safetensors"), UnreadableCheckpoint, "tiny cannot be read"),
        (written("model.safetensors", "no tensors"), UnreadableCheckpoint, "tiny cannot be read"),
        (as_pickle, UnsupportedCheckpoint, "pickle"),
        (without("vocab.txt"), UnreadableCheckpoint, "has no vocab.txt"),
        (
            written("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nno\nword\n"),
            UnreadableCheckpoint,
            "tokenizer",
        ),
        (written("vocab.txt", "\n".join(["x"] * 90 + WORDS)), UnreadableCheckpoint, "tokenizer"),
        (told(PREPARED, size={"height": 16, "width": 16}), UnsupportedCheckpoint, "not served"),
        (told(PREPARED, size={"shortest_edge": SIDE}), UnsupportedCheckpoint, "not served"),
        (told(PREPARED, do_normalize=False), UnsupportedCheckpoint, "not served"),
        (told(PREPARED, resample=9), UnreadableCheckpoint, "filter"),
        (told(PREPARED, image_mean=[0.5]), UnreadableCheckpoint, "image_mean"),
        (told(PREPARED, image_std=[1, "x", 1]), UnreadableCheckpoint, "image_std"),
        (told(PREPARED, image_std=[0.5, 0, 0.5]), UnreadableCheckpoint, "zero"),
        (written(PREPARED, "{"), UnreadableCheckpoint, "cannot be read"),
    ],
)
def test_damaged_folders_are_errors_that_name_them(
    folder: Path, damage: Callable[[Path], object], error: type[Exception], words: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=words) as caught:
        captions(Bundle("cpu"), folder, noise(0))
    assert "tiny" in str(caught.value)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match="gone"):
        captions(Bundle("cpu"), tmp_path / "gone", noise(0))


def test_weights_that_lack_a_layer_are_an_error(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "crossattention" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnreadableCheckpoint, match="lacks text_decoder"):
        captions(Bundle("cpu"), folder, noise(0))


@pytest.mark.parametrize("newer", [True, False])
def test_preparation_may_be_told_elsewhere_or_not_at_all(
    folder: Path, original: tuple[Path, Any], newer: bool
) -> None:
    (folder / PREPARED).unlink()
    if newer:
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": PREPROCESSOR}))
    mine, usual = preparation_of(folder, SIDE), preparation_of(original[0], SIDE)
    assert (mine == usual) == newer
    assert mine.mean == (tuple(MEAN) if newer else (0.48145466, 0.4578275, 0.40821073))
