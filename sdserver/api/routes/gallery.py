"""The saved pictures: listed, sought, sent, packed, deleted."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response, StreamingResponse

from sdserver.api.errors import JsonResponse
from sdserver.api.json_body import JsonRoute
from sdserver.api.services import Services
from sdserver.errors import InvalidField
from sdserver.images.gallery import Gallery, Shown

MAX_LISTED: Final = 500
MAX_PACKED: Final = 1000
MAX_SEARCH: Final = 1000
_PRIVATE: Final = {"Cache-Control": "private, no-cache"}
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "A file"}
}
_ZIP: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A zip",
    }
}


class GalleryPicture(BaseModel):
    """A saved picture."""

    name: str = Field(description="below the folder outputs, with slashes")
    time: str = Field(description="when it was saved, ISO 8601 in UTC")
    size: int = Field(description="bytes")
    width: int = Field(description="0 where the file cannot be read")
    height: int
    infotext: str | None


class GalleryPage(BaseModel):
    """GET /v1/gallery."""

    pictures: list[GalleryPicture] = Field(description="the newest first")
    after: str | None = Field(description="to be asked for to see more; null at the end")


class Packed(BaseModel):
    """POST /v1/gallery/zip."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    names: Annotated[list[str], Field(min_length=1, max_length=MAX_PACKED)]


def gallery_routes(services: Services) -> APIRouter:
    """All routes below /v1/gallery."""
    router = APIRouter(prefix="/v1/gallery", tags=["gallery"], route_class=JsonRoute)
    gallery = Gallery(services.config.data_dir / "outputs")

    @router.get("", response_model=GalleryPage)
    async def listed(search: str = "", limit: int = 60, after: str | None = None) -> JsonResponse:
        """The saved pictures, the newest first; those alone whose infotext or name has all words of `search`.

        A page may hold fewer than `limit`, even none, before the end: `after` tells.
        """
        if not 1 <= limit <= MAX_LISTED:
            raise InvalidField("limit", f"'limit' must be from 1 to {MAX_LISTED}.")
        if len(search) > MAX_SEARCH:
            raise InvalidField("search", f"'search' must have at most {MAX_SEARCH:,} characters.")
        page = await services.in_thread(lambda: gallery.page(search, limit, after))
        return JsonResponse({"pictures": [_picture(shown) for shown in page.shown], "after": page.after})

    @router.get("/files/{name:path}", response_class=Response, responses=_FILE)
    async def file(name: str) -> FileResponse:
        """A saved picture as it is on disk."""
        return FileResponse(await services.in_thread(lambda: gallery.find(name)), headers=_PRIVATE)

    @router.get("/thumbnails/{name:path}", response_class=Response, responses=_FILE)
    async def thumbnail(name: str) -> Response:
        """A saved picture as WebP, at most 256 pixels a side."""
        content = await services.in_thread(lambda: gallery.thumbnail(name))
        return Response(content, media_type="image/webp", headers=_PRIVATE)

    @router.delete("/files/{name:path}")
    async def delete(name: str) -> JsonResponse:
        """Delete a saved picture, and the text file beside it."""
        await services.in_thread(lambda: gallery.remove(name))
        return JsonResponse({"deleted": name})

    @router.post("/zip", response_class=StreamingResponse, responses=_ZIP)
    async def pack(body: Packed) -> StreamingResponse:
        """Saved pictures in one file."""
        parts = await services.in_thread(lambda: gallery.packed(body.names))
        headers = {"Content-Disposition": 'attachment; filename="pictures.zip"', "Cache-Control": "no-store"}
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    return router


def _picture(shown: Shown) -> dict[str, Any]:
    return {
        "name": shown.saved.name,
        "time": datetime.fromtimestamp(shown.saved.modified, UTC).isoformat(timespec="seconds"),
        "size": shown.saved.size,
        "width": shown.width,
        "height": shown.height,
        "infotext": shown.infotext,
    }
