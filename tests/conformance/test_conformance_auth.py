"""A guarded node as operators start it: every way in, no secret out, and its end by its clients."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from node import Node, running

from tests.conformance.conftest import make_data_dir

PASSWORDS = {"ann": "canary:b:c", "bob": "canary,pässwörd€", "cid": "canary3"}
KEY = "canary-0123456789abcdef"
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def basic(user: str) -> dict[str, str]:
    login = f"{user}:{PASSWORDS[user]}".encode()
    return {"Authorization": "Basic " + base64.b64encode(login).decode()}


def key() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a user in the settings file, and files of a user and a key."""
    folder = make_data_dir(tmp_path)
    (folder / "config.toml").write_text(f'api_auth = ["bob:{PASSWORDS["bob"]}"]\n', "utf-8")
    (folder / "users").write_text(f"cid:{PASSWORDS['cid']}\n")
    (folder / "keys").write_text(f"# ours\nsomebody {KEY}\n")
    return folder


def flags(folder: Path) -> tuple[str, ...]:
    return (
        "--gradio-auth", f"ann:{PASSWORDS['ann']}", "--gradio-auth-path", str(folder / "users"),
        "--api-keys-file", str(folder / "keys"), "--api-server-stop", "--log-level", "debug",
    )  # fmt: skip


def test_every_way_in_no_secret_out_and_a_gentle_end(folder: Path) -> None:
    with running(folder, *flags(folder)) as node:
        node.wait_ready()
        assert node.api("GET", "/sdapi/v1/options").status_code == 401
        sent = node.api("GET", "/", headers=BROWSER, allow_redirects=False)
        assert (sent.status_code, sent.headers["Location"]) == (303, "/login")
        ways = [*(basic(user) for user in PASSWORDS), key(), *(session(node, user) for user in PASSWORDS)]
        paths = ("/sdapi/v1/options", "/sdapi/v1/cmd-flags", "/internal/sysinfo", "/config", "/openapi.json")
        for headers in ways:
            for path in paths:
                answer = node.api("GET", path, headers=headers)
                assert answer.status_code == 200, path
                assert "canary" not in answer.text, path
        node.api("GET", "/config", headers={"Authorization": f"Bearer {KEY}x"})
        assert ended_gently(node) == 0
    assert "canary" not in node.stdout + node.stderr


def session(node: Node, user: str) -> dict[str, str]:
    """The cookies of a login, as aiyabot and browsers do it."""
    form = {"username": user, "password": PASSWORDS[user]}
    answer = node.api("POST", "/login", data=form)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    wrong = node.api("POST", "/login", data=form | {"password": "x"})
    assert (wrong.status_code, wrong.json()) == (400, {"detail": "Incorrect credentials."})
    return {"Cookie": f"access-token-unsecure={answer.cookies['access-token-unsecure']}"}


def ended_gently(node: Node) -> int:
    """Have a client end the node while it works on a picture; the exit code."""
    body = {"steps": 100, "width": 64, "height": 64}
    with ThreadPoolExecutor(1) as pool:
        picture = pool.submit(node.api, "POST", "/sdapi/v1/txt2img", json=body, headers=key())
        node.wait_running()
        for _ in range(2):  # the second one must not end it at once
            try:
                answer = node.api("POST", "/sdapi/v1/server-stop", headers=key())
                assert (answer.status_code, answer.text) == (200, "Stopping.")
            except requests.ConnectionError:
                assert not node.accepts
        assert picture.result().status_code == 200
        assert len(picture.result().json()["images"]) == 1
    return node.exit_code()


def test_a_client_may_end_the_process_at_once(folder: Path) -> None:
    with running(folder, "--api-server-stop") as node:
        node.wait_ready()
        assert node.api("POST", "/sdapi/v1/server-restart").status_code == 401
        assert node.api("POST", "/sdapi/v1/server-kill").status_code == 401
        with pytest.raises(requests.ConnectionError):
            node.api("POST", "/sdapi/v1/server-kill", headers=basic("bob"))
        assert node.exit_code() == 0
        assert node.orphans() == []


def test_nobody_may_end_it_unless_the_operator_says_so(node: Node) -> None:
    for name in ("server-kill", "server-stop", "server-restart"):
        answer = node.api("POST", f"/sdapi/v1/{name}", json={})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
