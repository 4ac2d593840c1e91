"""X/Y/Z plots: which cells are asked for, and what the answer is put together of."""

import base64
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from patience import PATIENCE
from PIL import Image

from sdserver.api.config import Limits
from sdserver.api.scripts.xyz_axes import axes_of
from sdserver.engine.ticket import Ticket
from sdserver.images.codec import encode
from sdserver.jobs.job import Img2Img, Job, Txt2Img
from tests.api.conftest import Server

TXT2IMG = [axis.label for axis in axes_of("txt2img")]
IMG2IMG = [axis.label for axis in axes_of("img2img")]
DEFAULTS: list[Any] = [
    0,
    "",
    [],
    0,
    "",
    [],
    0,
    "",
    [],
    False,
    False,
    False,
    False,
    False,
    False,
    False,
    0,
    True,
]
BODY = {
    "prompt": "a cat, a hat",
    "negative_prompt": "dog",
    "width": 16,
    "height": 16,
    "steps": 4,
    "seed": 100,
}
Checks = Mapping[str, tuple[str, Callable[[Any], bool]]]
"""By axis a value, and what must hold for the job."""
PICTURE = base64.b64encode(encode(Image.new("RGB", (16, 16), (50, 60, 70)), "png", None)).decode()


def plot(*axes: tuple[int | str, str], **fields: Any) -> dict[str, Any]:
    """A request for a plot; `args` sets arguments by their place."""
    args = list(DEFAULTS)
    for place, (axis, values) in enumerate(axes):
        args[place * 3 : place * 3 + 2] = [axis, values]
    for place, value in fields.pop("args", {}).items():
        args[place] = value
    return {**BODY, "script_name": "X/Y/Z plot", "script_args": args, **fields}


def pictures(answer: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]


@pytest.fixture
def served(serve: Callable[..., Server]) -> Server:
    return serve()


def made(server: Server, body: dict[str, Any], tab: str = "txt2img") -> dict[str, Any]:
    response = server.post(tab, body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refusal(server: Server, body: dict[str, Any], tab: str = "txt2img") -> str:
    before = len(server.engine.jobs)
    response = server.post(tab, body)
    assert 400 <= response.status_code < 500 or response.status_code == 501, response.text
    assert len(server.engine.jobs) == before
    return response.text


def test_cells_in_one_go_and_in_their_places(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    tickets: list[int] = []
    submit = served.engine.submit

    def count(request_id: str, jobs: Sequence[Job], **options: Any) -> Ticket:
        tickets.append(len(jobs))
        return submit(request_id, jobs, **options)

    monkeypatch.setattr(served.engine, "submit", count)
    answer = made(served, plot(("Seed", "1-3"), ("Steps", "2,3"), args={10: True}))
    assert tickets == [6]
    jobs = served.engine.jobs
    assert [(job.noise.seed, job.sampling.steps) for job in jobs if isinstance(job, Txt2Img)] == [
        (seed, steps) for steps in (2, 3) for seed in (1, 2, 3)
    ]
    grid, *cells = pictures(answer)
    assert grid.size == (48, 32)
    assert [cell.getpixel((0, 0)) for cell in cells] == [(seed,) * 3 for seed in (1, 2, 3)] * 2
    for index, cell in enumerate(cells):
        left, top = index % 3 * 16, index // 3 * 16
        assert grid.crop((left, top, left + 16, top + 16)).tobytes() == cell.tobytes()
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [1, 2, 3] * 2
    assert info["index_of_first_image"] == 1
    assert len(info["infotexts"]) == 7
    assert [cell.info["parameters"] for cell in cells] == info["infotexts"][1:]
    assert "parameters" not in grid.info
    assert (
        'Script: X/Y/Z plot, X Type: Seed, X Values: 1-3, Fixed X Values: "1, 2, 3"' in info["infotexts"][0]
    )
    assert 'Y Type: Steps, Y Values: "2,3", Version: v1.10.1' in info["infotexts"][0]


def test_a_third_axis_makes_several_grids(served: Server) -> None:
    axes = ("Seed", "1,2"), ("Steps", "2,3,4"), ("CFG Scale", "5-7 [2]")
    answer = made(served, plot(*axes, args={11: True}))
    info = json.loads(answer["info"])
    assert [picture.size for picture in pictures(answer)] == [(64, 48), (32, 48), (32, 48)]
    assert len(info["infotexts"]) == 3 + 12
    assert ["Z Type" in text for text in info["infotexts"]] == [True] + [False] * 14
    assert ["Script" in text for text in info["infotexts"]] == [True] * 3 + [False] * 12
    assert "CFG scale: 7.0" in info["infotexts"][2]
    assert info["all_seeds"] == [1, 1, *([1, 2] * 6)]
    without = made(served, plot(*axes))
    assert [picture.size for picture in pictures(without)] == [(64, 48)]
    assert json.loads(without["info"])["all_seeds"] == [1, 2] * 6


def test_legends_and_margins(served: Server) -> None:
    axes = ("Seed", "1,2"), ("Steps", "2,3"), ("CFG Scale", "5,7")
    size = {"width": 128, "height": 128}
    plain = pictures(made(served, plot(*axes, args={11: True, 16: 10}, **size)))
    drawn = pictures(made(served, plot(*axes, args={9: True, 11: True, 16: 10}, **size)))
    assert [picture.size for picture in plain] == [(512, 256), (256, 256), (256, 256)]
    whole, layer, _ = drawn
    assert layer.width == 128 * 2 + 96 + 10  # margins stand in grids with a legend only
    assert layer.height > 128 * 2 + 10
    assert whole.width == 2 * layer.width
    assert whole.height > layer.height


def test_seeds_along_axes(served: Server) -> None:
    axes = ("Steps", "2,3"), ("CFG Scale", "5,6,7"), ("Eta", "0,1")
    for varied, strides in (({13}, (1, 0, 0)), ({14, 15}, (0, 1, 3)), ({13, 14, 15}, (1, 2, 6))):
        answer = made(served, plot(*axes, args=dict.fromkeys(varied, True)))
        assert json.loads(answer["info"])["all_seeds"] == [
            100 + x * strides[0] + y * strides[1] + z * strides[2]
            for z in range(2)
            for y in range(3)
            for x in range(2)
        ]


def test_random_seeds_are_drawn_once_or_for_each_cell(served: Server) -> None:
    body = plot(("Steps", "2,3,4"), seed=-1)
    seeds = json.loads(made(served, body)["info"])["all_seeds"]
    assert len(set(seeds)) == 1
    assert seeds[0] >= 0
    free = json.loads(made(served, plot(("Steps", "2,3,4"), seed=-1, args={12: True}))["info"])["all_seeds"]
    assert len(set(free)) == 3
    listed = json.loads(made(served, plot(("Seed", "-1,5,-1"), ("Steps", "2,3")))["info"])
    first, five, last = listed["all_seeds"][:3]
    assert listed["all_seeds"][3:] == [first, five, last]
    assert five == 5
    assert -1 not in (first, last)
    assert f'Fixed X Values: "{first}, 5, {last}"' in listed["infotexts"][0]


def test_the_grid_s_first_picture_of_each_run(served: Server) -> None:
    """Only the first image of a cell is shown, so no other is made unless it is saved."""
    answer = made(served, plot(("Steps", "2,3"), n_iter=3, batch_size=2))
    assert len(served.engine.jobs) == 2
    info = json.loads(answer["info"])
    assert info["batch_size"] == 2
    assert info["all_seeds"] == [100, 100]
    assert len(info["all_subseeds"]) == len(info["all_negative_prompts"]) == 6
    saved = made(served, plot(("Steps", "2,3"), n_iter=3, save_images=True))
    assert len(served.engine.jobs) == 2 + 6
    files = sorted(path.parent.parent.name for path in served.data_dir.glob("outputs/*/*/*.png"))
    assert files == ["txt2img-grids"] * 3 + ["txt2img-images"] * 6
    (kept,) = served.data_dir.glob("outputs/txt2img-grids/*/xyz_grid*.png")
    with Image.open(kept) as image:
        assert image.info["parameters"] == json.loads(saved["info"])["infotexts"][0]


FIELDS: Checks = {
    "Var. seed": ("7", lambda job: job.noise.subseed == 7),
    "Var. strength": ("0.25", lambda job: job.noise.strength == 0.25),
    "CFG Scale": ("3.5", lambda job: job.sampling.cfg_scale == 3.5),
    "Sampler": ("Heun", lambda job: job.sampling.sampler == "Heun"),
    "Checkpoint name": ("tiny-sd15-b", lambda job: "tiny-sd15-b" in job.model.checkpoint),
    "Negative Guidance minimum sigma": ("2", lambda job: job.guidance.min_uncond == 2),
    "Sigma Churn": ("3", lambda job: job.sampling.churn == 3),
    "Sigma min": ("0.5", lambda job: job.sampling.churn_min == 0.5),
    "Sigma max": ("9", lambda job: job.sampling.churn_max == 9),
    "Sigma noise": ("1.5", lambda job: job.sampling.noise_scale == 1.5),
    "Schedule type": ("Karras", lambda job: job.sampling.schedule == "Karras"),
    "Schedule min sigma": ("0.1", lambda job: job.sampling.sigma_min == 0.1),
    "Schedule max sigma": ("10", lambda job: job.sampling.sigma_max == 10),
    "Schedule rho": ("5", lambda job: job.sampling.rho == 5),
    "Beta schedule alpha": ("0.7", lambda job: job.sampling.beta_alpha == 0.7),
    "Beta schedule beta": ("0.8", lambda job: job.sampling.beta_beta == 0.8),
    "Eta": ("0.5", lambda job: job.sampling.eta == 0.5),
    "Clip skip": ("2", lambda job: job.prompt.clip_skip == 2),
    "UniPC Order": ("9", lambda job: job.sampling.unipc.order == 3),
    "Always discard next-to-last sigma": ("True", lambda job: job.sampling.discard_penultimate),
    "SGM noise multiplier": ("true", lambda job: job.sampling.scale_noise_as_sgm),
    "RNG source": ("CPU", lambda job: job.noise.source == "CPU"),
    "Size": ("24x32", lambda job: (job.size.width, job.size.height) == (24, 32)),
    "Styles": ("Tiny Style", lambda job: job.prompt.positive == "masterpiece, a cat, a hat, tiny style"),
    "Prompt S/R": ("cat", lambda job: job.prompt.positive == "a cat, a hat"),
    "VAE": ("auto", lambda job: job.model.vae == ""),
    "Token merging ratio": ("0.25", lambda job: job.model.attention.merging == 0.25),
}


@pytest.mark.parametrize("axis", FIELDS)
def test_what_an_axis_sets(server: Server, axis: str) -> None:
    value, holds = FIELDS[axis]
    before = len(server.engine.jobs)
    made(server, plot((TXT2IMG.index(axis), value), sampler_name="Euler", s_tmax=5))
    (job,) = server.engine.jobs[before:]
    assert holds(job)


HIRES: Checks = {
    "Hires steps": ("7", lambda job: job.hires.sampling.steps == 7),
    "Hires sampler": ("Heun", lambda job: job.hires.sampling.sampler == "Heun"),
    "Hires upscaler": ("Nearest", lambda job: job.hires.upscaler == "Nearest"),
    "Denoising": ("0.25", lambda job: job.hires.start.strength == 0.25),
    "Extra noise": ("0.5", lambda job: job.hires.start.extra_noise == 0.5),
    "Token merging ratio high-res": ("0.5", lambda job: job.hires.model.attention.merging == 0.5),
}


@pytest.mark.parametrize("axis", HIRES)
def test_axes_of_the_second_pass(server: Server, axis: str) -> None:
    value, holds = HIRES[axis]
    before = len(server.engine.jobs)
    made(server, plot((axis, value), enable_hr=True, denoising_strength=0.5, sampler_name="Euler"))
    (job,) = server.engine.jobs[before:]
    assert holds(job)


PICTURES: Checks = {
    "Denoising": ("0.25", lambda job: job.start.strength == 0.25),
    "Initial noise multiplier": ("0.5", lambda job: job.start.noise_multiplier == 0.5),
    "Extra noise": ("0.5", lambda job: job.start.extra_noise == 0.5),
}


@pytest.mark.parametrize("axis", PICTURES)
def test_axes_of_img2img(server: Server, axis: str) -> None:
    value, holds = PICTURES[axis]
    before = len(server.engine.jobs)
    made(server, plot((IMG2IMG.index(axis), value), init_images=[PICTURE]), "img2img")
    (job,) = server.engine.jobs[before:]
    assert isinstance(job, Img2Img)
    assert holds(job)


IDLE = {"Face restore": "None", "FP8 mode": "Disable", "Image CFG Scale": "2"}


@pytest.mark.parametrize("axis", IDLE)
def test_axes_that_change_no_job(server: Server, axis: str) -> None:
    answer = made(server, plot((axis, IDLE[axis]), init_images=[PICTURE]), "img2img")
    assert f"X Type: {axis}, X Values: {IDLE[axis]}," in json.loads(answer["info"])["infotexts"][0]


def test_the_mask_weight_axis(server: Server) -> None:
    body = plot(("Cond. Image Mask Weight", "0.25,0.5"), init_images=[PICTURE], mask=PICTURE)
    body["override_settings"] = {"sd_model_checkpoint": "tiny-sd15-inpainting"}
    texts = json.loads(made(server, body, "img2img")["info"])["infotexts"]
    assert "Conditional mask weight: 0.25" in texts[1]
    assert "Conditional mask weight: 0.5" in texts[2]


HYPERTILE: Checks = {
    "Unet First pass Enabled": ("True", lambda job: job.model.attention.unet is not None),
    "Unet Second pass Enabled": ("True", lambda job: job.hires.model.attention.unet is not None),
    "VAE Enabled": ("True", lambda job: job.hires.model.attention.vae is not None),
    "Unet Max Depth": ("1", lambda job: job.model.attention.unet.max_depth == 1),
    "Unet Max Tile Size": ("512", lambda job: job.model.attention.unet.max_tile == 512),
    "Unet Swap Size": ("5", lambda job: job.model.attention.unet.swap == 5),
    "VAE Max Depth": ("1", lambda job: job.hires.model.attention.vae.max_depth == 1),
    "VAE Max Tile Size": ("512", lambda job: job.hires.model.attention.vae.max_tile == 512),
    "VAE Swap Size": ("5", lambda job: job.hires.model.attention.vae.swap == 5),
}


@pytest.mark.parametrize("axis", HYPERTILE)
def test_hypertile_s_axes(server: Server, axis: str) -> None:
    value, holds = HYPERTILE[axis]
    before = len(server.engine.jobs)
    needed = ("hypertile_enable_unet", "hypertile_enable_vae")
    on = {} if axis.endswith("Enabled") else dict.fromkeys(needed, True)
    body = plot((f"[Hypertile] {axis}", value), enable_hr=True, denoising_strength=0.5, override_settings=on)
    made(server, body)
    (job,) = server.engine.jobs[before:]
    assert holds(job)


def test_every_axis_is_tried_here() -> None:
    tried = {*FIELDS, *HIRES, *PICTURES, *IDLE, "Nothing", "Seed", "Steps", "Prompt order"}
    tried |= {f"[Hypertile] {axis}" for axis in HYPERTILE}
    elsewhere = {"Refiner checkpoint", "Refiner switch at", "Cond. Image Mask Weight"}
    assert {*TXT2IMG, *IMG2IMG} - tried == elsewhere


def test_refiner_axes(served: Server) -> None:
    axes = ("Refiner checkpoint", "None,tiny-sd15-b"), ("Refiner switch at", "0.5,0.8")
    made(served, plot(*axes))
    refiners = [job.refiner for job in served.engine.jobs if isinstance(job, Txt2Img)]
    assert [refiner and refiner.switch_at for refiner in refiners] == [None, None, 0.5, 0.8] or [
        refiner and refiner.switch_at for refiner in refiners
    ] == [None, 0.5, None, 0.8]
    assert sum(refiner is not None and "tiny-sd15-b" in refiner.model.checkpoint for refiner in refiners) == 2


def test_the_checkpoint_changes_least_often(served: Server) -> None:
    answer = made(
        served, plot(("Checkpoint name", "tiny-sd15,tiny-sd15-b"), ("Seed", "1,2"), args={10: True})
    )
    jobs = [job for job in served.engine.jobs if isinstance(job, Txt2Img)]
    assert ["-b." in job.model.checkpoint for job in jobs] == [False, False, True, True]
    assert [image.getpixel((0, 0)) for image in pictures(answer)[1:]] == [(k,) * 3 for k in (1, 1, 2, 2)]


def test_prompts_are_searched_and_ordered(served: Server) -> None:
    made(served, plot(("Prompt S/R", 'cat, hat, "big, red"')))
    jobs = [job for job in served.engine.jobs if isinstance(job, Txt2Img)]
    assert [job.prompt.positive for job in jobs] == ["a cat, a hat", "a hat, a hat", "a big, red, a hat"]
    made(served, plot(("Prompt order", "cat,hat")))
    jobs = [job for job in served.engine.jobs[3:] if isinstance(job, Txt2Img)]
    assert [job.prompt.positive for job in jobs] == ["a cat, a hat", "a hat, a cat"]


def test_lists_instead_of_text(served: Server) -> None:
    args = {2: ["Euler", "Heun"], 17: False}
    answer = made(served, plot(("Sampler", "ignored"), args=args))
    jobs = [job for job in served.engine.jobs if isinstance(job, Txt2Img)]
    assert [job.sampling.sampler for job in jobs] == ["Euler", "Heun"]
    assert 'X Values: "Euler,Heun"' in json.loads(answer["info"])["infotexts"][0]


def test_a_plot_of_pictures_decodes_them_once(served: Server) -> None:
    made(served, plot(("Seed", "1,2"), init_images=[PICTURE], mask=PICTURE), "img2img")
    jobs = [job for job in served.engine.jobs if isinstance(job, Img2Img)]
    assert [job.noise.seed for job in jobs] == [1, 2]
    assert all(job.mask is not None for job in jobs)
    assert "bad number of images" in refusal(
        served, plot(("Seed", "1,2"), init_images=[PICTURE] * 2), "img2img"
    )


@pytest.mark.parametrize(
    ("axis", "values", "said"),
    [
        ("Sampler", "Euler,Bogus", "Unknown sampler: Bogus"),
        ("Checkpoint name", "nowhere", "no checkpoint"),
        ("Refiner checkpoint", "nowhere", "no checkpoint"),
        ("Schedule type", "Bogus", "Bogus"),
        ("VAE", "nowhere", "VAE"),
        ("Prompt S/R", "bird,cat", "did not find bird"),
        ("Prompt order", "cat,bird", "did not find 'bird'"),
        ("Prompt order", "a,b,c,d,e,f,g", "at most 6 words"),
        ("Steps", "1-1000", "steps"),
        ("Steps", "x", "is not a whole number"),
        ("CFG Scale", "nan", "is not a number"),
        ("Clip skip", "99", "CLIP_stop_at_last_layers"),
        ("Face restore", "CodeFormer", "codeformer-v0.1.0.pth"),
        ("FP8 mode", "On", "fp8_storage"),
        ("RNG source", "dice", "randn_source"),
        ("SGM noise multiplier", "maybe", "True or False"),
        ("Size", "512", "Invalid size"),
        ("Size", "99999x99999", "large"),
        ("Seed", "", "has no values"),
        ("Seed", "1-1001", "too many values"),
    ],
)
def test_values_that_are_refused(server: Server, axis: str, values: str, said: str) -> None:
    assert said.lower() in refusal(server, plot((axis, values))).lower()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, -1),
        (0, 999),
        (0, True),
        (0, "Bogus"),
        (0, [1]),
        (0, 2**63),
        (1, 5),
        (1, ["1"]),
        (1, {"a": [[]]}),
        (1, "1," * 50_000),
        (9, "yes"),
        (9, []),
        (12, 2),
        (16, -1),
        (16, 501),
        (16, "4"),
        (16, 1e300),
        (17, "x"),
    ],
)
def test_arguments_that_are_refused(server: Server, place: int, value: object) -> None:
    said = "An axis is named by" if place == 0 else f"The script's argument {place + 1} "
    assert said in refusal(server, plot(("Steps", "2"), args={place: value}))


@pytest.mark.parametrize("value", [5, [5], {"a": 1}, [["Euler"]], ["x" * 60_000], ["Bogus"]])
def test_lists_that_are_refused(server: Server, value: object) -> None:
    refusal(server, plot(("Sampler", ""), args={2: value, 17: False}))


def test_too_much_is_refused(server: Server) -> None:
    many = ("Seed", "1-100"), ("CFG Scale", "1-100"), ("Eta", "0-1 [100]")
    assert "1,000,000 images" in refusal(server, plot(*many))
    assert "1,500 images" in refusal(server, plot(("Seed", "1-500"), n_iter=3, save_images=True))
    assert "too large" in refusal(server, plot(("Seed", "1-1000"), width=1024, height=1024))
    assert "too large" in refusal(server, plot(("Size", "8x2048,2048x8," + "8x8," * 200 + "8x8")))
    assert "too large" in refusal(
        server, plot(("Seed", "1-30"), ("Eta", "0-1 [30]"), args={9: True, 16: 500})
    )
    doubled = plot(("Prompt S/R", "a," + "b" * 40_000), prompt="a " * 20_000)
    assert "too long" in refusal(server, doubled)


def test_an_end_in_the_midst(served: Server) -> None:
    """Cells that were not begun are black, and nothing is told of them."""
    body = plot(("Seed", "1,2,3"), args={10: True})
    served.engine.held = True
    with_answer: dict[str, Any] = {}

    def work() -> None:
        with_answer.update(made(served, body))

    thread = threading.Thread(target=work)
    thread.start()
    assert served.engine.submitted.wait(PATIENCE)
    assert served.post("interrupt", None).status_code == 200
    thread.join(PATIENCE)
    info = json.loads(with_answer["info"])
    assert info["all_seeds"] == [1, None, None]
    grid, *cells = pictures(with_answer)
    assert [cell.getpixel((0, 0)) for cell in cells] == [(1, 1, 1), (0, 0, 0), (0, 0, 0)]
    assert grid.size == (48, 16)


def test_results_that_become_large_are_counted(serve: Callable[..., Server]) -> None:
    """Painted small, laid into large pictures: each cell takes the room of one of those."""
    server = serve(limits=Limits(max_pixels=100 * 100, max_images=8))
    sent = [
        base64.b64encode(encode(Image.new("RGB", (100, 100), c), "png", None)).decode() for c in (0, "white")
    ]
    body = {"init_images": sent[:1], "mask": sent[1], "inpaint_full_res": True}
    made(server, plot(("Seed", "1-8"), **body), "img2img")
    assert "makes too much" in refusal(server, plot(("Seed", "1-9"), **body), "img2img")
    made(server, plot(("Seed", "1-9"), **body | {"mask": None}), "img2img")


def test_prompts_are_bounded_together(server: Server) -> None:
    body = plot(("Seed", "1-100"), prompt="a " * 20_000)
    assert "prompts are too long" in refusal(server, body)


@pytest.mark.parametrize("size", ["900000x900000", "2049x64", "0x64"])
def test_cells_of_no_possible_size_are_refused(served: Server, size: str) -> None:
    response = served.post("txt2img", plot(("Seed", "1,2"), ("Size", size)))
    assert response.status_code == 422
    assert served.engine.jobs == []
