"""Each device's engine, for people and for Prometheus."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sdserver.engine.member import DeviceFacts

MEMORY_KINDS: Final = ("free", "total", "allocated", "reserved")


class DeviceCollector(Collector):
    """Samples of every device, as last shown."""

    def __init__(self) -> None:
        self._devices: tuple[DeviceFacts, ...] = ()

    def show(self, devices: Sequence[DeviceFacts]) -> None:
        """From now on these are told."""
        self._devices = tuple(devices)

    def collect(self) -> Iterator[Metric]:
        """The samples; each family is there, also where nothing is known yet."""
        ready = GaugeMetricFamily(
            "sdserver_device_ready", "1 while the device's engine takes jobs.", labels=["device"]
        )
        running = GaugeMetricFamily(
            "sdserver_device_images_running", "Images that the device works on.", labels=["device"]
        )
        memory = GaugeMetricFamily(
            "sdserver_device_memory_bytes", "The device's memory.", labels=["device", "kind"]
        )
        for device in self._devices:
            ready.add_metric([device.device], device.state == "ready")
            running.add_metric([device.device], device.running)
            for kind in MEMORY_KINDS:
                count = None if device.memory is None else getattr(device.memory, kind)
                if count is not None:
                    memory.add_metric([device.device, kind], count)
        yield from (ready, running, memory)
        for name, text, attribute in (
            ("sdserver_device_images", "Pictures that the device made.", "images"),
            ("sdserver_device_rows", "Rows of the denoiser's batches.", "rows"),
            ("sdserver_device_loads", "Checkpoints that were brought to the device.", "loads"),
            ("sdserver_device_restarts", "Engine processes of the device that were replaced.", "restarts"),
        ):
            counter = CounterMetricFamily(name, text, labels=["device"])
            for device in self._devices:
                counter.add_metric([device.device], getattr(device, attribute))
            yield counter


def device_fields(device: DeviceFacts) -> dict[str, object]:
    """A device as JSON: no path, no prompt."""
    memory = device.memory
    return {
        "device": device.device,
        "state": device.state,
        "reason": device.reason,
        "model": None if device.model is None else PurePath(device.model.checkpoint).name,
        "running": device.running,
        "waiting": device.waiting,
        "restarts": device.restarts,
        "loads": device.loads,
        "rows": device.rows,
        "images": device.images,
        "memory": None
        if memory is None or memory.total is None
        else {"free": memory.free, "total": memory.total},
    }
