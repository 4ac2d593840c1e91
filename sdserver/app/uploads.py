"""The uploads of saved pictures as the settings want them."""

from collections.abc import Mapping

from sdserver.errors import SettingsError
from sdserver.ops.uploads.spool import Spool
from sdserver.ops.uploads.store import check_store, open_store
from sdserver.ops.uploads.target import parse_target
from sdserver.ops.uploads.uploader import Uploader
from sdserver.settings.model import Settings

MAX_FILES = 100_000
"""That may wait; each takes some 300 bytes of memory."""


def check_uploads(settings: Settings, environ: Mapping[str, str]) -> None:
    """See at the start whether pictures can be uploaded as the settings want.

    Raises:
        SettingsError: a package is missing, or a token would cross the network in clear.
    """
    if settings.upload_url:
        check_store(parse_target(settings.upload_url), environ)


def uploader_of(settings: Settings, environ: Mapping[str, str]) -> Uploader | None:
    """What uploads saved pictures; None where none are to be. Blocks.

    Raises:
        SettingsError: the store's variables make no sense, or the spool's folder cannot be had.
    """
    if not settings.upload_url:
        return None
    target = parse_target(settings.upload_url)
    store = open_store(target, environ, settings.upload_style)
    folder = settings.data_dir / ".cache" / "uploads"
    try:
        spool = Spool(
            folder,
            max_files=MAX_FILES,
            max_bytes=settings.upload_spool_mb * 10**6,
            when_full=settings.upload_when_full,
        )
    except OSError as error:
        raise SettingsError(f"--upload-url needs the folder {folder}: {error.strerror}.") from None
    return Uploader(spool, store, target.shown)
