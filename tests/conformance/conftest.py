"""The node that most tests share: a real process with a tiny checkpoint, started once."""

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from node import CHECKPOINT, Node, Poll, running
from PIL import Image

OTHER = "other.safetensors"
ADAPTER = "adapter.safetensors"
OPS_PATHS = ("/", "/live", "/ready", "/startup", "/health", "/status", "/metrics", "/load")


FIGURES = pytest.StashKey[list[str]]()

Tell = Callable[[str], None]


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Takes a measured figure, to be shown at the end of the run."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("measured")
    for figure in figures:
        terminalreporter.line(figure)


@dataclass(frozen=True)
class Boot:
    """How the shared node started.

    Attributes:
        listening_after: seconds from the process's start to the maintenance port's first answer.
        early: the statuses of the maintenance port's paths right then.
        ready_after: seconds from the process's start until it took requests.
        stderr: what it had said there by then.
    """

    node: Node
    listening_after: float
    early: dict[str, int]
    polls: list[Poll]
    ready_after: float
    stderr: str


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    data_dir = make_data_dir(tmp_path_factory.mktemp("node"))
    folder = data_dir / "models" / "Stable-diffusion"
    write_other_checkpoint(folder / OTHER)
    write_adapter(folder / ADAPTER)
    with running(data_dir, "--model_url", str(folder / CHECKPOINT.name), "--max-body-mb", "1") as node:
        listening_after = node.wait_listening()
        early = {path: node.ops(path).status_code for path in OPS_PATHS}
        polls = node.wait_ready()
        ready_after = node.status()["uptime_s"]
        yield Boot(node, listening_after, early, polls, ready_after, node.stderr)


@pytest.fixture(scope="session")
def node(boot: Boot) -> Node:
    return boot.node


def make_data_dir(folder: Path) -> Path:
    """A data folder that holds the tiny checkpoint."""
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    (models / CHECKPOINT.name).symlink_to(CHECKPOINT)
    return folder


def write_other_checkpoint(path: Path) -> None:
    """The tiny checkpoint with its UNet's last layer upside down: it makes other pictures."""
    data = bytearray(CHECKPOINT.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    tensor = json.loads(data[8 : 8 + length])["model.diffusion_model.out.2.weight"]
    begin, end = (8 + length + offset for offset in tensor["data_offsets"])
    values = np.frombuffer(bytes(data[begin:end]), np.float16)
    data[begin:end] = (-values).tobytes()
    path.write_bytes(data)


def write_adapter(path: Path) -> None:
    """A file with the tensors of a LoRA: sound, but no checkpoint."""
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    header = {
        f"{name}.{part}": {"dtype": "F16", "shape": shape, "data_offsets": [16 * index, 16 * index + 16]}
        for index, (part, shape) in enumerate((("lora_down.weight", [1, 8]), ("lora_up.weight", [8, 1])))
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))


def pixels(image: str) -> np.ndarray:
    """(height, width, 3), integers from 0 to 255, of a picture in base64."""
    with Image.open(io.BytesIO(base64.b64decode(image, validate=True))) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def difference(one: str, other: str) -> tuple[int, float]:
    """The greatest difference of two pictures, and the share of values that differ by more than 2."""
    apart = np.abs(pixels(one) - pixels(other))
    return int(apart.max()), float((apart > 2).mean())
