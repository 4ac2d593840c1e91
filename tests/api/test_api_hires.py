"""The second pass of txt2img, the refiner and networks: what the jobs are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdserver.api.config import Limits
from sdserver.api.options import Options
from sdserver.api.requests import Txt2ImgRequest
from sdserver.api.translate.sizes import hires_sizes
from sdserver.catalog.networks import NetworkFolders
from sdserver.jobs.job import Hires, Size, Txt2Img
from sdserver.jobs.model import Adapter
from tests.api.conftest import Server
from tests.api.test_api_features import stand_in

BASE = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 1}
HIRES = BASE | {"enable_hr": True, "denoising_strength": 0.5}


def job_of(server: Server, body: dict[str, Any]) -> Txt2Img:
    """The one job that a request becomes."""
    response = server.post("txt2img", body)
    assert response.status_code == 200, response.text
    job = server.engine.jobs[-1]
    assert isinstance(job, Txt2Img)
    return job


def hires_of(server: Server, **fields: Any) -> Hires:
    hires = job_of(server, HIRES | fields).hires
    assert hires is not None
    return hires


@pytest.mark.parametrize(
    ("fields", "first", "upscale_to", "result", "resize"),
    [
        ({"hr_scale": 2}, (64, 96), (128, 192), (128, 192), ""),
        ({"hr_scale": 1.3}, (64, 96), (83, 124), (83, 124), ""),
        ({"hr_resize_x": 96}, (64, 96), (96, 144), (96, 144), "96x0"),
        ({"hr_resize_y": 192}, (64, 96), (128, 192), (128, 192), "0x192"),
        ({"hr_resize_x": 128, "hr_resize_y": 128}, (64, 96), (128, 192), (128, 128), "128x128"),
        ({"hr_resize_x": 64, "hr_resize_y": 192}, (64, 96), (128, 192), (64, 192), "64x192"),
        ({"firstphase_width": 32, "firstphase_height": 48}, (32, 48), (64, 96), (64, 96), ""),
    ],
)
def test_sizes(
    tmp_path: Path,
    fields: dict[str, Any],
    first: tuple[int, int],
    upscale_to: tuple[int, int],
    result: tuple[int, int],
    resize: str,
) -> None:
    request = Txt2ImgRequest(width=64, height=96, **fields)
    sizes = hires_sizes(request, Options(tmp_path / "config.json").snapshot(), Limits())
    assert sizes.first == Size(*first)
    assert sizes.upscale_to == Size(*upscale_to)
    assert sizes.result == Size(*result)
    assert sizes.resize == resize


def test_the_old_meaning_of_width_and_height(tmp_path: Path) -> None:
    options = Options(tmp_path / "config.json")
    options.apply({"use_old_hires_fix_width_height": True})
    sizes = hires_sizes(Txt2ImgRequest(width=1024, height=768), options.snapshot(), Limits())
    assert (sizes.first, sizes.resize) == (Size(640, 448), "1024x768")
    assert (sizes.result.width // 8, sizes.result.height // 8) == (1024 // 8, 768 // 8)


def test_a_cut_result_has_whole_cells(tmp_path: Path) -> None:
    """AUTOMATIC1111 cuts whole latent cells off, so some of the overhang may stay."""
    request = Txt2ImgRequest(width=64, height=64, hr_resize_x=97, hr_resize_y=104)
    sizes = hires_sizes(request, Options(tmp_path / "config.json").snapshot(), Limits())
    assert (sizes.upscale_to, sizes.result) == (Size(104, 104), Size(104, 104))


def test_what_is_not_said_is_the_first_passes(serve: Callable[..., Server]) -> None:
    job = job_of(serve(), HIRES | {"sampler_name": "DPM++ 2M", "scheduler": "Exponential"})
    assert job.hires is not None
    assert job.hires.model == job.model
    assert job.hires.prompt == job.prompt
    assert job.hires.sampling == job.sampling
    assert (job.hires.upscaler, job.hires.upscaler_path) == ("Latent", "")
    assert (job.hires.start.strength, job.hires.start.exact_steps) == (0.5, True)
    assert job.hires.refiner is None


def test_what_is_said_counts_for_the_second_pass_alone(serve: Callable[..., Server]) -> None:
    fields = {
        "hr_sampler_name": "Heun",
        "hr_scheduler": "Karras",
        "hr_second_pass_steps": 7,
        "hr_prompt": "dog",
        "hr_checkpoint_name": "tiny-sd15-b",
        "hr_upscaler": "Lanczos",
    }
    job = job_of(serve(), HIRES | fields)
    hires = job.hires
    assert hires is not None
    assert (hires.sampling.sampler, hires.sampling.schedule, hires.sampling.steps) == ("Heun", "Karras", 7)
    assert (job.sampling.sampler, job.sampling.steps) == ("Euler", 4)
    assert (hires.prompt.positive, job.prompt.positive) == ("dog", "cat")
    assert hires.model.checkpoint == "/models/tiny-sd15-b.safetensors"
    assert hires.upscaler == "Lanczos"


def test_the_words_for_the_same_are_understood(server: Server) -> None:
    fields = {"hr_sampler_name": "Use same sampler", "hr_scheduler": "Use same scheduler"}
    hires = hires_of(server, hr_checkpoint_name="Use same checkpoint", **fields)
    assert hires.sampling.sampler == "Euler"
    assert hires.model.checkpoint == "/models/tiny-sd15.safetensors"


@pytest.mark.parametrize(
    ("which", "passes"),
    [("first pass", (True, False)), ("second pass", (False, True)), ("both passes", (True, True))],
)
def test_which_pass_is_refined(server: Server, which: str, passes: tuple[bool, bool]) -> None:
    overrides = {"hires_fix_refiner_pass": which, "refiner_switch_by_sample_steps": True}
    body = HIRES | {"refiner_checkpoint": "tiny-sd15-b", "refiner_switch_at": 0.4}
    job = job_of(server, body | {"override_settings": overrides})
    assert job.hires is not None
    assert (job.refiner is not None, job.hires.refiner is not None) == passes
    refiner = job.refiner or job.hires.refiner
    assert refiner is not None
    assert (refiner.model.checkpoint, refiner.switch_at) == ("/models/tiny-sd15-b.safetensors", 0.4)
    assert refiner.by_steps


def test_a_refiner_that_is_the_checkpoint_itself_does_nothing(server: Server) -> None:
    assert (
        job_of(server, BASE | {"refiner_checkpoint": "tiny-sd15", "refiner_switch_at": 0.4}).refiner is None
    )


def test_a_refiner_without_a_moment_begins_at_once(server: Server) -> None:
    refiner = job_of(server, BASE | {"refiner_checkpoint": "tiny-sd15-b"}).refiner
    assert refiner is not None
    assert refiner.switch_at == 0.0


def test_options_that_change_pictures_reach_the_job(serve: Callable[..., Server]) -> None:
    overrides = {
        "uni_pc_variant": "bh2",
        "uni_pc_order": 2,
        "beta_dist_alpha": 0.7,
        "enable_quantization": True,
        "use_old_karras_scheduler_sigmas": True,
        "sd_noise_schedule": "Zero Terminal SNR",
        "use_downcasted_alpha_bar": True,
        "use_old_scheduling": True,
        "sdxl_crop_top": 16,
        "sdxl_clip_l_skip": True,
        "skip_early_cond": 0.2,
        "s_min_uncond_all": True,
        "pad_cond_uncond": True,
        "sgm_noise_multiplier": True,
        "tiling": True,
    }
    job = job_of(serve(), BASE | {"override_settings": overrides, "s_min_uncond": 1.5})
    sampling, prompt, guidance = job.sampling, job.prompt, job.guidance
    assert (sampling.unipc.variant, sampling.unipc.order, sampling.beta_alpha) == ("bh2", 2, 0.7)
    assert sampling.quantize
    assert sampling.old_karras
    assert sampling.scale_noise_as_sgm
    assert (sampling.noise_schedule, sampling.downcast_alphas) == ("Zero Terminal SNR", True)
    assert (prompt.old_scheduling, prompt.crop_top, prompt.sdxl_clip_l_skip) == (True, 16, True)
    assert (guidance.min_uncond, guidance.min_uncond_all, guidance.skip_early) == (1.5, True, 0.2)
    assert guidance.padding == "chunks"
    assert job.model.tiling


@pytest.fixture
def networked(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A server with two LoRAs, a hypernetwork and two embeddings."""
    folders = NetworkFolders(
        lora=(tmp_path / "lora",),
        hypernetworks=(tmp_path / "hypernetworks",),
        embeddings=(tmp_path / "embeddings",),
    )
    for name in ("lora/a", "lora/b", "embeddings/bad hand-v5", "embeddings/other"):
        stand_in(tmp_path / f"{name}.safetensors")
    stand_in(tmp_path / "hypernetworks/h.pt")
    return serve(folders=folders)


@pytest.mark.parametrize(
    ("tag", "weights"),
    [
        ("<lora:a>", (1.0, 1.0, None)),
        ("<lora:a:0.5>", (0.5, 0.5, None)),
        ("<lora:a:0.5:0.25>", (0.5, 0.25, None)),
        ("<lora:a:0.5:0.25:8>", (0.5, 0.25, 8)),
        ("<lora:a:te=0.5>", (0.5, 0.5, None)),
        ("<lora:a:unet=0.5>", (1.0, 0.5, None)),
        ("<lora:a:0.7:unet=0.5:dyn=4>", (0.7, 0.5, 4)),
        ("<lyco:a:-1>", (-1.0, -1.0, None)),
    ],
)
def test_a_tags_weights(networked: Server, tag: str, weights: tuple[float, float, int | None]) -> None:
    (adapter,) = job_of(networked, BASE | {"prompt": f"cat {tag}"}).model.adapters
    assert adapter == Adapter("lora", str(networked.data_dir / "lora/a.safetensors"), *weights)


def test_all_networks_of_a_prompt(networked: Server) -> None:
    response = networked.post(
        "txt2img", BASE | {"prompt": "<hypernet:h:0.3><lora:a:2><lora:nope:1> <lora:b:3> x"}
    )
    model = networked.engine.jobs[-1].model
    found = [(each.kind, Path(each.path).stem, each.unet_weight) for each in model.adapters]
    assert found == [("lora", "a", 2), ("lora", "b", 3), ("hypernetwork", "h", 0.3)]
    assert response.headers["X-Missing-Networks"] == "lora:nope"


def test_networks_may_be_left_out(networked: Server) -> None:
    body = BASE | {"prompt": "<lora:a:2> x", "disable_extra_networks": True}
    assert job_of(networked, body | {"override_settings": {"sd_lora": "b"}}).model.adapters == ()


def test_the_options_add_networks_and_the_infotext_tells(networked: Server) -> None:
    overrides = {"sd_lora": "b", "sd_hypernetwork": "h", "extra_networks_default_multiplier": 0.5}
    job = job_of(networked, BASE | {"override_settings": overrides})
    assert [(each.kind, each.unet_weight) for each in job.model.adapters] == [
        ("lora", 0.5),
        ("hypernetwork", 0.5),
    ]
    assert job.prompt.positive == "cat<lora:b:0.5><hypernet:h:0.5>"
    named = job_of(networked, BASE | {"prompt": "cat <lora:b:0.1>", "override_settings": {"sd_lora": "b"}})
    assert [each.unet_weight for each in named.model.adapters] == [0.1]


def test_the_second_pass_has_the_networks_of_its_own_prompt(networked: Server) -> None:
    body = HIRES | {"prompt": "<lora:a:1> x", "hr_prompt": "<lora:b:1> x"}
    job = job_of(networked, body)
    assert job.hires is not None
    assert [Path(each.path).stem for each in job.model.adapters] == ["a"]
    assert [Path(each.path).stem for each in job.hires.model.adapters] == ["b"]


@pytest.mark.parametrize(
    ("prompt", "names"),
    [("a BAD_hand V5!", ["bad hand-v5"]), ("another", ["other"]), ("a bad hand", []), ("cat", [])],
)
def test_embeddings_that_may_be_meant(networked: Server, prompt: str, names: list[str]) -> None:
    """The engine decides by tokens; here names are only looked for generously."""
    job = job_of(networked, BASE | {"negative_prompt": prompt})
    assert [each.name for each in job.model.embeddings] == names
