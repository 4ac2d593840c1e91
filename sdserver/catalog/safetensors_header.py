"""The header of a safetensors file: metadata, and the tensors' shapes. The tensors are not read.

Source: the format's description, https://huggingface.co/docs/safetensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

MAX_HEADER_BYTES = 32 * 2**20
"""Longer ones are refused; those of the largest checkpoints take 1 MB."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        metadata: texts by name; entries that are no texts are left out.
        shapes: of the tensors, by name.
    """

    metadata: Mapping[str, str]
    shapes: Mapping[str, Shape]


def read_header(path: Path) -> Header:
    """Read a file's header.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no sound header; the message says why.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {length} bytes")
        text = stream.read(length)
    if len(text) < length:
        raise ValueError("it ends within its header")
    content = orjson.loads(text)
    if not isinstance(content, dict):
        raise ValueError("its header is no JSON object")
    metadata = content.pop(_METADATA, None)
    texts = metadata if isinstance(metadata, dict) else {}
    return Header(
        {key: value for key, value in texts.items() if isinstance(value, str)},
        {name: shape for name, entry in content.items() if (shape := _shape(entry)) is not None},
    )


def _shape(entry: Any) -> Shape | None:
    match entry:
        case {"shape": list(sides)} if all(type(side) is int and side >= 0 for side in sides):
            return tuple(sides)
        case _:
            return None
