"""Files that survive a crash: written whole, or not at all."""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from sdserver.errors import DownloadError
from sdserver.ops.downloads.limits import GIB

PASSING = ".tmp"
WRITES = 5


def write_json(path: Path, fields: Mapping[str, object]) -> None:
    """Replace a small file atomically, and remove what killed processes left of it.

    To be called by who holds a lock on the file. Where locks do not keep others out, one process may
    remove what another is about to move into place: that one writes it again.
    """
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{PASSING}"):
        leftover.unlink(missing_ok=True)
    for tries_left in reversed(range(WRITES)):
        try:
            _replace(path, fields)
        except FileNotFoundError:
            if not tries_left:
                raise
        else:
            break
    sync_folder(path.parent)


def _replace(path: Path, fields: Mapping[str, object]) -> None:
    passing = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PASSING}")
    try:
        with passing.open("w", encoding="utf-8") as file:
            json.dump(fields, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, object]:
    """A file's JSON object; an empty one where there is none or it is damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_space(folder: Path, needed: int, spare: int) -> None:
    """
    Raises:
        DownloadError: fewer than `needed + spare` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + spare:
        raise DownloadError(
            f"The disk of {folder} has {free / GIB:.1f} GiB free, but the download needs "
            f"{needed / GIB:.1f} GiB and {spare / GIB:.1f} GiB must stay; make room or use another disk."
        )


def boot_id() -> str | None:
    """What changes whenever the machine starts anew, where the system tells it (Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
