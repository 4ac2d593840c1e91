"""Prompt matrix and prompts from file; the recorded requests of these and of plots."""

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdserver.api.scripts.prompt_lines import read_line
from sdserver.errors import InvalidField
from sdserver.images.codec import encode
from sdserver.jobs.job import Img2Img, Txt2Img
from tests.api.conftest import GOLDENS, Server

RECORDED = json.loads((GOLDENS / "scripts.json").read_text(encoding="utf-8"))["cases"]
BODY = {"prompt": "a cat", "negative_prompt": "dog", "width": 16, "height": 16, "steps": 4, "seed": 100}
MATRIX: list[Any] = [False, False, "positive", "comma", 0]


def matrix(prompt: str, *args: Any, **fields: Any) -> dict[str, Any]:
    body = {**BODY, "prompt": prompt, "script_name": "prompt matrix", **fields}
    return {**body, "script_args": [*args, *MATRIX[len(args) :]]}


def from_file(text: str, *args: Any, **fields: Any) -> dict[str, Any]:
    given = [*args, *[False, False, "start"][len(args) :], text]
    return {**BODY, **fields, "script_name": "Prompts from file or textbox", "script_args": given}


def pictures(answer: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]


@pytest.fixture
def served(serve: Callable[..., Server]) -> Server:
    return serve()


def made(server: Server, body: dict[str, Any], tab: str = "txt2img") -> tuple[dict[str, Any], dict[str, Any]]:
    response = server.post(tab, body)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer, json.loads(answer["info"])


def refusal(server: Server, body: dict[str, Any], tab: str = "txt2img") -> str:
    before = len(server.engine.jobs)
    response = server.post(tab, body)
    assert 400 <= response.status_code < 500, response.text
    assert len(server.engine.jobs) == before
    return response.text


def seeds(server: Server) -> list[int]:
    return [job.noise.seed for job in server.engine.jobs if isinstance(job, Txt2Img | Img2Img)]


def prompts(server: Server) -> list[str]:
    return [job.prompt.positive for job in server.engine.jobs if isinstance(job, Txt2Img | Img2Img)]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_recorded_answers(server: Server, case: dict[str, Any]) -> None:
    answer, info = made(server, case["request"], case["endpoint"])
    wanted = case["info"]
    random = {"job_timestamp", "version"}
    if wanted["subseed"] != -1:
        random |= {"subseed", "all_subseeds"}
        assert len(info["all_subseeds"]) == len(wanted["all_subseeds"])
        assert [one - info["subseed"] for one in info["all_subseeds"]] == [
            one - wanted["subseed"] for one in wanted["all_subseeds"]
        ]
    assert list(info) == list(wanted)
    assert {k: v for k, v in info.items() if k not in random} == {
        k: v for k, v in wanted.items() if k not in random
    }
    assert answer["parameters"] == case["parameters"]
    assert [[list(image.size), image.mode] for image in pictures(answer)] == case["images"]


def test_a_matrix_has_every_combination_in_one_go(served: Server) -> None:
    answer, info = made(served, matrix("a|b,| c "))
    assert prompts(served) == ["a", "a, b", "a, c", "a, b, c"]
    assert info["all_prompts"] == prompts(served)
    assert info["all_seeds"] == [100] * 4
    assert info["all_subseeds"] == [info["subseed"] + k for k in range(4)]
    grid, *images = pictures(answer)
    assert len(images) == 4
    assert grid.width == 16 * 2 + 12
    assert [image.info["parameters"] for image in images] == info["infotexts"][1:]
    assert info["infotexts"][0] == info["infotexts"][1]


@pytest.mark.parametrize(
    ("args", "combined"),
    [
        ([True], ["a", "b, a", "c, a", "b, c, a"]),
        ([False, False, "positive", "space"], ["a", "a b", "a c", "a b c"]),
        ([True, False, "positive", "space"], ["a", "b a", "c a", "b c a"]),
    ],
)
def test_how_parts_are_joined(served: Server, args: list[Any], combined: list[str]) -> None:
    assert made(served, matrix("a|b|c", *args))[1]["all_prompts"] == combined


def test_a_matrix_of_the_negative_prompt_with_other_seeds(served: Server) -> None:
    _, info = made(
        served, matrix("a", False, True, "negative", negative_prompt="x|y", batch_size=2, n_iter=3)
    )
    assert info["all_prompts"] == ["a", "a"]
    assert info["all_negative_prompts"] == ["x", "x, y"]
    assert info["all_seeds"] == [100, 101]
    assert info["batch_size"] == 2
    assert len(served.engine.jobs) == 2


def test_a_matrix_of_pictures_takes_them_in_turn(served: Server) -> None:
    sent = [
        base64.b64encode(encode(Image.new("RGB", (16, 16), (shade,) * 3), "png", None)).decode()
        for shade in (10, 20)
    ]
    made(served, matrix("a|b|c", init_images=sent, batch_size=2), "img2img")
    jobs = [job for job in served.engine.jobs if isinstance(job, Img2Img)]
    assert [job.init.pixels[0] for job in jobs if job.init] == [10, 20, 10, 20]


def test_a_matrix_is_saved_with_its_grid(served: Server) -> None:
    made(served, matrix("a|b", save_images=True))
    files = sorted(path.parent.parent.name for path in served.data_dir.glob("outputs/*/*/*.png"))
    assert files == ["txt2img-grids"] + ["txt2img-images"] * 2
    assert len(list(served.data_dir.glob("outputs/txt2img-grids/*/prompt_matrix*.png"))) == 1


def test_a_matrix_is_bounded(server: Server) -> None:
    begun = time.process_time()
    assert "too many parts" in refusal(server, matrix("|".join("a" * 11)))
    assert "too many parts" in refusal(server, matrix("|" * 50_000))
    assert "too large" in refusal(server, matrix("|".join("a" * 10), width=2048, height=2048))
    assert time.process_time() - begun < 20  # all of them would take hours


@pytest.mark.parametrize(
    "args",
    [
        ["yes"],
        [[]],
        [False, {}],
        [False, False, "neither"],
        [False, False, ["positive"]],
        [False, False, None, 7],
    ],
)
def test_arguments_of_a_matrix_that_are_refused(server: Server, args: list[Any]) -> None:
    assert "The script's argument" in refusal(server, matrix("a|b", *args))


def test_lines_run_together_and_keep_their_settings(served: Server) -> None:
    lines = (
        '--prompt "a red" house --steps 3 --cfg_scale 2.5',
        "",
        "  plain -- line  ",
        "--width 24 --seed 7 --n_iter 2",
    )
    text = "\n".join(lines)
    answer, info = made(served, from_file(text))
    jobs = [job for job in served.engine.jobs if isinstance(job, Txt2Img)]
    assert [job.prompt.positive for job in jobs] == [
        "a red house a cat",
        "plain -- line a cat",
        "a cat",
        "a cat",
    ]
    assert [job.sampling.steps for job in jobs] == [3, 4, 4, 4]
    assert [job.sampling.cfg_scale for job in jobs] == [2.5, 7, 7, 7]
    assert [job.noise.seed for job in jobs] == [100, 100, 7, 8]
    assert [image.width for image in pictures(answer)] == [16, 16, 24, 24]
    assert info["all_prompts"] == ["a red house a cat", "plain -- line a cat", "a cat", "a cat"]
    assert info["index_of_first_image"] == 0
    assert [image.info["parameters"] for image in pictures(answer)] == info["infotexts"]


def test_every_setting_of_a_line(served: Server) -> None:
    made(
        served,
        from_file(
            "--sd_model tiny-sd15-b --sampler_name Heun --negative_prompt no hat --styles 'Tiny Style' "
            "--subseed 5 --subseed_strength 0.5 --seed_resize_from_h 8 --seed_resize_from_w 24 "
            "--batch_size 2 --height 32 --restore_faces false --tiling true --prompt_for_display x "
            "--do_not_save_grid true --sampler_index 3"
        ),
    )
    first, second = (job for job in served.engine.jobs if isinstance(job, Txt2Img))
    assert "tiny-sd15-b" in first.model.checkpoint
    assert first.model.tiling
    assert first.sampling.sampler == "Heun"
    assert "no hat dog" in first.prompt.negative
    assert first.prompt.positive == "masterpiece, a cat, tiny style"
    assert (first.noise.subseed, second.noise.subseed, first.noise.strength) == (5, 6, 0.5)
    assert first.noise.resize_from is not None
    assert (first.noise.resize_from.width, first.noise.resize_from.height) == (24, 8)
    assert first.size.height == 32


def test_where_prompts_are_inserted(served: Server) -> None:
    made(served, from_file("a hat", False, False, "end"))
    assert prompts(served) == ["a cat a hat"]


def test_seeds_of_lines(served: Server) -> None:
    _, counted = made(served, from_file("a\nb\nc", True, batch_size=2))
    assert seeds(served) == [100, 101, 102, 103, 104, 105]
    assert counted["seed"] == 106
    served.engine.jobs.clear()
    made(served, from_file("a\nb\nc", False, True, seed=-1))
    assert len(set(seeds(served))) == 1
    served.engine.jobs.clear()
    _, free = made(served, from_file("a\nb\nc", seed=-1))
    assert len(set(seeds(served))) == 3
    assert free["seed"] == -1


def test_what_of_lines_is_saved(served: Server) -> None:
    text = "a\n--prompt b --do_not_save_samples true\n--prompt c --outpath_samples outputs/mine"
    made(served, from_file(text, save_images=True))
    folders = sorted(
        path.relative_to(served.data_dir / "outputs").parts[0]
        for path in served.data_dir.glob("outputs/**/*.png")
    )
    assert folders == ["mine", "txt2img-images"]
    assert "outputs" in refusal(served, from_file("--outpath_samples /tmp", save_images=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "from 1 to 1,000 lines"),
        ("a\n" * 1001, "from 1 to 1,000 lines"),
        ("--bogus 3", "no setting --bogus"),
        ("--steps", "value of --steps is missing"),
        ("--steps x", "cannot be read"),
        ("--steps " + "9" * 5000, "too long"),
        ("--steps 3 4", "must start with"),
        ("--cfg_scale nan", "is no number"),
        ("--prompt 'a", "cannot be read"),
        ("--steps 100000", "steps"),
        ("--sampler_name Bogus", "Bogus"),
        ("--sd_model nowhere", "no checkpoint"),
        ("--batch_size 64\n" * 1000, "64,000 images"),
        ("--batch_size -5", "batch_size"),
        ("a" * 500_001, "at most 500,000 characters"),
    ],
)
def test_lines_that_are_refused(server: Server, text: str, said: str) -> None:
    assert said in refusal(server, from_file(text))


def test_with_quirks_a_line_of_settings_that_is_none_is_a_prompt(serve: Callable[..., Server]) -> None:
    server = serve(a1111_quirks=True)
    made(server, from_file("--bogus 3"))
    assert prompts(server) == ["--bogus 3 a cat"]


@given(st.text(max_size=60).map(lambda text: f"--prompt {text}"))
def test_any_line_is_read_or_refused(text: str) -> None:
    guessed = read_line(text, guesses=True)
    try:
        assert read_line(text, guesses=False) == guessed
    except InvalidField:
        assert guessed.fields == {"prompt": text}


@given(st.text(max_size=60).filter(lambda text: not text.startswith("--")))
def test_other_lines_are_prompts_as_they_are(text: str) -> None:
    assert read_line(text, guesses=False).fields == {"prompt": text}


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("name", ["prompt matrix", "prompts from file or textbox", "x/y/z plot"])
@pytest.mark.parametrize("value", [None, "x", -1, 2**63, 1e308, [], {}, [[["a"]]], {"a": [1]}, "\u0000|" * 9])
def test_nothing_but_4xx_comes_of_odd_arguments(server: Server, name: str, tab: str, value: object) -> None:
    for count in (1, 3, 5, 18):
        sent = base64.b64encode(encode(Image.new("RGB", (16, 16)), "png", None)).decode()
        body = {**BODY, "script_name": name, "script_args": [value] * count, "init_images": [sent]}
        assert server.post(tab, body).status_code in (200, 422)
