"""The Grafana dashboard asks for metrics that there are, by labels that they have; promised ones exist."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdserver.engine.messages import BatchRan, Beat, Loaded, MemoryFacts
from sdserver.jobs.events import Failed
from sdserver.ops.metrics import Metrics
from sdserver.ops.state import Node
from sdserver.ops.uploads.facts import UploadFacts

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana.json"
FUNCTIONS = {"sum", "max", "rate", "increase", "histogram_quantile", "by", "and", "or", "le", "label_values"}
OF_PROMETHEUS = {"instance", "job"}
WANTED = {
    "sdserver_requests_total": {"route", "code"},
    "sdserver_request_duration_seconds": {"route"},
    "sdserver_queue_duration_seconds": set(),
    "sdserver_inference_duration_seconds": {"stage"},
    "sdserver_steps_total": set(),
    "sdserver_images_total": set(),
    "sdserver_megapixel_steps_total": set(),
    "sdserver_requests_waiting": set(),
    "sdserver_requests_running": set(),
    "sdserver_rejected_total": {"reason"},
    "sdserver_cancelled_total": {"reason"},
    "sdserver_oom_total": {"recovered"},
    "sdserver_nan_total": {"where", "recovered"},
    "sdserver_worker_restarts_total": {"reason"},
    "sdserver_last_step_age_seconds": set(),
    "sdserver_gpu_memory_bytes": {"kind"},
    "sdserver_model_load_seconds": {"phase"},
    "sdserver_model_info": {"sha256", "arch", "dtype"},
    "sdserver_download_bytes_total": set(),
    "sdserver_upload_spool_files": set(),
    "sdserver_upload_spool_bytes": set(),
    "sdserver_upload_spool_oldest_seconds": set(),
    "sdserver_upload_total": {"result"},
    "sdserver_ready": set(),
}


class Idle:
    running = waiting = 0
    capacity = 1
    eta_seconds = 0.0


def samples() -> dict[str, set[str]]:
    """The names of all samples with their labels, each counted once."""
    metrics, node = Metrics(), Node("1")
    for message in (
        BatchRan("predict", 1, 0.1),
        Beat(MemoryFacts(1, 2, 3, 4), 0, 0),
        Loaded("/one.safetensors", "sd1", "cpu", "float32", 1.0),
        Failed("a", "OutOfMemory", ""),
        Failed("b", "NansException", "The UNet's result is not a number."),
    ):
        metrics.observe(message)
    metrics.request_done("/sdapi/v1/txt2img", 200, 1.0)
    metrics.waited(1.0)
    metrics.rejected("queue_full")
    metrics.cancelled("client_gone")
    node.watch_uploads(lambda: UploadFacts("s3://b/", 1, 2, 3.0, {"stored": 4, "dropped": 0}, None, 0.0, 0.0))
    text = metrics.text(node.facts(), Idle()).decode()
    metrics.engine_restarted("crash")
    text = text + metrics.text(node.facts(), Idle()).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


SAMPLES = samples()


def expressions() -> list[str]:
    """Everything that the dashboard asks Prometheus."""
    found: list[str] = []

    def walk(value: object) -> None:
        match value:
            case dict():
                found.extend(text for key in ("expr", "query") if isinstance(text := value.get(key), str))
                for each in value.values():
                    walk(each)
            case list():
                for each in value:
                    walk(each)

    walk(json.loads(DASHBOARD.read_text("utf-8")))
    return [each for each in found if each != "prometheus"]


@pytest.mark.parametrize("expression", expressions())
def test_the_dashboard_asks_for_what_there_is(expression: str) -> None:
    names = re.findall(r"\b((?:sdserver|process)_\w+)", expression)
    assert names
    assert set(names) <= SAMPLES.keys()
    labels = (OF_PROMETHEUS | {"le"}).union(*(SAMPLES[name] for name in names))
    asked = re.findall(r"(\w+)\s*=~?\s*\"", expression)
    for group in re.findall(r"by \(([^)]*)\)", expression):
        asked += [part.strip() for part in group.split(",")]
    assert set(asked) <= labels


def test_legends_name_labels_that_there_are() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            names = re.findall(r"\b((?:sdserver|process)_\w+)", target["expr"])
            labels = OF_PROMETHEUS.union(*(SAMPLES[name] for name in names))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


def test_every_metric_but_the_makers_own_is_shown() -> None:
    shown = set(re.findall(r"\b(sdserver_\w+)", " ".join(expressions())))
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert WANTED.keys() <= shown


def test_panels_lie_side_by_side_and_have_ids_of_their_own() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("name", WANTED)
def test_the_metrics_that_are_promised_exist(name: str) -> None:
    histogram = f"{name}_bucket"
    assert name in SAMPLES or histogram in SAMPLES
    assert WANTED[name] <= SAMPLES.get(name, SAMPLES.get(histogram, set()))


def test_the_text_is_what_prometheus_recommends() -> None:
    """What `promtool check metrics` looks at."""
    text = Metrics().text(Node("1").facts(), Idle()).decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert re.fullmatch("[a-z][a-z0-9_]*", family.name)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    for name, kind in kinds.items():
        assert kind in {"counter", "gauge", "histogram"}
        assert (kind == "counter") == name.endswith("_total"), name
        assert not name.endswith(("_ms", "_milliseconds", "_mb", "_minutes", "_count", "_sum", "_bucket"))
    assert text.endswith("\n")
    assert text.count("# TYPE ") == len(kinds)
