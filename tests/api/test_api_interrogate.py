"""Pictures described in words, where a captioning network is there."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node import CHECKPOINT, Node, running
from PIL import Image
from tiny_captioner import write_captioner

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Caption
from sdserver.catalog.networks import NetworkFolders
from sdserver.images.pictures import to_picture
from sdserver.jobs.job import Describe, Img2Img
from tests.api.conftest import Server

DEFAULTS = (1, 24, 48)  # beams, least and most tokens


def noise(seed: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (20, 28, len(mode)), dtype=np.uint8)
    return Image.fromarray(values, mode)


def sent(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A models/BLIP with a network that the fake engine does not look into."""
    folder = tmp_path / "BLIP" / "base"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder.parent


@pytest.fixture
def described(tmp_path: Path, place: Path) -> Iterator[Server]:
    running = Server(tmp_path, NetworkFolders(blip=place))
    yield running
    running.close()


def test_the_picture_and_the_options_reach_the_engine(described: Server, place: Path) -> None:
    image = Image.new("RGBA", (6, 4), (10, 20, 30, 40))
    answer = described.post("interrogate", {"image": sent(image), "model": "clip"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"caption": f"6x4 of (10, 20, 30) by base {DEFAULTS}"}
    assert answer.headers["X-Task-Id"]
    changed = {f"interrogate_clip_{name}": value for name, value in (("num_beams", 3), ("min_length", 7))}
    assert described.post("options", changed).status_code == 200
    caption = described.post("interrogate", {"image": "data:image/png;base64," + sent(image)}).json()[
        "caption"
    ]
    assert caption.endswith("by base (3, 7, 48)")
    assert described.engine.jobs[0].network == str(place / "base")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 0), ("num_beams", 17), ("min_length", 129), ("max_length", 4), ("max_length", 257)],
)
def test_lengths_and_beams_have_bounds(described: Server, name: str, value: int) -> None:
    answer = described.post("options", {f"interrogate_clip_{name}": value})
    assert (answer.status_code, f"interrogate_clip_{name}" in answer.text) == (422, True)


def test_lengths_that_contradict_each_other(described: Server) -> None:
    described.post("options", {"interrogate_clip_min_length": 60})
    answer = described.post("interrogate", {"image": sent(noise(1))})
    assert answer.status_code == 422
    assert "'interrogate_clip_min_length' is 60" in answer.json()["detail"]
    assert described.engine.jobs == []


def test_the_other_model_and_the_checks_are_as_without_a_network(described: Server) -> None:
    tagged = described.post("interrogate", {"image": sent(noise(1)), "model": "deepdanbooru"})
    assert (tagged.status_code, tagged.json()["error"]) == (501, "MissingModel")
    assert "model-resnet_custom_v3.pt" in tagged.json()["detail"]
    assert described.post("interrogate", {"image": sent(noise(1)), "model": "x"}).status_code == 404
    assert described.post("interrogate", {"image": "x!"}).json()["detail"] == "Invalid encoded image"
    assert described.engine.jobs == []


def test_a_network_that_comes_or_goes_needs_no_refresh(described: Server, place: Path) -> None:
    shutil.move(place / "base", place.parent / "away")
    gone = described.post("interrogate", {"image": sent(noise(1))})
    assert (gone.status_code, gone.json()["error"]) == (501, "MissingModel")
    shutil.move(place.parent / "away", place / "base")
    assert described.post("interrogate", {"image": sent(noise(1))}).status_code == 200


def test_a_failure_of_the_device_is_told(described: Server) -> None:
    described.engine.failure = "OutOfMemory"
    answer = described.post("interrogate", {"image": sent(noise(1))})
    assert (answer.status_code, answer.json()["error"]) == (500, "OutOfMemory")


def test_it_is_on_the_board_and_an_interrupted_one_has_no_caption(described: Server) -> None:
    described.engine.held = True
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(described.post, "interrogate", {"image": sent(noise(1))})
        assert described.engine.submitted.wait(10)
        state = described.get("progress").json()["state"]
        assert (state["job"], state["job_count"]) == ("interrogate", 1)
        listed = described.request("GET", "/v1/jobs?kind=interrogate").json()["jobs"]
        assert [(job["kind"], job["state"]) for job in listed] == [("interrogate", "running")]
        assert described.request("GET", "/v1/jobs?kind=extras").json()["jobs"] == []
        described.post("interrupt", {})
        answer = waiting.result(10)
    assert (answer.status_code, "caption" in answer.json()) == (410, False)
    (job,) = described.request("GET", "/v1/jobs").json()["jobs"]
    assert (job["state"], job["stopped"]) == ("cancelled", "interrupt")
    assert described.request("POST", "/v1/jobs", json={"kind": "interrogate"}).status_code == 422


def test_who_leaves_cancels(described: Server) -> None:
    described.engine.held = True
    body = json.dumps({"image": sent(noise(1))}).encode()
    head = f"POST /sdapi/v1/interrogate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = described.raw(head.encode() + body)
    assert described.engine.submitted.wait(10)
    connection.close()
    assert described.engine.stopped.wait(10)
    assert [mode for _, mode in described.engine.stops] == ["drop"]


def test_a_repeated_key_gets_the_same_caption(described: Server) -> None:
    body, key = {"image": sent(noise(1))}, {"Idempotency-Key": "k"}
    first, second = (described.post("interrogate", body, headers=key).json() for _ in range(2))
    assert first == second
    assert len(described.engine.jobs) == 1
    (job,) = described.request("GET", "/v1/jobs").json()["jobs"]
    assert described.request("GET", f"/v1/jobs/{job['id']}").json()["result"] == first
    assert described.request("GET", f"/v1/jobs/{job['id']}/images/0").status_code == 404


# Loopback appends what each loop begins with


def looped(server: Server, *arguments: Any, **fields: Any) -> Any:
    body = {
        "prompt": "cat",
        "steps": 4,
        "width": 64,
        "height": 64,
        "seed": 10,
        "denoising_strength": 0.5,
        "init_images": [sent(Image.new("RGB", (64, 64), (1, 2, 3)))],
        "script_name": "loopback",
        "script_args": list(arguments),
    }
    return server.post("img2img", body | fields)


@pytest.mark.parametrize("prompt", ["cat", ""])
def test_loopback_describes_what_each_loop_begins_with(described: Server, prompt: str) -> None:
    override = {"override_settings": {"interrogate_clip_num_beams": 5}}
    answer = looped(described, 2, 0.5, "Linear", "CLIP", prompt=prompt, **override)
    assert answer.status_code == 200, answer.text
    jobs = described.engine.jobs
    assert [type(job) for job in jobs] == [Describe, Img2Img, Describe, Img2Img]
    assert len({job.id for job in jobs}) == 4
    # The fake engine's pictures are grey: the first loop's is of the shade 10, its seed.
    captions = [f"64x64 of {shade} by base (5, 24, 48)" for shade in ((1, 2, 3), (10, 10, 10))]
    wanted = [f"{prompt}, {caption}" if prompt else caption for caption in captions]
    assert [job.prompt.positive for job in jobs if isinstance(job, Img2Img)] == wanted
    files = [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer.json()["images"][1:]]
    assert [file.info["parameters"].partition("\n")[0] for file in files] == wanted


def test_an_interrupted_loopback_paints_nothing_undescribed(described: Server) -> None:
    described.engine.held = True
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(looped, described, 3, 0.5, "Linear", "CLIP")
        assert described.engine.submitted.wait(10)
        described.post("interrupt", {})
        answer = waiting.result(10)
    assert (answer.status_code, answer.json()["images"]) == (200, [])
    assert [type(job) for job in described.engine.jobs] == [Describe]


def test_a_description_is_not_skipped(described: Server) -> None:
    described.engine.held = True
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(looped, described, 1, 0.5, "Linear", "CLIP")
        assert described.engine.submitted.wait(10)
        described.engine.held = False
        described.post("skip", {})
        answer = waiting.result(10)
    assert len(answer.json()["images"]) == 1
    assert [type(job) for job in described.engine.jobs] == [Describe, Describe, Img2Img]
    assert described.engine.jobs[-1].prompt.positive == "cat, 64x64 of (1, 2, 3) by base (1, 24, 48)"


def test_loopback_has_no_tags(described: Server) -> None:
    answer = looped(described, 2, 0.5, "Linear", "DeepBooru")
    assert (answer.status_code, answer.json()["error"]) == (501, "MissingModel")
    assert "'CLIP'" in answer.json()["detail"]
    assert described.engine.jobs == []


# A real node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    data = tmp_path_factory.mktemp("node")
    (data / "models" / "Stable-diffusion").mkdir(parents=True)
    shutil.copy(CHECKPOINT, data / "models" / "Stable-diffusion")
    write_captioner(data / "models" / "BLIP" / "tiny")
    with running(data) as started:
        started.wait_ready()
        yield started


def asked(node: Node, image: Image.Image) -> Any:
    return node.api("POST", "/sdapi/v1/interrogate", json={"image": sent(image), "model": "clip"})


def own(node: Node) -> Callable[[Image.Image], str]:
    """What the network makes of a picture without a server."""
    bundle, folder = Bundle("cpu"), str(node.data_dir / "models" / "BLIP" / "tiny")
    return lambda image: str(bundle.run([Caption(folder, to_picture(image), *DEFAULTS)])[0])


def test_a_node_describes_pictures_side_by_side(node: Node) -> None:
    images, alone = [noise(seed) for seed in range(4)], own(node)
    expected = [alone(image) for image in images]
    assert len(set(expected)) > 1
    with ThreadPoolExecutor(5) as pool:
        drawn = pool.submit(node.txt2img, steps=6)
        captions = list(pool.map(lambda image: asked(node, image).json()["caption"], images))
        assert len(drawn.result().images) == 1
    assert captions == expected


def test_a_node_describes_without_a_checkpoint_loaded(node: Node) -> None:
    assert node.api("POST", "/sdapi/v1/unload-checkpoint").status_code == 200
    assert asked(node, noise(1)).json()["caption"] == own(node)(noise(1))
    assert node.api("POST", "/sdapi/v1/reload-checkpoint").status_code == 200


def test_a_damaged_network_is_an_error_and_the_node_goes_on(node: Node) -> None:
    file = node.data_dir / "models" / "BLIP" / "tiny" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    answer = asked(node, noise(1))
    assert (answer.status_code, answer.json()["error"]) == (500, "UnreadableCheckpoint")
    assert "captioner tiny" in answer.json()["detail"]
    file.write_bytes(whole)
    assert asked(node, noise(1)).status_code == 200
    assert len(node.txt2img().images) == 1
