"""The scripts that begin with a picture: what they run, what they answer, and what they refuse."""

import base64
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdserver.api.config import Limits
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.scripts import (
    alternative_test,
    loopback,
    outpainting_mk2,
    poor_mans_outpainting,
    sd_upscale,
)
from sdserver.api.scripts.script import Context, Done, Enlarging, Outcome, Run, Script
from sdserver.jobs.job import Enlarge
from tests.api.conftest import Server
from tests.api.test_api_requests import detail_of

LOOPBACK, MK2, POOR = "loopback", "Outpainting mk2", "Poor man's outpainting"
UPSCALE, ALTERNATIVE = "SD upscale", "img2img alternative test"
BASE = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 10}


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture that is nowhere the same."""
    across, down = np.meshgrid(np.arange(width) * 3 % 256, np.arange(height) * 5 % 256)
    return Image.fromarray(np.stack([across, down, across ^ down], -1).astype(np.uint8)).convert(mode)


def base64_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


PICTURE = gradient(64, 64)


def body_of(script: str, arguments: Sequence[Any], image: Image.Image = PICTURE, **fields: Any) -> Any:
    init = {"init_images": [base64_of(image)], "script_name": script, "script_args": list(arguments)}
    return BASE | init | fields


def ask(server: Server, script: str, arguments: Sequence[Any], **fields: Any) -> tuple[Any, Any, list[Any]]:
    """Pictures, `info` and jobs of a request with a script."""
    before = len(server.engine.jobs)
    response = server.post("img2img", body_of(script, arguments, **fields))
    assert response.status_code == 200, response.text
    answer = response.json()
    images = [opened(text) for text in answer["images"]]
    return images, json.loads(answer["info"]), server.engine.jobs[before:]


SOME = [8, 4, "fill", ["left"]]


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        (LOOPBACK, ["4"], "argument 1 ('Loops') must be a whole number from 1 to 1000"),
        (LOOPBACK, [0], "'Loops'"),
        (LOOPBACK, [2.5], "'Loops'"),
        (LOOPBACK, [1e308], "'Loops'"),
        (LOOPBACK, [True], "not True"),
        (LOOPBACK, [10**18], "'Loops'"),
        (LOOPBACK, [2, -0.1], "'Final denoising strength') must be a number from 0 to 1"),
        (LOOPBACK, [2, 0.5, "Steep"], "one of Aggressive, Linear, Lazy"),
        (LOOPBACK, [2, 0.5, {"a": []}], "one of Aggressive, Linear, Lazy"),
        (LOOPBACK, [2, 0.5, "Lazy", "BLIP"], "one of None, CLIP, DeepBooru"),
        (LOOPBACK, [2, 0.5, "Lazy", "None", 1], "takes 4 arguments, not 5"),
        (MK2, [None, -8], "'Pixels to expand') must be a whole number"),
        (MK2, [None, 10**9], "'Pixels to expand'"),
        (MK2, [None, 2048, 8], "too much for one pass"),
        (MK2, [None, 8, 129], "'Mask blur'"),
        (MK2, [None, 8, 8, []], "a list of some of left, right, up, down"),
        (MK2, [None, 8, 8, ["left", "north"]], "a list of some of"),
        (MK2, [None, 8, 8, "north"], "a list of some of"),
        (MK2, [None, 8, 8, [["left"]]], "a list of some of"),
        (MK2, [None, 8, 8, ["left"] * 10_000], "a list of some of"),
        (MK2, [None, 8, 8, ["left"], -1], "'Fall-off exponent"),
        (MK2, [None, 8, 8, ["left"], 1e9], "'Fall-off exponent"),
        (MK2, [None, 8, 8, ["left"], 1, 2], "'Color variation'"),
        (POOR, [64], "must be less than 'width' and 'height'"),
        (POOR, [8, 4, "latent"], "one of fill, original, latent noise, latent nothing"),
        (POOR, [8, 4, 4], "a whole number from 0 to 3"),
        (POOR, [8, 4, "fill", None, 0], "takes 4 arguments"),
        (UPSCALE, [None, -1], "'Tile overlap'"),
        (UPSCALE, [None, 64], "'Tile overlap' must be less than 'width' and 'height'"),
        (UPSCALE, [None, 63, "None", 2], "The script would make 1,137 images, at most 1,000"),
        (UPSCALE, [None, 8, "None", "2"], "'Scale Factor'"),
        (UPSCALE, [None, 8, "Lanczos", 0], "'Scale Factor'|would be empty"),
        (UPSCALE, [None, 8, "Lanczos", 64], "The script would make"),
        (UPSCALE, [None, 8, "<b>" * 100, 2], "There is no upscaler '<b>"),
        (UPSCALE, [None, 8, 3, 2], "There is no upscaler of that kind"),
        (UPSCALE, [None, 8, [], 2], "There is no upscaler of that kind"),
        (UPSCALE, [None, 8, True, 2], "There is no upscaler of that kind"),
        (ALTERNATIVE, ["", "yes"], "must be true or false"),
        (ALTERNATIVE, ["", True, True, 5], "'Original prompt') must be text"),
        (ALTERNATIVE, ["", True, True, "x" * 50_001], "at most 50,000 characters"),
        (ALTERNATIVE, ["", True, True, "", "", True, 151], "'Decode steps'"),
        (ALTERNATIVE, ["", True, True, "", "", True, 5, True, -1], "'Decode CFG scale'"),
        (ALTERNATIVE, ["", True, True, "", "", True, 5, True, 1, 1.5], "'Randomness'"),
    ],
)
def test_arguments_are_checked(server: Server, script: str, arguments: Sequence[Any], sentence: str) -> None:
    image = gradient(1200, 64) if arguments[1:2] == [63] else PICTURE
    before = len(server.engine.jobs)
    response = server.post("img2img", body_of(script, arguments, image))
    assert response.status_code == 422, response.text
    detail = detail_of(response.json())
    assert any(part in detail for part in sentence.split("|")), detail
    assert len(response.text) < 700
    assert len(server.engine.jobs) == before


@pytest.mark.parametrize("script", [LOOPBACK, MK2, POOR, UPSCALE, ALTERNATIVE])
def test_numbers_that_are_none_are_refused(server: Server, script: str) -> None:
    data = json.dumps(body_of(script, [math.nan] * 4))
    response = server.request("POST", "/sdapi/v1/img2img", data=data)
    assert 400 <= response.status_code < 500


@pytest.mark.parametrize("script", [LOOPBACK, MK2, POOR, UPSCALE, ALTERNATIVE])
@pytest.mark.parametrize(
    "fields",
    [{"n_iter": 0}, {"batch_size": -1}, {"width": 0}, {"height": -64}, {"steps": 0}, {"n_iter": 10**9}],
)
def test_the_request_s_own_numbers_are_checked_first(
    server: Server, script: str, fields: dict[str, int]
) -> None:
    response = server.post("img2img", body_of(script, [], **fields))
    assert response.status_code == 422
    (field,) = fields
    assert f"The field '{field}' must be from" in detail_of(response.json())


@pytest.mark.parametrize(
    ("script", "arguments"), [(LOOPBACK, [4]), (POOR, [8]), (UPSCALE, [None, 8, "None", 1])]
)
def test_seeds_do_not_run_out_on_the_way(server: Server, script: str, arguments: list[Any]) -> None:
    before = len(server.engine.jobs)
    response = server.post("img2img", body_of(script, arguments, seed=2**64 - 1))
    assert response.status_code == 422
    assert "seed" in response.text
    assert len(server.engine.jobs) == before


def test_a_picture_is_needed(server: Server) -> None:
    response = server.post("img2img", body_of(LOOPBACK, []) | {"init_images": []})
    assert response.status_code == 404
    assert "Init image not found" in response.text


def test_they_are_not_for_txt2img(server: Server) -> None:
    response = server.post("txt2img", BASE | {"script_name": LOOPBACK})
    assert response.status_code == 422
    assert "Script 'loopback' not found" in response.text


def test_sizes_are_checked_before_any_work(serve: Callable[..., Server]) -> None:
    server = serve(limits=Limits(max_pixels=64 * 64, max_images=2, max_init_pixels=10_000))
    for script, arguments in ((MK2, [None, 8]), (POOR, [8]), (UPSCALE, [None, 8, "Lanczos", 3])):
        response = server.post("img2img", body_of(script, arguments))
        assert response.status_code == 422, response.text
        assert "too much" in response.text
    assert server.engine.jobs == []


# Loopback


def strengths(jobs: Sequence[Any]) -> list[float]:
    return [round(job.start.strength, 4) for job in jobs]


@pytest.mark.parametrize(
    ("curve", "middle"),
    [("Linear", 0.5), ("Aggressive", math.sin(math.pi / 4)), ("Lazy", 1 - math.cos(math.pi / 4))],
)
def test_strengths_of_loops_follow_the_curve(server: Server, curve: str, middle: float) -> None:
    _, info, jobs = ask(server, LOOPBACK, [3, 0.2, curve], denoising_strength=0.8)
    assert strengths(jobs) == [0.8, round(0.8 - 0.6 * middle, 4), 0.2]
    assert info["denoising_strength"] == pytest.approx(0.2)
    extra = info["extra_generation_params"]
    assert list(extra)[:3] == ["Final denoising strength", "Denoising curve", "Denoising strength"]
    assert (extra["Final denoising strength"], extra["Denoising curve"]) == (0.2, curve)


def test_a_single_loop_has_the_request_s_strength(server: Server) -> None:
    images, info, jobs = ask(server, LOOPBACK, [1, 0.1], denoising_strength=0.6)
    assert strengths(jobs) == [0.6]
    assert len(images) == len(info["infotexts"]) == 1


def test_each_loop_begins_with_what_the_last_one_made(server: Server) -> None:
    images, info, jobs = ask(server, LOOPBACK, [3], batch_size=4)
    assert [job.noise.seed for job in jobs] == [10, 11, 12]
    assert jobs[0].init.pixels == PICTURE.tobytes()
    assert [job.init.pixels[0] for job in jobs[1:]] == [10, 11]
    assert len({job.noise.subseed for job in jobs}) == 1
    assert [image.size for image in images] == [(192, 64), (64, 64), (64, 64), (64, 64)]
    assert [images[0].getpixel((x, 0)) for x in (0, 64, 128)] == [(seed,) * 3 for seed in (10, 11, 12)]
    assert [image.getpixel((0, 0)) for image in images[1:]] == [(seed,) * 3 for seed in (10, 11, 12)]
    assert "parameters" not in images[0].info
    assert [f"Seed: {seed}," in images[seed - 9].info["parameters"] for seed in (10, 11, 12)] == [True] * 3
    assert (info["seed"], info["subseed"], info["all_seeds"]) == (10, -1, [12])
    assert (info["index_of_first_image"], len(info["infotexts"])) == (0, 4)
    assert all("Seed: 10," in text for text in info["infotexts"])


def test_batches_of_loops_run_side_by_side_and_answer_with_their_last(serve: Callable[..., Server]) -> None:
    server = serve()
    images, _, jobs = ask(server, LOOPBACK, [2], n_iter=3)
    assert [job.noise.seed for job in jobs] == [10, 12, 14, 11, 13, 15]
    assert len({job.id.partition("/")[0] for job in jobs}) == 6
    assert [image.getpixel((0, 0))[0] for image in images[1:]] == [11, 13, 15]
    assert images[0].size == (192, 64)


def test_without_a_returned_grid_there_is_none(server: Server) -> None:
    images, info, _ = ask(server, LOOPBACK, [2], override_settings={"return_grid": False})
    assert [image.size for image in images] == [(64, 64)] * 2
    assert len(info["infotexts"]) == 2


def test_what_is_masked_is_kept_from_the_second_loop_on(server: Server) -> None:
    mask = base64_of(Image.new("L", (64, 64), 255))
    fields = {"mask": mask, "inpainting_fill": 2, "inpaint_full_res": False}
    _, _, jobs = ask(server, LOOPBACK, [2], **fields)
    assert [job.mask.content for job in jobs] == ["latent noise", "original"]


@pytest.mark.parametrize("interrogator", ["CLIP", "DeepBooru"])
def test_pictures_are_not_described_without_a_network(server: Server, interrogator: str) -> None:
    response = server.post("img2img", body_of(LOOPBACK, [2, 0.5, "Linear", interrogator]))
    assert response.status_code == 501
    assert interrogator in response.text
    assert "choose 'None'" in response.text


# Outpainting mk2


def test_mk2_grows_side_by_side(server: Server) -> None:
    images, info, jobs = ask(server, MK2, [None, 32, 4], width=48, height=56, mask_blur=9)
    (image,) = images
    assert image.size == (128, 128)
    assert [(job.size.width, job.size.height) for job in jobs] == [(48, 64), (48, 64), (128, 56), (128, 56)]
    assert [job.noise.seed for job in jobs] == [10] * 4
    # What no pass painted is as it was, but for fractions cut off where it becomes a number and back.
    kept, was = (np.asarray(each).astype(int) for each in (image, PICTURE))
    assert np.abs(kept[58:70, 50:78] - was[26:38, 18:46]).max() <= 1
    assert (info["width"], info["height"], info["seed"], info["subseed"]) == (128, 56, 10, -1)
    assert len(info["infotexts"]) == 1
    assert info["extra_generation_params"]["Mask blur"] == 16


def test_mk2_paints_what_is_new_and_a_little_of_the_old(server: Server) -> None:
    _, info, (job,) = ask(server, MK2, [None, 32, 4, "left"], image=gradient(96, 64), width=96)
    assert job.size.width == 96
    latent = np.frombuffer(job.mask.latent, np.uint8).reshape(8, 12)
    assert latent.min(axis=0).tolist()[:4] == [255] * 4
    assert latent.max(axis=0).tolist()[6:] == [0] * 6
    assert job.mask.content == "original"
    assert info["extra_generation_params"]["Mask blur"] is None
    assert "Mask blur" not in info["infotexts"][0]
    # Noise stands where the canvas is empty, and the same in every request.
    new = np.frombuffer(job.init.pixels, np.uint8).reshape(64, 96, 3)[:, :30]
    assert new.std() > 5


def test_mk2_makes_every_image_of_every_batch(server: Server) -> None:
    images, info, jobs = ask(server, MK2, [None, 8, 4, ["right"]], batch_size=2, n_iter=2)
    assert [job.noise.seed for job in jobs] == [10, 11, 10, 11]
    assert [image.size for image in images] == [(256, 128)] + [(128, 64)] * 4
    values = [image.getpixel((127, 0)) for image in images[1:]]
    assert values == [(seed,) * 3 for seed in (10, 11, 10, 11)]
    assert len(info["infotexts"]) == 5


def test_mk2_of_a_black_picture(server: Server) -> None:
    images, _, _ = ask(server, MK2, [None, 64, 8, ["up"]], image=Image.new("RGB", (64, 64)))
    assert images[0].size == (64, 128)


# Poor man's outpainting


def test_poor_mans_outpainting_paints_the_tiles_that_are_new(server: Server) -> None:
    images, info, jobs = ask(server, POOR, [32, 4, 2, ["left"]], image=gradient(128, 64))
    (image,) = images
    assert image.size == (192, 64)
    assert [job.noise.seed for job in jobs] == [10, 11]
    assert all(job.size.width == 64 for job in jobs)
    assert {job.mask.content for job in jobs} == {"latent noise"}
    assert np.array_equal(np.asarray(image)[:, 96:], np.asarray(gradient(128, 64))[:, 32:])
    assert (info["all_seeds"], info["seed"]) == ([11], 10)
    extra = info["extra_generation_params"]
    assert (extra["Mask blur"], extra["Masked content"]) == (8, "latent noise")
    assert len(info["infotexts"]) == 1


@pytest.mark.parametrize(
    ("asked", "content"),
    [("fill", "fill"), (0, "fill"), (1.0, "original"), ("latent nothing", "latent nothing"), (None, "fill")],
)
def test_poor_mans_contents(server: Server, asked: object, content: str) -> None:
    _, info, jobs = ask(server, POOR, [32, 4, asked, ["down"]])
    assert {job.mask.content for job in jobs} == {content}
    told = info["extra_generation_params"].get("Masked content")
    assert told == (None if asked in ("fill", None) or content == "original" else content)


def test_poor_mans_tiles_larger_than_the_picture(server: Server) -> None:
    images, _, jobs = ask(server, POOR, [8, 4, "fill", ["right"]], width=256, height=256)
    assert [job.size.width for job in jobs] == [256]
    assert images[0].size == (128, 64)
    assert images[0].getpixel((127, 63)) == (10, 10, 10)
    assert images[0].getpixel((30, 30)) == PICTURE.getpixel((30, 30))


# SD upscale


def test_the_request_of_automatic1111_s_own_test(server: Server) -> None:
    images, info, jobs = ask(server, "sd upscale", ["", 8, "Lanczos", 2.0])
    assert [image.size for image in images] == [(128, 128)]
    assert isinstance(jobs[0], Enlarge)
    assert len(jobs) == 10
    assert info["extra_generation_params"]["SD upscale upscaler"] == "Lanczos"


def test_upscale_has_the_seeds_of_its_tiles(serve: Callable[..., Server]) -> None:
    server = serve()
    images, info, (enlarge, *tiles) = ask(server, UPSCALE, [None, 16, "lanczos", 2], n_iter=2)
    assert (enlarge.upscaler, enlarge.size.width, enlarge.size.height) == ("Lanczos", 128, 128)
    assert [job.noise.seed for job in tiles] == [*range(10, 19), *range(11, 20)]
    assert len({job.noise.subseed for job in tiles}) == 1
    # The engine is given the nine tiles of a pass together.
    assert [len(ticket.jobs) for ticket in server.engine._tickets] == [1, 9, 9]
    assert [image.getpixel((0, 0))[0] for image in images] == [10, 11]
    assert [image.getpixel((127, 127))[0] for image in images] == [18, 19]
    assert (info["seed"], info["all_seeds"], info["subseed"]) == (10, [19], -1)
    assert len(info["infotexts"]) == 2
    assert list(info["extra_generation_params"])[:2] == ["SD upscale overlap", "SD upscale upscaler"]


def test_upscale_with_batches(server: Server) -> None:
    """The first seed of a batch is one above that of the batch before, as in AUTOMATIC1111."""
    _, info, (_, *tiles) = ask(server, UPSCALE, [None, 16, 1, 2], batch_size=4)
    assert [job.noise.seed for job in tiles] == [10, 11, 12, 13, 11, 12, 13, 14, 12]
    assert info["all_seeds"] == [12]


def test_upscale_with_none_paints_the_picture_as_large_as_it_is(server: Server) -> None:
    image = gradient(96, 64, "RGBA")
    image.putalpha(0)
    settings = {"img2img_background_color": "#ff0000"}
    images, info, jobs = ask(server, UPSCALE, [None, 32, None, 4], image=image, override_settings=settings)
    assert [job.noise.seed for job in jobs] == [10, 11]
    assert jobs[0].init.pixels[:3] == b"\xff\x00\x00"
    assert images[0].size == (96, 64)
    assert info["extra_generation_params"]["SD upscale upscaler"] == "None"


# img2img alternative test


def test_alternative_test_overrides(server: Server) -> None:
    _, info, (job,) = ask(
        server,
        ALTERNATIVE,
        ["", True, True, "a dog", "blurry", True, 9, True, 1.5, 0.25, True],
        sampler_name="Heun Karras",
    )
    assert (job.prompt.positive, job.prompt.negative) == ("a dog", "blurry")
    assert (job.sampling.sampler, job.sampling.schedule, job.sampling.steps) == ("Euler", "Karras", 9)
    assert job.start.strength == 1.0
    found = job.recovery
    assert (found.positive, found.negative, found.steps) == ("a dog", "blurry", 9)
    assert (found.cfg_scale, found.randomness, found.sigma_adjustment) == (1.5, 0.25, True)
    assert list(info["extra_generation_params"].items())[:6] == [
        ("Decode prompt", "a dog"),
        ("Decode negative prompt", "blurry"),
        ("Decode CFG scale", 1.5),
        ("Decode steps", 9),
        ("Randomness", 0.25),
        ("Sigma Adjustment", True),
    ]


def test_alternative_test_without_overrides(server: Server) -> None:
    arguments = ["", False, False, "a dog", "blurry", False, 9, False]
    images, info, jobs = ask(
        server, ALTERNATIVE, arguments, sampler_name="Heun", denoising_strength=0.5, batch_size=2
    )
    assert [(job.prompt.positive, job.sampling.sampler, job.sampling.steps) for job in jobs] == [
        ("cat", "Heun", 4)
    ] * 2
    assert strengths(jobs) == [0.5, 0.5]
    assert all(job.recovery.steps == 9 for job in jobs)
    assert info["all_seeds"] == [10, 11]
    assert "Seed: 11," in images[1].info["parameters"]


# All of them


@pytest.mark.parametrize(
    ("script", "arguments", "files"),
    [
        (LOOPBACK, [2], 3),
        (MK2, [None, 8, 4, "up"], 1),
        (POOR, SOME, 1),
        (UPSCALE, [None, 8, "Lanczos", 2], 1),
        (ALTERNATIVE, [], 1),
    ],
)
def test_what_is_saved(serve: Callable[..., Server], script: str, arguments: Any, files: int) -> None:
    server = serve()
    ask(server, script, arguments)
    assert not list(server.data_dir.glob("outputs/**/*.png"))
    ask(server, script, arguments, save_images=True)
    saved = sorted(server.data_dir.glob("outputs/**/*.png"))
    assert len(saved) == files
    for path in saved:
        with Image.open(path) as image:
            assert "Seed: 10" in image.info["parameters"] or "Seed: 11" in image.info["parameters"]


def context_of(interrupted: Callable[[], bool], **fields: Any) -> Context:
    """What a script is begun with, and its flag of interruption."""
    options = {"img2img_background_color": "#ffffff", "grid_background_color": "#ffffff"}
    snapshot = SimpleNamespace(
        flag=lambda key: key == "return_grid", text=options.__getitem__, number=lambda _: -1
    )
    networks = SimpleNamespace(upscalers=list, find_upscaler=lambda _: None)
    sources = SimpleNamespace(config=SimpleNamespace(limits=Limits(), a1111_quirks=False), networks=networks)
    request = Img2ImgRequest.model_validate(BASE | fields)
    values: dict[str, Any] = {"options": snapshot, "sources": sources, "random": random.Random(1)}
    return Context(
        request=request,
        pictures=(PICTURE,),
        mask=None,
        is_interrupted=interrupted,
        expect=lambda _: None,
        **values,
    )


def done_of(run: Run, *, pictures: bool = True, interrupted: bool = False) -> Done:
    """A white picture of the run's size."""
    request = run.request
    image = Image.new("RGB", (request.width, request.height), "white")
    info = {"index_of_first_image": 0, "infotexts": [f"Seed: {request.seed}"], "seed": request.seed}
    found = (image,) if pictures else ()
    return Done(found, ("",) * len(found), info, interrupted)


def parts_until_the_end(script: Script, arguments: list[Any], *, first_is_stopped: bool) -> Any:
    """How often a script that is interrupted after its first runs has runs made, and its outcome."""
    assert script.begin is not None
    context = context_of(lambda: parts > 0, subseed=1, n_iter=1)
    parts = 0
    steps = script.begin(context, [*arguments, *(each.value for each in script.arguments[len(arguments) :])])
    sent: Any = None
    while True:
        try:
            wanted = steps.send(sent)
        except StopIteration as end:
            outcome: Outcome = end.value
            return parts, outcome
        if isinstance(wanted, Enlarging):
            sent = wanted.image.resize((128, 128))
            continue
        if not wanted:
            sent = []
            continue
        sent = [done_of(run, pictures=not first_is_stopped, interrupted=True) for run in wanted]
        parts += 1


@pytest.mark.parametrize(
    ("script", "arguments", "size"),
    [
        (outpainting_mk2.SCRIPT, [None, 32], (96, 64)),
        (poor_mans_outpainting.SCRIPT, [32], (128, 128)),
        (sd_upscale.SCRIPT, [None, 16, "Lanczos"], (128, 128)),
        (alternative_test.SCRIPT, [], (64, 64)),
    ],
)
def test_an_interrupted_script_answers_with_what_is_there(
    script: Script, arguments: list[Any], size: tuple[int, int]
) -> None:
    parts, outcome = parts_until_the_end(script, arguments, first_is_stopped=False)
    assert parts == 1
    assert [picture.image.size for picture in outcome.pictures][-1] == size


def test_tiles_that_were_not_painted_stay_as_they_were() -> None:
    _, outcome = parts_until_the_end(sd_upscale.SCRIPT, [None, 16, "Lanczos"], first_is_stopped=True)
    assert outcome.pictures[0].image.tobytes() == PICTURE.resize((128, 128)).tobytes()


@pytest.mark.parametrize("script", [loopback.SCRIPT, outpainting_mk2.SCRIPT])
def test_where_nothing_was_made_nothing_is_answered(script: Script) -> None:
    parts, outcome = parts_until_the_end(script, [], first_is_stopped=True)
    assert (parts, outcome.pictures) == (1, ())


def test_a_loop_that_was_interrupted_does_not_count() -> None:
    parts, outcome = parts_until_the_end(loopback.SCRIPT, [3], first_is_stopped=False)
    assert (parts, outcome.pictures) == (1, ())


def test_every_loop_has_the_colours_of_the_first_picture() -> None:
    context = context_of(lambda: False, subseed=1)
    assert loopback.SCRIPT.begin is not None
    steps = loopback.SCRIPT.begin(context, [2, 0.5, "Linear", "None"])
    first = next(steps)
    assert not isinstance(first, Enlarging)
    second = steps.send([done_of(run) for run in first])
    assert not isinstance(second, Enlarging)
    assert [run.given.colours for run in (*first, *second)] == [PICTURE, PICTURE]
    assert second[0].given.pictures[0] is not PICTURE


def test_progress_knows_how_many_images_there_will_be() -> None:
    expected: list[int] = []
    for script, arguments, images in (
        (loopback.SCRIPT, [3, 0.5, "Linear", "None"], 6),
        (outpainting_mk2.SCRIPT, [None, 8, 4, ["left", "up"], 1, 0], 4),
        (alternative_test.SCRIPT, [None, True, True, "", "", True, 4, True, 1, 0, False], 2),
    ):
        context = context_of(lambda: False, n_iter=2)
        replaced = {name: getattr(context, name) for name in Context.__slots__} | {"expect": expected.append}
        assert script.begin is not None
        script.begin(Context(**replaced), arguments)
        assert expected.pop() == images
