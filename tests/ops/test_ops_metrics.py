"""Metrics, read back with Prometheus' own parser."""

import math
import re
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdserver.engine.messages import BatchRan, Beat, FromEngine, Loaded, MemoryFacts, Mended
from sdserver.jobs.events import Cancelled, Failed, Finished, Picture, Progress, Started
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.metrics import MAX_ROUTES, Metrics
from sdserver.ops.state import Node


@dataclass
class Busy:
    running: int = 2
    waiting: int = 5
    capacity: int = 4
    eta_seconds: float = 12.5


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = Metrics(lambda: self.now)
        self.node = Node("1")
        self.load = Busy()

    def observe(self, *messages: FromEngine) -> None:
        for message in messages:
            self.metrics.observe(message)

    def samples(self) -> dict[str, float]:
        text = self.metrics.text(self.node.facts(), self.load).decode()
        return {
            sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_live_values(bench: Bench) -> None:
    before = bench.samples()
    assert before["sdserver_ready"] == 0
    assert before["sdserver_requests_running"] == 2
    assert before["sdserver_requests_waiting"] == 5
    assert math.isnan(before["sdserver_last_step_age_seconds"])
    assert before["process_resident_memory_bytes"] > 1e6
    bench.load.waiting = 0
    bench.node.enter("loading")
    bench.node.enter("ready")
    bench.observe(BatchRan("predict", 1, 0.1))
    bench.now += 3
    after = bench.samples()
    assert (after["sdserver_ready"], after["sdserver_requests_waiting"]) == (1, 0)
    assert after["sdserver_last_step_age_seconds"] == 3


def test_batches(bench: Bench) -> None:
    bench.observe(
        BatchRan("predict", 8, 0.05),
        BatchRan("predict", 1, 0.02),
        BatchRan("text", 2, 0.001),
        BatchRan("decode", 3, 0.5),
        BatchRan("surprise", 1, 1.0),
    )
    found = bench.samples()
    rows = {le: found[f"sdserver_batch_rows_bucket kind=predict le={le}.0"] for le in (1, 2, 4, 8, 64)}
    assert rows == {1: 1, 2: 1, 4: 1, 8: 2, 64: 2}
    assert found["sdserver_batch_rows_sum kind=predict"] == 9
    buckets = {k.split("le=")[1] for k in found if k.startswith("sdserver_batch_rows_bucket kind=predict")}
    assert buckets == {"1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "+Inf"}
    assert found["sdserver_inference_duration_seconds_sum stage=denoise"] == pytest.approx(0.07)
    assert found["sdserver_inference_duration_seconds_count stage=vae"] == 1
    assert found["sdserver_inference_duration_seconds_count stage=text"] == 1
    assert found["sdserver_batch_rows_count kind=other"] == 1


def test_jobs(bench: Bench) -> None:
    picture = Picture(512, 1024, b"")
    bench.observe(
        Started("a"),
        Progress("a", 1, 20),
        Progress("a", 4, 20),
        Started("a"),  # again, after a crash: its steps are done twice
        Progress("a", 1, 20),
        Progress("a", 20, 20),
        Finished("a", picture),
        Started("b"),
        Progress("b", 3, 20),
        Failed("b", "OutOfMemory", "a prompt"),
        Failed("c", "EngineFailure", "a prompt"),
        Failed("e", "NansException", "The UNet's result is not a number."),
        Failed("f", "NansException", "The networks' result is not a number."),
        Mended("oom"),
        Mended("nan"),
        Started("d"),
        Cancelled("d"),
    )
    found = bench.samples()
    assert found["sdserver_steps_total"] == 4 + 20 + 3
    assert found["sdserver_images_total"] == 1
    assert found["sdserver_megapixel_steps_total"] == pytest.approx(512 * 1024 * 20 / 1e6)
    assert found["sdserver_oom_total recovered=no"] == 1
    assert found["sdserver_oom_total recovered=yes"] == 1
    assert found["sdserver_nan_total recovered=no where=unet"] == 1
    assert found["sdserver_nan_total recovered=no where=vae"] == 1
    assert found["sdserver_nan_total recovered=yes where=vae"] == 1
    assert bench.metrics._steps_done == {}


def test_requests(bench: Bench) -> None:
    bench.metrics.request_done("/sdapi/v1/txt2img", 200, 4.0)
    bench.metrics.request_done("/sdapi/v1/txt2img", 200, 400.0)
    bench.metrics.waited(0.05)
    bench.metrics.rejected("queue_full")
    bench.metrics.cancelled("client_gone")
    bench.metrics.engine_restarted("crash")
    found = bench.samples()
    assert found["sdserver_requests_total code=200 route=/sdapi/v1/txt2img"] == 2
    assert found["sdserver_request_duration_seconds_bucket le=5.0 route=/sdapi/v1/txt2img"] == 1
    assert found["sdserver_request_duration_seconds_bucket le=600.0 route=/sdapi/v1/txt2img"] == 2
    assert found["sdserver_queue_duration_seconds_bucket le=0.1"] == 1
    assert found["sdserver_rejected_total reason=queue_full"] == 1
    assert found["sdserver_cancelled_total reason=client_gone"] == 1
    assert found["sdserver_worker_restarts_total reason=crash"] == 1


def test_routes_cannot_fill_the_memory(bench: Bench) -> None:
    for number in range(3 * MAX_ROUTES):
        bench.metrics.request_done(f"/r{number}", 404, 0.1)
    bench.metrics.request_done("/r0", 404, 0.1)
    found = bench.samples()
    assert sum(name.startswith("sdserver_requests_total") for name in found) == MAX_ROUTES + 1
    assert found["sdserver_requests_total code=404 route=other"] == 2 * MAX_ROUTES
    assert found["sdserver_requests_total code=404 route=/r0"] == 2


def test_the_model_and_its_memory(bench: Bench) -> None:
    bench.observe(Loaded("/secret/one.safetensors", "sd1", "cuda:0", "float16", 3.5))
    bench.observe(Loaded("/secret/two.safetensors", "sdxl", "cuda:0", "bfloat16", 7.0))
    bench.observe(Beat(MemoryFacts(10, 20, None, 5), 0, 0))
    found = bench.samples()
    infos = [name for name in found if name.startswith("sdserver_model_info")]
    assert infos == ["sdserver_model_info arch=sdxl device=cuda:0 dtype=bfloat16 sha256="]
    bench.metrics.know_hashes({"/secret/two.safetensors": "ab12"}.__getitem__)
    infos = [name for name in bench.samples() if name.startswith("sdserver_model_info")]
    assert infos == ["sdserver_model_info arch=sdxl device=cuda:0 dtype=bfloat16 sha256=ab12"]
    assert found["sdserver_model_load_seconds phase=total"] == 7.0
    memory = {n.partition("=")[2]: v for n, v in found.items() if "gpu_memory" in n}
    assert memory == {"free": 10, "total": 20, "reserved": 5}
    bench.metrics.engine_restarted("crash")
    assert not [n for n in bench.samples() if "gpu_memory" in n or "model_info" in n]


def test_downloaded_bytes_only_grow(bench: Bench) -> None:
    for received, total in ((100, 100), (100, 100), (250, 250), (40, 290)):
        bench.node.progressed(DownloadProgress("m", received, None, 0.0, None, received))
        assert bench.samples()["sdserver_download_bytes_total"] == total


def test_labels_hold_nothing_that_a_client_wrote(bench: Bench) -> None:
    bench.observe(
        Started("evil-id"),
        Failed("evil-id", "evil-error", "evil-prompt"),
        Loaded("/evil/path", "sd1", "cpu", "float32", 1.0),
    )
    assert b"evil" not in bench.metrics.text(bench.node.facts(), bench.load)


def test_registries_are_separate_and_names_in_style(bench: Bench) -> None:
    Metrics()  # a second one would clash in a shared registry
    names = {n.partition(" ")[0] for n in bench.samples()}
    assert all(re.fullmatch(r"(sdserver|process)_[a-z_]+", name) for name in names)
