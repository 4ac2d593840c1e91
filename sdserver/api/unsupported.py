"""What AUTOMATIC1111 would act on and this version cannot: refused clearly, never ignored."""

from sdserver.api.always_on import always_on
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.errors import InvalidField, MissingModel


def check_request(request: Request, *, quirks: bool = False) -> None:
    """See that nothing is asked which would silently be left out.

    Args:
        request: the client's.
        quirks: leave faces as they are, as AUTOMATIC1111 does without a network for them.

    Raises:
        InvalidField: names the field and what to do.
        MissingModel: faces are to be restored.
    """
    always_on(request)
    if request.restore_faces and not quirks:
        message = (
            "Faces cannot be restored, for neither CodeFormer nor GFPGAN is there: leave 'restore_faces' out."
        )
        raise MissingModel(message)
    # AUTOMATIC1111 takes the next two as text, never decodes them, and fails where it would use them.
    if isinstance(request, Img2ImgRequest):
        if request.mask and request.latent_mask:
            raise _unsupported("latent_mask")
    elif request.enable_hr and request.firstpass_image:
        raise _unsupported("firstpass_image")


def _unsupported(field: str) -> InvalidField:
    return InvalidField(field, f"The field {field!r} is not supported by this version: leave it out.")
