"""`python -m sdserver`: read the settings, run the front, end with its exit code."""

import asyncio
import logging
import os
import sys

from sdserver.app.front import Front
from sdserver.errors import SettingsError
from sdserver.settings.help import information
from sdserver.settings.load import load

EXIT_USAGE = 2


def say(line: str) -> None:
    """Print a line at once, also where stdout is a file: launchers wait for some of them."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the server; returns the exit code."""
    argv = sys.argv[1:]
    text = information(argv)
    if text is not None:
        say(text)
        return 0
    try:
        settings = load(argv, os.environ)
        logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        for notice in settings.notices:
            say(notice)

        async def run() -> int:
            return await Front(settings, os.environ, say).run()

        return asyncio.run(run())
    except SettingsError as error:
        sys.stderr.write(f"sdserver: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
