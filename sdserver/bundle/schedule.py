"""The noise schedule a network was trained with."""

import numpy as np

TIMESTEPS = 1000
_TERMINAL_ALPHA = 4.8973451890853435e-08


def scaled_linear(start: float = 0.00085, end: float = 0.012) -> tuple[float, ...]:
    """Cumulative alphas of betas whose square roots are evenly spaced (all Stable Diffusion).

    Computed in float64 and rounded to float32, as the original code keeps them.
    """
    betas = np.linspace(start**0.5, end**0.5, TIMESTEPS) ** 2
    return _float32(np.cumprod(1 - betas))


def zero_terminal_snr(alphas: tuple[float, ...]) -> tuple[float, ...]:
    """Shift and scale so that the last timestep is all noise: Algorithm 1 of Lin et al. (2023).

    The last value is the small number that A1111 puts there, so that sigma stays finite.
    """
    roots = np.sqrt(np.asarray(alphas, np.float32))
    first, last = roots[0], roots[-1]
    scaled = ((roots - last) * (first / (first - last))) ** 2
    scaled[-1] = _TERMINAL_ALPHA
    return _float32(scaled)


def _float32(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.astype(np.float32).tolist())
