"""Noise levels: a model's table of sigmas and the schedules that walk it.

A sigma is the noise level in the variance-exploding frame: x = x0 + sigma * noise. Schedules follow
AUTOMATIC1111 v1.10.1 to the last float32 digits, because a Brownian tree resolves sigmas to 1e-6.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor

from sdserver.errors import InvalidField
from sdserver.sampling.beta import beta_quantile
from sdserver.sampling.levels import Levels

Sigmas = tuple[float, ...]

# Sabour, Fidler & Kreis (2024), "Align Your Steps".
ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGN_YOUR_STEPS_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)

OLD_KARRAS_LIMITS = (0.1, 10.0)


@dataclass(frozen=True, slots=True)
class SigmaTable:
    """A model's sigmas in ascending order.

    Attributes:
        logs: their logarithms.
        stride: timesteps from one entry to the next; the first entry is timestep `stride - 1`.
        quantised: timesteps are rounded to entries of the table.
    """

    sigmas: Sigmas
    logs: Sigmas
    stride: int = 1
    quantised: bool = False

    def timestep(self, sigma: float) -> float:
        """The (fractional) timestep of a sigma > 0, linear in log sigma, clamped to the table."""
        log = math.log(sigma)
        low = min(max(bisect_right(self.logs, log) - 1, 0), len(self.logs) - 2)
        log_low, log_high = self.logs[low], self.logs[low + 1]
        if self.quantised:
            index: float = low if log - log_low <= log_high - log else low + 1
        else:
            weight = min(max((log - log_low) / (log_high - log_low), 0.0), 1.0) if log_high > log_low else 0.0
            index = (1 - weight) * low + weight * (low + 1)
        return index * self.stride + self.stride - 1

    def at(self, timesteps: Tensor) -> Tensor:
        """The sigmas of a vector of (fractional) timesteps, linear in log sigma; float32."""
        index = ((timesteps - (self.stride - 1)) / self.stride).clamp(0, len(self.sigmas) - 1)
        logs = torch.tensor(self.logs, dtype=torch.float32)
        weight = index.frac()
        return ((1 - weight) * logs[index.floor().long()] + weight * logs[index.ceil().long()]).exp()


@dataclass(frozen=True, slots=True)
class Grid:
    """What a schedule is computed from: `steps` sigmas (at least 1) from `sigma_max` to `sigma_min`.

    `beta_alpha` and `beta_beta` are the parameters of the schedule "Beta", above 0.
    """

    steps: int
    table: SigmaTable
    sigma_min: float
    sigma_max: float
    rho: float
    sdxl: bool
    beta_alpha: float = 0.6
    beta_beta: float = 0.6


def model_table(levels: Levels, quantised: bool = False) -> SigmaTable:
    """The table of a model: sqrt((1 - alpha) / alpha) for each cumulative product of alphas.

    Computed in the precision that the levels have.

    Raises:
        InvalidField: a sigma is too large for half precision.
    """
    products = torch.tensor(levels.alphas, dtype=torch.float16 if levels.halved else torch.float32)
    sigmas = ((1 - products) / products) ** 0.5
    if not bool(sigmas.isfinite().all()):
        raise InvalidField(
            "use_downcasted_alpha_bar", "half precision does not reach to a terminal SNR of zero"
        )
    logs = sigmas.log() if levels.halved else sigmas.double().log()
    return SigmaTable(_floats(sigmas), _floats(logs), quantised=quantised)


def lcm_table(levels: Levels, entries: int = 50) -> SigmaTable:
    """The table of latent consistency models: every 20th of the 1000 timesteps, from 19 to 999."""
    whole = model_table(levels)
    stride = len(whole.sigmas) // entries
    kept = slice(stride - 1, None, stride)
    return SigmaTable(whole.sigmas[kept], whole.logs[kept], stride, quantised=True)


def build(schedule: str, grid: Grid, discard_penultimate: bool = False) -> Sigmas:
    """The sigmas that a sampler walks: descending, from the noisiest to (mostly) 0.

    Args:
        schedule: a schedule's name in the registry; "automatic" means uniform timesteps.
        grid: what it is computed from.
        discard_penultimate: compute one more and drop the last but one.

    Raises:
        InvalidField: the grid's limits or parameters make no sense, or two of the sigmas are equal.
    """
    if not 0 < grid.sigma_min < grid.sigma_max:
        raise InvalidField("sigma_min", "sigma_min must be above 0 and below sigma_max")
    if grid.steps < 1:
        raise InvalidField("steps", "steps must be at least 1")
    steps = grid.steps + 1 if discard_penultimate else grid.steps
    sigmas = SCHEDULES[schedule](replace(grid, steps=steps))
    if any(sigma <= following for sigma, following in pairwise(sigmas)):
        raise InvalidField("steps", "the schedule's sigmas do not fall; ask for fewer steps or a smaller rho")
    return (*sigmas[:-2], sigmas[-1]) if discard_penultimate else sigmas


def uniform(grid: Grid) -> Sigmas:
    """Evenly spaced timesteps over the whole table; k-diffusion's `get_sigmas`."""
    first, last = (grid.table.timestep(sigma) for sigma in (grid.table.sigmas[-1], grid.table.sigmas[0]))
    return _ending_in_zero(grid.table.at(torch.linspace(first, last, grid.steps)))


def karras(grid: Grid) -> Sigmas:
    """Karras et al. (2022), equation 5."""
    return karras_sigmas(grid.steps, grid.sigma_min, grid.sigma_max, grid.rho)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Sigmas:
    """Evenly spaced in sigma ** (1 / rho), 0 appended."""
    ramp = torch.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _ending_in_zero((high + ramp * (low - high)) ** rho)


def exponential(grid: Grid) -> Sigmas:
    """Evenly spaced in log sigma."""
    ramp = torch.linspace(math.log(grid.sigma_max), math.log(grid.sigma_min), grid.steps)
    return _ending_in_zero(ramp.exp())


def polyexponential(grid: Grid) -> Sigmas:
    """Polynomial of degree rho in log sigma; k-diffusion's."""
    ramp = torch.linspace(1, 0, grid.steps) ** grid.rho
    low, high = math.log(grid.sigma_min), math.log(grid.sigma_max)
    return _ending_in_zero((ramp * (high - low) + low).exp())


def sgm_uniform(grid: Grid) -> Sigmas:
    """Evenly spaced timesteps whose last falls on 0; Stability's generative-models."""
    return _ending_in_zero(grid.table.at(_timestep_ramp(grid, grid.steps + 1)[:-1]))


def normal(grid: Grid) -> Sigmas:
    """Evenly spaced timesteps between the limits; ComfyUI's."""
    return _ending_in_zero(grid.table.at(_timestep_ramp(grid, grid.steps)))


def kl_optimal(grid: Grid) -> Sigmas:
    """Evenly spaced in arctan sigma, ending at sigma_min; Sabour et al. (2024), section 3.2."""
    low, high = (torch.tensor(limit).arctan() for limit in (grid.sigma_min, grid.sigma_max))
    step = torch.arange(grid.steps + 1)
    return _floats(torch.tan(step / grid.steps * low + (1.0 - step / grid.steps) * high))


def align_your_steps(grid: Grid) -> Sigmas:
    """The optimised steps of Sabour et al. (2024), resampled log-linearly to the asked number."""
    points = ALIGN_YOUR_STEPS_XL if grid.sdxl else ALIGN_YOUR_STEPS
    if grid.steps == len(points):
        return _ending_in_zero(torch.tensor(points))
    return _ending_in_zero(torch.tensor(_resample_log(points, grid.steps)))


def simple(grid: Grid) -> Sigmas:
    """Evenly spaced entries of the table, from its end; ComfyUI's."""
    entries, distance = grid.table.sigmas, len(grid.table.sigmas) / grid.steps
    return (*(entries[-(1 + int(step * distance))] for step in range(grid.steps)), 0.0)


def ddim(grid: Grid) -> Sigmas:
    """DDIM's entries of the table; ComfyUI's. May hold more than `steps` sigmas."""
    entries = grid.table.sigmas
    return (*entries[1 :: max(len(entries) // grid.steps, 1)][::-1], 0.0)


def beta(grid: Grid) -> Sigmas:
    """Quantiles of the beta distribution, in sigma; Lee et al. (2024), "Beta Sampling is All You Need"."""
    if not (grid.beta_alpha > 0 and grid.beta_beta > 0):
        raise InvalidField("beta_dist_alpha", "the parameters of the schedule Beta must be above 0")
    last = max(grid.steps - 1, 1)
    shape = (grid.beta_alpha, grid.beta_beta)
    shares = (beta_quantile(1.0 - step / last, *shape) for step in range(grid.steps))
    spread = grid.sigma_max - grid.sigma_min
    return _ending_in_zero(torch.tensor([grid.sigma_min + share * spread for share in shares]))


SCHEDULES: MappingProxyType[str, Callable[[Grid], Sigmas]] = MappingProxyType(
    {
        "automatic": uniform,
        "uniform": uniform,
        "karras": karras,
        "exponential": exponential,
        "polyexponential": polyexponential,
        "sgm_uniform": sgm_uniform,
        "kl_optimal": kl_optimal,
        "align_your_steps": align_your_steps,
        "simple": simple,
        "normal": normal,
        "ddim": ddim,
        "beta": beta,
    }
)


def _resample_log(points: Sequence[float], steps: int) -> list[float]:
    logs = [math.log(point) for point in points]
    if steps == 1:
        return [points[-1]]
    resampled = []
    for step in range(steps):
        position = step / (steps - 1) * (len(points) - 1)
        low = min(int(position), len(points) - 2)
        weight = position - low
        resampled.append(math.exp((1 - weight) * logs[low] + weight * logs[low + 1]))
    return resampled


def _timestep_ramp(grid: Grid, points: int) -> Tensor:
    return torch.linspace(grid.table.timestep(grid.sigma_max), grid.table.timestep(grid.sigma_min), points)


def _ending_in_zero(sigmas: Tensor) -> Sigmas:
    return (*_floats(sigmas), 0.0)


def _floats(values: Tensor) -> Sigmas:
    return tuple(float(value) for value in values.tolist())
