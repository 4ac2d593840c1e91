"""`python -m tests.soak.downloader SOURCE FOLDER [--sha256 D] [--silence S] [--backoff S] [--progress N]`.

A process of its own that has a checkpoint as the node has it, by `fetch`, and prints where it is. Ends with
1, and the reason on its standard error, if it cannot be had.
"""

import argparse
import sys
import threading
from pathlib import Path

from sdserver.errors import DownloadError
from sdserver.ops.downloads.fetch import fetch
from sdserver.ops.downloads.limits import Limits


def main() -> int:
    """Run it; the exit code."""
    usual = Limits()
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sha256")
    parser.add_argument("--silence", type=float, default=usual.silence)
    parser.add_argument("--backoff", type=float, default=usual.last_backoff)
    parser.add_argument("--progress", type=int, default=usual.progress)
    given = parser.parse_args()
    limits = Limits(
        silence=given.silence,
        first_backoff=min(usual.first_backoff, given.backoff),
        last_backoff=given.backoff,
        progress=given.progress,
        spare=0,
        poll=0.1,
    )
    try:
        path = fetch(
            [given.source],
            given.folder,
            sha256=given.sha256,
            tokens={},
            progress=lambda _: None,
            cancelled=threading.Event(),
            limits=limits,
        )
    except DownloadError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
