"""Textual inversions are described without reading their tensors, and without running their pickles."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sdserver.catalog.embeddings import EmbeddingFacts, read_embedding, text_width
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.catalog.pickle_header import read_pickle

GOLDENS = Path(__file__).parents[1] / "goldens"
EMBEDDINGS = GOLDENS / "checkpoints" / "embeddings"
CHECKPOINT = GOLDENS / "checkpoints" / "tiny-sd15.safetensors"


def saved(path: Path, content: bytes) -> Path:
    """A file as torch saves one, around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


def test_recorded_files_are_described_as_a1111_did(tmp_path: Path) -> None:
    networks = Networks(NetworkFolders(embeddings=(EMBEDDINGS,)), tmp_path / "h.json", allow_pickle=True)
    recorded = json.loads((GOLDENS / "api" / "networks.json").read_text())["embeddings"]
    parted = networks.embeddings_for(str(CHECKPOINT))
    for pairs, expected in ((parted.loaded, recorded["loaded"]), (parted.skipped, recorded["skipped"])):
        assert {file.name: facts for file, facts in pairs} == {
            name: EmbeddingFacts(**row) for name, row in expected.items()
        }
    assert [file.name for file in parted.files] == ["tinyemb", "tinyptemb"]


def test_a_checkpoint_of_unknown_width_takes_all(tmp_path: Path) -> None:
    networks = Networks(NetworkFolders(embeddings=(EMBEDDINGS,)), tmp_path / "h.json", allow_pickle=True)
    assert len(networks.embeddings_for("").loaded) == 4
    assert len(networks.embeddings_for(str(tmp_path / "gone.safetensors")).loaded) == 4


def test_the_width_of_a_folder_is_that_of_its_encoders(tmp_path: Path) -> None:
    for name, width in (("text_encoder", 768), ("text_encoder_2", 1280)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"hidden_size": width}))
    assert text_width(tmp_path) == 2048
    (tmp_path / "text_encoder_2" / "config.json").write_text("[" * 10_000)
    with pytest.raises(ValueError, match="depth"):
        text_width(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_are_understood(tmp_path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    file = tmp_path / "e.pt"
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.zeros(3, 8))}),
        "name": "e",
        "step": 2**80,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "half \ud800",
    }
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    assert read_embedding(file) == EmbeddingFacts(None, None, "half ?", 8, 3)
    torch.save({"<concept>": torch.zeros(8)}, file, _use_new_zipfile_serialization=not legacy)
    assert read_embedding(file) == EmbeddingFacts(None, None, None, 8, 1)


class Bomb:
    """Would make a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "ran"
    bomb = pickle.dumps({"string_to_param": Bomb(target)}, protocol)
    file = saved(tmp_path / "bomb.pt", bomb)
    with pytest.raises(ValueError, match="no textual inversion"):
        read_embedding(file)
    read_pickle(file)
    assert not target.exists()


HOSTILE = {
    "empty": b"",
    "no end": pickle.dumps({}, 2)[:-1],
    "underflow": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "unknown memo": b"\x80\x02h\x05.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "text protocol": pickle.dumps({"a": 1}, 0),
    "too long": b"\x80\x02" + b"N0" * (2 * 2**20) + b"N.",
    "number": pickle.dumps(7, 2),
    "nothing in it": pickle.dumps({}, 2),
    "two": pickle.dumps({"a": 1, "b": 2}, 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_embedding(saved(tmp_path / "e.pt", HOSTILE[name]))
    (tmp_path / "raw.pt").write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=r"\w"):
        read_embedding(tmp_path / "raw.pt")


def test_a_bomb_of_compression_is_not_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(64 * 2**20))
    (tmp_path / "e.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="longer than"):
        read_embedding(tmp_path / "e.pt")


def test_files_that_are_no_embeddings_are_in_neither_list(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    header = json.dumps({"a": {"dtype": "F32", "shape": [-1, 2], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "negative.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    saved(tmp_path / "bad.pt", b"\x80\x02}.")
    networks = Networks(NetworkFolders(embeddings=(tmp_path,)), tmp_path / "h.json", allow_pickle=True)
    parted = networks.embeddings_for("")
    assert (parted.loaded, parted.skipped) == ((), ())
