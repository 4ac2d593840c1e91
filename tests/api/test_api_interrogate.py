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
from authors_layouts import write_openai
from node import CHECKPOINT, Node, running
from patience import PATIENCE
from PIL import Image
from tiny_captioner import write_captioner
from tiny_danbooru import write_danbooru

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Caption, PictureFeature, Score, TextFeatures
from sdserver.catalog.networks import NetworkFolders
from sdserver.images.pictures import to_picture
from sdserver.jobs.job import Describe, Img2Img, Label, LabelRules, Ranking, WordList
from sdserver.programs.label import written
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
    folders = NetworkFolders(
        blip=place,
        danbooru=tmp_path / "torch_deepdanbooru",
        clip=(tmp_path / "CLIP",),
        interrogate=(tmp_path / "interrogate",),
    )
    running = Server(tmp_path, folders)
    yield running
    running.close()


def laid(file: Path, text: str = "") -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


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


def test_labels_are_asked_for_as_the_options_say(described: Server, tmp_path: Path) -> None:
    file = laid(tmp_path / "torch_deepdanbooru" / "model-resnet_custom_v3.pt")
    body = {"image": sent(Image.new("RGB", (6, 4), (10, 20, 30))), "model": "deepdanbooru"}
    answer = described.post("interrogate", body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"caption": "labels of (10, 20, 30) by model-resnet_custom_v3.pt"}
    changed: dict[str, Any] = {
        "interrogate_deepbooru_score_threshold": 0.25,
        "deepbooru_sort_alpha": False,
        "deepbooru_use_spaces": False,
        "deepbooru_escape": False,
        "deepbooru_filter_tags": "long hair, solo ,1girl",
        "interrogate_return_ranks": True,
    }
    assert described.post("options", changed).status_code == 200
    assert described.post("interrogate", body).status_code == 200
    first, second = described.engine.jobs
    assert first.network == str(file)
    assert first.rules == LabelRules(0.5, True, True, True, frozenset({""}), False)
    assert second.rules == LabelRules(
        0.25, False, False, False, frozenset({"long_hair", "solo", "1girl"}), True
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("interrogate_deepbooru_score_threshold", 1.1), ("interrogate_clip_dict_limit", -1)],
)
def test_other_options_have_bounds(described: Server, name: str, value: float) -> None:
    answer = described.post("options", {name: value})
    assert (answer.status_code, name in answer.text) == (422, True)


def test_words_are_ranked_where_lists_and_a_network_are_there(described: Server, tmp_path: Path) -> None:
    body = {"image": sent(noise(1))}
    assert described.post("interrogate", body).status_code == 200
    laid(tmp_path / "interrogate" / "artists.txt", "one\ntwo\nthree\n")
    laid(tmp_path / "interrogate" / "flavors.top2.txt", "x\ny\nz\n")
    missing = described.post("interrogate", body)
    assert (missing.status_code, missing.json()["error"]) == (501, "MissingModel")
    assert "ViT-L-14.pt" in missing.json()["detail"]
    network = laid(tmp_path / "CLIP" / "ViT-L-14.pt")
    options = {"interrogate_clip_dict_limit": 2, "interrogate_return_ranks": True}
    for changed in ({}, options, {"interrogate_clip_skip_categories": ["artists", "other"]}):
        described.post("options", changed)
        assert described.post("interrogate", body).status_code == 200
    flavors = WordList(("x", "y"), 2)
    assert [job.ranking for job in described.engine.jobs] == [
        None,
        Ranking(str(network), (WordList(("one", "two", "three")), WordList(("x", "y", "z"), 2))),
        Ranking(str(network), (WordList(("one", "two")), flavors), shows_scores=True),
        Ranking(str(network), (flavors,), shows_scores=True),
    ]


def test_the_authors_file_comes_with_its_words(described: Server, place: Path) -> None:
    shutil.rmtree(place / "base")
    file = laid(place / "model_base_caption_capfilt_large.pth")
    missing = described.post("interrogate", {"image": sent(noise(1))})
    assert (missing.status_code, "vocab.txt" in missing.json()["detail"]) == (501, True)
    laid(place / "vocab.txt", "[PAD]")
    assert described.post("interrogate", {"image": sent(noise(1))}).status_code == 200
    (job,) = described.engine.jobs
    assert (job.network, job.vocabulary) == (str(file), str(place))


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
        assert described.engine.submitted.wait(PATIENCE)
        state = described.get("progress").json()["state"]
        assert (state["job"], state["job_count"]) == ("interrogate", 1)
        listed = described.request("GET", "/v1/jobs?kind=interrogate").json()["jobs"]
        assert [(job["kind"], job["state"]) for job in listed] == [("interrogate", "running")]
        assert described.request("GET", "/v1/jobs?kind=extras").json()["jobs"] == []
        described.post("interrupt", {})
        answer = waiting.result(PATIENCE)
    assert (answer.status_code, "caption" in answer.json()) == (410, False)
    (job,) = described.request("GET", "/v1/jobs").json()["jobs"]
    assert (job["state"], job["stopped"]) == ("cancelled", "interrupt")
    assert described.request("POST", "/v1/jobs", json={"kind": "interrogate"}).status_code == 422


def test_who_leaves_cancels(described: Server) -> None:
    described.engine.held = True
    body = json.dumps({"image": sent(noise(1))}).encode()
    head = f"POST /sdapi/v1/interrogate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = described.raw(head.encode() + body)
    assert described.engine.submitted.wait(PATIENCE)
    connection.close()
    assert described.engine.stopped.wait(PATIENCE)
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
        assert described.engine.submitted.wait(PATIENCE)
        described.post("interrupt", {})
        answer = waiting.result(PATIENCE)
    assert (answer.status_code, answer.json()["images"]) == (200, [])
    assert [type(job) for job in described.engine.jobs] == [Describe]


def test_a_description_is_not_skipped(described: Server) -> None:
    described.engine.held = True
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(looped, described, 1, 0.5, "Linear", "CLIP")
        assert described.engine.submitted.wait(PATIENCE)
        described.engine.held = False
        described.post("skip", {})
        answer = waiting.result(PATIENCE)
    assert len(answer.json()["images"]) == 1
    assert [type(job) for job in described.engine.jobs] == [Describe, Describe, Img2Img]
    assert described.engine.jobs[-1].prompt.positive == "cat, 64x64 of (1, 2, 3) by base (1, 24, 48)"


def test_loopback_by_labels_needs_their_network(described: Server, tmp_path: Path) -> None:
    answer = looped(described, 2, 0.5, "Linear", "DeepBooru")
    assert (answer.status_code, answer.json()["error"]) == (501, "MissingModel")
    assert "by DeepBooru: choose 'None'" in answer.json()["detail"]
    assert "model-resnet_custom_v3.pt" in answer.json()["detail"]
    assert described.engine.jobs == []
    laid(tmp_path / "torch_deepdanbooru" / "x.pt")
    assert looped(described, 2, 0.5, "Linear", "DeepBooru").status_code == 200
    assert [type(job) for job in described.engine.jobs] == [Label, Img2Img, Label, Img2Img]
    prompts = [job.prompt.positive for job in described.engine.jobs if isinstance(job, Img2Img)]
    assert prompts == [f"cat, labels of {shade} by x.pt" for shade in ((1, 2, 3), (10, 10, 10))]


# A real node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    data = tmp_path_factory.mktemp("node")
    (data / "models" / "Stable-diffusion").mkdir(parents=True)
    shutil.copy(CHECKPOINT, data / "models" / "Stable-diffusion")
    write_captioner(data / "models" / "BLIP" / "tiny")
    write_danbooru(data / "models" / "torch_deepdanbooru" / "model-resnet_custom_v3.safetensors")
    write_openai(data / "models" / "CLIP" / "ViT-L-14.safetensors")
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


def test_a_node_labels_pictures(node: Node) -> None:
    file = node.data_dir / "models" / "torch_deepdanbooru" / "model-resnet_custom_v3.safetensors"
    body = {"image": sent(noise(1)), "model": "deepdanbooru"}
    told = node.api("POST", "/sdapi/v1/interrogate", json=body).json()["caption"]
    (scores,) = Bundle("cpu").run([Score(str(file), to_picture(noise(1)))])
    assert isinstance(scores, tuple)
    assert told == written(scores, LabelRules(left_out=frozenset({""})))
    assert told


def test_a_node_ranks_words_where_they_are(node: Node) -> None:
    alone = own(node)(noise(1))
    words = laid(node.data_dir / "interrogate" / "artists.top2.txt", "a cat\npainted in oil\nby night\n")
    told = asked(node, noise(1)).json()["caption"]
    words.unlink()
    network = str(node.data_dir / "models" / "CLIP" / "ViT-L-14.safetensors")
    texts = ("a cat", "painted in oil", "by night")
    bundle = Bundle("cpu")
    (feature,) = bundle.run([PictureFeature(network, to_picture(noise(1)))])
    (features,) = bundle.run([TextFeatures(network, texts)])
    best = (features @ feature).argsort(descending=True)[:2].tolist()
    assert told == ", ".join([alone, *(texts[place] for place in best)])


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
