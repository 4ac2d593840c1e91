"""LoRA files: their metadata, and which file a prompt's tag means."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.safetensors_header import read_header

log = logging.getLogger(__name__)

COVERS_KEY = "ssmd_cover_images"
"""Pictures in base64, too large for a list."""

ALIAS_KEY = "ss_output_name"
HASH_KEY = "sshs_model_hash"

_FORBIDDEN_ALIASES: Final = frozenset({"none", "addams"})
_LEADING_KEYS: Final = (
    "ss_sd_model_name",
    "ss_resolution",
    "ss_clip_skip",
    "ss_num_train_images",
    "ss_tag_frequency",
)
_HASH = re.compile(r"[0-9a-f]{64}")


class Loras:
    """The LoRAs in A1111's order, with its rules for names.

    Args:
        files: in the order they were found; of two of one name the later counts.
    """

    def __init__(self, files: Iterable[NetworkFile]) -> None:
        found = list(files)
        by_name: dict[str, NetworkFile] = {}
        by_alias: dict[str, NetworkFile] = {}
        forbidden = set(_FORBIDDEN_ALIASES)
        for file in found:
            if file.alias in by_alias:
                forbidden.add(file.alias.lower())
            by_name[file.name] = file
            by_alias[file.name] = file
            by_alias[file.alias] = file
        self.all = tuple(by_name.values())
        self._by_name = by_name
        self._by_alias = by_alias
        self._forbidden = frozenset(forbidden)

    def find(self, name: str) -> NetworkFile | None:
        """The file that a tag names by its file name or, where that is not ambiguous, by its alias."""
        names = self._by_name if name.lower() in self._forbidden else self._by_alias
        return names.get(name)


def describe_lora(path: Path) -> NetworkFile:
    """The entry of a file. One whose header cannot be understood has no metadata, with a warning.

    Raises:
        OSError: it cannot be read.
    """
    texts: Mapping[str, str] = {}
    if path.name.lower().endswith(".safetensors"):
        try:
            texts = read_header(path).metadata
        except ValueError as error:
            log.warning("the metadata of %s cannot be read: %s", path, error)
    stated = texts.get(HASH_KEY, "").lower()
    return NetworkFile(
        "lora",
        path.stem,
        str(path),
        texts.get(ALIAS_KEY, path.stem),
        stated if _HASH.fullmatch(stated) else None,
        MappingProxyType(_shown(texts)),
    )


def _shown(texts: Mapping[str, str]) -> dict[str, Any]:
    """The metadata as A1111 shows it: a few keys first, JSON objects decoded, no pictures."""
    keys = [key for key in _LEADING_KEYS if key in texts]
    keys += [key for key in texts if key not in _LEADING_KEYS and key != COVERS_KEY]
    return {key: _decoded(texts[key]) for key in keys}


def _decoded(text: str) -> Any:
    if not text.startswith("{"):
        return text
    try:
        value = orjson.loads(text)
        # What is nested so deeply that an answer could not hold it stays text.
        orjson.dumps([{"": {"": value}}])
    except (ValueError, TypeError):
        return text
    return value
