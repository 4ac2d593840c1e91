"""Pictures' bytes: A1111's rounding, and a failure that stays alone."""

import torch

from sdserver.bundle.readback import pictures_of
from sdserver.errors import EngineFailure
from sdserver.jobs.events import Picture


def test_values_are_clamped_scaled_and_cut() -> None:
    values = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.999, 1.0]).reshape(1, 3, 1, 2)
    (picture,) = pictures_of(values)
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == (2, 1)
    assert list(picture.pixels) == [0, 63, 254, 0, 127, 255]


def test_what_is_no_number_fails_alone() -> None:
    values = torch.zeros(3, 3, 2, 2)
    values[1, 2, 0, 1] = float("nan")
    first, second, third = pictures_of(values)
    assert isinstance(second, EngineFailure)
    assert isinstance(first, Picture)
    assert first == third
