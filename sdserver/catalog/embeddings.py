"""Textual inversions: what their files say, and which checkpoint they fit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from sdserver.catalog.embedding_picture import ENDINGS, is_preview, read_carried
from sdserver.catalog.pickle_header import Other, TensorShape, read_pickle
from sdserver.catalog.safetensors_header import Shape, read_header
from sdserver.catalog.scan import is_pickle

_TOKEN_TABLE: Final = "token_embedding.weight"  # noqa: S105 - a tensor's name
_TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2")
_MAX_CONFIG_BYTES = 2**20
_LIMIT = 2**63
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class EmbeddingFacts:
    """A textual inversion as `GET /sdapi/v1/embeddings` describes it.

    Attributes:
        step: of its training.
        sd_checkpoint, sd_checkpoint_name: old hash and name of what it was trained on.
        shape: width of its vectors; for SDXL of both encoders together.
        vectors: how many tokens it takes.
    """

    step: int | None
    sd_checkpoint: str | None
    sd_checkpoint_name: str | None
    shape: int
    vectors: int


def read_embedding(path: Path) -> EmbeddingFacts:
    """What a file says of itself; its tensors are not read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no textual inversion.
    """
    content = _content(path)
    if not isinstance(content, Mapping):
        raise ValueError("it holds no dictionary")
    shape, vectors = _size(content)
    return EmbeddingFacts(
        _whole(content.get("step")),
        _text(content.get("sd_checkpoint")),
        _text(content.get("sd_checkpoint_name")),
        shape,
        vectors,
    )


def is_picture(path: Path) -> bool:
    """Whether the file is a picture, which may carry a textual inversion."""
    return path.name.lower().endswith(ENDINGS)


def carried_name(path: Path) -> str | None:
    """The name of the textual inversion that a picture carries, as it says inside, else the file's.

    None if it carries none, as previews do; one is told by its name, `<name>.preview.png`, too.

    Raises:
        OSError: it cannot be read.
        ValueError: what it carries is damaged.
    """
    carried = None if is_preview(path) else read_carried(path, _listed_shape)
    if carried is None:
        return None
    _size(carried)
    name = (_text(carried.get("name")) or "").strip()
    return name[:_LONGEST_NAME] or path.stem


def text_width(checkpoint: Path) -> int | None:
    """Width of the vectors that a checkpoint's prompts are made of; None if the file does not tell.

    Two encoders' widths are added, as A1111 does for SDXL.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    if checkpoint.is_dir():
        widths = [_configured_width(checkpoint / name / "config.json") for name in _TEXT_ENCODERS]
        return sum(widths) or None
    tables = (
        shape for name, shape in _tensors(checkpoint) if name.endswith(_TOKEN_TABLE) and len(shape) == 2
    )
    return sum(shape[1] for shape in tables) or None


def _content(path: Path) -> Any:
    """Tensors as their shapes, and whatever else the file says."""
    if is_picture(path):
        return read_carried(path, _listed_shape)
    return read_pickle(path) if is_pickle(path) else read_header(path).shapes


def _listed_shape(numbers: Any) -> Shape:
    """The shape of a tensor that is written as nested lists."""
    shape: list[int] = []
    while isinstance(numbers, list):
        shape.append(len(numbers))
        numbers = numbers[0] if numbers else None
    return tuple(shape)


def _size(content: Mapping[str, Any]) -> tuple[int, int]:
    """Width and number of the vectors, by A1111's rules for the kinds of files."""
    parameters = content.get("string_to_param")
    if parameters is not None:
        return _of_one(_parameters(parameters))
    first, second = _shape(content.get("clip_l")), _shape(content.get("clip_g"))
    if first and second:
        return first[-1] + second[-1], second[0] if len(second) > 1 else 1
    return _of_one(content)


def _of_one(content: Any) -> tuple[int, int]:
    values = list(content.values()) if isinstance(content, Mapping) else []
    shape = _shape(values[0]) if len(values) == 1 else None
    if not shape or len(shape) > 2:
        raise ValueError("it holds no textual inversion")
    return shape[-1], shape[0] if len(shape) == 2 else 1


def _parameters(value: Any) -> Any:
    """The dictionary inside torch's ParameterDict."""
    if isinstance(value, Other) and isinstance(value.state, dict):
        return value.state.get("_parameters")
    return value


def _shape(value: Any) -> Shape | None:
    match value:
        case TensorShape(shape):
            return shape
        case tuple():
            return value
        case _:
            return None


def _tensors(checkpoint: Path) -> Iterable[tuple[str, Shape]]:
    if not is_pickle(checkpoint):
        return read_header(checkpoint).shapes.items()
    content = read_pickle(checkpoint)
    inner = content.get("state_dict", content) if isinstance(content, dict) else {}
    items = inner.items() if isinstance(inner, dict) else ()
    return ((str(name), value.shape) for name, value in items if isinstance(value, TensorShape))


def _configured_width(config: Path) -> int:
    if not config.is_file() or config.stat().st_size > _MAX_CONFIG_BYTES:
        return 0
    content = orjson.loads(config.read_bytes())
    width = content.get("hidden_size") if isinstance(content, dict) else None
    return width if type(width) is int and width > 0 else 0


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < _LIMIT else None


def _text(value: Any) -> str | None:
    """A text that JSON can hold: pickles may have halves of characters."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
