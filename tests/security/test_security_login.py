"""How long a refused login takes says nothing, by what is done for it."""

import base64
import hmac
from pathlib import Path

import pytest

from sdserver.api.auth import gate
from tests.api.asgi import App

USERS = (("alice", "a long password"), ("böb", "another one"))
ENCODINGS = ("utf-8", "latin-1")


@pytest.mark.parametrize(
    "given", ["alice:wrong", "nobody:wrong", "alice:", ":", "böb:x", "alice:a long passw"]
)
def test_the_same_is_compared_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """All digests, of one length, each time: no name and no beginning of a password changes that."""
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    app = App(tmp_path, users=USERS)
    monkeypatch.setattr(gate, "hmac", type("Counting", (), {"compare_digest": staticmethod(compare)}))
    header = "Basic " + base64.b64encode(given.encode()).decode()
    assert app.ask("GET", "/sdapi/v1/options", {"Authorization": header}).status == 401
    assert compared == [(32, 32)] * (len(ENCODINGS) * len(USERS))
