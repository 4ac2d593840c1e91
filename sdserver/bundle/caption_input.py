"""Pictures as a captioner takes them: of its size, its colours shifted and scaled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from sdserver.bundle.configuration import Json, read_json
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.images.pictures import to_image
from sdserver.jobs.events import Picture

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, which BLIP was trained with."""

_STEPS = ("do_resize", "do_rescale", "do_normalize")
_COLOURS = 3


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to a picture.

    Attributes:
        width, height: that it is resized to, whatever its proportions.
        resample: the filter, by Pillow's number.
        mean, deviation: of red, green and blue, which lie in 0..1.
    """

    width: int
    height: int
    resample: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def pixels(self, picture: Picture) -> torch.Tensor:
        """(3, height, width), float32."""
        image = to_image(picture).resize((self.width, self.height), Image.Resampling(self.resample))
        values = np.asarray(image, np.float32) / 255
        values = (values - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def usual_preparation(side: int) -> Preparation:
    """BLIP's, for a network that takes squares."""
    return Preparation(side, side, Image.Resampling.BICUBIC.value, MEAN, DEVIATION)


def preparation_of(folder: Path, image_size: object) -> Preparation:
    """What the folder's preprocessor_config.json says; BLIP's usual preparation where there is none.

    Args:
        folder: of the network.
        image_size: the side that the network takes, or height and width.

    Raises:
        UnreadableCheckpoint: the file is damaged.
        UnsupportedCheckpoint: it asks for what is not done here, or for a size that is not the network's.
    """
    content = _configuration(folder)
    size = _size(image_size)
    asked = _size(content.get("size", image_size))
    if size is None or asked != size or any(content.get(step, True) is not True for step in _STEPS):
        raise UnsupportedCheckpoint(
            f"The captioner {folder.name} prepares pictures in a way that is not served."
        )
    resample = content.get("resample", Image.Resampling.BICUBIC.value)
    if isinstance(resample, bool) or resample not in set(Image.Resampling):
        raise UnreadableCheckpoint(f"The captioner {folder.name} names no filter that there is.")
    height, width = size
    mean, deviation = (
        _colours(folder, content, name, usual)
        for name, usual in (("image_mean", MEAN), ("image_std", DEVIATION))
    )
    if not all(deviation):
        raise UnreadableCheckpoint(f"The captioner {folder.name} divides colours by zero.")
    return Preparation(width, height, int(str(resample)), mean, deviation)


def _configuration(folder: Path) -> Json:
    """Newer folders have it as a part of processor_config.json."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        part = read_json(folder / "processor_config.json").get("image_processor")
        return part if isinstance(part, dict) else {}
    return {}


def _size(told: object) -> tuple[int, int] | None:
    """Height and width; None where it is told in another way."""
    match told:
        case bool():
            return None
        case int() as side:
            return side, side
        case {"height": int() as height, "width": int() as width}:
            return height, width
        case [int() as height, int() as width] | (int() as height, int() as width):
            return height, width
        case _:
            return None


def _colours(folder: Path, content: Json, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    values = content.get(name, usual)
    if (
        not isinstance(values, list | tuple)
        or len(values) != _COLOURS
        or not all(isinstance(value, int | float) and abs(value) < 1e3 for value in values)
    ):
        raise UnreadableCheckpoint(f"{name} of the captioner {folder.name} must be three numbers.")
    return tuple(float(value) for value in values)
