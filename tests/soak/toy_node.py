"""The real server with a toy for an engine: its own process, its own pipe, and pictures that cost little."""

import sys

from sdserver.__main__ import main
from sdserver.engine import supervisor
from tests.soak import toy_entry

supervisor.entry = toy_entry  # type: ignore[assignment]

if __name__ == "__main__":
    sys.exit(main())
