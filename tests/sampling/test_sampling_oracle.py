"""Every sampler that k-diffusion has, against k-diffusion itself: equal to the last bit in float64."""

import importlib.util
import json
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sdserver.sampling import dpm_adaptive, dpm_samplers, samplers
from sdserver.sampling.run import SigmaRun

GOLDENS = Path(__file__).parent.parent / "goldens" / "sampling"
SHAPE = (2, 5, 3)
SIGMAS = (12.0, 4.8, 1.93, 0.77, 0.31, 0.125, 0.05)
STEPS = len(SIGMAS)

ODE = {"eta": 0.0}
CASES = {
    "euler": (samplers.euler, "sample_euler", {}),
    "euler churn": (samplers.euler, "sample_euler", {"churn": 4.0}),
    "euler ancestral": (samplers.euler_ancestral, "sample_euler_ancestral", {"eta": 0.7}),
    "heun": (samplers.heun, "sample_heun", {}),
    "heun churn": (samplers.heun, "sample_heun", {"churn": 4.0}),
    "dpm 2": (samplers.dpm_2, "sample_dpm_2", {}),
    "dpm 2 churn": (samplers.dpm_2, "sample_dpm_2", {"churn": 4.0}),
    "dpm 2 ancestral": (samplers.dpm_2_ancestral, "sample_dpm_2_ancestral", {"eta": 1.0}),
    "lms": (samplers.lms, "sample_lms", {}),
    "dpm++ 2s ancestral": (dpm_samplers.dpmpp_2s_ancestral, "sample_dpmpp_2s_ancestral", {"eta": 1.0}),
    "dpm++ sde": (dpm_samplers.dpmpp_sde, "sample_dpmpp_sde", {"eta": 1.0}),
    "dpm++ 2m": (dpm_samplers.dpmpp_2m, "sample_dpmpp_2m", {}),
    "dpm++ 2m sde": (dpm_samplers.dpmpp_2m_sde, "sample_dpmpp_2m_sde", {"eta": 0.8}),
    "dpm++ 2m sde ode": (dpm_samplers.dpmpp_2m_sde, "sample_dpmpp_2m_sde", ODE),
    "dpm++ 2m sde heun": (
        dpm_samplers.dpmpp_2m_sde_heun, "sample_dpmpp_2m_sde", {"eta": 1.0, "solver_type": "heun"}),
    "dpm++ 3m sde": (dpm_samplers.dpmpp_3m_sde, "sample_dpmpp_3m_sde", {"eta": 1.0}),
    "dpm fast 6": (dpm_samplers.dpm_fast, "sample_dpm_fast", {"eta": 1.0, "n": 6}),
    "dpm fast 7": (dpm_samplers.dpm_fast, "sample_dpm_fast", {"eta": 0.0, "n": 7}),
    "dpm fast 8": (dpm_samplers.dpm_fast, "sample_dpm_fast", {"eta": 0.5, "n": 8}),
    "dpm adaptive": (dpm_adaptive.dpm_adaptive, "sample_dpm_adaptive", {"eta": 1.0}),
    "dpm adaptive ode": (dpm_adaptive.dpm_adaptive, "sample_dpm_adaptive", ODE),
}  # fmt: skip


@pytest.fixture(scope="module")
def k_diffusion():
    """k-diffusion's `sampling.py` alone; what it imports and samplers do not need is left empty."""
    stubs = {name: ModuleType(name) for name in ("scipy", "scipy.integrate", "torchdiffeq", "torchsde")}
    stubs["scipy"].integrate = stubs["scipy.integrate"]
    integrals = {tuple(row[:3]): row[3] for row in json.loads((GOLDENS / "quad.json").read_text())}
    stubs["scipy.integrate"].quad = lambda *args, **_: (integrals[_quad_key(*args)],)
    stubs["torchdiffeq"].odeint = None
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.utils = utils
    utils.append_dims = lambda x, count: x[(..., *[None] * (count - x.ndim))]
    stubs |= {"k_diffusion": package, "k_diffusion.utils": utils}
    path = distribution("k-diffusion").locate_file("k_diffusion/sampling.py")
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        spec = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def _quad_key(function, start, end):
    """What names an integral of scipy's that is recorded: its limits and its integrand's middle."""
    start, end = float(start), float(end)
    return start, end, float(function(0.5 * (start + end)))


def _noises():
    generator = np.random.default_rng(5)
    return lambda *_: torch.from_numpy(generator.standard_normal(SHAPE))


def _denoiser(x, sigma):
    return torch.tanh(x / (1.0 + sigma)) - 0.2 * x / (1.0 + sigma * sigma)


def _ours(sampler, x, sigmas, options, drive):
    run = SigmaRun(
        sigmas,
        _noises(),
        options.get("n", STEPS),
        sigma_min=sigmas[-2],
        sigma_max=sigmas[0],
        eta=options.get("eta", 0.0),
        churn=options.get("churn", 0.0),
        churn_min=0.2,
        churn_max=9.0,
        noise_scale=1.0 if sampler in (samplers.euler_ancestral, dpm_adaptive.dpm_adaptive) else 1.003,
    )
    return drive(sampler(x, run), _denoiser), run


def _theirs(function, x, run, options, patch):
    noises = _noises()
    patch.setattr(torch, "randn_like", lambda _: noises()[None])
    given = {key: value for key, value in options.items() if key != "churn"}
    names = function.__wrapped__.__code__.co_varnames[: function.__wrapped__.__code__.co_argcount]
    if "sigmas" in names:
        given["sigmas"] = torch.tensor(run.sigmas)
    else:
        given |= {"sigma_min": run.sigma_min, "sigma_max": run.sigma_max}
    if "s_churn" in names:
        given |= {"s_churn": run.churn, "s_tmin": run.churn_min, "s_tmax": run.churn_max}
    if "s_noise" in names:
        given["s_noise"] = run.noise_scale
    if "noise_sampler" in names:
        given["noise_sampler"] = lambda *_: noises()[None]
    return function(lambda x, sigma: _denoiser(x, sigma[0]), x[None], disable=True, **given)[0]


@pytest.fixture
def double():
    """k-diffusion makes scalars of the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("end", [0.0, 0.03])
def test_it_equals_k_diffusions(k_diffusion, double, drive, monkeypatch, case, end):
    sampler, name, options = CASES[case]
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(SHAPE)) * 12
    ours, run = _ours(sampler, x, (*SIGMAS, end), options, drive)
    theirs = _theirs(getattr(k_diffusion, name), x, run, options, monkeypatch)
    assert torch.equal(ours, theirs)
    assert ours.abs().max() > 0.1
