"""The second pass: what is enlarged, how, and what the pass begins with."""

from dataclasses import replace

import pytest
import torch
from driving import after_reports, drive, interrupt, of
from torch.nn.functional import interpolate
from toy import ToyDevice, toy_hires, toy_job

from sdserver.calls import Decode, Encode, EncodeText, Interrupted, Predict, Report, Upscale, UseModel
from sdserver.errors import EngineFailure
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Size
from sdserver.jobs.model import Adapter, Attention, Model
from sdserver.programs.hires import LATENT_MODES, cropped, enlarged_latent
from sdserver.programs.txt2img import txt2img
from sdserver.sampling.noise import ImageNoise


def test_a_latent_is_enlarged_without_leaving_the_latent_space():
    outcome, calls = drive(txt2img(toy_hires(toy_job("a", steps=3, cfg=1.0))), ToyDevice().answer)
    kinds = [type(call) for call in calls]
    assert kinds == [UseModel, EncodeText, EncodeText, *[Predict, Report] * 6, Decode]
    assert [call.x.shape[-1] for call in of(calls, Predict)] == [8] * 3 + [16] * 3
    assert (outcome.picture.width, outcome.picture.height) == (16, 16)


def test_progress_runs_over_both_passes():
    job = toy_hires(toy_job("a", steps=3))
    job = replace(job, hires=replace(job.hires, sampling=replace(job.sampling, steps=2)))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    assert [(one.step, one.steps) for one in of(calls, Report)] == [(k, 5) for k in range(1, 6)]


@pytest.mark.parametrize(("upscaler", "path"), [("Lanczos", ""), ("None", ""), ("Net", "/models/net.pth")])
def test_other_upscalers_work_on_the_picture(upscaler, path):
    job = toy_hires(toy_job("a", steps=2, cfg=1.0), upscaler=upscaler, path=path)
    _, calls = drive(txt2img(job), ToyDevice().answer)
    between = [type(call) for call in calls[calls.index(of(calls, Decode)[0]) :]]
    # The toy's pictures are 8 pixels wide: from there to 128 the network is needed twice.
    networks = [Upscale] * 2 if path else []
    assert between == [Decode, *networks, Encode, *[Predict, Report] * 2, Decode]
    assert {call.upscaler for call in of(calls, Upscale)} <= {path}
    (encoded,) = of(calls, Encode)
    assert encoded.pixels.shape == (3, 128, 128)
    assert encoded.pixels.min() >= -1
    assert encoded.pixels.max() <= 1


def test_an_unknown_upscaler_fails_the_job():
    with pytest.raises(EngineFailure, match="Foo"):
        drive(txt2img(toy_hires(toy_job("a", steps=1), upscaler="Foo")), ToyDevice().answer)


@pytest.mark.parametrize("name", LATENT_MODES)
def test_latent_modes_are_those_of_torch(name):
    latent = torch.linspace(-1, 1, 4 * 6 * 5).reshape(4, 6, 5).sin()
    hires = toy_hires(toy_job("a"), upscaler=name, upscale_to=Size(84, 73)).hires
    words = name.removeprefix("Latent").strip(" ()").split()
    mode = next((word for word in words if word != "antialiased"), "bilinear")
    expected = interpolate(latent[None], size=(9, 10), mode=mode, antialias="antialiased" in words)[0]
    assert torch.equal(enlarged_latent(latent, hires), expected)


def test_what_hangs_over_is_cut_off_on_both_sides():
    hires = toy_hires(toy_job("a"), size=Size(96, 104), upscale_to=Size(128, 128)).hires
    latent = torch.arange(16.0 * 16).reshape(1, 16, 16)
    assert torch.equal(cropped(latent, hires), latent[:, 1:14, 2:14])


def test_strength_zero_returns_the_enlarged_latent():
    job = toy_hires(toy_job("a", steps=3), strength=0.0)
    _, calls = drive(txt2img(job), ToyDevice().answer)
    _, alone = drive(txt2img(replace(job, hires=None)), ToyDevice().answer)
    assert len(of(calls, Predict)) == len(of(alone, Predict))
    expected = enlarged_latent(of(alone, Decode)[0].latent, job.hires)
    assert torch.equal(of(calls, Decode)[0].latent, expected)


def test_the_second_pass_draws_the_seeds_first_noise_at_its_own_size():
    job = toy_hires(toy_job("a", steps=4, cfg=1.0), strength=0.5)
    _, calls = drive(txt2img(job), ToyDevice().answer)
    _, alone = drive(txt2img(replace(job, hires=None)), ToyDevice().answer)
    start = enlarged_latent(of(alone, Decode)[0].latent, job.hires)
    noise = ImageNoise(job.noise, (4, 16, 16), torch.device("cpu")).first()
    first = of(calls, Predict)[4]
    # x = start + noise * sigma, scaled by 1 / sqrt(sigma**2 + 1): the noise's share gives sigma away.
    basis = torch.stack([start.flatten(), noise.flatten()], 1)
    a, b = shares = torch.linalg.lstsq(basis, first.x.flatten()[:, None]).solution[:, 0]
    assert torch.allclose(basis @ shares, first.x.flatten(), atol=1e-5)
    assert (a**2 + b**2).item() == pytest.approx(1, abs=1e-4)


def test_the_second_pass_has_its_own_prompt_counted_on_from_the_first():
    job = toy_hires(toy_job("a", text="[one:two:1.5]", steps=4, cfg=1.0))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    texts = [call.text for call in of(calls, EncodeText)]
    assert texts == ["one", "", "one", "two"], "the first pass never comes to 1.5"
    means = [call.conditioning.context.mean().item() for call in of(calls, Predict)]
    assert means == [means[0]] * 7 + [means[-1]]
    assert means[0] != means[-1]


def test_equal_texts_are_encoded_once_unless_the_network_conditions_on_size():
    job = toy_hires(toy_job("a", text="a cat", steps=1))
    assert len(of(drive(txt2img(job), ToyDevice().answer)[1], EncodeText)) == 2
    toy = ToyDevice()

    def answer(call):
        found = toy.answer(call)
        return replace(found, family="sdxl") if isinstance(call, UseModel) else found

    asked = of(drive(txt2img(job), answer)[1], EncodeText)
    assert [call.size.width for call in asked] == [64, 64, 128, 128]


def test_sdxl_is_told_the_size_before_the_overhang_is_cut_off():
    job = toy_hires(toy_job("a", text="a"), size=Size(96, 128), upscale_to=Size(128, 128), prompt=JOB_B)
    _, calls = drive(txt2img(job), ToyDevice().answer)
    assert of(calls, EncodeText)[-1].size == Size(128, 128)
    assert of(calls, Predict)[-1].x.shape == (4, 16, 12)


JOB_B = toy_job("b", text="b").prompt


def test_the_second_pass_may_run_on_another_checkpoint():
    other = Model("/models/other.safetensors")
    job = toy_hires(toy_job("a", steps=2, cfg=1.0), model=other, upscaler="Lanczos")
    _, calls = drive(txt2img(job), ToyDevice().answer)
    assert [call.model for call in of(calls, Predict)] == [job.model] * 2 + [other] * 2
    assert [call.model for call in of(calls, Decode)] == [job.model, other]
    assert of(calls, Encode)[0].model == other
    kinds = [type(call) for call in calls]
    assert kinds.index(UseModel, 1) > kinds.index(Decode), "what the first pass made is decoded by its own"


def test_an_inpainting_checkpoint_is_told_to_paint_all_in_either_size():
    model = Model("/models/inpainting.safetensors")
    job = replace(toy_job("a", steps=1), model=model)
    job = toy_hires(job, size=Size(96, 128), upscale_to=Size(128, 128))
    outcome, calls = drive(txt2img(job), ToyDevice().answer)
    assert [call.x.shape for call in of(calls, Predict)][::2] == [(9, 8, 8), (9, 16, 12)]
    assert outcome.used.inpainting


def test_an_inpainting_checkpoint_may_be_shown_the_enlarged_picture():
    model = Model("/models/inpainting.safetensors")
    job = toy_hires(replace(toy_job("a", steps=1), model=model), upscaler="Lanczos")
    job = replace(job, hires=replace(job.hires, conditioning_weight=0.25))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    picture, shown = of(calls, Encode)[-2:]
    stretched = (picture.pixels + 1) / 2
    assert torch.allclose(shown.pixels, stretched * 0.75), "a quarter of it is hidden"


def test_an_inpainting_checkpoint_may_be_shown_what_the_enlarged_latent_means():
    model = Model("/models/inpainting.safetensors")
    job = toy_hires(replace(toy_job("a", steps=1), model=model), upscaler="Latent")
    job = replace(job, hires=replace(job.hires, conditioning_weight=0.25))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    exact = next(call for call in of(calls, Decode) if call.as_values)
    cells = exact.latent[:3].repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.allclose(of(calls, Encode)[-1].pixels, cells * 0.75)


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_interruption_in_the_first_pass_gives_its_picture(upscaler):
    program = txt2img(toy_hires(toy_job("a", steps=4), upscaler=upscaler))
    outcome, calls = interrupt(program, ToyDevice().answer, after_reports(2))
    assert [type(call) for call in calls] == [Decode]
    assert outcome.interrupted
    assert outcome.picture.width == 8


@pytest.mark.parametrize("kind", [Decode, Upscale, Encode, EncodeText])
def test_interruption_between_the_passes_gives_the_first_ones_picture(kind):
    job = toy_hires(toy_job("a", steps=2), upscaler="Net", path="/models/net.pth", prompt=JOB_B)
    is_later = after_reports(2)

    def until(wanted):
        return is_later(wanted) and isinstance(wanted[0] if isinstance(wanted, list) else wanted, kind)

    outcome, calls = interrupt(txt2img(job), ToyDevice().answer, until)
    assert [type(call) for call in calls] == [Decode]
    assert outcome.interrupted
    assert isinstance(outcome.picture, Picture)
    assert outcome.picture.width == 8


def test_interruption_in_the_second_pass_gives_its_latest_latent():
    program = txt2img(toy_hires(toy_job("a", steps=4)))
    outcome, _ = interrupt(program, ToyDevice().answer, after_reports(6))
    assert outcome.interrupted
    assert outcome.picture.width == 16


def test_interruption_before_anything_was_denoised_ends_the_program():
    with pytest.raises(Interrupted):
        interrupt(txt2img(toy_hires(toy_job("a"))), ToyDevice().answer, after_reports(0))


def test_the_second_prompt_may_be_encoded_with_the_first_ones_networks():
    adapters = (Adapter("lora", "/loras/a.safetensors", 1.0, 1.0),)
    job = toy_hires(toy_job("a", steps=2), model=Model(toy_job("a").model.checkpoint, adapters=adapters))
    job = replace(job, hires=replace(job.hires, prompt=replace(job.prompt, positive="another")))
    for first_networks in (False, True):
        asked = replace(job, hires=replace(job.hires, first_networks=first_networks))
        _, calls = drive(txt2img(asked), ToyDevice().answer)
        (second,) = (call for call in of(calls, EncodeText) if call.text == "another")
        assert second.model == (job.model if first_networks else job.hires.model)
        assert of(calls, Predict)[-1].model == job.hires.model, "the network has its own"


def test_equal_texts_are_encoded_once_however_attention_is_made_cheaper():
    job = toy_job("a", steps=2)
    job = toy_hires(job, model=replace(job.model, attention=Attention(merging=0.5)))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    assert len(of(calls, EncodeText)) == 2
    assert [call.model.attention.merging for call in of(calls, Predict)] == [0.0] * 4 + [0.5] * 4


def test_evaluations_are_counted_anew_in_each_pass():
    _, calls = drive(txt2img(toy_hires(toy_job("a", steps=3, cfg=1.0))), ToyDevice().answer)
    assert [call.evaluation for call in of(calls, Predict)] == [0, 1, 2] * 2


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize(("upscaler", "decodes"), [("Latent", 1), ("Lanczos", 2)])
def test_the_first_passes_picture_is_kept_where_it_is_asked_for(upscaler, decodes, keeps):
    job = toy_hires(toy_job("a", steps=2, cfg=1.0), upscaler=upscaler)
    job = replace(job, model=replace(job.model, decoder="taesd"), hires=replace(job.hires, keeps_first=keeps))
    outcome, calls = drive(txt2img(job), ToyDevice().answer)
    first, *_ = made = of(calls, Decode)
    assert len(made) == decodes + (keeps and upscaler == "Latent")
    if keeps:
        alone, _ = drive(txt2img(replace(job, hires=None)), ToyDevice().answer)
        assert outcome.first == alone.picture
        # As in A1111, the VAE itself makes the picture that only is kept.
        assert first.model.decoder == ("full" if upscaler == "Latent" else "taesd")
    else:
        assert outcome.first is None


def test_a_first_pass_that_was_interrupted_is_no_first_picture():
    job = toy_hires(toy_job("a", steps=4, cfg=1.0))
    job = replace(job, hires=replace(job.hires, keeps_first=True))
    outcome, _ = interrupt(txt2img(job), ToyDevice().answer, after_reports(2))
    assert outcome.first is None
    assert outcome.interrupted
