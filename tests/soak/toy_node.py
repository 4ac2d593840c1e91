"""The real server with a toy for an engine: its own process, its own pipe, and pictures that cost little."""

import sys

import toy_process

from sdserver.__main__ import main
from sdserver.engine import supervisor

supervisor.entry = toy_process  # type: ignore[assignment]

if __name__ == "__main__":
    sys.exit(main())
