"""Who may pass: every route asks, each kind of credential does, sessions and their limits."""

import asyncio
import base64
import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from sdserver.api.auth.attempts import Attempts, key_of
from sdserver.api.auth.gate import Gate, Refusal, Visitor
from sdserver.api.auth.middleware import OPEN_PATHS, RequireLogin
from sdserver.api.auth.origin import is_own_page
from sdserver.api.auth.sessions import Sessions
from sdserver.api.config import ApiConfig
from tests.api.asgi import FORM, Answer, App, asked

USERS = (("ann", "a:b:c"), ("bøb", "pässwörd€"))
KEY = "sk-0123456789abcdef"
KEYS = (hashlib.sha256(KEY.encode()).digest(),)


def basic(user: str, password: str, encoding: str = "utf-8") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> App:
    return App(tmp_path_factory.mktemp("data"), users=USERS, api_keys=KEYS)


# Every route


def test_every_route_needs_a_login(guarded: App) -> None:
    routes = guarded.routes()
    assert len(routes) > 60
    opened = {(method, path) for method, path in routes if guarded.ask(method, path, body=b"[").status != 401}
    assert opened == {(method, path) for method, path in routes if path in OPEN_PATHS}
    assert {"/health", "/internal/ping", "/login", "/web/style.css", "/web/icon.svg"} == OPEN_PATHS
    for path in ("/nope", "/docs/", "/login/", "//login", "/file=/etc/passwd", "/web/../login", "/Login"):
        assert guarded.ask("GET", path).status == 401, path
    assert guarded.ended == []


@pytest.mark.parametrize("kind", ["basic", "key", "session"])
@pytest.mark.parametrize(("user", "password"), USERS)
def test_each_credential_opens_every_route(guarded: App, kind: str, user: str, password: str) -> None:
    headers = {
        "basic": lambda: basic(user, password),
        "key": lambda: {"Authorization": f"Bearer {KEY}"},
        "session": lambda: cookie(guarded.login(user, password)),
    }[kind]()
    shut = [route for route in guarded.routes() if route[1] != "/logout"]
    shut = [route for route in shut if guarded.ask(*route, headers, body=b"[").status == 401]
    assert shut == []
    assert set(guarded.ended) == {"kill", "stop"}
    guarded.ended.clear()


def cookie(answer: Answer) -> dict[str, str]:
    assert answer.status == 200
    return {"Cookie": f"other=1; access-token-unsecure={answer.cookies['access-token-unsecure']}"}


def test_one_valid_credential_is_enough_whatever_else_is_sent(guarded: App) -> None:
    session = cookie(guarded.login(*USERS[0]))
    assert guarded.ask("GET", "/user", session | {"Authorization": "Basic "}).status == 200
    assert guarded.ask("GET", "/user", session | basic("ann", "wrong")).status == 200
    stale = {"Cookie": "access-token=stale; access-token-unsecure=stale"}
    assert guarded.ask("GET", "/user", stale).status == 401
    assert guarded.ask("GET", "/user", stale | basic(*USERS[0])).status == 200


# Basic and keys


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_passwords_come_in_utf_8_or_latin_1(tmp_path: Path, encoding: str) -> None:
    app = App(tmp_path, users=(("ann", "pässwörd"),))
    assert app.ask("GET", "/user", basic("ann", "pässwörd", encoding)).status == 200
    decomposed = unicodedata.normalize("NFD", "pässwörd")
    assert app.ask("GET", "/user", basic("ann", decomposed)).status == 200
    assert app.ask("GET", "/user", basic("ann", "password", encoding)).status == 401


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ("", "Not authenticated"),
        ("Basic", "Not authenticated"),
        ("Basic ", "Not authenticated"),
        ("Digest x", "Not authenticated"),
        ("Basic !!!", "Invalid authentication credentials"),
        ("Basic YW5u", "Invalid authentication credentials"),
        ("Basic YW5uOmE=", "Incorrect username or password"),
        (f"Bearer {KEY}x", "Incorrect API key"),
        (f"Bearer {KEYS[0].hex()}", "Incorrect API key"),
        ("Bearer ü", "Incorrect API key"),
    ],
)
def test_refusals_say_why_and_ask(guarded: App, header: str, detail: str) -> None:
    answer = guarded.ask("GET", "/sdapi/v1/samplers", {"Authorization": header})
    assert answer.status == 401
    assert json.loads(answer.body) == {"error": "HTTPException", "detail": detail, "body": "", "errors": ""}
    asked = answer.headers.getlist("www-authenticate")
    assert asked == ['Basic realm="sdserver", charset="UTF-8"', 'Bearer realm="sdserver"']


@pytest.mark.parametrize("header", [{"X-Requested-With": "fetch"}, {"Accept": "text/event-stream"}])
def test_the_page_is_refused_without_a_question_that_the_browser_would_ask_first(
    tmp_path: Path, header: dict[str, str]
) -> None:
    with_form, without = (App(tmp_path, users=USERS, login_page=has_form) for has_form in (True, False))
    answer = with_form.ask("GET", "/sdapi/v1/samplers", header)
    assert (answer.status, answer.headers.getlist("www-authenticate")) == (401, [])
    assert with_form.ask("GET", "/sdapi/v1/samplers").headers.getlist("www-authenticate") != []
    assert without.ask("GET", "/sdapi/v1/samplers", header).headers.getlist("www-authenticate") != []


def test_keys_alone_guard_too_and_users_alone_take_no_key(tmp_path: Path) -> None:
    keys = App(tmp_path, api_keys=KEYS)
    assert keys.ask("GET", "/docs").headers.getlist("www-authenticate") == ['Bearer realm="sdserver"']
    assert keys.ask("GET", "/docs", {"Authorization": f"bearer {KEY}"}).status == 200
    assert keys.login("ann", "a:b:c").status == 400
    users = App(tmp_path, users=USERS)
    answer = users.ask("GET", "/docs", {"Authorization": f"Bearer {KEY}"})
    assert (answer.status, json.loads(answer.body)["detail"]) == (401, "Not authenticated")


@pytest.mark.parametrize("header", ["", "Basic ", "Basic !!!", "Bearer x", "\xff"])
def test_no_header_is_refused_without_a_login(tmp_path: Path, header: str) -> None:
    headers = {"Authorization": header, "Cookie": "access-token=x"}
    assert App(tmp_path).ask("GET", "/sdapi/v1/options", headers).status == 200


def test_websockets_are_guarded_too(guarded: App) -> None:
    scope = {"type": "websocket", "path": "/queue/join", "headers": [], "client": ("10.0.0.1", 1)}
    passed: list[str] = []

    async def inner(_scope: Any, _receive: Any, _send: Any) -> None:
        passed.append("in")

    gate = RequireLogin(inner, Gate(USERS, KEYS), login_page=False)
    assert asyncio.run(asked(gate, scope, b"")) == [{"type": "websocket.close", "code": 1008}]
    key = [(b"authorization", f"Bearer {KEY}".encode())]
    assert asyncio.run(asked(gate, scope | {"headers": key}, b"")) == []
    assert passed == ["in"]


# The form


@pytest.mark.parametrize(("user", "password"), USERS)
def test_login_as_automatic1111s_clients_do_it(guarded: App, user: str, password: str) -> None:
    answer = guarded.login(user, password)
    assert (answer.status, json.loads(answer.body)) == (200, {"success": True})
    assert set(answer.cookies) == {"access-token", "access-token-unsecure"}
    for line in answer.headers.getlist("set-cookie"):
        assert {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=604800"} <= set(line.split("; "))
        assert ("Secure" in line) == line.startswith("access-token=")
    secure = guarded.login(user, password, scheme="https").headers.getlist("set-cookie")
    assert all("; Secure" in line for line in secure)
    assert json.loads(guarded.ask("GET", "/user", cookie(answer)).body) == user
    assert json.loads(guarded.ask("GET", "/login_check", cookie(answer)).body) is None
    told = guarded.ask("GET", "/token", cookie(answer)).body
    assert json.loads(told) == {"token": None, "user": user}


def test_a_wrong_login(guarded: App) -> None:
    for user, password in (("ann", "a"), ("nobody", "a:b:c"), ("", ""), ("ANN", "a:b:c")):
        answer = guarded.login(user, password)
        assert (answer.status, json.loads(answer.body)) == (400, {"detail": "Incorrect credentials."})
        assert answer.cookies == {}


def test_a_form_in_latin_1_or_raw_utf_8(tmp_path: Path) -> None:
    app = App(tmp_path, users=(("ann", "pässwörd"),))
    for body in (b"username=ann&password=p%E4ssw%F6rd", "username=ann&password=pässwörd".encode()):
        assert app.ask("POST", "/login", FORM, body).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"username=ann", 422), (b"{", 422), (b"a&" * 30 + b"=&" * 30, 422), (b"x" * 17_000, 413)],
)
def test_what_is_no_login_form(guarded: App, body: bytes, status: int) -> None:
    assert guarded.ask("POST", "/login", FORM, body).status == status


def test_without_a_login_configured_the_form_leads_to_the_page(tmp_path: Path) -> None:
    answer = App(tmp_path, subpath="/sd").login("a", "b")
    assert (answer.status, answer.headers["location"], answer.cookies) == (302, "/sd/", {})


def test_logging_out_ends_the_session(guarded: App) -> None:
    session = cookie(guarded.login(*USERS[0]))
    other = cookie(guarded.login(*USERS[0]))
    assert guarded.ask("POST", "/logout", session).status == 200
    assert guarded.ask("GET", "/user", session).status == 401
    assert guarded.ask("GET", "/user", other).status == 200


def test_browsers_are_sent_to_the_form_and_back(tmp_path: Path) -> None:
    app = App(tmp_path, users=USERS, login_page=True, subpath="/sd")
    browser = {"Accept": "text/html,*/*"}
    sent = app.ask("GET", "/", browser)
    assert (sent.status, sent.headers["location"]) == (303, "/sd/login")
    page = app.ask("GET", "/sd/login", browser)
    assert page.status == 200
    assert b'action="login"' in page.body
    assert b"<script" not in page.body
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    wrong = app.login("ann", "x", headers=browser)
    assert (wrong.status, wrong.headers["location"]) == (303, "/sd/login#wrong")
    right = app.login(*USERS[0], headers=browser)
    assert (right.status, right.headers["location"]) == (303, "/sd/")
    assert "Path=/sd/" in right.headers["set-cookie"]
    for method, accept in (("GET", "*/*"), ("POST", "text/html")):
        assert app.ask(method, "/sdapi/v1/options", {"Accept": accept}).status == 401
    assert App(tmp_path, users=USERS).ask("GET", "/", browser).status == 401


# Where cookies count


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [
        ("POST", {}, True),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, True),
        ("GET", {"Sec-Fetch-Site": "none"}, True),
        ("POST", {"Sec-Fetch-Site": "same-site"}, False),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, False),
        ("GET", {"Sec-Fetch-Site": "same-site"}, False),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, False),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            True,
        ),
        (
            "POST",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            False,
        ),
        ("POST", {"Origin": "http://sd.example"}, True),
        ("POST", {"Origin": "http://sd.example:81"}, False),
        ("POST", {"Origin": "https://evil.example"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Origin": "http://["}, False),
        ("POST", {"Origin": "https://public.example", "X-Forwarded-Host": "public.example"}, True),
    ],
)
def test_cookies_count_for_our_own_pages_alone(
    guarded: App, method: str, headers: dict[str, str], counts: bool
) -> None:
    assert is_own_page(method, Headers({"Host": "sd.example", **headers})) == counts
    session = cookie(guarded.login(*USERS[0]))
    path = "/user" if method == "GET" else "/sdapi/v1/interrupt"
    assert (guarded.ask(method, path, session | headers).status == 200) == counts


def test_cors_does_not_lend_sessions(tmp_path: Path) -> None:
    app = App(tmp_path, users=USERS, cors_allow_origins=("https://ally.example",))
    session = cookie(app.login(*USERS[0]))
    ally = {"Origin": "https://ally.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert app.ask("GET", "/user", session | ally).status == 401
    assert app.ask("GET", "/user", basic(*USERS[0]) | ally).status == 200


# Limits


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_failed_logins_wait_without_locking_others_out(guarded: App) -> None:
    tries = [guarded.ask("GET", "/user", basic("eve", "x"), client="10.9.9.9").status for _ in range(25)]
    assert tries == [401] * 20 + [429] * 5
    told = guarded.login("eve", "x", client="10.9.9.9")
    assert told.status == 429
    assert 1 <= int(told.headers["retry-after"]) <= 60
    assert guarded.login("eve", "x", client="10.9.9.8").status == 400
    assert guarded.ask("GET", "/user", basic(*USERS[0]), client="10.9.9.9").status == 200
    assert guarded.login(*USERS[1], client="10.9.9.9").status == 200
    assert guarded.ask("GET", "/user", {"Authorization": f"Bearer {KEY}"}, client="10.9.9.9").status == 200


def test_a_guessed_password_does_not_pass_while_its_name_must_wait() -> None:
    clock = Clock()
    gate = Gate(USERS, (), clock=clock)
    for _ in range(20):
        assert gate.login("ann", "x", "10.0.0.1") == Refusal("Incorrect username or password")
    assert gate.login("ann", "a:b:c", "10.0.0.1") == Refusal("Too many failed logins; try again in 60 s.", 60)
    assert gate.login("ann", "a:b:c", "10.0.0.2") == Visitor("ann")
    clock.now += 60
    assert gate.login("ann", "a:b:c", "10.0.0.1") == Visitor("ann")
    assert gate.login("ann", "x", "10.0.0.1").__class__ is Refusal


def test_what_is_remembered_of_failures_is_bounded() -> None:
    clock = Clock()
    attempts = Attempts(allowed=2, window=10, most=100, clock=clock)
    keys = [key_of("10.0.0.1", str(number).encode()) for number in range(1000)]
    for key in keys:
        attempts.failed(key)
    assert len(attempts) == 100
    attempts.failed(keys[-1])
    assert (attempts.wait(keys[-1]), attempts.wait(keys[-2])) == (10, 0)
    attempts.succeeded(keys[-1])
    assert attempts.wait(keys[-1]) == 0
    assert len(key_of("x" * 999, b"y" * 999)[1]) <= 64


def test_an_ipv6_client_is_its_network() -> None:
    assert key_of("2001:db8::1", b"a") == key_of("2001:db8::ffff:1", b"a")
    assert key_of("2001:db8::1", b"a") != key_of("2001:db8:0:1::1", b"a")
    assert key_of("::ffff:10.0.0.1", b"a") != key_of("::ffff:10.0.0.2", b"a")


def test_sessions_end_and_are_bounded() -> None:
    clock = Clock()
    sessions = Sessions(lifetime=10, most=3, clock=clock)
    tokens = [sessions.open(str(number)) for number in range(4)]
    assert [sessions.user(token) for token in tokens] == [None, "1", "2", "3"]
    assert min(len(token) for token in tokens) == 43
    clock.now += 10
    assert [sessions.user(token) for token in tokens] == [None] * 4
    sessions.open("x")
    assert len(sessions) == 1
    assert sessions.user("x" * 10_000) is None
    assert tokens[1] not in repr(vars(sessions))


def test_the_gate_keeps_no_secret_in_clear() -> None:
    kept = repr(vars(Gate(USERS, KEYS)))
    assert [secret for secret in ("a:b:c", "pässwörd", KEY) if secret in kept] == []
    assert "a:b:c" not in repr(ApiConfig(Path(), "x", users=USERS, api_keys=KEYS))
