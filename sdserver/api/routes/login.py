"""Logging in and out with a form, as AUTOMATIC1111's page does, and who is logged in."""

from typing import Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from sdserver.api.auth.gate import COOKIES, Gate, Refusal, Visitor, tokens_in
from sdserver.api.auth.middleware import VISITOR, client_of
from sdserver.api.auth.sessions import LIFETIME
from sdserver.api.errors import JsonResponse
from sdserver.errors import BodyTooLarge, InvalidField

LONGEST_FORM: Final = 16_384
_WRONG: Final = "Incorrect credentials."
_FIELDS: Final = ("username", "password")
_FORM: Final = {
    "application/x-www-form-urlencoded": {
        "schema": {
            "type": "object",
            "required": list(_FIELDS),
            "properties": {field: {"type": "string"} for field in _FIELDS},
        }
    }
}


def login_routes(gate: Gate) -> APIRouter:
    """login, logout, login_check, user, token."""
    router = APIRouter(tags=["login"])

    @router.post("/login", openapi_extra={"requestBody": {"content": _FORM}})
    async def login(request: Request) -> Response:
        """Log in with a form's username and password; the answer sets cookies."""
        if gate.is_open:
            return RedirectResponse(f"{_root(request)}/", 302)
        user, password = _credentials(await _form(request))
        judged = gate.login(user, password, client_of(request.scope))
        is_page = "text/html" in request.headers.get("accept", "")
        if isinstance(judged, Refusal):
            return _refused(request, judged, is_page=is_page)
        token = gate.sessions.open(judged.user or "")
        response = _to_page(request, "/") if is_page else JsonResponse({"success": True})
        _set_cookies(request, response, token)
        return response

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        """End the session whose cookies the request has."""
        for token in tokens_in(request.headers):
            gate.sessions.close(token)
        response = JsonResponse({"success": True})
        for name in COOKIES:
            response.delete_cookie(name, path=f"{_root(request)}/")
        return response

    @router.get("/login_check")
    async def login_check() -> JsonResponse:
        """Null for whoever is logged in; others do not get here."""
        return JsonResponse(None)

    @router.get("/user")
    async def user(request: Request) -> JsonResponse:
        """The name of who is logged in, null for a key or where no login is asked for."""
        return JsonResponse(_visitor(request).user)

    @router.get("/token")
    async def token(request: Request) -> JsonResponse:
        """The same; unlike AUTOMATIC1111's it does not tell the token, which scripts must not see."""
        return JsonResponse({"token": None, "user": _visitor(request).user})

    return router


async def _form(request: Request) -> dict[str, list[str]]:
    """The body's fields.

    Raises:
        BodyTooLarge: nobody has such a name and password.
        InvalidField: it is no form.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise BodyTooLarge(f"A login has at most {LONGEST_FORM:,} bytes.")
    try:
        # What is not UTF-8 stays as it is: a password may come in latin-1.
        text = body.decode("utf-8", "surrogateescape")
        return parse_qs(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=20)
    except ValueError:
        raise InvalidField("username", "Send username and password as an urlencoded form.") from None


def _credentials(form: dict[str, list[str]]) -> tuple[str, str]:
    for field in _FIELDS:
        if field not in form:
            raise InvalidField(
                field, f"{field} is missing: send username and password as an urlencoded form."
            )
    return form["username"][-1], form["password"][-1]


def _refused(request: Request, refusal: Refusal, *, is_page: bool) -> Response:
    if is_page:
        return _to_page(request, "/login#wait" if refusal.wait else "/login#wrong")
    if refusal.wait:
        return JsonResponse({"detail": refusal.detail}, 429, {"Retry-After": str(refusal.wait)})
    return JsonResponse({"detail": _WRONG}, 400)


def _to_page(request: Request, path: str) -> Response:
    return RedirectResponse(f"{_root(request)}{path}", 303, {"Cache-Control": "no-store"})


def _set_cookies(request: Request, response: Response, token: str) -> None:
    is_https = request.scope.get("scheme") == "https"
    for name, is_secure in zip(COOKIES, (True, is_https), strict=True):
        response.set_cookie(
            name,
            token,
            max_age=LIFETIME,
            path=f"{_root(request)}/",
            secure=is_secure,
            httponly=True,
            samesite="lax",
        )


def _visitor(request: Request) -> Visitor:
    visitor = request.scope.get(VISITOR)
    return visitor if isinstance(visitor, Visitor) else Visitor()


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))
