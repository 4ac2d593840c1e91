"""The job API and OpenAI's client against the whole server."""

import base64
import io
import json
import signal
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from node import LOOPBACK, Node, running, together, wait_until
from PIL import Image

from tests.conformance.conftest import difference, make_data_dir

FIELDS = {"prompt": "a cat on the moon", "steps": 12, "width": 64, "height": 64, "seed": 1234}
BOX = (16, 16, 48, 48)


def events_of(node: Node, job: str) -> list[tuple[str, dict[str, Any]]]:
    """All of a job's events, to its end."""
    text = node.api("GET", f"/v1/jobs/{job}/events?previews=true").text
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event")]
    return [(name.removeprefix("event: "), json.loads(data[6:])) for name, _, data in blocks]


def job_of(node: Node, **fields: Any) -> str:
    answer = node.api("POST", "/v1/jobs", json={"kind": "txt2img"} | FIELDS | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_job_shows_its_progress_and_makes_the_routes_picture(node: Node) -> None:
    node.api("POST", "/sdapi/v1/options", json={"show_progress_every_n_steps": 1})
    job = job_of(node, steps=60)
    events = events_of(node, job)
    names = [name for name, _ in events]
    assert names[-1] == "end"
    shares = [data["progress"] for name, data in events if name == "progress"]
    assert len(set(shares)) > 2
    assert shares == sorted(shares)
    previews = [data for name, data in events if name == "preview"]
    assert previews
    with Image.open(io.BytesIO(base64.b64decode(previews[-1]["image"]))) as preview:
        assert preview.width == preview.height > 0
    result = node.api("GET", f"/v1/jobs/{job}").json()["result"]
    assert difference(result["images"][0], node.txt2img(**FIELDS | {"steps": 60}).images[0])[0] <= 2


def test_jobs_share_batches_with_requests_and_are_stopped_alone(node: Node) -> None:
    kept, stopped = job_of(node, steps=40), job_of(node, steps=150, n_iter=2, width=256, height=256)
    while node.api("GET", f"/v1/jobs/{stopped}").json()["state"] == "queued":
        time.sleep(0.02)
    node.api("POST", f"/v1/jobs/{stopped}/interrupt")
    (answer,) = together([lambda: node.txt2img(**FIELDS)])
    ends = [events_of(node, job)[-1] for job in (kept, stopped)]
    assert [(name, data["state"], data["stopped"]) for name, data in ends] == [
        ("end", "completed", None),
        ("end", "completed", "interrupt"),
    ]
    assert len(answer.images) == 1
    assert len(node.api("GET", f"/v1/jobs/{kept}").json()["result"]["images"]) == 1
    cancelled = job_of(node, steps=150, width=256, height=256)
    assert node.api("DELETE", f"/v1/jobs/{cancelled}").json()["state"] == "cancelled"
    node.wait_idle()


@pytest.mark.parametrize(("method", "path"), [("POST", "/interrupt"), ("DELETE", "")])
def test_a_stopped_job_takes_no_more_of_the_device(node: Node, method: str, path: str) -> None:
    """Of 150 steps hardly more run than had run; the batch under way, and those while the request crosses."""
    stopped = job_of(node, steps=150, width=256, height=256)
    node.wait_running()
    wait_until(lambda: bool(node.api("GET", f"/v1/jobs/{stopped}").json()["progress"]))
    before = node.metric("sdserver_batch_rows_count", kind="predict")
    node.api(method, f"/v1/jobs/{stopped}{path}")
    node.txt2img(**FIELDS | {"steps": 4})
    node.wait_idle()
    assert node.metric("sdserver_batch_rows_count", kind="predict") - before < 4 + 20


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_openais_client(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    base = f"http://{LOOPBACK}:{node.port}/v1"
    with openai.OpenAI(api_key="none", base_url=base, max_retries=0) as client:
        assert "tiny-sd15" in [model.id for model in client.models.list()]
        more = {"steps": 12, "seed": 1234}
        drawn = client.images.generate(
            prompt=str(FIELDS["prompt"]),
            size="64x64",
            extra_body=more,
        ).data[0]
        assert difference(drawn.b64_json, node.txt2img(**FIELDS).images[0])[0] <= 2
        hole = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
        hole.paste((0, 0, 0, 0), BOX)
        mask = io.BytesIO()
        hole.save(mask, "PNG")
        picture = base64.b64decode(drawn.b64_json)
        edited = client.images.edit(
            image=("cat.png", picture, "image/png"),
            mask=("mask.png", mask.getvalue(), "image/png"),
            prompt="a dog",
            extra_body={"steps": 12, "seed": 5, "mask_blur": 0, "strength": 1},
        )
    assert edited.data
    with (
        Image.open(io.BytesIO(picture)) as one,
        Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json or ""))) as other,
    ):
        assert one.crop((0, 0, 64, 16)).tobytes() == other.crop((0, 0, 64, 16)).tobytes()
        assert one.crop(BOX).tobytes() != other.crop(BOX).tobytes()


def test_a_node_that_ends_finishes_its_jobs_first(tmp_path: Path) -> None:
    with running(make_data_dir(tmp_path)) as node:
        node.wait_ready()
        body = {"kind": "txt2img", "steps": 60, "width": 64, "height": 64, "save_images": True}
        assert node.api("POST", "/v1/jobs", json=body).status_code == 202
        node.wait_running()
        node.signal(signal.SIGTERM)
        assert node.exit_code() == 0
    assert len(list((tmp_path / "outputs").rglob("*.png"))) == 1
