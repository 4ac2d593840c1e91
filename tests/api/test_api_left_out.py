"""Embeddings that are left out for being pickles, and those that have no file of their own."""

import logging
from pathlib import Path
from typing import Any

import pytest

from sdserver.api.translate.networks import refused_embeddings
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.jobs.events import Used
from sdserver.jobs.job import Job
from tests.api import conftest
from tests.api.conftest import Server

NAMES = ("Bad-hands-5.pt", "by emb.bin", "a.pt", "kept.pt")


def networks(folder: Path, *, allow_pickle: bool = False) -> Networks:
    folder.mkdir(exist_ok=True)
    for name in (*NAMES, "kept.safetensors"):
        (folder / name).write_bytes(b"weights")
    return Networks(NetworkFolders(embeddings=(folder,)), folder / "h.json", allow_pickle=allow_pickle)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("(BAD-HANDS-5:1.2), dog", ["Bad-hands-5"]),
        ("bad-hands-50 by  EMB,", ["Bad-hands-5", "by emb"]),
        ("(a)", ["a"]),
        ("bad hands 5, bye mb, cat", []),
        ("kept", []),
        ("", []),
    ],
)
def test_names_of_left_out_pickles_are_found_as_whole_words(
    tmp_path: Path, text: str, named: list[str]
) -> None:
    found = refused_embeddings(["dog", text], networks(tmp_path / "e"))
    assert found == tuple(f"embedding:{name}" for name in named)
    assert refused_embeddings([text], networks(tmp_path / "f", allow_pickle=True)) == ()


def test_the_answer_names_them_and_the_log_tells_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = networks(tmp_path / "e")
    monkeypatch.setattr(conftest, "Networks", lambda *_, **__: left_out)
    running = Server(tmp_path)
    try:
        body = {"prompt": "dog <lora:nope:1>", "negative_prompt": "bad-hands-5", "steps": 1}
        with caplog.at_level(logging.WARNING):
            answers = [running.post("txt2img", body) for _ in range(2)]
            other = running.post("txt2img", body | {"prompt": "dog", "negative_prompt": "bad hands"})
    finally:
        running.close()
    expected = "lora:nope, embedding:Bad-hands-5"
    assert [answer.headers["X-Missing-Networks"] for answer in answers] == [expected] * 2
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "X-Missing-Networks" not in other.headers
    assert caplog.text.count("Bad-hands-5") == 1


def test_an_embedding_without_a_file_has_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used(_: Job) -> Used:
        return Used(embeddings=("inside",))

    monkeypatch.setattr(conftest, "used_by", used)
    running = Server(tmp_path)
    try:
        answer = running.post("txt2img", {"prompt": "inside", "steps": 1})
    finally:
        running.close()
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 200
    assert "TI hashes" not in body["info"]
