"""Asks a running node what AUTOMATIC1111 was asked, and collects what came of it."""

import base64
import random
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from node import Node, running

from tests.conformance.corpus import FIRST_CHECKPOINT, Case, split
from tests.conformance.corpus_compare import Answer, Difference, compare, refused

LONGEST = 600.0  # seconds for one answer
# Folder of the recordings' `checkpoints` to where the server looks for such files.
FOLDERS = {"lora": "models/Lora", "embeddings": "embeddings"}
LATER_FOLDERS = {"VAE": "models/VAE", "ESRGAN": "models/ESRGAN", "hypernetworks": "models/hypernetworks"}

FLAGS = ("--allow-pickle",)  # which is the default there


@dataclass(frozen=True)
class World:
    """How a node is set up for some groups.

    Attributes:
        groups: the groups recorded so; of the last world, all others.
        folders: which model files are there.
        flags: of the node.
    """

    groups: tuple[str, ...]
    folders: dict[str, str]
    flags: tuple[str, ...]


WORLDS = (
    World(("models_extra",), FOLDERS | LATER_FOLDERS, ("--nowebui", *FLAGS)),
    World(("webui_mode",), FOLDERS, FLAGS),
    World((), FOLDERS, ("--nowebui", *FLAGS)),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        case: the case.
        answer: None if there was none.
        differences: from the recorded answer; empty if there are none.
        seconds: until the answer.
    """

    case: Case
    answer: Answer | None
    differences: Sequence[Difference] = field(default=())
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """`equal`, `refused` or `differs`."""
        if not self.differences:
            return "equal"
        return "refused" if self.answer is not None and refused(self.case, self.answer) else "differs"


Told = Callable[[Outcome], None]


def checkpoints_of(root: Path) -> Path:
    """Where a folder of recordings has its models: in it, or beside it."""
    return root / "checkpoints" if (root / "checkpoints").is_dir() else root.parent / "checkpoints"


def make_world(root: Path, data_dir: Path, folders: dict[str, str]) -> Path:
    """A data folder of links to the recordings' models; the folder."""
    for source, target in {".": "models/Stable-diffusion", **folders}.items():
        (data_dir / target).mkdir(parents=True, exist_ok=True)
        for file in (checkpoints_of(root) / source).glob("*.*"):
            if file.is_file() and not file.name.startswith("vaeapprox"):
                (data_dir / target / file.name).symlink_to(file.resolve())
    styles = root / "styles.csv"
    if styles.exists():
        (data_dir / "styles.csv").write_bytes(styles.read_bytes())
    return data_dir


@contextmanager
def node_of(root: Path, world: World, *flags: str) -> Iterator[Node]:
    """A node of that world, ready for requests."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        data_dir = make_world(root, Path(folder), world.folders)
        first = data_dir / "models" / "Stable-diffusion" / f"{FIRST_CHECKPOINT}.safetensors"
        with running(data_dir, "--ckpt", str(first), *world.flags, *flags) as node:
            try:
                node.wait_ready()
            except (AssertionError, requests.RequestException) as error:
                time.sleep(1)  # for its last words
                said = f"{node.stdout[-3000:]}\n{node.stderr[-3000:]}"
                raise RuntimeError(f"the server did not start: {error}\n{said}") from error
            yield node


def run_corpus(
    cases: Sequence[Case],
    *,
    jobs: int = 16,
    flags: Sequence[str] = (),
    mix: int | None = None,
    told: Told | None = None,
    said: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Ask all cases, each in the world and with the checkpoint it was recorded with.

    Raises RuntimeError if a server does not start or does not take the options.

    Args:
        cases: of one folder of recordings.
        jobs: how many requests are under way at once, where order does not matter.
        flags: of the nodes.
        mix: shuffle those cases with this seed; None asks them in their order.
        told: is called with each outcome, one at a time.
        said: is called with what each server wrote to its standard error.
    """
    outcomes: list[Outcome] = []
    named = {group for world in WORLDS for group in world.groups}
    for world in WORLDS:
        chosen = [case for case in cases if (case.group in (world.groups or {case.group} - named))]
        if chosen:
            with node_of(chosen[0].root, world, *flags) as node:
                outcomes += run_cases(node, chosen, jobs=jobs, mix=mix, told=told)
                if said is not None:
                    said(node.stderr)
    return outcomes


def run_cases(
    node: Node, cases: Sequence[Case], *, jobs: int, mix: int | None = None, told: Told | None = None
) -> list[Outcome]:
    """Ask a node all cases."""
    options = _options(node)
    outcomes: list[Outcome] = []
    telling = threading.Lock()

    def one(case: Case) -> Outcome:
        outcome = run_case(node, case)
        with telling:
            if told is not None:
                told(outcome)
        return outcome

    sequences, _ = split(cases)
    for sequence in sequences:
        reset(node, options, _start_of(sequence))
        outcomes += [one(case) for case in sequence]
    for checkpoint in dict.fromkeys(case.checkpoint for case in cases):
        _, free = split([case for case in cases if case.checkpoint == checkpoint])
        if not free:
            continue
        if mix is not None:
            random.Random(mix).shuffle(free)
        reset(node, options, checkpoint)
        with ThreadPoolExecutor(jobs) as pool:
            outcomes += pool.map(one, free)
    return outcomes


def _start_of(sequence: Sequence[Case]) -> str:
    """The checkpoint that is chosen before a sequence; one that switches starts from the first."""
    return FIRST_CHECKPOINT if sequence[0].name == "_switch" else sequence[0].checkpoint


def run_case(node: Node, case: Case) -> Outcome:
    """Ask one case. Does not raise for anything that the server does."""
    began = time.monotonic()
    try:
        with acting(node, case):
            response = node.api(case.method, case.endpoint, timeout=LONGEST, **case.arguments())
    except requests.RequestException as error:
        text = f"no answer: {type(error).__name__}"
        return Outcome(case, None, (Difference("answer", text),), time.monotonic() - began)
    answer = Answer(response.status_code, response.text)
    seconds = time.monotonic() - began
    try:
        differences = compare(case, answer)
    except Exception as error:  # noqa: BLE001 - whatever the body was, it is not as recorded
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} (line {where.lineno} of {Path(where.filename).name})"
        differences = [Difference("comparison", text)]
    return Outcome(case, answer, tuple(differences), seconds)


@contextmanager
def acting(node: Node, case: Case) -> Iterator[None]:
    """Does, beside the block, what a client did while the case was recorded."""
    action = case.action
    if action is None:
        yield
        return
    over = threading.Event()

    def act() -> None:
        while not over.wait(0.01):
            state = node.api("GET", "/sdapi/v1/progress").json()["state"]
            if state["job_count"] > 0 and state["sampling_step"] >= action.step:
                node.api("POST", action.endpoint)
                return

    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(act)
        try:
            yield
        finally:
            over.set()
    acted.result()


def _options(node: Node) -> dict[str, Any]:
    options: dict[str, Any] = node.api("GET", "/sdapi/v1/options").json()
    return options


def reset(node: Node, options: dict[str, Any], checkpoint: str) -> None:
    """Give the options back their first values, with that checkpoint.

    Raises:
        RuntimeError: the server does not take them.
    """
    changes = {key: value for key, value in options.items() if key != "sd_checkpoint_hash"}
    changes["sd_model_checkpoint"] = checkpoint
    response = node.api("POST", "/sdapi/v1/options", json=changes, timeout=LONGEST)
    if response.status_code != 200:
        raise RuntimeError(f"options are not taken: {response.status_code} {response.text[:500]}")


def save_pictures(outcome: Outcome, folder: Path) -> None:
    """Write the answer's pictures below the folder, named as the recorded ones."""
    body = outcome.answer.body if outcome.answer is not None else None
    if not isinstance(body, dict):
        return
    pictures = body.get("images") or ([body["image"]] if body.get("image") else [])
    target = folder / outcome.case.group
    target.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        (target / f"{outcome.case.name}.{index}.png").write_bytes(base64.b64decode(picture))
