"""Configurations of networks in folders: JSON that was written elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path

from sdserver.errors import UnreadableCheckpoint

Json = Mapping[str, object]

_MAX_JSON = 1 << 20


def read_json(path: Path) -> Json:
    """The object in a configuration file.

    Raises:
        UnreadableCheckpoint: the file is missing, damaged, too long or holds no object.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise UnreadableCheckpoint(f"{path} is longer than {_MAX_JSON} bytes: it is no configuration.")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{path} cannot be read, download the folder again: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableCheckpoint(f"{path} is no configuration: it holds no object.")
    return content
