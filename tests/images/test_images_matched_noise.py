import numpy as np
import pytest
from PIL import Image

from sdserver.images.matched_noise import with_noise

SIZE = 64


def picture() -> Image.Image:
    """A coloured gradient with some grain."""
    grain = np.random.default_rng(1).integers(0, 40, (SIZE, SIZE, 3))
    across = np.linspace(0, 160, SIZE)[np.newaxis, :, np.newaxis]
    return Image.fromarray((grain + across * [1.0, 0.6, 0.1]).astype(np.uint8))


def left_half() -> Image.Image:
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (0, 0, SIZE // 2, SIZE))
    return mask


def parts(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """New and old."""
    values = np.asarray(image).astype(int)
    return values[:, : SIZE // 2], values[:, SIZE // 2 :]


def test_the_old_part_stays_and_the_new_one_has_its_colours() -> None:
    _, old = parts(picture())
    noise, kept = parts(with_noise(picture(), left_half(), 1.0, 0.05))
    assert np.abs(kept - old).max() <= 1
    for channel in range(3):
        found, wanted = (np.sort(values[..., channel].ravel()) for values in (noise, old))
        assert np.abs(found - wanted).max() <= 3
    assert not np.array_equal(noise, old)


def test_it_is_the_same_every_time_whatever_was_under_the_mask() -> None:
    one = with_noise(picture(), left_half(), 1.0, 0.05)
    assert one.tobytes() == with_noise(picture(), left_half(), 1.0, 0.05).tobytes()


def test_a_lower_exponent_gives_more_detail() -> None:
    def detail(falloff: float) -> float:
        noise, _ = parts(with_noise(picture(), left_half(), falloff, 0.0))
        return float(np.abs(np.diff(noise, axis=0)).mean())

    assert detail(0.0) > 1.5 * detail(2.0)


def test_colour_variation_parts_the_channels() -> None:
    def likeness(variation: float) -> float:
        grey = Image.merge("RGB", [picture().getchannel(0)] * 3)
        noise, _ = parts(with_noise(grey, left_half(), 1.0, variation))
        return float(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1])

    assert likeness(0.0) == pytest.approx(1.0)
    assert likeness(1.0) < 0.9


@pytest.mark.parametrize("color", ["black", "white", "#7f0000"])
@pytest.mark.parametrize("falloff", [0.0, 10.0])
def test_a_plain_picture_stays_plain(color: str, falloff: float) -> None:
    image = Image.new("RGB", (SIZE, SIZE), color)
    values = np.asarray(with_noise(image, left_half(), falloff, 1.0)).astype(int)
    assert np.abs(values - np.asarray(image)).max() <= 1


def test_where_all_is_new_there_is_noise_all_the_same() -> None:
    values = np.asarray(with_noise(picture(), Image.new("L", (SIZE, SIZE), 255), 1.0, 0.05))
    assert values.std() > 5
