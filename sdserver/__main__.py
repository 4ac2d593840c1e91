"""`python -m sdserver`: read the settings, run the front, end with its exit code."""

import asyncio
import os
import sys

from sdserver.app.front import EXIT_RESTART, Front, secrets_of
from sdserver.app.logs import write_logs
from sdserver.errors import SettingsError
from sdserver.ops.logs import Redactor
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
        write_logs(
            settings.log_level,
            settings.log_format,
            Redactor(secrets_of(settings, os.environ)),
            has_access=settings.access_log,
            has_prompts=settings.log_prompts,
        )
        for notice in settings.notices:
            say(notice)

        async def run() -> int:
            return await Front(settings, os.environ, say).run()

        code = asyncio.run(run())
        if code == EXIT_RESTART:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, as we were begun
        return code
    except SettingsError as error:
        sys.stderr.write(f"sdserver: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
