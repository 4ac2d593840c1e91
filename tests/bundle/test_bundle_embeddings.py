import base64
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_calls import assert_close, encode, random, text_call
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.embeddings import EmbeddingFiles, read_vectors
from sdserver.bundle.tokenizer import tokenize
from sdserver.calls import Conditioning, EncodeText
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.model import Embedding, Model

NAME = "stylexyz"


def learned(path: Path) -> Embedding:
    return Embedding(path.stem, str(path))


def knowing(call: EncodeText, *embeddings: Embedding) -> EncodeText:
    return replace(call, model=replace(call.model, embeddings=embeddings))


def words(model: Any, text: str) -> Tensor:
    """The token vectors of a text in one of a checkpoint's encoders."""
    (ids,) = tokenize([text], "clip")
    table: Tensor = getattr(model, "text_model", model).embeddings.token_embedding.weight
    return table[ids]


def test_vectors_of_words_give_what_the_words_give(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sd1")
    file = tmp_path / f"{NAME}.safetensors"
    save_file({"emb_params": words(original.text[0], "small dog").clone()}, file)
    texts = ["a (small dog:1.3), cat", f"a ({NAME}:1.3), cat"]
    expected, got = encode(Bundle("cpu"), [knowing(text_call(path, text), learned(file)) for text in texts])
    assert_close(got.context, expected.context)
    assert (expected.embeddings, got.embeddings) == ((), (NAME,))


def test_sdxl_has_vectors_for_each_encoder(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sdxl")
    file = tmp_path / f"{NAME}.safetensors"
    own = [words(model, "small dog").clone() for model in original.text]
    save_file({"clip_l": own[0], "clip_g": own[1]}, file)
    calls = [knowing(text_call(path, f"a {word}"), learned(file)) for word in ("small dog", NAME)]
    expected, got = encode(Bundle("cpu"), calls)
    assert expected.vector is not None
    assert got.vector is not None
    assert_close(got.context, expected.context)
    assert_close(got.vector, expected.vector)


def test_an_embedding_of_another_width_is_plain_text(checkpoint: Write, tmp_path: Path) -> None:
    path, original = checkpoint("sd1")
    wide, double = tmp_path / f"{NAME}.safetensors", tmp_path / "doublexyz.safetensors"
    width = words(original.text[0], "a").shape[1]
    save_file({"emb_params": random(1, width + 1)}, wide)
    save_file({"clip_l": random(1, width), "clip_g": random(1, width)}, double)
    text = f"a {NAME} doublexyz"
    bundle = Bundle("cpu")
    (plain,) = encode(bundle, [text_call(path, text)])
    (got,) = encode(bundle, [knowing(text_call(path, text), learned(wide), learned(double))])
    assert torch.equal(got.context, plain.context)
    assert got.embeddings == ()


def test_only_embeddings_that_a_text_names_are_read_and_bad_ones_fail_alone(
    checkpoint: Write, tmp_path: Path
) -> None:
    path, _ = checkpoint("sd1")
    bad = tmp_path / f"{NAME}.safetensors"
    bad.write_bytes(b"damaged")
    missing = Embedding("missingxyz", str(tmp_path / "missingxyz.pt"))
    texts = ["a cat", f"a {NAME}", "missingxyz"]
    good, *others = Bundle("cpu").run(
        [knowing(text_call(path, text), learned(bad), missing) for text in texts]
    )
    assert isinstance(good, Conditioning)
    assert [type(other) for other in others] == [UnreadableCheckpoint, UnreadableCheckpoint]
    assert bad.name in str(others[0])


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    files = EmbeddingFiles(allow_pickle=False)
    save_file({"a": random(1, 4)}, file)
    first = files.read(str(file))
    assert files.read(str(file)) is first
    save_file({"a": random(3, 4)}, file)
    assert (first.count, files.read(str(file)).count) == (1, 3)


PARAMETERS = nn.ParameterDict({"*": nn.Parameter(random(2, 4))})
PICKLES: list[tuple[str, object]] = [
    ("a1111.pt", {"string_to_token": {"*": 265}, "string_to_param": {"*": random(2, 4)}, "step": 3}),
    ("original.pt", {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": PARAMETERS}),
    ("diffusers.bin", {"<cat-toy>": random(2, 4)}),
]


@pytest.mark.parametrize(("name", "content"), PICKLES)
def test_pickles_are_read_if_that_is_allowed(tmp_path: Path, name: str, content: object) -> None:
    torch.save(content, tmp_path / name)
    (tensor,) = read_vectors(tmp_path / name, allow_pickle=True).tensors
    assert_close(tensor, random(2, 4))
    with pytest.raises(UnsupportedCheckpoint, match="pickle"):
        read_vectors(tmp_path / name, allow_pickle=False)


def test_a_single_vector_may_lack_its_first_side(tmp_path: Path) -> None:
    torch.save({"<cat-toy>": random(4).half()}, tmp_path / "x.bin")
    (tensor,) = read_vectors(tmp_path / "x.bin", allow_pickle=True).tensors
    assert (tensor.shape, tensor.dtype) == ((1, 4), torch.float32)


@pytest.mark.parametrize("content", [{"a": 1}, {"a": random(1, 2), "b": random(1, 2)}, [1], {}, os.path.join])
def test_other_pickles_are_no_embeddings(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint):
        read_vectors(tmp_path / "x.pt", allow_pickle=True)


CARRIED = {"string_to_param": {"*": {"TORCHTENSOR": [[1.0, 2.5], [3.0, -4.0]]}}, "name": "carried"}


def test_a_picture_carries_an_embedding_in_its_text(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("sd-ti-embedding", base64.b64encode(json.dumps(CARRIED).encode()).decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=text)
    (tensor,) = read_vectors(tmp_path / "x.png", allow_pickle=False).tensors
    assert tensor.tolist() == [[1.0, 2.5], [3.0, -4.0]]


def hidden(content: bytes, rows: int) -> Image.Image:
    """The format's own drawing, written apart from its reader: low halves, black, high halves."""
    packed = zlib.compress(content)
    packed += bytes(-len(packed) % (rows * 3))
    numbers, masks = 0, []
    for _ in packed:
        numbers = (numbers * 1664525 + 1013904223) & 0xFFFFFFFF
        masks.append((numbers % 255) & 15)
    halves = [
        [(byte >> shift & 15) ^ mask for byte, mask in zip(packed, masks, strict=True)] for shift in (0, 4)
    ]
    low, high = (np.array(half, np.uint8).reshape(rows, -1, 3) | 0x50 for half in halves)
    black = np.zeros((rows, 6, 3), np.uint8)
    return Image.fromarray(np.pad(np.concatenate([low, black, high], axis=1), ((2, 2), (2, 2), (0, 0))))


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_a_picture_carries_an_embedding_in_its_pixels(tmp_path: Path, ending: str) -> None:
    hidden(json.dumps(CARRIED).encode(), rows=7).save(tmp_path / f"x.{ending}", lossless=True)
    (tensor,) = read_vectors(tmp_path / f"x.{ending}", allow_pickle=False).tensors
    assert tensor.tolist() == [[1.0, 2.5], [3.0, -4.0]]


@pytest.mark.parametrize("colour", ["black", "white", "#505050"])
def test_other_pictures_carry_none(tmp_path: Path, colour: str) -> None:
    Image.new("RGB", (9, 9), colour).save(tmp_path / "x.png")
    with pytest.raises(UnreadableCheckpoint):
        read_vectors(tmp_path / "x.png", allow_pickle=False)


ALL = os.environ.get("SDSERVER_GOLDENS")


@pytest.mark.skipif(ALL is None, reason="SDSERVER_GOLDENS does not name the recorded answers")
@pytest.mark.parametrize(
    ("group", "checkpoint_name", "used"),
    [("sd15", "tiny-sd15", True), ("sd2v", "tiny-sd2-v", True), ("sdxl", "tiny-sdxl", False)],
)
def test_recorded_texts_with_embeddings(group: str, checkpoint_name: str, used: bool) -> None:
    root = Path(str(ALL))
    files = sorted((root / "checkpoints" / "embeddings").iterdir())
    model = Model(
        str(root / "checkpoints" / f"{checkpoint_name}.safetensors"),
        embeddings=tuple(learned(file) for file in files),
    )
    cases = json.loads((root / "tensors" / group / "conditioning.json").read_text())
    bundle = Bundle("cpu", "fp32", allow_pickle=True)
    found = 0
    with np.load(root / "tensors" / group / "conditioning.npz") as recorded:
        for key in (key for key in cases if key.startswith("ti")):
            name = f"{key}|learned0"
            expected = torch.tensor(recorded[name if name in recorded else f"{name}|crossattn"])
            call = text_call(
                Path(model.checkpoint), cases[key]["prompt"], clip_skip=int(key.split("|")[1][2:])
            )
            (got,) = encode(bundle, [replace(call, model=model)])
            torch.testing.assert_close(got.context, expected.reshape(got.context.shape), atol=3e-5, rtol=1e-4)
            found += bool(got.embeddings)
    assert bool(found) == used
