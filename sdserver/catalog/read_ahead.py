"""Files that will soon be needed, read into the system's cache meanwhile."""

import os
from pathlib import Path


def read_ahead(path: Path) -> None:
    """Ask the system to read a checkpoint's file, or those of its folder, which it does while others work.

    Where the system cannot, or a file is not there, nothing happens: who loads it will say.
    """
    files = [path] if path.is_file() else sorted(path.glob("*/*.safetensors"))
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        except (AttributeError, OSError):
            return  # macOS and Windows have no such call
        finally:
            os.close(descriptor)
