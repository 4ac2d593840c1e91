"""Where a run begins, and with how much noise: AUTOMATIC1111's mapping of strength to steps."""

from dataclasses import dataclass

from torch import Tensor

from sdserver.jobs.job import Start

# A strength of 1 would ask for one step more than the schedule has.
HIGHEST_STRENGTH = 0.999


@dataclass(frozen=True, slots=True)
class Cut:
    """Which end of a schedule is run.

    Attributes:
        schedule_steps: of the whole schedule; 0 where nothing is to be run.
        encoded: AUTOMATIC1111's t_enc: steps after the first one.
    """

    schedule_steps: int
    encoded: int


@dataclass(frozen=True, slots=True)
class Mix:
    """How a picture's latent and noise make the first x: latent * picture + noise * (noise + extra).

    Attributes:
        picture: factor of the latent; 0 without a picture.
        noise: factor of the noise.
        extra: more of the noise, added at last.
        noise_multiplier: factor on the noise before both.
    """

    picture: float
    noise: float
    extra: float = 0.0
    noise_multiplier: float = 1.0

    def __call__(self, noise: Tensor, latent: Tensor | None) -> Tensor:
        """The first x. Raises ValueError if there is a picture without a latent, or the reverse."""
        if (latent is None) != (self.picture == 0.0):
            raise ValueError("A latent is needed just where the plan starts from a picture.")
        if self.noise_multiplier != 1.0:
            noise = noise * self.noise_multiplier
        if latent is None:
            return noise * self.noise
        x = latent * self.picture + noise * self.noise
        return x + noise * self.extra if self.extra > 0 else x


def cut(steps: int, start: Start | None) -> Cut:
    """The part of the schedule that is run.

    From a picture, the last `strength * steps` steps and one; with exact steps, the last `steps` of
    a schedule that is longer by as much as `strength` cuts off.
    """
    if start is None:
        return Cut(steps, steps - 1)
    strength = min(start.strength, HIGHEST_STRENGTH)
    if not start.exact_steps:
        return Cut(steps, int(strength * steps))
    return Cut(int(steps / strength) if strength > 0 else 0, steps - 1)
