"""The client that most scripts use, against the whole server; and clients that leave."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import webuiapi
from node import LOOPBACK, Node, wait_until

from tests.conformance.conftest import ADAPTER, OTHER, difference

Client = Any  # webuiapi has no types
MANY = 150


@pytest.fixture
def client(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    make: Any = webuiapi.WebUIApi
    api = make(host=LOOPBACK, port=node.port)
    yield api
    api.session.close()


def test_txt2img_and_lists(client: Client) -> None:
    result = client.txt2img(prompt="a cat", seed=5, steps=3, width=64, height=128, batch_size=2)
    assert [image.size for image in result.images] == [(64, 128)] * 2
    assert result.info["all_seeds"] == [5, 6]
    assert result.image.info["parameters"].startswith("a cat\nSteps: 3, Sampler: Euler a")
    assert {"Euler", "DPM++ 2M", "DDIM"} <= {sampler["name"] for sampler in client.get_samplers()}
    assert {"tiny-sd15", "other"} <= {model["model_name"] for model in client.get_sd_models()}
    assert client.get_progress()["progress"] == 0.0
    assert client.get_progress()["state"]["job_count"] == 0


@pytest.mark.parametrize("end", ["interrupt", "skip"])
def test_a_request_ended_in_the_middle_answers_with_what_it_has(client: Client, node: Node, end: str) -> None:
    before = node.metric("sdserver_steps_total")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.txt2img, steps=MANY, width=64, height=64, seed=9, n_iter=2)
        node.wait_running()
        wait_until(lambda: client.get_progress()["state"]["sampling_step"] >= 3)
        progress = client.get_progress()
        getattr(client, end)()
        result = future.result()
    assert 0.01 < progress["progress"] < 1
    assert progress["eta_relative"] > 0
    assert progress["state"]["job_count"] == 2
    assert progress["state"]["sampling_steps"] == MANY
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert node.metric("sdserver_steps_total") - before < 2 * MANY
    assert client.get_progress()["state"]["interrupted" if end == "interrupt" else "skipped"] is True


def test_a_change_of_the_checkpoint(client: Client, node: Node) -> None:
    first = node.txt2img().images[0]
    client.util_set_model("other")
    assert client.util_get_current_model().startswith(OTHER)
    answer = node.txt2img()
    assert answer.info["sd_model_name"] == "other"
    assert difference(answer.images[0], first)[1] > 0.1
    assert node.status()["model"]["file"] == OTHER
    client.util_set_model("tiny-sd15")
    assert node.txt2img().images[0] == first


def test_a_checkpoint_for_one_request(node: Node) -> None:
    plain = node.txt2img()
    other = node.txt2img(override_settings={"sd_model_checkpoint": "other"})
    assert other.info["sd_model_name"] == "other"
    assert difference(other.images[0], plain.images[0])[1] > 0.1
    assert node.txt2img().images == plain.images


def test_a_file_that_is_no_checkpoint_is_refused_and_the_old_one_stays(node: Node) -> None:
    before = node.txt2img().images
    response = node.api("POST", "/sdapi/v1/options", json={"sd_model_checkpoint": ADAPTER})
    assert response.status_code == 500
    assert "checkpoint" in response.json()["detail"]
    chosen = node.api("GET", "/sdapi/v1/options").json()["sd_model_checkpoint"]
    assert chosen.startswith("tiny-sd15.safetensors")
    assert node.txt2img().images == before
    assert node.status()["model"]["file"] == "tiny-sd15.safetensors"


def test_a_client_that_leaves_cancels_its_pictures(node: Node) -> None:
    gone = node.metric("sdserver_cancelled_total", reason="client_gone")
    images = node.metric("sdserver_images_total")
    with node.leaving_client():
        node.wait_running()
    node.wait_idle()
    assert node.metric("sdserver_cancelled_total", reason="client_gone") == gone + 1
    assert node.metric("sdserver_images_total") == images
    assert node.metric("sdserver_requests_total", route="/sdapi/v1/txt2img", code="499") >= 1
