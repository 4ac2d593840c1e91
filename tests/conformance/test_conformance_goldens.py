"""AUTOMATIC1111's recorded pictures and infotexts, over HTTP.

With SDSERVER_GOLDENS naming a folder of more recordings, its txt2img cases run too, each that this
version accepts; the folder holds `checkpoints` and one folder per group, as tests/goldens/a1111 does.
"""

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node import ROOT, Node, running

from tests.conformance.conftest import difference, make_data_dir, pixels

RECORDED = ROOT / "tests" / "goldens" / "a1111"
WIDER = Path(os.environ.get("SDSERVER_GOLDENS", os.devnull))
CHECKPOINTS = {
    "sdxl": "tiny-sdxl",
    "sd2v": "tiny-sd2-v",
    "inpaint_model": "tiny-sd15-inpainting",
}


@dataclass(frozen=True)
class Case:
    """A recorded request and its answer."""

    folder: Path
    recorded: dict[str, Any]

    @property
    def group(self) -> str:
        return str(self.recorded["group"])

    @property
    def request(self) -> dict[str, Any]:
        request: dict[str, Any] = self.recorded["request"]
        return request

    def pictures(self) -> list[str]:
        """The pictures in base64."""
        files = [self.folder / image["file"] for image in self.recorded["images"]]
        return [base64.b64encode(file.read_bytes()).decode() for file in files]


def cases(root: Path) -> Iterator[Case]:
    """Every txt2img that was answered."""
    for path in sorted(root.glob("*/*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        is_case = isinstance(recorded, dict) and recorded.get("endpoint") == "/sdapi/v1/txt2img"
        if is_case and recorded["status"] == 200 and isinstance(recorded["request"], dict):
            yield Case(path.parent, recorded)


def named(found: list[Case]) -> list[Any]:
    return [pytest.param(case, id=f"{case.group}/{case.recorded['name']}") for case in found]


def comparable(info: dict[str, Any], *, random_seed: bool, random_subseed: bool) -> dict[str, Any]:
    """`info` without what differs from run to run, or between the programs."""
    unknown = {"job_timestamp", "version"}
    unknown |= {"subseed", "all_subseeds"} if random_subseed else set()
    unknown |= {"seed", "all_seeds"} if random_seed else set()
    kept = {key: value for key, value in info.items() if key not in unknown}
    texts = [re.sub(r", Version: [^,]+", "", text) for text in info["infotexts"]]
    if random_seed:
        texts = [re.sub(r"\b(Seed|Variation seed): \d+", r"\1: ?", text) for text in texts]
    return kept | {"infotexts": texts}


def check(node: Node, case: Case) -> None:
    """Send the request; skip if this version refuses it, fail if the answer differs."""
    response = node.api("POST", "/sdapi/v1/txt2img", json=case.request)
    if response.status_code != 200 and case.folder.parent != RECORDED:
        pytest.skip(f"{response.status_code}: {response.json().get('detail')}")
    assert response.status_code == 200, response.text
    answer = response.json()
    problems: list[str] = []
    random_seed = case.request.get("seed", -1) in (-1, None)
    recorded = case.pictures()
    if len(recorded) != len(answer["images"]):
        problems.append(f"{len(answer['images'])} pictures, not {len(recorded)}")
    elif not random_seed:
        for index, (ours, theirs) in enumerate(zip(answer["images"], recorded, strict=True)):
            if pixels(ours).shape != pixels(theirs).shape:
                problems.append(f"picture {index}: {pixels(ours).shape}, not {pixels(theirs).shape}")
            elif (greatest := difference(ours, theirs)[0]) > 1:
                mean = float(np.abs(pixels(ours) - pixels(theirs)).mean())
                problems.append(f"picture {index}: differs by {greatest}, {mean:.3f} on average")
    random_subseed = case.request.get("subseed", -1) in (-1, None)
    info, wanted = (
        comparable(json.loads(text), random_seed=random_seed, random_subseed=random_subseed)
        for text in (answer["info"], case.recorded["info_raw"])
    )
    for key in wanted.keys() | info.keys():
        if info.get(key) != wanted.get(key):
            problems.append(f"info {key}: {info.get(key)!r}, not {wanted.get(key)!r}")
    assert not problems, "; ".join(problems)


@pytest.mark.parametrize("case", named(list(cases(RECORDED))))
def test_recorded(node: Node, case: Case) -> None:
    check(node, case)


@pytest.fixture(scope="session")
def wider_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    data_dir = make_data_dir(tmp_path_factory.mktemp("wider"))
    for file in (WIDER / "checkpoints").glob("tiny-*"):
        link = data_dir / "models" / "Stable-diffusion" / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    (data_dir / "styles.csv").write_bytes((WIDER / "styles.csv").read_bytes())
    with running(data_dir) as node:
        node.wait_ready()
        yield node


@pytest.fixture(scope="session")
def wider_defaults(wider_node: Node) -> dict[str, Any]:
    """The options as they are before the first case."""
    options: dict[str, Any] = wider_node.api("GET", "/sdapi/v1/options").json()
    return options


@pytest.mark.slow
@pytest.mark.skipif(not WIDER.is_dir(), reason="SDSERVER_GOLDENS names no folder")
@pytest.mark.parametrize("case", named(list(cases(WIDER))))
def test_wider(wider_node: Node, wider_defaults: dict[str, Any], case: Case) -> None:
    checkpoint = CHECKPOINTS.get(case.group, "tiny-sd15")
    # Some cases leave their overrides behind.
    changes = wider_defaults | {"sd_model_checkpoint": checkpoint}
    response = wider_node.api("POST", "/sdapi/v1/options", json=changes)
    assert response.status_code == 200, response.text
    check(wider_node, case)
