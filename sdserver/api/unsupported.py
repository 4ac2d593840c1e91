"""What AUTOMATIC1111 would act on and this version cannot: refused clearly, never ignored."""

from sdserver.api.always_on import always_on
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.errors import InvalidField


def check_request(request: Request) -> None:
    """See that nothing is asked which would silently be left out.

    Raises:
        InvalidField: names the field and what to do.
    """
    always_on(request)
    # AUTOMATIC1111 takes the next two as text, never decodes them, and fails where it would use them.
    if isinstance(request, Img2ImgRequest):
        if request.mask and request.latent_mask:
            raise _unsupported("latent_mask")
    elif request.enable_hr and request.firstpass_image:
        raise _unsupported("firstpass_image")


def _unsupported(field: str) -> InvalidField:
    return InvalidField(field, f"The field {field!r} is not supported by this version: leave it out.")
