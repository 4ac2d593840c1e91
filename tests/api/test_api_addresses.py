"""Pictures by address: fetched where the operator allows it, and told back as the client sent them."""

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdserver.api.addresses import MAX_ADDRESSES, Addresses
from sdserver.api.extras.request import ExtrasBatchImagesRequest, ExtrasSingleImageRequest
from sdserver.api.options import Options
from sdserver.api.outbound import Outbound
from sdserver.api.requests import Img2ImgRequest, Txt2ImgRequest
from sdserver.errors import AddressRefused, InvalidField
from sdserver.images.decode import FetchedPicture, decode

ADDRESS = "https://example.com/a.png"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "#102030").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


class Web(Outbound):
    """Answers every address with the same picture."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None, str]] = []

    async def get_picture(self, address: str, *, max_bytes: int | None = None, user_agent: str = "") -> bytes:
        self.asked.append((address, max_bytes, user_agent))
        if "private" in address:
            raise AddressRefused("Request to local resource not allowed: no.")
        return PNG


def addresses(tmp_path: Path, web: Web | None, **options: Any) -> Addresses:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(options))
    return Addresses(web, Options(path), max_bytes=1000)


def fetched(found: Addresses, **fields: Any) -> Img2ImgRequest:
    return asyncio.run(found.fetch_pictures(Img2ImgRequest.model_validate(fields)))


def test_pictures_and_mask_are_fetched_and_echoed_as_sent(tmp_path: Path) -> None:
    web = Web()
    plain = base64.b64encode(PNG).decode()
    found = addresses(tmp_path, web, api_useragent="me")
    request = fetched(found, init_images=[plain, ADDRESS, "HTTP://x.test/b"], mask=ADDRESS)
    assert request.init_images is not None
    for text, field in [*((each, "init_images") for each in request.init_images), (request.mask, "mask")]:
        assert decode(text, field, 100).size == (4, 4)
    assert request.model_dump()["init_images"] == [plain, ADDRESS, "HTTP://x.test/b"]
    assert request.model_dump()["mask"] == ADDRESS
    assert [(address, agent) for address, _, agent in web.asked] == [
        (ADDRESS, "me"),
        ("HTTP://x.test/b", "me"),
        (ADDRESS, "me"),
    ]


def test_the_pictures_of_a_request_share_a_limit(tmp_path: Path) -> None:
    web = Web()
    fetched(addresses(tmp_path, web), init_images=[ADDRESS] * 3)
    assert [limit for _, limit, _ in web.asked] == [1000, 1000 - len(PNG), 1000 - 2 * len(PNG)]


def test_requests_without_addresses_are_left_alone(tmp_path: Path) -> None:
    found = addresses(tmp_path, None)
    for request in (Txt2ImgRequest(prompt=ADDRESS), Img2ImgRequest(init_images=["abcd"], prompt=ADDRESS)):
        assert asyncio.run(found.fetch_pictures(request)) is request


@pytest.mark.parametrize("field", ["init_images", "mask"])
def test_where_it_is_off_the_error_says_how_to_turn_it_on(tmp_path: Path, field: str) -> None:
    fields: dict[str, Any] = {"init_images": ["abcd"]} | {field: ADDRESS if field == "mask" else [ADDRESS]}
    with pytest.raises(InvalidField, match="--image-urls") as caught:
        fetched(addresses(tmp_path, None), **fields)
    assert caught.value.field == field


def test_the_option_forbids_it_too(tmp_path: Path) -> None:
    web = Web()
    with pytest.raises(InvalidField, match="api_enable_requests"):
        fetched(addresses(tmp_path, web, api_enable_requests=False), init_images=[ADDRESS])
    assert web.asked == []


def test_what_cannot_be_fetched_names_its_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="local resource") as caught:
        fetched(addresses(tmp_path, Web()), init_images=["abcd"], mask="http://private.test/")
    assert caught.value.field == "mask"


def test_the_number_of_addresses_is_bounded(tmp_path: Path) -> None:
    web = Web()
    with pytest.raises(InvalidField, match=f"at most {MAX_ADDRESSES}"):
        fetched(addresses(tmp_path, web), init_images=[ADDRESS] * (MAX_ADDRESSES + 1))
    assert web.asked == []


def test_extras(tmp_path: Path) -> None:
    found = addresses(tmp_path, Web())
    single = asyncio.run(found.fetch_extras(ExtrasSingleImageRequest(image=ADDRESS)))
    assert isinstance(single, ExtrasSingleImageRequest)
    assert decode(single.image, "image", 100).size == (4, 4)
    files = [{"data": "abcd", "name": "a"}, {"data": ADDRESS, "name": "b"}]
    batch = asyncio.run(found.fetch_extras(ExtrasBatchImagesRequest.model_validate({"imageList": files})))
    assert isinstance(batch, ExtrasBatchImagesRequest)
    assert [file.name for file in batch.imageList] == ["a", "b"]
    assert batch.imageList[0].data == "abcd"
    assert decode(batch.imageList[1].data, "imageList", 100).size == (4, 4)


def test_one_text(tmp_path: Path) -> None:
    found = addresses(tmp_path, Web())

    async def both() -> Sequence[str]:
        return [await found.fetch("abcd", "image"), await found.fetch(ADDRESS, "image")]

    plain, picture = asyncio.run(both())
    assert plain == "abcd"
    assert isinstance(picture, FetchedPicture)
    assert picture.data == PNG
