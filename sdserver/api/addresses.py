"""Pictures that clients name by address instead of sending them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sdserver.api.extras.request import ExtrasRequest, ExtrasSingleImageRequest
from sdserver.api.options import Options
from sdserver.api.outbound import Outbound
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.errors import AddressRefused, InvalidField
from sdserver.images.decode import NOT_FETCHED, FetchedPicture, is_address

R = TypeVar("R", bound=Request)
MAX_ADDRESSES = 16
"""In one request."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Fetches pictures, where the operator allows it. Made once.

    The option `api_enable_requests` forbids it, too, and `api_useragent` is the name that we go by.

    Attributes:
        outbound: None where nothing may be fetched.
        max_bytes: of a request's pictures together.
    """

    outbound: Outbound | None
    options: Options
    max_bytes: int

    async def fetch_pictures(self, request: R) -> R:
        """The request with its pictures fetched. Where it names none by address, it is the same one.

        In the echo the pictures are still the addresses.

        Raises:
            InvalidField: pictures are not fetched here, or one cannot be.
        """
        if not isinstance(request, Img2ImgRequest):
            return request
        texts = [*(request.init_images or ()), *([request.mask] if request.mask else ())]
        if not any(is_address(text) for text in texts):
            return request
        inits = await self.fetch_all(request.init_images or (), "init_images")
        mask = await self.fetch(request.mask, "mask") if request.mask else request.mask
        return request.model_copy(update={"init_images": inits, "mask": mask})

    async def fetch_extras(self, request: ExtrasRequest) -> ExtrasRequest:
        """The same for a request for extras."""
        if isinstance(request, ExtrasSingleImageRequest):
            return request.model_copy(update={"image": await self.fetch(request.image, "image")})
        texts = await self.fetch_all([file.data for file in request.imageList], "imageList")
        files = [
            file.model_copy(update={"data": text})
            for file, text in zip(request.imageList, texts, strict=True)
        ]
        return request.model_copy(update={"imageList": files})

    async def fetch(self, text: str, field: str) -> str:
        """One picture's text, with the picture where it is an address.

        Args:
            text: as the client sent it.
            field: the request's field, for the error.

        Raises:
            InvalidField: pictures are not fetched here, or this one cannot be.
        """
        (fetched,) = await self.fetch_all([text], field)
        return fetched

    async def fetch_all(self, texts: Sequence[str], field: str) -> list[str]:
        """Several pictures' texts, as `fetch` does; they have the limit of bytes together."""
        if sum(is_address(text) for text in texts) > MAX_ADDRESSES:
            message = f"A request may name at most {MAX_ADDRESSES} pictures by address: send them as base64."
            raise InvalidField(field, message)
        fetched: list[str] = []
        left = self.max_bytes
        for text in texts:
            if is_address(text):
                picture = await self._fetched(text, field, left)
                left -= len(picture.data)
                fetched.append(picture)
            else:
                fetched.append(text)
        return fetched

    async def _fetched(self, address: str, field: str, max_bytes: int) -> FetchedPicture:
        if self.outbound is None:
            raise InvalidField(field, NOT_FETCHED)
        options = self.options.snapshot()
        if not options.flag("api_enable_requests"):
            message = (
                "Requests not allowed: the option 'api_enable_requests' is off in config.json. Send the "
                "picture itself as base64."
            )
            raise InvalidField(field, message)
        try:
            data = await self.outbound.get_picture(
                address, max_bytes=max_bytes, user_agent=options.text("api_useragent")
            )
        except AddressRefused as error:
            raise InvalidField(field, str(error)) from None
        return FetchedPicture.of(address, data)
