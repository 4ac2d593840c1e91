"""nginx, HAProxy and Envoy with the files of deploy/, before two nodes."""

import base64
import contextlib
import io
import json
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from node import LOOPBACK, Node, wait_until
from patience import PATIENCE
from PIL import Image

from tests.deploy.balancers import Address, Balancer, balancer, silent_port
from tests.deploy.conftest import BALANCERS, NAME, Site, all_at_once, kill, status_counts

Call = Callable[[], requests.Response]
SLOW = {"width": 128, "height": 128}  # of pictures that must not be done before all are asked for


def noisy_picture(side: int) -> str:
    """A picture that does not get smaller when packed, as base64."""
    pixels = random.Random(1).randbytes(side * side * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def mixed_requests(one: Balancer) -> list[tuple[Call, int]]:
    """Requests of all kinds, each with the status that a node alone would give it."""
    small = {"steps": 1, "width": 64, "height": 64}
    large = {"init_images": [noisy_picture(800)], "denoising_strength": 0.5} | small
    broken = {"width": -1}
    kinds: list[tuple[Call, int]] = [
        *((lambda seed=seed: one.txt2img(seed=seed), 200) for seed in range(12)),
        (lambda: one.ask("POST", "/sdapi/v1/img2img", json=large), 200),
        (lambda: one.ask("POST", "/sdapi/v1/txt2img", json=broken), 422),
        (lambda: one.ask("POST", "/sdapi/v1/txt2img", data="{"), 422),
        *((lambda path=path: one.ask("GET", path), 200) for path in ("/", "/health", "/openapi.json")),
        (lambda: one.ask("HEAD", "/health"), 200),
        (lambda: one.ask("GET", "/nothing"), 404),
        (lambda: one.ask("GET", "/sdapi/v1/progress"), 200),
        (lambda: one.ask("GET", "/sdapi/v1/samplers"), 200),
        (lambda: one.ask("GET", "/sdapi/v1/options"), 200),
        (lambda: one.ask("POST", "/v1/jobs", json={"kind": "txt2img"} | small), 202),
        (lambda: one.ask("GET", "/v1/jobs"), 200),
        *((lambda: one.ask("GET", "/internal/ping"), 200) for _ in range(12)),
    ]
    random.Random(2).shuffle(kinds)
    return kinds


def test_mixed_requests_are_answered_as_by_a_node(pair: Site, one: Balancer) -> None:
    """36 requests, eight at a time: for each balancer, and both nodes have their share."""
    before = [node.metric("sdserver_images_total") for node in pair.nodes]
    asked = mixed_requests(one)
    answers = all_at_once([call for call, _ in asked])
    assert [answer.status_code for answer in answers] == [status for _, status in asked]
    after = [node.metric("sdserver_images_total") for node in pair.nodes]
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_nodes_hear_the_name_that_was_asked_for(one: Balancer) -> None:
    """Which they check, and compare with a page's origin."""
    body, site = {"steps": 1, "width": 64, "height": 64}, f"http://{NAME}"
    for host, origin, status in (
        (NAME, site, 200),
        (NAME, "http://evil.example", 403),
        ("evil.example", "", 403),
    ):
        page = {
            "Host": host,
            "Origin": origin,
            "Sec-Fetch-Site": "same-origin" if origin == site else "cross-site",
        }
        headers = page if origin else {"Host": host}
        assert one.ask("POST", "/sdapi/v1/txt2img", json=body, headers=headers).status_code == status


def test_events_come_while_the_job_runs(one: Balancer) -> None:
    with requests.Session() as session:
        session.trust_env = False
        base = f"http://{LOOPBACK}:{one.port}"
        body = {"kind": "txt2img", "steps": 150, "width": 64, "height": 64, "n_iter": 20}
        job = session.post(f"{base}/v1/jobs", json=body).json()["id"]
        for path in (f"/v1/jobs/{job}/events", "/v1/events?previews=true"):
            with session.get(f"{base}{path}", stream=True, timeout=PATIENCE) as stream:
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                assert any(makes_progress(line) for line in stream.iter_lines(chunk_size=1))
                assert session.get(f"{base}/v1/jobs/{job}").json()["state"] == "running"
        assert session.post(f"{base}/v1/jobs/{job}/interrupt").status_code == 200
        with session.get(f"{base}/v1/jobs/{job}/events", stream=True, timeout=PATIENCE) as stream:
            assert b"event: end" in list(stream.iter_lines())


@pytest.mark.parametrize("first", ["page", "job"])
def test_who_opened_the_page_or_sent_a_job_stays(one: Balancer, first: str) -> None:
    """With its cookie; whoever has none is sent where there is room."""
    base = f"http://{LOOPBACK}:{one.port}"
    with requests.Session() as session:
        session.trust_env = False
        if first == "page":
            assert session.get(f"{base}/").status_code == 200
        body = {"kind": "txt2img", "steps": 1, "width": 64, "height": 64}
        jobs = [session.post(f"{base}/v1/jobs", json=body).json()["id"] for _ in range(4)]
        found = [session.get(f"{base}/v1/jobs/{job}").status_code for job in jobs for _ in range(3)]
    assert found == [200] * 12
    assert "set-cookie" not in one.ask("GET", "/sdapi/v1/samplers").headers


def test_a_full_node_is_passed_over(pair: Site, one: Balancer) -> None:
    """It answers 503 at once, and the balancer does not yet know why its requests are so short."""
    full, other = pair.nodes
    body = {"kind": "txt2img", "steps": 150, "width": 64, "height": 64, "n_iter": 30}
    while (taken := full.api("POST", "/v1/jobs", json=body)).status_code == 202:
        pass
    assert taken.status_code == 503
    assert taken.headers["Retry-After"]
    before = other.metric("sdserver_images_total")
    answers = [one.txt2img(seed=seed) for seed in range(6)]
    assert status_counts(answers) == {200: 6}
    assert other.metric("sdserver_images_total") == before + 6
    for job in full.api("GET", "/v1/jobs").json()["jobs"]:
        full.api("DELETE", f"/v1/jobs/{job['id']}")
    full.wait_idle()
    pair.used(one, 0)


def test_a_host_that_is_switched_off_costs_a_second(pair: Site, tmp_path: Path) -> None:
    """nginx's file for two hosts; the other says nothing at all."""
    with silent_port() as port:
        nodes = [pair.addresses[0], Address(port, 0)]
        with balancer("nginx", tmp_path / "nginx", nodes, "two-hosts.conf") as one:
            answers = [one.txt2img(seed=seed) for seed in range(4)]
            assert status_counts(answers) == {200: 4}
            assert max(answer.elapsed.total_seconds() for answer in answers) >= 1
            page = one.ask("GET", "/", headers={"Cookie": "sdserver_node=b"})
            assert page.status_code == 200
            assert "sdserver_node=a" in page.headers["Set-Cookie"]


def test_a_killed_node_loses_nothing(pair: Site) -> None:
    """What it had begun is begun again elsewhere, by the balancers; then it comes back into use."""
    balancers = [pair.balancer(name) for name in BALANCERS]
    killed = pair.nodes[1]
    calls = [
        lambda one=one, seed=seed: one.ask(
            "POST",
            "/sdapi/v1/txt2img",
            json={"steps": 30, "width": 64, "height": 64, "seed": seed},
            headers={"Idempotency-Key": f"{one.name}-{seed}"},
        )
        for seed in range(3)
        for one in balancers
    ]
    with answers_of(calls) as answers:
        wait_until(lambda: total(killed) >= 3 and killed.ops("/load").json()["running"])
        kill(killed)
    assert status_counts(answers) == {200: 9}
    assert all(len(answer.json()["images"]) == 1 for answer in answers)
    pair.restart(1)
    for one in balancers:
        pair.used(one, 1)


def drained(site: Site, balancers: list[Balancer]) -> list[requests.Response]:
    """Tell a node to end that works on one request and has accepted five more; all that was asked meanwhile.

    Everything comes through the balancers, the six as well as those that go on coming until the node is gone.
    """
    leaving = site.nodes[1]
    asked: list[Call] = []
    with contextlib.ExitStack() as stack:
        batches = []
        for seed in range(14):
            one = balancers[seed % len(balancers)]
            call = lambda one=one, seed=seed: one.txt2img(steps=40, seed=seed, **SLOW)  # noqa: E731
            batches.append(stack.enter_context(answers_of([call])))
            asked.append(call)
            wait_until(lambda count=seed + 1: sum(total(node) for node in site.nodes) >= count)
            if total(leaving) >= 6:
                break
        load = leaving.ops("/load").json()
        assert (load["running"], load["pending"]) == (1, 5)
        leaving.signal(signal.SIGTERM)
        later = [balancers[seed % len(balancers)].txt2img(seed=seed) for seed in until_gone(leaving)]
    assert leaving.exit_code() == 0
    return [*(answer for batch in batches for answer in batch), *later]


def test_a_drained_node_loses_nothing(pair: Site) -> None:
    """Behind balancers that ask the nodes how they are: 1 running, 5 accepted, and more on their way."""
    answers = drained(pair, [pair.balancer(name) for name in ("haproxy", "envoy", "nginx")])
    assert len(answers) > 12
    assert status_counts(answers) == {200: len(answers)}


def test_a_drained_node_loses_nothing_behind_nginx_alone(pair: Site) -> None:
    """Which does not ask; it is refused, and asks the other."""
    answers = drained(pair, [pair.only("nginx")])
    assert len(answers) > 12
    assert status_counts(answers) == {200: len(answers)}


def makes_progress(line: bytes) -> bool:
    """Whether a line of an event says that a job has come some way."""
    field, _, data = line.partition(b": ")
    return field == b"data" and json.loads(data).get("progress", 0) > 0


def total(node: Node) -> int:
    """A node's unfinished requests."""
    load = json.loads(node.ops("/load").content)
    return int(load["running"] + load["pending"])


def until_gone(node: Node) -> Iterator[int]:
    """Numbers, as long as the node lives."""
    number = 1000
    while node.process.poll() is None:
        yield number
        number += 1


@contextlib.contextmanager
def answers_of(calls: list[Call]) -> Iterator[list[requests.Response]]:
    """Ask while the block runs; all answers are there after it."""
    answers: list[requests.Response] = []
    threads = [threading.Thread(target=lambda call=call: answers.append(call())) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        for thread in threads:
            thread.join()
