"""What is asked for: endless requests by a stated law, drawn from a seed. No two have the same picture.

Laws are dealt as from a deck: every combination of steps and sampler comes once in twelve requests, in an
order of its own, so that short runs have the law's mean, too.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

WORDS: Final = (
    *("a red circle on white", "portrait of an old sailor", "castle above the clouds", "soft morning light"),
    *("oil painting", "highly detailed", "a fox in the snow", "wide angle", "neon street in the rain"),
    *("bokeh", "sharp focus", "a bowl of lemons", "studio photograph", "mountain lake", "muted colours"),
)
NEGATIVES: Final = ("", "blurry, low quality", "text, watermark, deformed hands")
SAMPLERS: Final = ("Euler", "Euler a", "DPM++ 2M", "DDIM")
"""All of them evaluate the network once a step."""
UNIT_AREA: Final = 512 * 512


@dataclass(frozen=True, slots=True)
class Law:
    """What the requests are drawn from; each value of a field is as likely as the others.

    Attributes:
        cfg_scales: all above 1, so that every evaluation takes two rows.
        phrases: how many stand in a prompt; 24 are more than 75 tokens.
        sizes: width and height in pixels.
    """

    steps: tuple[int, ...]
    samplers: tuple[str, ...]
    cfg_scales: tuple[float, ...]
    phrases: tuple[int, ...]
    negatives: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for one picture."""

    prompt: str
    negative_prompt: str
    steps: int
    sampler_name: str
    cfg_scale: float
    width: int
    height: int
    seed: int

    def body(self) -> dict[str, Any]:
        """The request in AUTOMATIC1111's fields."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {"scheduler": "Automatic", "n_iter": 1, "batch_size": 1, "save_images": False}

    @property
    def work(self) -> float:
        """UNet rows of 512x512 pixels: what makes requests of different laws comparable."""
        rows = 1 if self.cfg_scale == 1 else 2
        return self.steps * rows * self.width * self.height / UNIT_AREA


def identical(steps: int, width: int, height: int, cfg_scale: float = 7.0) -> Law:
    """Requests that differ in their seeds only."""
    return Law((steps,), ("Euler",), (cfg_scale,), (3,), ("",), ((width, height),))


def mixed(steps: int, width: int, height: int, *, sizes: bool = False) -> Law:
    """Steps of 0.6, 1 and 1.4 times those given, four samplers, three scales, prompts short and long.

    Args:
        steps: their mean, a multiple of 5.
        width: in pixels, as `height` a multiple of 16.
        height: in pixels.
        sizes: two of four pictures are half as tall or half as wide again.
    """
    many = tuple(steps * share // 5 for share in (3, 5, 7))
    wider, taller = (width * 3 // 2, height), (width, height * 3 // 2)
    shapes = ((width, height), (width, height), wider, taller) if sizes else ((width, height),)
    return Law(many, SAMPLERS, (4.0, 7.0, 10.0), (3, 8, 24), NEGATIVES, shapes)


def requests(law: Law, seed: int) -> Iterator[Asked]:
    """Requests without end; the same ones for the same law and seed.

    Args:
        law: what they are drawn from.
        seed: of the draws; the pictures' seeds are counted up from 10**6 times it, so that streams of
            different seeds share none.
    """
    chance = random.Random(f"mix {seed}")
    numbers = itertools.count(1_000_000 * seed)
    while True:
        deck = list(itertools.product(law.steps, law.samplers))
        chance.shuffle(deck)
        for steps, sampler in deck:
            width, height = chance.choice(law.sizes)
            yield Asked(
                prompt=_prompt(law, chance),
                negative_prompt=chance.choice(law.negatives),
                steps=steps,
                sampler_name=sampler,
                cfg_scale=chance.choice(law.cfg_scales),
                width=width,
                height=height,
                seed=next(numbers),
            )


def _prompt(law: Law, chance: random.Random) -> str:
    """The same one always where the law knows one only."""
    count = chance.choice(law.phrases)
    if len(law.phrases) == 1:
        return ", ".join(WORDS[:count])
    return ", ".join(chance.choice(WORDS) for _ in range(count))
