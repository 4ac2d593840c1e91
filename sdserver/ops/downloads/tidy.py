"""What downloads leave behind, removed once the file is there."""

import logging
from pathlib import Path

from sdserver.ops.downloads.lock import owner_if_free

logger = logging.getLogger(__name__)

SUFFIXES = (".part", ".json", ".bad", ".owner")


def tidy(folder: Path, key: str) -> None:
    """Remove what fetching a source left and nobody needs, for its file is there.

    That is what a process left that was killed right after it gave the file its name, and what came of a
    source before a mirror sent the file. What another process works on stays, and so does all if the
    folder cannot be written to.

    Args:
        folder: where the working files are.
        key: the source's.
    """
    leftovers = [folder / f"{key}{suffix}" for suffix in SUFFIXES]
    leftovers += folder.glob(f"{key}.json.*.tmp")
    try:
        if not any(path.exists() for path in leftovers):
            return
        with owner_if_free(folder, key) as is_free:
            for path in leftovers if is_free else ():
                path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("What an unfinished download left is not removed: %s", error)
