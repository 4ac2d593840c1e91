"""Every saved picture is told to whoever uploads it; neither uploads nor a full disk cost an answer."""

import base64
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from sdserver.ops.uploads.spool import DROPPED, FULL, Spool
from tests.api.conftest import Server

BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 5, "save_images": True}


def told(server: Server, **fields: Any) -> tuple[list[bytes], Mapping[str, str]]:
    """The answer's pictures and its headers."""
    response = server.post("txt2img", BASE | fields)
    assert response.status_code == 200, response.text
    pictures = [base64.b64decode(each) for each in response.json()["images"]]
    return pictures, response.headers


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_is_saved_is_spooled_whole_and_nothing_else(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", max_files=100, max_bytes=10**8)
    server = serve(on_saved=spool.add)
    told(server, save_images=False)
    assert spool.facts().files == 0
    pictures, headers = told(server, batch_size=2, override_settings={"save_txt": True})
    assert "X-Upload-Error" not in headers
    assert len(pictures) == 3  # the grid too
    assert contents(tmp_path / "spool") == sorted(pictures)
    shutil.rmtree(tmp_path / "outputs")
    assert contents(tmp_path / "spool") == sorted(pictures)


def test_copies_and_what_clients_sent_are_spooled_where_they_are_saved(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", max_files=100, max_bytes=10**8)
    server = serve(on_saved=spool.add)
    (first,), _ = told(server)
    options = {"save_init_img": True, "export_for_4chan": True, "img_downscale_threshold": 0.0001}
    body = {**BASE, "init_images": [base64.b64encode(first).decode()], "override_settings": options}
    response = server.post("img2img", body)
    assert response.status_code == 200, response.text
    saved = [path for path in (tmp_path / "outputs").rglob("*") if path.suffix in {".png", ".jpg"}]
    assert {path.suffix for path in saved} == {".png", ".jpg"}
    assert contents(tmp_path / "spool") == contents(tmp_path / "outputs")
    assert len(saved) == 5


@pytest.mark.parametrize(("when_full", "expected"), [("oldest", DROPPED), ("newest", FULL)])
def test_a_full_spool_is_told_in_a_header(
    serve: Callable[..., Server], tmp_path: Path, when_full: Any, expected: str
) -> None:
    spool = Spool(tmp_path / "spool", max_files=1, max_bytes=10**8, when_full=when_full)
    server = serve(on_saved=spool.add)
    _, first = told(server)
    _, second = told(server, seed=6)
    assert "X-Upload-Error" not in first
    assert second["X-Upload-Error"] == expected
    assert "X-Save-Error" not in second
    assert len(contents(tmp_path / "outputs")) == 2


def test_a_full_spool_is_told_of_scripts_too(serve: Callable[..., Server], tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_files=1, max_bytes=10**8, when_full="newest")
    server = serve(on_saved=spool.add)
    fields = {"script_name": "prompts from file or textbox", "script_args": [False, False, "start", "a\nb"]}
    _, headers = told(server, **fields)
    assert headers["X-Upload-Error"] == FULL


def fill(file: BinaryIO) -> None:
    """Write until no space is left."""
    with suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No byte can be written below the folder: a full file system of 1 MB, else a limit on files."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    )
    if mounted:
        try:
            with (folder / "filler").open("wb", 0) as filler:
                fill(filler)
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_no_answer(serve: Callable[..., Server], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    spool = Spool(tmp_path / "spool", max_files=100, max_bytes=10**8)
    server = serve(on_saved=spool.add)
    with full_disk(outputs):
        (picture,), headers = told(server)
        assert picture.startswith(b"\x89PNG")
        assert headers["X-Save-Error"] in {"No space left on device", "File too large"}
        assert [path for path in outputs.rglob("*") if path.is_file() and path.name != "filler"] == []
        assert spool.facts().files == 0
    _, headers = told(server)
    assert "X-Save-Error" not in headers
    assert spool.facts().files == 1


def test_a_spool_on_a_full_disk_costs_neither_answer_nor_file(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a second file system takes root")
    folder = tmp_path / "spool"
    with full_disk(folder):
        spool = Spool(folder, max_files=100, max_bytes=10**8)
        server = serve(on_saved=spool.add)
        (picture,), headers = told(server)
        assert headers["X-Upload-Error"].endswith("No space left on device.")
        assert contents(tmp_path / "outputs") == [picture]
        assert [path.name for path in folder.iterdir()] == ["filler"]
        assert spool.facts().refused == 1
