"""Routes that fail as OpenAI's do: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sdserver.api.errors import JsonResponse, status_of
from sdserver.api.failure import INTERNAL
from sdserver.errors import InvalidField, Refused, SdServerError, UnknownCheckpoint

log = logging.getLogger(__name__)

PARAMETERS: Final[Mapping[str, str]] = {
    "batch_size": "n",
    "n_iter": "n",
    "width": "size",
    "height": "size",
    "init_images": "image",
    "sd_model_checkpoint": "model",
}
"""What our fields are called there; all others have one name."""


class OpenAIRoute(APIRoute):
    """Answers whatever is raised in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler with its errors caught."""
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001 - answered and logged
                return error_answer(error)

        return guarded


def error_answer(error: Exception) -> Response:
    """The error in OpenAI's shape; what is 422 elsewhere is 400 there."""
    headers: dict[str, str] = {}
    parameter: str | None = None
    code: str | None = None
    match error:
        case RequestValidationError():
            first = error.errors()[0]
            is_json = first["type"] != "json_invalid"
            parameter = ".".join(str(part) for part in first["loc"][1:] if is_json) or None
            status, message = 400, f"{parameter or 'The body'}: {first['msg']}"
        case InvalidField():
            parameter = PARAMETERS.get(error.field, error.field)
            status, message = 400, str(error)
        case SdServerError():
            status, message = status_of(error), str(error)
            status = 400 if status == 422 else status
            if isinstance(error, UnknownCheckpoint):
                parameter, code = "model", "model_not_found"
            if isinstance(error, Refused):
                headers["Retry-After"] = str(error.retry_after)
        case HTTPException():
            status, message = error.status_code, str(error.detail)
        case _:
            log.error("a request failed unexpectedly", exc_info=error)
            status, message = 500, INTERNAL
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
    return JsonResponse(body, status, headers)
