"""The tree of `sdserver.errors` as HTTP answers, in AUTOMATIC1111's shapes.

| case | status | body |
| --- | --- | --- |
| a body that is not the declared one | 422 | `{"detail": [{loc, msg, type}]}` |
| any other error on purpose | see `STATUS` | `{"error", "detail", "body", "errors"}` |
| anything unexpected | 500 | the same four keys; what went wrong is in the log alone |
| unknown path or method | 404, 405 | `{"detail": text}` |
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import orjson
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response

from sdserver import errors
from sdserver.api.paths import route_path
from sdserver.api.quirks import a1111_status

log = logging.getLogger(__name__)

STATUS: Mapping[type[errors.SdServerError], int] = {
    errors.BodyTooLarge: 413,
    errors.SettingsFrozen: 403,
    errors.TaskExists: 409,
    errors.UnknownSampler: 400,
    errors.UnknownCheckpoint: 404,
    errors.UnknownPicture: 404,
    errors.RequestError: 422,
    errors.Refused: 503,
    errors.NotServed: 501,
    errors.MissingModel: 501,
    errors.SdServerError: 500,
}
"""Each class's status; one that is missing has its nearest ancestor's."""

OWN_ROUTES: Final = "/v1/"
"""AUTOMATIC1111 has no routes there, so it has no quirks in them."""

_HTTP_EXCEPTION = "HTTPException"
_PYDANTIC_1: Mapping[str, tuple[str, str]] = {
    "missing": ("field required", "value_error.missing"),
    "model_type": ("value is not a valid dict", "type_error.dict"),
    "model_attributes_type": ("value is not a valid dict", "type_error.dict"),
    "dict_type": ("value is not a valid dict", "type_error.dict"),
}
_LIMITS: Mapping[str, tuple[str, str, str]] = {
    "greater_than": ("gt", "greater than", "not_gt"),
    "greater_than_equal": ("ge", "greater than or equal to", "not_ge"),
    "less_than": ("lt", "less than", "not_lt"),
    "less_than_equal": ("le", "less than or equal to", "not_le"),
}
_NOT_PERMITTED = "value_error.const"


class JsonResponse(Response):
    """JSON by orjson. Content that is bytes is JSON already."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content)


def four_keys(error: str, detail: str, errors_text: str = "") -> dict[str, str]:
    """AUTOMATIC1111's error body."""
    return {"error": error, "detail": detail, "body": "", "errors": errors_text}


def status_of(error: errors.SdServerError) -> int:
    """The HTTP status for an error of our tree."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def response_of(error: errors.SdServerError, *, quirks: bool = False) -> JsonResponse:
    """The answer to an error of our tree.

    What AUTOMATIC1111 raises on purpose is an `HTTPException` there, and so are our request errors;
    other classes go by their own name.

    Args:
        error: what was raised.
        quirks: answer with AUTOMATIC1111's status.
    """
    text = str(error)
    if isinstance(error, errors.RequestError):
        status = status_of(error)
        return JsonResponse(
            four_keys(_HTTP_EXCEPTION, text), a1111_status(error, status) if quirks else status
        )
    if isinstance(error, errors.Refused):
        headers = {"Retry-After": str(error.retry_after)}
        return JsonResponse(four_keys(type(error).__name__, text), status_of(error), headers)
    return JsonResponse(four_keys(type(error).__name__, text, text), status_of(error))


def install(app: FastAPI, *, quirks: bool = False) -> None:
    """Have the app answer every exception in these shapes.

    Args:
        app: the API.
        quirks: see `api.quirks`.
    """
    app.add_exception_handler(errors.SdServerError, partial(_on_ours, quirks=quirks))
    app.add_exception_handler(StarletteHTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_unexpected)


def _on_ours(request: Request, error: Exception, *, quirks: bool) -> Response:
    assert isinstance(error, errors.SdServerError)  # noqa: S101  # starlette dispatches by class
    is_own_route = route_path(request.scope).startswith(OWN_ROUTES)
    response = response_of(error, quirks=quirks and not is_own_route)
    if response.status_code == 500 and not isinstance(error, errors.RequestError):
        log.error("%s: %s", type(error).__name__, error)
    return response


def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101  # starlette dispatches by class
    # The router's own, for paths and methods it does not know, are plain there too.
    is_routing = error.status_code in (404, 405) and not isinstance(error, HTTPException)
    body: object = {"detail": error.detail}
    if not is_routing:
        body = four_keys(_HTTP_EXCEPTION, str(error.detail))
    return JsonResponse(body, error.status_code, error.headers)


def _on_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # starlette dispatches by class
    return JsonResponse({"detail": [_detail(item) for item in error.errors()]}, 422)


def _on_unexpected(_request: Request, error: Exception) -> Response:
    text = "An internal error; the server's log says more."
    return JsonResponse(four_keys(type(error).__name__, "", text), 500)


def _detail(item: Mapping[str, Any]) -> dict[str, object]:
    """One validation error as pydantic 1 words it, without the input."""
    kind = str(item["type"])
    if kind == "json_invalid":
        message, kind = f"The body is no JSON: {item['ctx']['error']}", "value_error.jsondecode"
    elif kind in _LIMITS:
        return {"loc": list(item["loc"]), **_limit(kind, item["ctx"])}
    elif kind == _NOT_PERMITTED:
        return {"loc": list(item["loc"]), "msg": str(item["msg"]), "type": kind, "ctx": item["ctx"]}
    else:
        message, kind = _PYDANTIC_1.get(kind, (str(item["msg"]), kind))
    return {"loc": list(item["loc"]), "msg": message, "type": kind}


def _limit(kind: str, context: Mapping[str, Any]) -> dict[str, object]:
    """A number out of range as pydantic 1 words it."""
    key, words, suffix = _LIMITS[kind]
    limit = context[key]
    shown = int(limit) if limit == int(limit) else limit
    message = f"ensure this value is {words} {shown}"
    return {"msg": message, "type": f"value_error.number.{suffix}", "ctx": {"limit_value": shown}}
