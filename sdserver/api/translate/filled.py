"""The request field `infotext` fills in what the client did not send."""

from sdserver.api.infotext_field import fill
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.translate.plan import Sources
from sdserver.errors import InvalidField

PROMPTS = 4
"""That an infotext may hold."""


def filled(request: Request, sources: Sources) -> Request:
    """The request with the fields and options that its infotext says; what the client sent goes before.

    Raises:
        InvalidField: a value in the text is of the wrong kind, or the text is too long.
    """
    if not request.infotext:
        return request
    most = PROMPTS * sources.config.limits.max_prompt
    if len(request.infotext) > most:
        raise InvalidField("infotext", f"The field 'infotext' is too long: at most {most:,} characters.")
    found = fill(
        request.infotext,
        "img2img" if isinstance(request, Img2ImgRequest) else "txt2img",
        request.model_fields_set,
        sources.options.snapshot(),
        sources.config.styles,
        lambda name: sources.checkpoints.find_close(name).title,
    )
    asked = request.override_settings or {}
    added = {key: value for key, value in found.overrides.items() if key not in asked}
    return request.model_copy(update={**found.fields, "override_settings": {**asked, **added}})
