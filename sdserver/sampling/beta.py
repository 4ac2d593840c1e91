"""Quantiles of the beta distribution, which the schedule "Beta" is made of."""

import math

TINY = 1e-300
PRECISION = 1e-15


def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """The value below which `share` (0 to 1) of the distribution Beta(alpha, beta) lies.

    Newton's method between bounds that bisection narrows; both parameters above 0.
    """
    if share <= 0.0:
        return 0.0
    if share >= 1.0:
        return 1.0
    low, high, value = 0.0, 1.0, alpha / (alpha + beta)
    log_scale = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    for _ in range(2000):
        excess = beta_share(value, alpha, beta) - share
        low, high = (low, value) if excess > 0 else (value, high)
        log_density = log_scale + (alpha - 1) * math.log(value) + (beta - 1) * math.log1p(-value)
        step = excess * math.exp(-log_density) if log_density > -600 else math.inf
        guess = value - step
        if not low < guess < high:
            # Quantiles may lie many powers of ten below 1: halve their exponent first.
            guess = math.sqrt(low * high) if 0 < 2 * low < high else (low + high) / 2 if low else high / 16
        if abs(guess - value) <= PRECISION * value or guess in (0.0, 1.0):
            return guess
        value = guess
    return value


def beta_share(value: float, alpha: float, beta: float) -> float:
    """The share of Beta(alpha, beta) below a value of (0, 1): the regularised incomplete beta function."""
    if value > (alpha + 1) / (alpha + beta + 2):
        return 1.0 - beta_share(1.0 - value, beta, alpha)
    log_front = (
        math.lgamma(alpha + beta)
        - math.lgamma(alpha)
        - math.lgamma(beta)
        + alpha * math.log(value)
        + beta * math.log1p(-value)
    )
    return math.exp(log_front) / (alpha * _continued_fraction(value, alpha, beta))


def _continued_fraction(value: float, alpha: float, beta: float) -> float:
    """Lentz's method on the fraction of DLMF 8.17.22."""
    total = c = 1.0
    d = 0.0
    for index in range(1, 10_000):
        half, is_odd = divmod(index, 2)
        part = -(alpha + half) * (alpha + beta + half) if is_odd else half * (beta - half)
        part *= value / ((alpha + index - 1) * (alpha + index))
        d = 1 / ((1 + part * d) or TINY)
        c = (1 + part / c) or TINY
        total *= c * d
        if abs(c * d - 1) <= PRECISION:
            break
    return total
