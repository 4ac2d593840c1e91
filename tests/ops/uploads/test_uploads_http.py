"""Uploads by plain HTTP, and what stores' answers come to."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from fault_proxy import Faults, fault_proxy

from sdserver.errors import SettingsError
from sdserver.ops.uploads.failure import UploadFailure, failure_of
from sdserver.ops.uploads.http_put import HttpPut
from sdserver.ops.uploads.store import check_store, explained, open_store, s3_address
from sdserver.ops.uploads.target import Target, parse_target
from tests.ops.uploads.conftest import PutSite

KEY = "2026-11-21/0123456789abcdef.png"
SECRET = "canary-7f3a"


def put(url: str, data: bytes = b"data", environ: dict[str, str] | None = None) -> UploadFailure | None:
    async def work() -> UploadFailure | None:
        store = open_store(parse_target(url), environ or {})
        try:
            await store.put(KEY, data, "image/png")
        except UploadFailure as failure:
            return failure
        finally:
            await store.close()
        return None

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/base/", f"/base/{KEY}"),
        ("/base", f"/base/{KEY}"),
        ("", f"/{KEY}"),
        (f"/base?token={SECRET}", f"/base/{KEY}?token={SECRET}"),
        ("/x/{key}", f"/x/{KEY}"),
        ("/x/{name}?sig=a%2Fb", "/x/0123456789abcdef.png?sig=a%2Fb"),
    ],
)
def test_where_it_is_put(put_site: PutSite, path: str, expected: str) -> None:
    assert put(put_site.url(path), b"\x00png") is None
    (seen,) = put_site.seen
    assert (seen.path, seen.body) == (expected, b"\x00png")
    assert seen.headers["content-type"] == "image/png"
    assert seen.headers["content-length"] == "4"
    assert "authorization" not in seen.headers


def test_a_token_is_sent_and_does_not_follow_redirects(put_site: PutSite) -> None:
    put_site.answers = [(307, {"Location": put_site.url("/elsewhere")}, b"")]
    failure = put(put_site.url("/"), environ={"UPLOAD_URL_TOKEN": SECRET})
    assert failure is not None
    assert failure.reason == "refused"
    assert [seen.headers["authorization"] for seen in put_site.seen] == [f"Bearer {SECRET}"]


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "", "denied"),
        (403, "SignatureDoesNotMatch", "denied"),
        (403, "RequestTimeTooSkewed", "clock"),
        (404, "NoSuchBucket", "missing"),
        (400, "ExpiredToken", "denied"),
        (400, "RequestTimeout", "timeout"),
        (413, "", "refused"),
        (429, "", "slow_down"),
        (503, "SlowDown", "slow_down"),
        (500, "InternalError", "server"),
        (504, "", "timeout"),
        (302, "", "refused"),
    ],
)
def test_answers(put_site: PutSite, status: int, code: str, reason: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    put_site.answers = [(status, {"Retry-After": "7", "X-Why": SECRET}, body)]
    failure = put(put_site.url(f"/{SECRET}/?t={SECRET}"))
    assert failure is not None
    assert (failure.reason, failure.retry_after) == (reason, 7)
    assert f"({status}{' ' if code else ''}{code})" in str(failure)
    assert SECRET not in str(failure)


@pytest.mark.parametrize(("text", "seconds"), [("x", 0), ("-5", 0), ("1e9", 0), ("99999", 300)])
def test_silly_waits_are_not_kept(put_site: PutSite, text: str, seconds: float) -> None:
    put_site.answers = [(503, {"Retry-After": text}, b"x" * 100_000)]
    failure = put(put_site.url("/"))
    assert failure is not None
    assert failure.retry_after == seconds


@pytest.mark.parametrize(
    "faults",
    [
        Faults(down=True),
        Faults(cut_after=5000),
        Faults(cut_after=5000, reset=True),
        Faults(cut_answer_after=10),
        Faults(cut_answer_after=0, reset=True),
    ],
)
def test_broken_connections_are_failures(put_site: PutSite, faults: Faults) -> None:
    with fault_proxy(put_site.port, faults) as proxy:
        failure = put(f"http://127.0.0.1:{proxy.port}/{SECRET}", bytes(100_000))
        assert failure is not None
        assert failure.reason == "unreachable"
        assert SECRET not in str(failure)
        proxy.faults = Faults(slice=1000, latency=0.001)
        assert put(f"http://127.0.0.1:{proxy.port}/", bytes(20_000)) is None
    assert put_site.seen[-1].body == bytes(20_000)


def test_nobody_listens() -> None:
    failure = put("http://127.0.0.1:9/")
    assert failure is not None
    assert failure.reason == "unreachable"


def test_no_address_is_logged(put_site: PutSite, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        put(put_site.url(f"/?token={SECRET}"))
    assert SECRET not in caplog.text


def test_hostile_codes_stay_out() -> None:
    assert "(400)" in str(failure_of(400, "<Code>two words\n</Code>"))
    assert "(400)" in str(failure_of(400, f"<Code>{'x' * 65}</Code>"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("in 3ms - Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>", "denied"),
        ("non-2xx status code: 403: <Code>RequestTimeTooSkewed</Code>", "clock"),
        ("HTTP error: error sending request\n\nDebug source:\n kind: Timeout,", "timeout"),
        ("HTTP error: error sending request\n\nDebug source:\n kind: Connect,", "unreachable"),
        ("the credential provider failed", "denied"),
    ],
)
def test_what_obstore_says(text: str, reason: str) -> None:
    assert explained(text).reason == reason


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "AccessDenied", "denied"),
        (404, "NoSuchBucket", "missing"),
        (503, "SlowDown", "slow_down"),
        (500, "InternalError", "server"),
        (400, "EntityTooLarge", "refused"),
    ],
)
def test_what_s3_answers_by_way_of_obstore(
    put_site: PutSite, monkeypatch: pytest.MonkeyPatch, status: int, code: str, reason: str
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    environ = keys | {"AWS_ENDPOINT_URL": put_site.url("")}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{SECRET}</Message></Error>'.encode()
    put_site.answers = [(status, {"Content-Type": "application/xml"}, body)]
    failure = put("s3://bucket/prefix", environ=environ)
    assert failure is not None
    assert failure.reason == reason
    assert f"({status} {code})" in str(failure)
    assert SECRET not in str(failure)
    assert len(put_site.seen) == 1, "obstore tries again by itself"
    assert put_site.seen[0].path == f"/bucket/prefix/{KEY}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket/"),
        (f"https://host:8443/{SECRET}/{{key}}?t={SECRET}", "https://host:8443"),
    ],
)
def test_people_see_no_secrets_of_an_address(url: str, shown: str) -> None:
    assert parse_target(url).shown == shown


def test_virtual_style_puts_the_bucket_before_the_host() -> None:
    own = "https://obs.eu-de.example.com"
    assert s3_address("b", own, "path") == {"endpoint": own}
    assert s3_address("b", "", "path") == {}
    virtual = {"endpoint": "https://b.obs.eu-de.example.com", "virtual_hosted_style_request": True}
    assert s3_address("b", own, "virtual") == virtual
    assert s3_address("b", "https://b.obs.eu-de.example.com", "virtual") == virtual
    assert s3_address("b", "", "virtual") == {"virtual_hosted_style_request": True}


@pytest.mark.parametrize("url", ["http://host/", "http://10.0.0.1/"])
def test_a_token_does_not_cross_the_network_in_clear(url: str) -> None:
    with pytest.raises(SettingsError, match="https") as told:
        check_store(parse_target(url), {"UPLOAD_URL_TOKEN": SECRET})
    assert SECRET not in str(told.value)
    check_store(parse_target(url), {})
    check_store(parse_target("http://127.0.0.1:1/"), {"UPLOAD_URL_TOKEN": SECRET})


def test_a_token_must_fit_a_header() -> None:
    with pytest.raises(SettingsError, match="ASCII"):
        check_store(Target("http", url="https://host/"), {"UPLOAD_URL_TOKEN": "a\r\nb"})


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], None] = lambda _name: None  # noqa: E731
    monkeypatch.setattr("sdserver.ops.uploads.store.find_spec", find)
    with pytest.raises(SettingsError, match="install upload"):
        check_store(parse_target("s3://bucket/"), {})
    assert isinstance(open_store(parse_target("http://host/"), {}), HttpPut)
