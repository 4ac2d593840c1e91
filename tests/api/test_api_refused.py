"""By what route requests are counted that are refused before one is found."""

from collections.abc import Callable

import pytest

from tests.api.conftest import Server

FOREIGN = {"Origin": "https://evil.test"}
REFUSED = {
    "/sdapi/v1/txt2img": "/sdapi/v1/txt2img",
    "/v1/images/generations": "/v1/images/generations",
    "/sdapi/v1/options": "refused",
    "/nope/by/a/client": "refused",
}


@pytest.mark.parametrize("path", REFUSED)
def test_requests_without_a_login_count_by_their_work_or_as_refused(
    serve: Callable[..., Server], path: str
) -> None:
    server = serve(users=(("ann", "p:w,1"),))
    assert server.request("POST", path, json={}).status_code == 401
    assert server.reported(1) == [(REFUSED[path], 401)]


@pytest.mark.parametrize("path", REFUSED)
def test_requests_of_foreign_pages_do_too(serve: Callable[..., Server], path: str) -> None:
    server = serve(subpath="/sd")
    assert server.request("POST", f"/sd{path}", json={}, headers=FOREIGN).status_code == 403
    assert server.reported(1) == [(REFUSED[path], 403)]
    assert server.request("GET", "/nope", headers=FOREIGN).status_code == 404
    assert server.reported(2)[1:] == [("unmatched", 404)]
