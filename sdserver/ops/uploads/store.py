"""The stores that pictures can be sent to: buckets by obstore, others by plain HTTP."""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from sdserver.errors import SettingsError
from sdserver.ops.uploads.failure import UploadFailure, failure_of
from sdserver.ops.uploads.http_put import HttpPut
from sdserver.ops.uploads.target import Target

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

Style = Literal["path", "virtual"]
TOKEN: Final = "UPLOAD_URL_TOKEN"  # noqa: S105 - the name of the variable that holds it
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
CONNECT_SECONDS: Final = 10
SILENCE_SECONDS: Final = 60
STATUS: Final = re.compile(r"status code: ([0-9]{3})")
TIMED_OUT: Final = re.compile(r"kind: Timeout|TimedOut|operation timed out")


class Store(Protocol):
    """Takes objects; nothing else is asked of it."""

    async def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store an object, whole or not at all; once more changes nothing.

        Raises:
            UploadFailure: it is not stored, or not known to be.
        """

    async def close(self) -> None:
        """Let go of connections."""


def check_store(target: Target, environ: Mapping[str, str]) -> None:
    """See at the start that the target can be spoken to, without speaking to it.

    Raises:
        SettingsError: a package is missing, or a token would cross the network in clear.
    """
    if target.service != "http":
        if find_spec("obstore") is None:
            raise SettingsError(
                f"--upload-url {target.service}:// needs the package obstore: "
                "run `python3 scripts/bootstrap.py install upload` or `pip install 'sdserver[upload]'`."
            )
        return
    parts = urlsplit(target.url)
    if not re.fullmatch("[!-~]*", environ.get(TOKEN, "")):
        raise SettingsError(f"{TOKEN} must be visible ASCII characters alone.")
    if environ.get(TOKEN) and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise SettingsError(f"{TOKEN} would cross the network in clear; give --upload-url with https.")


def open_store(target: Target, environ: Mapping[str, str], style: Style = "path") -> Store:
    """The store behind a target. Keys and endpoints of buckets come from the environment's usual names.

    Args:
        target: where.
        environ: the process's environment; obstore reads the process's own.
        style: whether an S3 bucket stands in the path or before the host.

    Raises:
        SettingsError: the environment's values make no sense.
    """
    if target.service == "http":
        return HttpPut(target, environ.get(TOKEN, ""))
    return Bucket(_bucket(target, environ, style))


class Bucket:
    """A bucket of S3, GCS or Azure.

    Args:
        store: obstore's; it must not try again by itself.
    """

    def __init__(self, store: "ObjectStore") -> None:
        self._store = store

    async def put(self, key: str, data: bytes, media_type: str) -> None:
        """See `Store`."""
        from obstore import put_async  # noqa: PLC0415 - an extra
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            # In one request: parts of an upload that was cut would stay, unseen, and be paid for.
            await put_async(
                self._store, key, data, attributes={"Content-Type": media_type}, use_multipart=False
            )
        except (BaseError, OSError, ValueError) as error:
            raise explained(str(error)) from None

    async def close(self) -> None:
        """See `Store`: nothing is left to do."""
        await asyncio.sleep(0)


def explained(text: str) -> UploadFailure:
    """What obstore's error means. Its text holds the address, the answer and a dump: none of it is shown."""
    status = STATUS.search(text)
    if status is not None:
        return failure_of(int(status[1]), text)
    if TIMED_OUT.search(text):
        return UploadFailure("timeout")
    if "redential" in text:
        return UploadFailure("denied", "no credentials")
    return UploadFailure("unreachable")


def _bucket(target: Target, environ: Mapping[str, str], style: Style) -> "ObjectStore":
    from obstore.exceptions import BaseError  # noqa: PLC0415 - an extra
    from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415

    endpoint = next((environ[name] for name in ENDPOINTS if environ.get(name)), "")
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://") or environ.get("AZURE_ALLOW_HTTP", "").lower() == "true",
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=SILENCE_SECONDS),
        # The whole of it is bounded by the uploader.
        "timeout": timedelta(hours=1),
    }
    retry: RetryConfig = {"max_retries": 0}
    common: dict[str, Any] = {
        "prefix": target.prefix or None,
        "client_options": client,
        "retry_config": retry,
    }
    try:
        if target.service == "gs":
            return GCSStore(target.bucket, **common)
        if target.service == "az":
            return AzureStore(target.bucket, **common)
        return S3Store(target.bucket, **common, **s3_address(target.bucket, endpoint, style))
    except (BaseError, ValueError) as error:
        kind = type(error).__name__
        raise SettingsError(
            f"The environment's variables for {target.service}:// are not understood ({kind}); "
            "docs/uploads.md names them."
        ) from None


def s3_address(bucket: str, endpoint: str, style: Style) -> dict[str, Any]:
    """How obstore is told where an S3 bucket is.

    It wants the bucket in an endpoint of its own style, which the usual variables do not have.
    """
    if style == "path":
        return {"endpoint": endpoint} if endpoint else {}
    if not endpoint:
        return {"virtual_hosted_style_request": True}
    parts = urlsplit(endpoint)
    own = parts.netloc if parts.netloc.startswith(f"{bucket}.") else f"{bucket}.{parts.netloc}"
    return {"endpoint": f"{parts.scheme}://{own}{parts.path}", "virtual_hosted_style_request": True}
