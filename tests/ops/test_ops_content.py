"""safetensors headers that lie, and names that want out of their folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from sdserver.errors import DownloadError
from sdserver.ops.downloads.content import START, check_safetensors, check_start
from sdserver.ops.downloads.names import safe_name, suggested_name


def raw(header: Any, data: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def tensor(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_what_the_library_writes_is_accepted(tmp_path: Path) -> None:
    arrays = {
        "a": np.zeros((3, 5), np.float32),
        "b": np.zeros((0, 4), np.float16),
        "c": np.array(1.0, np.float64),
        "d": np.ones(7, np.bool_),
    }
    data = save(arrays, metadata={"format": "pt"})
    (tmp_path / "m").write_bytes(data)
    check_safetensors(tmp_path / "m")
    check_start(data[:START], "host")
    for size in (0, 4, 8, 20, len(data) - 1):
        (tmp_path / "m").write_bytes(data[:size])
        with pytest.raises(DownloadError):
            check_safetensors(tmp_path / "m")
    (tmp_path / "m").write_bytes(data + b"x")
    with pytest.raises(DownloadError, match="bytes of tensors"):
        check_safetensors(tmp_path / "m")


@pytest.mark.parametrize(
    "content",
    [
        raw({"a": tensor(0, 4)}, 5),
        raw({"a": tensor(0, 4), "b": tensor(5, 8)}, 8),  # a hole
        raw({"a": tensor(0, 4), "b": tensor(3, 8)}, 8),  # an overlap
        raw({"a": tensor(1, 4)}, 4),
        raw({"a": tensor(-4, 4, [8])}, 4),
        raw({"a": tensor(4, 0, [4])}, 4),
        raw({"a": tensor(0, 4, [5])}, 4),
        raw({"a": tensor(0, 4, [-2, -2])}, 4),
        raw({"a": tensor(0, 4, [4.0])}, 4),
        raw({"a": tensor(0, 4, ["4"])}, 4),
        raw({"a": tensor(0, 4, [1 << 70])}, 4),
        raw({"a": tensor(0, 4, [2], "F32")}, 4),
        raw({"a": {"dtype": "U8"}}, 4),
        raw({"a": [1]}, 4),
        raw({"__metadata__": {"a": "b"}}, 0),
        raw([1], 4),
        raw(b"[" * 100_000, 4),
        raw(b"{'a': 1}", 4),
        raw(b'{"\xff": 1}', 4),
        (1 << 62).to_bytes(8, "little") + b"{}",
        (100_000_001).to_bytes(8, "little") + b"{}",
    ],
)
def test_lies(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(DownloadError):
        check_safetensors(tmp_path / "m")


def test_a_dtype_of_the_future_is_left_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(raw({"a": tensor(0, 3, [7], "F3")}, 3))
    check_safetensors(tmp_path / "m")


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_without_a_crash(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    with pytest.raises(DownloadError):
        check_safetensors(path)


@given(st.text(max_size=300) | st.text("./\\ -_.a\x00", max_size=40))
def test_a_name_stays_one_harmless_name(text: str) -> None:
    name = safe_name(text, "model-1")
    assert name.endswith(".safetensors")
    assert len(name.encode()) <= 170
    assert Path(name).name == name
    assert name[0] not in ".- "
    assert not set(name) & set("/\\<>\"'&|;$`*?:%\0\n\r")
    assert name.isprintable()
    assert safe_name(name, "model-1") == name


@given(st.text(max_size=100))
def test_any_header_gives_a_harmless_name(text: str) -> None:
    header = text.encode("utf-8", "replace").decode("latin-1")
    for value in (header, f'attachment; filename="{header}"', f"x; filename*={header}"):
        name = suggested_name(value, ("https://a.test/%2e%2e%2fm",), "model-1")
        assert Path(name).name == name
        assert name.endswith(".safetensors")


@pytest.mark.parametrize(
    ("urls", "name"),
    [
        (("https://a.test/x/m.safetensors?y=/z.ckpt",), "m.safetensors"),
        (("https://a.test/api/123", "https://cdn.test/real%20one.safetensors?s=1"), "real one.safetensors"),
        (("https://a.test/api/123", "https://cdn.test/blob"), "123.safetensors"),
        (("https://a.test/",), "model-1.safetensors"),
        (("https://a.test/m.CKPT",), "m.safetensors"),
        (("https://a.test/%2e%2e%2f%2e%2e%2fm.safetensors",), "m.safetensors"),
        (("https://a.test/.safetensors",), "model-1.safetensors"),
    ],
)
def test_names_from_addresses(urls: tuple[str, ...], name: str) -> None:
    assert suggested_name(None, urls, "model-1") == name
