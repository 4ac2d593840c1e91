"""What those who use the server may know of the node: no path, no address, nobody's prompt."""

import math
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Final

from sdserver.ops.devices import device_fields
from sdserver.ops.history import SECONDS, History, Memory
from sdserver.ops.metrics import Load
from sdserver.ops.state import Node, NodeFacts

PACKAGES: Final = ("torch", "diffusers", "transformers")
FOR_OPERATORS: Final = frozenset({"reason"})
"""Of a device: it may tell of paths."""

COLUMNS: Final = ("images_per_minute", "rows", "running", "waiting", "memory")

Fields = dict[str, object]


class Overview:
    """The node as the page shows it.

    Args:
        node: its states.
        load: how busy the engine is.
        history: the last hour.
        memory: how much is used now.
    """

    def __init__(self, node: Node, load: Load, history: History, memory: Callable[[], Memory | None]) -> None:
        self._node = node
        self._load = load
        self._history = history
        self._memory = memory
        self._versions: dict[str, str] = {}

    def fields(self, since: float) -> Mapping[str, object]:
        """All of it, with the points of the history after `since`, in seconds since 1970."""
        facts, load = self._node.facts(), self._load
        points = self._history.since(since)
        memory = self._memory()
        eta = load.eta_seconds
        return {
            "state": facts.phase,
            "reason": facts.reason,
            "state_age_s": facts.phase_age,
            "uptime_s": facts.uptime,
            "versions": self._known_versions(facts.version),
            "model": _model(facts),
            "memory": None
            if memory is None
            else {"kind": memory.kind, "used": memory.used, "total": memory.total},
            "queue": {
                "running": load.running,
                "waiting": load.waiting,
                "capacity": load.capacity,
                "eta_s": eta if math.isfinite(eta) else None,
            },
            "engine": {"restarts": facts.restarts, "silent_s": facts.beat_age},
            "devices": [
                {name: value for name, value in device_fields(device).items() if name not in FOR_OPERATORS}
                for device in facts.devices
            ],
            "states": [
                {"state": change.phase, "reason": change.reason, "age_s": change.age}
                for change in facts.history
            ],
            "errors": [{"error": error.error, "age_s": error.age} for error in facts.errors],
            "history": {
                "seconds": SECONDS,
                "time": [point.time for point in points],
                **{name: [getattr(point, name) for point in points] for name in COLUMNS},
            },
        }

    def _known_versions(self, own: str) -> dict[str, str]:
        if not self._versions:
            self._versions = {"sdserver": own, "python": platform.python_version()}
            for package in PACKAGES:
                try:
                    self._versions[package] = version(package)
                except PackageNotFoundError:
                    continue
        return self._versions


def _model(facts: NodeFacts) -> Fields | None:
    model = facts.model
    if model is None:
        return None
    return {
        "file": PurePath(model.checkpoint).name,
        "family": model.family,
        "device": model.device,
        "dtype": model.dtype,
        "threads": model.threads,
        "load_s": model.seconds,
    }
