"""Models that operators have the server fetch, by the operator's key alone."""

import hashlib
import hmac
from typing import Annotated, Final

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest

from sdserver.api.auth.attempts import Attempts, key_of
from sdserver.api.auth.middleware import client_of
from sdserver.api.downloads import MAX_ADDRESS, Downloads, DownloadState, ModelKind
from sdserver.api.errors import JsonResponse
from sdserver.api.json_body import JsonRoute
from sdserver.api.services import Services

HEADER: Final = "X-Admin-Key"
NOT_SERVED: Final = (
    "Models are not downloaded here: start the server with --admin-key to let operators do that."
)


class DownloadRequest(BaseModel):
    """POST /v1/models/downloads."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    url: Annotated[str, Field(max_length=MAX_ADDRESS)] = Field(description="an https, http or hf address")
    kind: ModelKind = "checkpoint"
    sha256: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")] = Field(
        "", description="64 hex digits that the file must have; empty for any"
    )


class DownloadResponse(BaseModel):
    """A download."""

    id: str
    address: str = Field(description="without what may be secret")
    kind: ModelKind
    state: DownloadState
    file: str = Field(description="its name, as far as known")
    bytes_done: int
    bytes_total: int | None
    bytes_per_s: float
    eta_s: float | None
    error: str | None


class DownloadList(BaseModel):
    """GET /v1/models/downloads."""

    downloads: list[DownloadResponse] = Field(description="the newest first")


def download_routes(services: Services) -> APIRouter:
    """All routes below /v1/models/downloads."""
    config = services.config

    async def refresh() -> None:
        await services.in_thread(services.catalog.refresh)
        await services.in_thread(services.networks.refresh)

    downloads = Downloads(config.fetch_model, refresh) if config.fetch_model else None
    if downloads is not None:
        config.closing.then(downloads.close)
    operator = _Operator(config.admin_key)

    def only_operators(http: HttpRequest) -> Downloads:
        """The downloads, for those who have the key."""
        operator.check(http)
        if downloads is None:
            raise HTTPException(404, NOT_SERVED)
        return downloads

    router = APIRouter(prefix="/v1/models/downloads", tags=["models"], route_class=JsonRoute)
    _add_routes(router, Depends(only_operators))
    return router


def _add_routes(router: APIRouter, known: Downloads) -> None:
    @router.post("", status_code=202, response_model=DownloadResponse)
    async def begin(body: DownloadRequest, downloads: Downloads = known) -> JsonResponse:
        """Fetch a model into the folder of its kind. One at a time; the lists know it when it is there."""
        if downloads.is_busy:
            raise HTTPException(409, "Another file is being downloaded: wait for it, or cancel it.")
        return JsonResponse(downloads.begin(body.url, body.kind, body.sha256).view(), 202)

    @router.get("", response_model=DownloadList)
    async def listed(downloads: Downloads = known) -> JsonResponse:
        """The last downloads, the newest first."""
        return JsonResponse({"downloads": [download.view() for download in downloads.all()]})

    @router.delete("/{download_id}", response_model=DownloadResponse)
    async def delete(download_id: str, downloads: Downloads = known) -> JsonResponse:
        """Cancel a download, or forget one that ended. What came is kept, for another try."""
        download = downloads.find(download_id)
        if download is None:
            raise HTTPException(404, "There is no such download: it is not remembered (any more).")
        if download.state == "running":
            await downloads.cancel(download)
        else:
            downloads.forget(download)
        return JsonResponse(download.view())


class _Operator:
    """Knows the operator's key by its digest.

    Args:
        digest: SHA-256; None where there is no key, and nobody may do anything.
    """

    def __init__(self, digest: bytes | None) -> None:
        self._digest = digest
        self._attempts = Attempts()

    def check(self, http: HttpRequest) -> None:
        """See that a request has the key.

        Raises:
            HTTPException: there is no key, it has another or none, or wrong ones came too often.
        """
        if self._digest is None:
            raise HTTPException(404, NOT_SERVED)
        client = key_of(client_of(http.scope), b"")
        wait = self._attempts.wait(client)
        if wait:
            message = f"Too many wrong keys: try again in {wait} s."
            raise HTTPException(429, message, {"Retry-After": str(wait)})
        given = hashlib.sha256(http.headers.get(HEADER, "").encode("latin-1", "replace")).digest()
        if hmac.compare_digest(given, self._digest):
            self._attempts.succeeded(client)
            return
        if HEADER in http.headers:
            self._attempts.failed(client)
        raise HTTPException(403, f"The header {HEADER} must hold the key of --admin-key.")
