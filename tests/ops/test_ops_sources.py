"""What `--model_url` may say."""

from pathlib import Path

import pytest

from sdserver.errors import DownloadError
from sdserver.ops.downloads.http import Hop, next_hop
from sdserver.ops.downloads.sources import LocalSource, RemoteSource, parse_source

TOKENS = {"HF_TOKEN": "hf_t", "CIVITAI_TOKEN": "civ_t", "MODEL_URL_TOKEN": "url_t"}
HF = "https://huggingface.co"


def remote(text: str, tokens: dict[str, str] | None = None) -> RemoteSource:
    source = parse_source(text, None, TOKENS if tokens is None else tokens)
    assert isinstance(source, RemoteSource)
    return source


@pytest.mark.parametrize(
    ("text", "url", "authorization"),
    [
        ("https://a.test/m.safetensors?x=1#part", "https://a.test/m.safetensors?x=1", "Bearer url_t"),
        ("hf://org/repo/m.safetensors", f"{HF}/org/repo/resolve/main/m.safetensors", "Bearer hf_t"),
        ("hf://org/repo/a/b m.sft@v1.0", f"{HF}/org/repo/resolve/v1.0/a/b%20m.sft", "Bearer hf_t"),
        ("hf://org/repo@refs/m.sft", f"{HF}/org/repo/resolve/refs/m.sft", "Bearer hf_t"),
        ("hf://org/repo/m.sft@refs/pr/1", f"{HF}/org/repo/resolve/refs%2Fpr%2F1/m.sft", "Bearer hf_t"),
        (f"{HF}/org/repo/blob/main/a/m.sft", f"{HF}/org/repo/resolve/main/a/m.sft", "Bearer hf_t"),
        ("http://hf.co/o/r/resolve/x/m.sft", f"{HF}/o/r/resolve/x/m.sft", "Bearer hf_t"),
        (f"{HF}/o/r/blob/x/blob/m.sft", f"{HF}/o/r/resolve/x/blob/m.sft", "Bearer hf_t"),
        (
            "https://civitai.com/models/12/name?modelVersionId=34",
            "https://civitai.com/api/download/models/34",
            "Bearer civ_t",
        ),
        (
            "https://civitai.red/api/download/models/34?type=Model&token=mine&fp=fp16",
            "https://civitai.red/api/download/models/34?type=Model&fp=fp16",
            "Bearer mine",
        ),
        ("https://u:p@a.test:444/m", "https://a.test:444/m", "Basic dTpw"),
        ("http://u@a.test/m", "http://a.test/m", "Basic dTo="),
        # A look-alike gets its own token only.
        ("https://huggingface.co.evil.test/m", "https://huggingface.co.evil.test/m", "Bearer url_t"),
        ("https://huggingface.co@evil.test/m", "https://evil.test/m", "Basic aHVnZ2luZ2ZhY2UuY286"),
    ],
)
def test_addresses(text: str, url: str, authorization: str) -> None:
    source = remote(text)
    assert source.url == url
    assert source.authorization == authorization


def test_no_token_no_header() -> None:
    assert remote("https://a.test/m", {}).authorization is None
    assert remote("hf://o/r/m", {"HF_TOKEN": " "}).authorization is None


@pytest.mark.parametrize("text", ["/models/a b#1.safetensors", "file:///models/a%20b%231.safetensors"])
def test_paths(text: str) -> None:
    assert parse_source(text, None, {}) == LocalSource(Path("/models/a b#1.safetensors"), None)


def test_relative_paths_become_absolute() -> None:
    source = parse_source("m.safetensors#sha256=" + "A" * 64, None, {})
    assert source == LocalSource(Path.cwd() / "m.safetensors", "a" * 64)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://bucket/key", "s3:// cannot be fetched"),
        ("ftp://host/m", "ftp:// cannot be fetched"),
        ("", "empty"),
        ("https:///m", "not a valid URL"),
        ("https://[::1/m", "not a valid URL"),
        ("https://a.test:port/m", "not a valid URL"),
        ("https://a.test/m\r\nx: y", "not a valid URL"),
        ("https://a.test/m#sha256=abc", "64 hex digits"),
        ("hf://org/repo", "name a file"),
        ("hf://org//m", "name a file"),
        (f"{HF}/org/repo", "names no file"),
        (f"{HF}/org/repo/tree/main", "names no file"),
        ("https://civitai.com/models/12/name", "choose a version"),
        ("file://server/share/m", "three slashes"),
        ("http://a.test/m", "plain http"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(DownloadError, match=says):
        parse_source(text, None, TOKENS)


def test_two_digests_must_agree() -> None:
    text = "https://a.test/m#sha256=" + "a" * 64
    assert parse_source(text, "A" * 64, {}).sha256 == "a" * 64
    with pytest.raises(DownloadError, match="different"):
        parse_source(text, "b" * 64, {})


def test_a_token_cannot_add_headers() -> None:
    with pytest.raises(DownloadError, match="HF_TOKEN") as caught:
        parse_source("hf://o/r/m", None, {"HF_TOKEN": "a\r\nHost: b"})
    assert "Host" not in str(caught.value)


def test_secrets_neither_show_nor_tell_files_apart() -> None:
    plain = remote("https://a.test/m?id=7", {})
    signed = remote(
        "https://joe:pw@A.test/m?X-Amz-Signature=s1gned&id=7&sig=s1gned&token=s1gned#frag", TOKENS
    )
    assert signed.key == plain.key
    assert signed.shown == "https://A.test/m"
    for secret in ("s1gned", "pw", "joe", "Basic"):
        assert secret not in repr(signed)
    assert remote("https://a.test/m?id=8", {}).key != plain.key
    assert remote("https://a.test/n?id=7", {}).key != plain.key


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        ("/b", True),
        ("https://a.test/b", True),
        ("https://a.test:443/b", True),
        ("https://A.TEST/b", True),
        ("https://a.test:444/b", False),
        ("https://b.a.test/b", False),
        ("//b.test/b", False),
        ("https://a.test@b.test/", False),
        ("http://a.test/b", None),
        ("http://b.test/b", None),
    ],
)
def test_the_token_stays_with_the_origin(location: str, kept: bool | None) -> None:
    source = remote("https://a.test/m")
    hop = Hop(source.url, source.authorization, source.host)
    if kept is None:
        with pytest.raises(DownloadError, match="plain http"):
            next_hop(hop, location, source)
    else:
        assert (next_hop(hop, location, source).authorization is not None) == kept


def test_a_chain_back_home_gets_no_token_either() -> None:
    source = remote("https://a.test/m")
    away = next_hop(Hop(source.url, source.authorization, source.host), "https://b.test/", source)
    assert next_hop(away, "https://a.test/m", source).authorization is None
    # Nor may it fall to http later: the first host could have put the token into the address.
    with pytest.raises(DownloadError, match="plain http"):
        next_hop(away, "http://b.test/", source)


def test_http_is_fine_without_a_token() -> None:
    source = remote("https://a.test/m", {})
    assert next_hop(Hop(source.url, None, "a.test"), "http://b.test/m", source).url == "http://b.test/m"
