"""`fetch` against a server that does everything wrong that servers do."""

import dataclasses
import errno
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdserver.errors import DownloadError
from sdserver.ops.downloads.fetch import fetch
from sdserver.ops.downloads.limits import Limits
from sdserver.ops.downloads.part import Part
from sdserver.ops.downloads.progress import DownloadProgress

SIZE = 300_000


class Caller:
    """Calls `fetch` with test's limits; keeps the progress."""

    def __init__(self, models: Path, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.progress: list[DownloadProgress] = []
        self.cancelled = threading.Event()

    def __call__(
        self, *sources: str, sha256: str | None = None, tokens: dict[str, str] | None = None, **limits: Any
    ) -> Path:
        return fetch(
            sources,
            self.models,
            sha256=sha256,
            tokens=tokens or {},
            progress=self.progress.append,
            cancelled=self.cancelled,
            limits=dataclasses.replace(self.limits, **limits),
        )

    def left(self) -> set[str]:
        """Suffixes of what lies in the working folder beside index and locks."""
        return {p.suffix for p in (self.models / ".downloads").iterdir()} - {".lock"}


@pytest.fixture
def get(models: Path, limits: Limits) -> Caller:
    return Caller(models, limits)


@pytest.fixture
def body(safetensors: Callable[..., bytes]) -> bytes:
    return safetensors(SIZE)


def test_fetches_names_and_reports(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/a/dream.safetensors"] = file_type(body)
    path = get(site.url("/a/dream.safetensors"))
    assert path == get.models / "dream.safetensors"
    assert path.read_bytes() == body
    assert get.left() == {".json"}
    assert [p.name for p in (get.models / ".downloads").glob("*.json")] == ["index.json"]
    last = get.progress[-1]
    assert (last.file, last.done, last.total, last.eta, last.received) == (path.name, SIZE, SIZE, 0.0, SIZE)
    done = [p.done for p in get.progress]
    assert done == sorted(done)
    assert len(done) > 2


def test_second_start_needs_no_network(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body)
    first = get(site.url("/m.safetensors?token=one&size=full"))
    site.files.clear()
    # A newly signed address is the same file; another parameter is another file.
    assert get(site.url("/m.safetensors?token=two&size=full")) == first
    assert len(site.seen) == 1
    with pytest.raises(DownloadError, match="no such file"):
        get(site.url("/m.safetensors?token=two&size=pruned"))


def test_a_file_that_was_changed_is_fetched_again(
    site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/m.safetensors"] = file_type(body)
    path = get(site.url("/m.safetensors"))
    path.write_bytes(body[:-1])
    # The damaged one keeps its name, as it might be somebody else's.
    again = get(site.url("/m.safetensors"))
    assert again.name == f"m-{hashlib.sha256(body).hexdigest()[:8]}.safetensors"
    assert again.read_bytes() == body
    assert get(site.url("/m.safetensors")) == again
    assert len(site.seen) == 2


def test_a_damaged_index_is_made_anew(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body)
    path = get(site.url("/m.safetensors"))
    (get.models / ".downloads/index.json").write_text('{"x":')
    assert get(site.url("/m.safetensors")) == path
    assert [p.name for p in get.models.glob("*.safetensors")] == [path.name]


def test_an_index_cannot_point_elsewhere(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body)
    get(site.url("/m.safetensors"))
    index = get.models / ".downloads/index.json"
    (get.models.parent / "evil.safetensors").write_bytes(body)
    index.write_text(index.read_text().replace("m.safetensors", "../evil.safetensors", 1))
    assert get(site.url("/m.safetensors")).parent == get.models


def test_resumes_a_cut_connection(site: Any, file_type: Any, get: Caller, body: bytes, pauses: Any) -> None:
    site.files["/m.safetensors"] = file_type(body, cuts=[100_000, 50_000])
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert [s.headers.get("range") for s in site.seen] == [None, "bytes=100000-", "bytes=150000-"]
    assert site.seen[1].headers["if-range"] == '"v1"'
    assert get.progress[-1].received == SIZE
    assert pauses.asked == [1.0, 2.0]


def test_starts_anew_where_ranges_are_ignored(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body, cuts=[100_000], ranges=False)
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert [s.status for s in site.seen] == [200, 200]
    assert get.progress[-1].received == SIZE + 100_000


def test_starts_anew_when_the_file_changed(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    old, new = safetensors(SIZE, 1), safetensors(SIZE, 2)
    site.files["/m.safetensors"] = file_type(old, cuts=[100_000])
    with pytest.raises(DownloadError, match="cut the connection"):
        get(site.url("/m.safetensors"), attempts=1)
    site.files["/m.safetensors"] = file_type(new, etag='"v2"')
    assert get(site.url("/m.safetensors")).read_bytes() == new


@pytest.mark.parametrize("lie", ["bytes 0-299999/300000", "bytes 100000-299999/400000", "100000-", ""])
def test_a_range_that_does_not_fit_is_not_believed(
    lie: str, site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    # "" stands for a true one: the case must be able to pass without a new start.
    site.files["/m.safetensors"] = file_type(body, cuts=[100_000], content_range=lie)
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert [s.status for s in site.seen] == ([200, 206, 200] if lie else [200, 206])


def test_an_answer_that_ignores_if_range_is_not_believed(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes], limits: Limits
) -> None:
    old, new = safetensors(SIZE, 1), safetensors(SIZE, 2)
    site.files["/m.safetensors"] = file_type(old, cuts=[100_000])
    with pytest.raises(DownloadError):
        get(site.url("/m.safetensors"), attempts=1)
    # The server continues the new file although the condition names the old one.
    site.files["/m.safetensors"] = changed = file_type(new, etag='"v1"')
    changed.headers["ETag"] = '"v2"'
    changed.etag = ""
    site_answer = site.send_file
    site.send_file = lambda handler, file, headers, start: site_answer(
        handler, file, {k: v for k, v in headers.items() if k != "if-range"}, start
    )
    assert get(site.url("/m.safetensors")).read_bytes() == new


def test_without_a_validator_nothing_is_resumed_blindly(
    site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/m.safetensors"] = file_type(body, etag="", cuts=[100_000])
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert [s.headers.get("range") for s in site.seen] == [None, None]


def test_a_digest_replaces_the_validator(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body, etag="", cuts=[100_000])
    url = f"{site.url('/m.safetensors')}#sha256={hashlib.sha256(body).hexdigest().upper()}"
    assert get(url).read_bytes() == body
    assert [s.headers.get("range") for s in site.seen] == [None, "bytes=100000-"]


def test_a_finished_part_needs_no_request(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body, cuts=[100_000])
    with pytest.raises(DownloadError):
        get(site.url("/m.safetensors"), attempts=1)
    part = next((get.models / ".downloads").glob("*.part"))
    part.write_bytes(body)
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert len(site.seen) == 1


def test_after_a_crash_of_the_machine_only_synced_bytes_are_kept(
    site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/m.safetensors"] = file_type(body, cuts=[200_000])
    with pytest.raises(DownloadError):
        get(site.url("/m.safetensors"), attempts=1)
    notes = next(p for p in (get.models / ".downloads").glob("*.json") if p.name != "index.json")
    fields = json.loads(notes.read_text())
    notes.write_text(json.dumps(fields | {"boot": "another", "synced": 120_000}))
    part = notes.with_suffix(".part")
    part.write_bytes(body[:120_000] + bytes(80_000))
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert site.seen[-1].headers["range"] == "bytes=120000-"


def test_a_body_without_length(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body, chunked=True)
    assert get(site.url("/m.safetensors")).read_bytes() == body
    site.files["/n.safetensors"] = file_type(body, chunked=True, cuts=[100_000])
    with pytest.raises(DownloadError, match=r"header does not fit|damaged"):
        get(site.url("/n.safetensors"))


def test_too_few_bytes_are_never_accepted(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body, lie=100)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:\d+ .*tried 3 times"):
        get(site.url("/m.safetensors"))
    assert not list(get.models.glob("*.safetensors"))


def test_silence_is_noticed_and_resumed(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = slow = file_type(body, first_pause=1.0)
    with pytest.raises(DownloadError, match="went silent"):
        get(site.url("/m.safetensors"), attempts=1, silence=0.1)
    slow.first_pause = 0.0
    assert get(site.url("/m.safetensors")).read_bytes() == body


def test_a_crawling_server_is_given_up(
    site: Any, other_site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/m.safetensors"] = file_type(body, pause=0.05)
    other_site.files["/m.safetensors"] = file_type(body)
    path = get(
        site.url("/m.safetensors"),
        other_site.url("/m.safetensors"),
        slow_window=1.0,
        slow_speed=200_000,
        attempts=2,
        progress=1,
    )
    assert path.read_bytes() == body
    # Though each try brought bytes, it was not given new tries for ever.
    assert len(site.seen) == 2


def test_retry_after_is_honoured_and_failures_counted_anew(
    site: Any, file_type: Any, get: Caller, body: bytes, pauses: Any
) -> None:
    refusals = [(503, {"Retry-After": "7"}), (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    site.files["/m.safetensors"] = file_type(body, refusals=refusals, cuts=[100_000, 100_000])
    assert get(site.url("/m.safetensors"), progress=50_000).read_bytes() == body
    # 7 as asked; 2 after the second failure; then progress starts the counting anew, twice.
    assert pauses.asked == [7.0, 2.0, 1.0, 1.0]


def test_a_wait_of_hours_is_not_waited(
    site: Any, file_type: Any, get: Caller, body: bytes, pauses: Any
) -> None:
    site.files["/m.safetensors"] = file_type(body, refusals=[(503, {"Retry-After": "86400"})])
    with pytest.raises(DownloadError, match="86400 s"):
        get(site.url("/m.safetensors"))
    assert pauses.asked == []


@pytest.mark.parametrize(
    ("status", "tokens", "says"),
    [
        (401, {}, "set MODEL_URL_TOKEN"),
        (403, {}, "set MODEL_URL_TOKEN"),
        (403, {"MODEL_URL_TOKEN": "s3cret"}, "is not accepted"),
        (404, {}, "check the address"),
        (400, {}, "HTTP 400"),
    ],
)
def test_refusals_are_final_and_say_what_to_do(
    status: int, tokens: dict[str, str], says: str, site: Any, file_type: Any, get: Caller
) -> None:
    site.files["/m.safetensors"] = file_type(refusals=[(status, {})] * 9)
    with pytest.raises(DownloadError, match=says) as caught:
        get(site.url("/m.safetensors"), tokens=tokens)
    assert f"127.0.0.1:{site.port}" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert len(site.seen) == 1


def test_nobody_there(get: Caller, site: Any) -> None:
    site.close()
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:\d+ could not be reached.*tried 2 times"):
        get(site.url("/m.safetensors"), attempts=2)


def test_mirrors_in_turn(site: Any, other_site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    other_site.files["/m.safetensors"] = file_type(body)
    sources = [site.url("/gone.safetensors"), other_site.url("/m.safetensors")]
    assert get(*sources).read_bytes() == body
    seen = len(site.seen)
    get(*sources)  # what the second brought is found without asking the first
    assert len(site.seen) == seen
    with pytest.raises(DownloadError) as caught:
        get(site.url("/x.safetensors"), other_site.url("/y.safetensors"))
    assert str(site.port) in str(caught.value)
    assert str(other_site.port) in str(caught.value)


@pytest.mark.parametrize(
    ("content_type", "content", "says"),
    [
        ("text/html; charset=utf-8", b"<html>please log in</html>", "text/html instead of a model"),
        ("application/json", b'{"error":"Unauthorized"}', "application/json instead of a model"),
        ("application/octet-stream", b"\n <!doctype html><html>login</html>", "a web page"),
        ("application/octet-stream", b'{"error":"Unauthorized","message":"no"}', "a JSON message"),
        ("text/plain", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        ("application/octet-stream", b"PK\x03\x04" + bytes(100), "pickled"),
        ("application/octet-stream", b"\x80\x02}q\x00" + bytes(100), "pickled"),
        ("application/octet-stream", (1 << 40).to_bytes(8, "little") + b"{" * 90, "no safetensors"),
        ("application/octet-stream", b"tiny", "header does not fit"),
    ],
)
def test_what_is_no_checkpoint(
    content_type: str, content: bytes, says: str, site: Any, file_type: Any, get: Caller
) -> None:
    site.files["/m.safetensors"] = file_type(content, content_type=content_type)
    with pytest.raises(DownloadError, match=says) as caught:
        get(site.url("/m.safetensors"))
    assert f"127.0.0.1:{site.port}" in str(caught.value)
    assert not list(get.models.glob("*.safetensors"))
    assert len(site.seen) == 1


def test_a_wrong_digest_is_quarantined_and_fetched_again(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    good, bad = safetensors(SIZE, 1), safetensors(SIZE, 2)
    digest = hashlib.sha256(good).hexdigest()
    site.files["/m.safetensors"] = file_type(bad)
    with pytest.raises(DownloadError, match="sha256"):
        get(site.url("/m.safetensors"), sha256=digest)
    assert get.left() == {".bad"}
    site.files["/m.safetensors"] = file_type(good)
    assert get(site.url("/m.safetensors"), sha256=digest).read_bytes() == good
    assert get.left() == {".json"}
    with pytest.raises(DownloadError, match="sha256"):  # another digest is not served from the index
        get(site.url("/m.safetensors"), sha256=hashlib.sha256(bad).hexdigest())


def test_a_file_that_is_there_already_is_adopted_by_its_digest(site: Any, get: Caller, body: bytes) -> None:
    get.models.mkdir()
    (get.models / "m.safetensors").write_bytes(body)
    digest = hashlib.sha256(body).hexdigest()
    assert get(site.url("/m.safetensors"), sha256=digest) == get.models / "m.safetensors"
    assert site.seen == []


def test_another_file_of_the_same_name_is_kept(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    site.files["/a/model.safetensors"] = file_type(safetensors(SIZE, 1))
    site.files["/b/model.safetensors"] = file_type(safetensors(SIZE, 2))
    first = get(site.url("/a/model.safetensors"))
    second = get(site.url("/b/model.safetensors"))
    assert first.read_bytes() == safetensors(SIZE, 1)
    assert second.read_bytes() == safetensors(SIZE, 2)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="dream shaper_8.safetensors"', "dream shaper_8.safetensors"),
        ("attachment; filename*=UTF-8''tr%C3%A4um.safetensors", "träum.safetensors"),
        ('attachment; filename="../../etc/cron.d/x.safetensors"', "x.safetensors"),
        ('attachment; filename="..\\\\..\\\\x.safetensors"', "x.safetensors"),
        ('attachment; filename="/etc/passwd"', "passwd.safetensors"),
        ("attachment; filename*=UTF-8''%2e%2e%2f%00%0aevil%3Cb%3E.ckpt", "evil_b_.safetensors"),
        ('attachment; filename=".."', "12345.safetensors"),
        ("attachment", "12345.safetensors"),
        ("filename*=broken'''%%%", None),
    ],
)
def test_hostile_names(
    disposition: str, name: str | None, site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/api/download/12345"] = file_type(body, headers={"Content-Disposition": disposition})
    path = get(site.url("/api/download/12345"))
    assert path.parent == get.models
    assert path.suffix == ".safetensors"
    assert name is None or path.name == name


def test_a_full_disk_is_noticed_before_the_first_byte(
    site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/m.safetensors"] = file_type(body)
    with pytest.raises(DownloadError, match="GiB free"):
        get(site.url("/m.safetensors"), spare=1 << 60)
    assert sum(p.done for p in get.progress) == 0


def test_a_disk_that_fills_up(
    site: Any, file_type: Any, get: Caller, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/m.safetensors"] = file_type(body)
    append = Part.append

    def full(part: Part, chunk: bytes) -> None:
        if part.size > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(part, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(Part, "append", full)
        with pytest.raises(DownloadError, match="is full; make room"):
            get(site.url("/m.safetensors"))
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert [s.status for s in site.seen] == [200, 206]


def test_a_folder_that_cannot_be_made(site: Any, get: Caller, tmp_path: Path) -> None:
    get.models = tmp_path / "file" / "models"
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be used"):
        get(site.url("/m.safetensors"))


def test_cancel_keeps_what_came(site: Any, file_type: Any, get: Caller, body: bytes) -> None:
    site.files["/m.safetensors"] = file_type(body, pause=0.01)
    whole = get.progress.append

    def cancel(progress: DownloadProgress) -> None:
        whole(progress)
        if progress.done > 50_000:
            get.cancelled.set()

    with pytest.raises(DownloadError, match="cancelled"):
        fetch(
            [site.url("/m.safetensors"), site.url("/never.safetensors")],
            get.models,
            sha256=None,
            tokens={},
            progress=cancel,
            cancelled=get.cancelled,
            limits=get.limits,
        )
    assert len(site.seen) == 1
    get.cancelled.clear()
    site.files["/m.safetensors"].pause = 0.0
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert int(site.seen[-1].headers["range"][6:-1]) > 50_000


def test_a_redirect_elsewhere_gets_no_token(
    site: Any, other_site: Any, file_type: Any, get: Caller, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.files["/start.safetensors"] = file_type(redirect="/same")
    site.files["/same"] = file_type(redirect=other_site.url("/cdn?sig=s1gned", host="localhost"), cuts=[])
    other_site.files["/cdn"] = file_type(body, cuts=[100_000])
    path = get(site.url("/start.safetensors"), tokens={"MODEL_URL_TOKEN": "s3cret"})
    assert path.name == "start.safetensors"
    assert {s.headers.get("authorization") for s in site.seen} == {"Bearer s3cret"}
    assert {s.headers.get("authorization") for s in other_site.seen} == {None}
    assert len(site.seen) == 4  # every try starts at the first address: signed ones expire
    written = (
        caplog.text
        + "".join(p.read_text() for p in (get.models / ".downloads").glob("*.json"))
        + repr(get.progress)
    )
    assert "s3cret" not in written
    assert "s1gned" not in written
    assert "127.0.0.1" in caplog.text  # the log was on


def test_a_failing_redirect_names_both_hosts(site: Any, other_site: Any, file_type: Any, get: Caller) -> None:
    site.files["/m.safetensors"] = file_type(redirect=other_site.url("/gone?sig=s1gned", host="localhost"))
    with pytest.raises(DownloadError) as caught:
        get(site.url("/m.safetensors"))
    assert f"localhost:{other_site.port} (redirected from 127.0.0.1:{site.port})" in str(caught.value)
    assert "s1gned" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/loop", "too often"),
        ("file:///etc/passwd", "no web address"),
        ("", "no web address"),
        ("http://[bad", "no web address"),
        ("/login?returnUrl=x&reason=download-auth", "asks for a login"),
    ],
)
def test_bad_redirects(location: str, says: str, site: Any, file_type: Any, get: Caller) -> None:
    site.files["/loop"] = file_type(redirect=location)
    with pytest.raises(DownloadError, match=says):
        get(site.url("/loop"))
    assert len(site.seen) == (6 if location == "/loop" else 1)


def test_hugging_face_tells_the_digest(
    site: Any, other_site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    good, bad = safetensors(SIZE, 1), safetensors(SIZE, 2)
    digest = hashlib.sha256(good).hexdigest()
    linked = {"X-Linked-ETag": f'"{digest}"'}
    site.files["/org/repo/resolve/main/sub/m.safetensors"] = file_type(
        redirect=other_site.url("/blob"), headers=linked
    )
    other_site.files["/blob"] = file_type(bad)
    tokens = {"HF_ENDPOINT": site.url(""), "HF_TOKEN": "hf_x"}
    source = "hf://org/repo/sub/m.safetensors"
    with pytest.raises(DownloadError, match=digest):
        get(source, tokens=tokens)
    assert site.seen[0].headers["authorization"] == "Bearer hf_x"
    with pytest.raises(DownloadError, match="another sha256"):  # known before a byte is fetched
        get(source, tokens=tokens, sha256="0" * 64)
    other_site.files["/blob"] = file_type(good)
    assert get(source, tokens=tokens).read_bytes() == good


def test_user_and_password_are_sent_once_and_kept_nowhere(
    site: Any, file_type: Any, get: Caller, body: bytes
) -> None:
    site.files["/m.safetensors"] = file_type(body)
    url = site.url("/m.safetensors", host="joe:pa%3Ass@127.0.0.1")
    get(url)
    assert site.seen[0].headers["authorization"] == "Basic am9lOnBhOnNz"
    assert "joe" not in (get.models / ".downloads/index.json").read_text()


def test_local_files_are_used_in_place(
    get: Caller, tmp_path: Path, body: bytes, site: Any, file_type: Any
) -> None:
    path = tmp_path / "my model.safetensors"
    path.write_bytes(body)
    assert get(str(path)) == path
    assert get(path.as_uri(), sha256=hashlib.sha256(body).hexdigest()) == path
    assert get(str(tmp_path)) == tmp_path
    assert not get.models.exists()
    with pytest.raises(DownloadError, match="not the sha256"):
        get(str(path), sha256="0" * 64)
    with pytest.raises(DownloadError, match=r"absent\.safetensors does not exist"):
        get(str(tmp_path / "absent.safetensors"))
    path.write_bytes(body[:-5])
    with pytest.raises(DownloadError, match="damaged"):
        get(str(path))
    assert path.exists()
    site.files["/m.safetensors"] = file_type(body)
    assert get(str(path), site.url("/m.safetensors")).read_bytes() == body
