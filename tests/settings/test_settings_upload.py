"""Where uploads go: what may be said, and that no secret in it is repeated."""

from collections.abc import Callable

import pytest

from sdserver.errors import SettingsError
from sdserver.settings.model import Settings

Load = Callable[..., Settings]
SECRET = "canary-7f3a"


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket.with.dots/deep/prefix/",
        "gs://bucket/prefix",
        "az://container/prefix",
        "https://host/base/",
        "http://127.0.0.1:9000/base",
        "https://host/{key}?X-Amz-Signature=abc",
        "https://host/put?file={name}",
    ],
)
def test_what_may_be_said(settings: Load, url: str) -> None:
    assert settings("--upload-url", url).upload_url == url
    assert settings(f"--upload_url={url}").upload_url == url


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{SECRET}:x@bucket/",
        f"https://user:{SECRET}@host/",
        f"https://{SECRET}@host/",
        f"ftp://host/{SECRET}",
        f"file:///{SECRET}",
        f"s3:///{SECRET}",
        f"s3://bucket/?key={SECRET}",
        f"s3://bucket/#{SECRET}",
        f"s3://bucket/../{SECRET}",
        f"s3://bucket/{{key}}/{SECRET}",
        f"https://host/{{date}}/{SECRET}",
        f"https://host/{{key/{SECRET}",
        f"https://host/ä{SECRET}",
        f"https://host/a b{SECRET}",
        f"https://host/\r\nX: {SECRET}",
        f"https://[::1/{SECRET}",
        f"/{SECRET}",
    ],
)
def test_what_may_not_be_said_is_not_repeated(settings: Load, url: str) -> None:
    with pytest.raises(SettingsError, match=r"--upload-url needs s3://bucket") as told:
        settings("--upload-url", url)
    assert SECRET not in str(told.value)


def test_it_is_shown_without_secrets(settings: Load) -> None:
    found = settings("--upload-url", f"https://host/base?token={SECRET}")
    assert SECRET not in repr(found)
    assert SECRET not in str(found.public())
    assert found.public()["upload_url"] == "https://host/base"


def test_defaults(settings: Load) -> None:
    found = settings()
    assert (found.upload_url, found.upload_style, found.upload_spool_mb, found.upload_when_full) == (
        "",
        "path",
        2000,
        "oldest",
    )
