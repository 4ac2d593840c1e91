"""What AUTOMATIC1111's page shows of model files: previews, metadata, cards."""

import base64
import binascii
import html
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import orjson
from fastapi import APIRouter, HTTPException, Query
from PIL import Image
from starlette.responses import Response

from sdserver.api.errors import JsonResponse
from sdserver.api.services import Services
from sdserver.catalog.card_pictures import LARGEST, TYPES, allowed, card_picture, read_picture
from sdserver.catalog.safetensors_header import read_header

_COVERS: Final = "ssmd_cover_images"
_COVER_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
_SAFE: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One card: the name and path of a model's file."""

    name: str
    path: str


def card_routes(services: Services) -> APIRouter:
    """thumb, pictures, cover-images, metadata and get-single-card below /sd_extra_networks."""
    router = APIRouter(prefix="/sd_extra_networks", tags=["cards"])
    networks = services.networks
    pages: Mapping[str, Callable[[], Iterator[Item]]] = {
        "lora": lambda: (Item(file.name, file.path) for file in networks.loras()),
        "checkpoints": lambda: (Item(each.stem, each.filename) for each in services.catalog.all()),
        "hypernetworks": lambda: (Item(file.name, file.path) for file in networks.hypernetworks()),
        "textual inversion": lambda: (Item(file.name, file.path) for file in networks.embeddings()),
    }

    def find(page: str, name: str) -> Item | None:
        items = pages.get(page.replace("_", " ").lower(), lambda: iter(()))()
        return next((item for item in items if item.name == name), None)

    @router.get("/thumb")
    async def thumb(filename: Annotated[str, Query()] = "") -> Response:
        """The picture beside a model's file, by its path; only such pictures."""

        def read() -> bytes | None:
            path = allowed(filename, (item.path for items in pages.values() for item in items()))
            return None if path is None else read_picture(path)

        data = await services.in_thread(read)
        if data is None:
            raise _not_found()
        return Response(data, media_type=TYPES[Path(filename).suffix.lower()], headers=dict(_SAFE))

    @router.get("/pictures")
    async def pictures(page: Annotated[str, Query()] = "") -> JsonResponse:
        """Which of a page's cards have a picture: its path by the card's name, for `thumb`."""

        def look() -> dict[str, str]:
            items = pages.get(page.replace("_", " ").lower(), lambda: iter(()))()
            found = ((item.name, card_picture(item.path)) for item in items)
            return {name: str(picture) for name, picture in found if picture is not None}

        return JsonResponse({"pictures": await services.in_thread(look)})

    @router.get("/cover-images")
    async def cover_images(
        page: Annotated[str, Query()] = "",
        item: Annotated[str, Query()] = "",
        index: Annotated[int, Query()] = 0,
    ) -> Response:
        """A picture that a model's file carries in its metadata."""
        found = find(page, item)
        cover = await services.in_thread(lambda: None if found is None else _cover(found, index))
        if cover is None:
            raise _not_found()
        data, media_type = cover
        return Response(data, media_type=media_type, headers=dict(_SAFE))

    @router.get("/metadata")
    async def metadata(
        page: Annotated[str, Query()] = "", item: Annotated[str, Query()] = ""
    ) -> JsonResponse:
        """What a safetensors file says of itself, as JSON text; nothing if it says nothing."""
        found = find(page, item)
        texts = await services.in_thread(lambda: {} if found is None else _metadata(found))
        shown = {key: _decoded(text) for key, text in texts.items() if key != _COVERS}
        return JsonResponse({"metadata": json.dumps(shown, indent=4, ensure_ascii=False)} if shown else {})

    @router.get("/get-single-card")
    async def get_single_card(
        page: Annotated[str, Query()] = "",
        tabname: Annotated[str, Query()] = "",
        name: Annotated[str, Query()] = "",
    ) -> JsonResponse:
        """One card as HTML; nothing if there is no such model."""
        found = find(page, name)
        if found is None:
            return JsonResponse({})
        picture = await services.in_thread(lambda: card_picture(found.path))
        return JsonResponse({"html": _card(found, tabname, picture)})

    return router


def _not_found() -> HTTPException:
    return HTTPException(404, "File not found")


def _metadata(item: Item) -> Mapping[str, str]:
    """The texts in the header; none where the file is of another kind or damaged. Blocks."""
    path = Path(item.path)
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        return read_header(path).metadata
    except (OSError, ValueError):
        return {}


def _decoded(text: str) -> Any:
    """A JSON object as such, anything else as the text it is."""
    if not text.startswith("{"):
        return text
    try:
        value = orjson.loads(text)
        orjson.dumps(value)  # refuses what is nested too deeply
    except (ValueError, TypeError):
        return text
    return value


def _cover(item: Item, index: int) -> tuple[bytes, str] | None:
    """The bytes and media type of a picture in the metadata. Blocks."""
    try:
        covers = orjson.loads(_metadata(item).get(_COVERS, "[]"))
        if not isinstance(covers, list) or not 0 <= index < len(covers) or not isinstance(covers[index], str):
            return None
        data = base64.b64decode(covers[index])
        if len(data) > LARGEST:
            return None
        with Image.open(io.BytesIO(data), formats=_COVER_FORMATS) as picture:
            return data, str(picture.get_format_mimetype())
    except (ValueError, OSError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        return None


def _card(item: Item, tab: str, picture: Path | None) -> str:
    name = html.escape(item.name)
    source = f"./sd_extra_networks/thumb?filename={quote(str(picture), safe='')}" if picture else ""
    image = f'<img class="preview" loading="lazy" alt="" src="{html.escape(source)}">' if source else ""
    label = f'<span class="name">{name}</span>'
    return f'<div class="card" data-tab="{html.escape(tab)}" data-name="{name}">{image}{label}</div>'
