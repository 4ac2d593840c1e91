"""Devices as Prometheus and people see them."""

from prometheus_client.parser import text_string_to_metric_families

from sdserver.engine.member import DeviceFacts
from sdserver.engine.messages import Loaded, MemoryFacts
from sdserver.ops.devices import device_fields
from sdserver.ops.metrics import Metrics
from sdserver.ops.state import Node
from tests.ops.test_ops_metrics import Busy

MODEL = Loaded("/secret/folder/x.safetensors", "sd1", "cuda", "float16", 1.0)
FIRST = DeviceFacts("cuda:0", "ready", "", 3, 1, 2, 4, 50, 90, 7, MemoryFacts(5, 10, 2, 3), MODEL)
SECOND = DeviceFacts("cuda:1", "failed", "It is gone.", 0, 0, 5, 0, 0, 0, 0, None, None)


def samples(node: Node) -> dict[tuple[str, ...], float]:
    text = Metrics().text(node.facts(), Busy()).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("sdserver_device")
    }


def test_each_device_has_its_samples() -> None:
    node = Node("1")
    assert samples(node) == {}
    node.watch_devices(lambda: (FIRST, SECOND))
    found = samples(node)
    assert found["sdserver_device_ready", "cuda:0"] == 1
    assert found["sdserver_device_ready", "cuda:1"] == 0
    assert found["sdserver_device_images_running", "cuda:0"] == 3
    assert found["sdserver_device_rows_total", "cuda:0"] == 90
    assert found["sdserver_device_images_total", "cuda:0"] == 7
    assert found["sdserver_device_loads_total", "cuda:0"] == 4
    assert found["sdserver_device_restarts_total", "cuda:1"] == 5
    memory = {key[2]: value for key, value in found.items() if key[0] == "sdserver_device_memory_bytes"}
    assert memory == {"free": 5, "total": 10, "allocated": 2, "reserved": 3}
    assert not any(key[:2] == ("sdserver_device_memory_bytes", "cuda:1") for key in found)


def test_people_are_told_of_no_path() -> None:
    fields = device_fields(FIRST)
    assert fields["model"] == "x.safetensors"
    assert fields["memory"] == {"free": 5, "total": 10}
    assert "secret" not in str(fields)
    assert device_fields(SECOND)["reason"] == "It is gone."


def test_an_engine_that_is_replaced_while_others_serve_leaves_the_node_as_it_is() -> None:
    node = Node("1")
    for phase in ("loading", "ready"):
        node.enter(phase)
    node.observe(MODEL)
    node.engine_restarted("It ended.", is_serving=True)
    facts = node.facts()
    assert (facts.phase, facts.model, facts.restarts) == ("ready", MODEL, 1)
    node.engine_restarted("It ended.")
    facts = node.facts()
    assert (facts.phase, facts.model, facts.restarts) == ("restarting", None, 2)
