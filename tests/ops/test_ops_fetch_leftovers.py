"""What killed processes, mirrors and files that change leave behind, and what later calls make of it."""

import hashlib
import json
import os
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from sdserver.errors import DownloadError
from sdserver.ops.downloads import lock
from sdserver.ops.downloads.disk import read_json, write_json
from sdserver.ops.downloads.index import Index
from sdserver.ops.downloads.limits import Limits
from sdserver.ops.downloads.part import Part
from tests.ops.test_ops_fetch import SIZE, Caller

KEPT = {"index.json", "index.lock"}
Kill = type("Kill", (BaseException,), {})
"""Ends a call where a signal would: nothing catches it."""


@pytest.fixture
def get(models: Path, limits: Limits) -> Caller:
    return Caller(models, limits)


def names(get: Caller) -> set[str]:
    """Working files, but for the locks of sources, which stay."""
    return {p.name for p in (get.models / ".downloads").iterdir() if len(p.stem) != 32 or p.suffix != ".lock"}


def test_killed_between_the_name_and_the_end(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/m.safetensors"] = file_type(safetensors(SIZE))

    def killed(_: Part) -> None:
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(Part, "settle", killed)
        with pytest.raises(Kill):
            get(site.url("/m.safetensors"))
    (notes,) = (get.models / ".downloads").glob("?" * 32 + ".json")
    record = notes.with_suffix(".owner")
    record.write_text(json.dumps({"machine": lock._machine(), "pid": os.getpid()}))
    (notes.parent / f"{notes.name}.0.tmp").touch()
    assert get(site.url("/m.safetensors")).name == "m.safetensors"
    assert names(get) == KEPT
    assert len(site.seen) == 1


def test_what_another_works_on_stays(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    site.files["/m.safetensors"] = file_type(safetensors(SIZE))
    get(site.url("/m.safetensors"))
    (key,) = json.loads((get.models / ".downloads/index.json").read_text())
    part, owner = (get.models / f".downloads/{key}{suffix}" for suffix in (".part", ".owner"))
    part.write_bytes(b"x")
    owner.write_text(json.dumps({"machine": "elsewhere", "pid": 1}))
    get(site.url("/m.safetensors"))
    assert names(get) == KEPT | {part.name, owner.name}
    owner.unlink()
    with lock.owner_if_free(part.parent, key) as is_held:
        assert is_held
        get(site.url("/m.safetensors"))
    assert names(get) == KEPT | {part.name}
    get(site.url("/m.safetensors"))
    assert names(get) == KEPT


def test_a_folder_that_cannot_be_written_to_is_no_failure(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/m.safetensors"] = file_type(safetensors(SIZE))
    path = get(site.url("/m.safetensors"))
    (key,) = json.loads((get.models / ".downloads/index.json").read_text())
    (get.models / f".downloads/{key}.bad").touch()

    def refuse(*_: object) -> int:
        raise PermissionError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert get(site.url("/m.safetensors")) == path
    assert names(get) == KEPT | {f"{key}.bad"}


def test_the_part_of_a_source_goes_when_a_mirror_sends_the_file(
    site: Any, other_site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    body = safetensors(SIZE)
    site.files["/m.safetensors"] = file_type(body, cuts=[100_000, 0, 0])
    other_site.files["/m.safetensors"] = file_type(body)
    assert get(site.url("/m.safetensors"), other_site.url("/m.safetensors")).read_bytes() == body
    assert names(get) == KEPT


def test_files_that_were_to_replace_others_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "a[1].json"
    for name in ("a[1].json.0.tmp", "a1.json.0.tmp", "a[1].json.tmp.keep"):
        (tmp_path / name).touch()
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "a1.json.0.tmp", "a[1].json.tmp.keep"}


def test_a_file_that_another_sweeps_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, sweeps = Path.replace, [True, True]

    def swept(path: Path, target: Path) -> Path:
        if sweeps and sweeps.pop():
            path.unlink()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", swept)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "absent" / "a.json", {})


def test_the_index_is_swept(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    Index(get.models).folder.mkdir(parents=True)
    (get.models / ".downloads/index.json.0.tmp").write_text('{"half')
    site.files["/m.safetensors"] = file_type(safetensors(SIZE))
    get(site.url("/m.safetensors"))
    assert names(get) == KEPT


def test_fetching_again_is_no_progress(
    site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    """A server that knows no ranges and never sends all would be asked for ever."""
    site.files["/m.safetensors"] = file_type(safetensors(SIZE), ranges=False, cuts=[100_000] * 50)
    with pytest.raises(DownloadError, match="tried 3 times"):
        get(site.url("/m.safetensors"), progress=50_000)
    assert len(site.seen) == 3
    further = file_type(safetensors(SIZE), ranges=False, cuts=[100_000, 160_000, 210_000, 260_000])
    site.files["/m.safetensors"] = further
    get.models = get.models / "other"
    assert get(site.url("/m.safetensors"), progress=50_000, attempts=2).stat().st_size == SIZE


def test_a_new_digest_from_hugging_face_is_a_new_file(
    site: Any, other_site: Any, file_type: Any, get: Caller, safetensors: Callable[..., bytes]
) -> None:
    """The branch moved on while its file was fetched, and the store behind it compares nothing."""
    old, new = safetensors(SIZE, 1), safetensors(SIZE, 2)

    def linked(body: bytes) -> Any:
        digest = hashlib.sha256(body).hexdigest()
        return file_type(redirect=other_site.url("/blob"), headers={"X-Linked-ETag": f'"{digest}"'})

    path = "/org/repo/resolve/main/m.safetensors"
    site.files[path] = linked(old)
    other_site.files["/blob"] = file_type(old, cuts=[100_000])

    def move_on(progress: Any) -> None:
        if progress.done >= 100_000:
            site.files[path] = linked(new)
            other_site.files["/blob"].body = new

    get.progress = type("Told", (list,), {"append": lambda _, told: move_on(told)})()
    found = get("hf://org/repo/m.safetensors", tokens={"HF_ENDPOINT": site.url("")})
    assert found.read_bytes() == new


@pytest.mark.parametrize(("age", "asks"), [(0, [None, None]), (60, [None, "bytes=100000-"])])
def test_a_time_within_the_second_tells_no_version(
    age: int,
    asks: list[str | None],
    site: Any,
    file_type: Any,
    get: Caller,
    safetensors: Callable[..., bytes],
) -> None:
    body = safetensors(SIZE)
    now = 1_700_000_000
    site.files["/m.safetensors"] = file_type(
        body,
        etag="",
        cuts=[100_000],
        headers={"Last-Modified": formatdate(now - age, usegmt=True)},
    )
    sent = site.send_file

    def dated(handler: Any, *arguments: Any) -> None:
        handler.date_time_string = lambda: formatdate(now, usegmt=True)
        # The site compares tags alone.
        file, headers, start = arguments
        sent(handler, file, {k: v for k, v in headers.items() if k != "if-range"}, start)

    site.send_file = dated
    assert get(site.url("/m.safetensors")).read_bytes() == body
    assert [seen.headers.get("range") for seen in site.seen] == asks
