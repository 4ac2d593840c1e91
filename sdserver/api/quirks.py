"""The switch `--a1111-quirks`: AUTOMATIC1111's status where it fails over a bad request.

With it, three things that are errors here are guessed as there: an unknown sampler is DPM++ 2M, an
unknown schedule Automatic, an override of the checkpoint that names none is ignored (an unknown VAE
is the checkpoint's own).
"""

from typing import Final

from sdserver import errors

SERVER_ERROR: Final = 500

KEPT_FIELDS: Final = frozenset({"alwayson_scripts", "script_name"})
"""Fields that AUTOMATIC1111 checks itself: an error in them has the same status there."""


def a1111_status(error: Exception, status: int) -> int:
    """The status that AUTOMATIC1111 answers with where we answer `status`.

    | error | there |
    | --- | --- |
    | a script that is not there | 422, as here |
    | no picture to begin with | 404, as here |
    | a body that is too large, a full queue, an id that is taken | as here: it has no limits |
    | any other bad request | 500, for it fails somewhere inside |
    """
    if not isinstance(error, errors.RequestError):
        return status
    if isinstance(error, errors.BodyTooLarge | errors.TaskExists):
        return status
    if isinstance(error, errors.InvalidField) and error.field in KEPT_FIELDS:
        return status
    return SERVER_ERROR
