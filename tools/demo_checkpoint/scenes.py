"""The world of the demo checkpoint: simple scenes with captions, drawn at any size.

A scene is a caption and a list of flat-coloured figures in canvas units: positions are fractions
of the width and height, lengths are fractions of the shorter side. The same scene can so be drawn
at 64, 128 or 512 pixels.
"""

import hashlib
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (220, 25, 30),
    "orange": (255, 135, 0),
    "yellow": (250, 220, 30),
    "green": (25, 150, 50),
    "cyan": (40, 210, 220),
    "blue": (30, 60, 215),
    "purple": (125, 30, 160),
    "pink": (255, 140, 190),
    "brown": (120, 70, 30),
    "white": (250, 250, 250),
    "gray": (128, 128, 128),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
SYNONYMS = {
    "circle": ("circle", "circle", "circle", "disc", "dot", "ball"),
    "cross": ("cross", "cross", "plus"),
    "gray": ("gray", "gray", "grey"),
    "ring": ("ring", "ring", "ring", "donut"),
}
RADII = {"small": (0.13, 0.16), "": (0.22, 0.28), "large": (0.35, 0.40)}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "": ("",), "large": ("large", "big", "huge")}
POSITIONS: dict[str, Point] = {
    "in the center": (0.5, 0.5),
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75),
    "in the top left": (0.25, 0.25),
    "in the top right": (0.75, 0.25),
    "in the bottom left": (0.25, 0.75),
    "in the bottom right": (0.75, 0.75),
}
QUALITY_TAGS = ("masterpiece", "best quality", "highly detailed", "4k", "8k", "sharp", "beautiful")

SKIN: tuple[Colour, ...] = ((255, 219, 190), (240, 195, 155), (205, 150, 105), (140, 90, 60))
HAIR: dict[str, Colour] = {
    "black": (30, 25, 25),
    "brown": (100, 60, 30),
    "blonde": (240, 205, 110),
    "red": (190, 70, 30),
    "gray": (170, 170, 175),
    "white": (240, 240, 240),
    "pink": (250, 130, 180),
    "blue": (50, 90, 200),
}
EYES: dict[str, Colour] = {
    "blue": (30, 100, 235),
    "green": (30, 165, 70),
    "brown": (110, 60, 20),
    "gray": (130, 140, 150),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A filled figure: an ellipse (points = centre and half axes) or a polygon.

    `ellipse` positions: (cx, cy), then (rx, ry) in shorter sides. `polygon` positions: a centre,
    then corner offsets in shorter sides from that centre. `band`: a full-width bar from y0 to y1.
    """

    kind: str
    colour: Colour
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """A caption, a background colour and figures painted in order.

    `facts` holds what a test may check: for single shapes `shape`, `colour`, `background`.
    """

    caption: str
    background: Colour
    figures: tuple[Figure, ...]
    facts: tuple[tuple[str, str], ...] = ()

    def fact(self, name: str) -> str | None:
        """The named fact, or None where this scene does not state it."""
        return dict(self.facts).get(name)


def draw(scene: Scene, width: int, height: int, supersample: int = 1) -> Image.Image:
    """The scene as RGB of width x height pixels, anti-aliased by `supersample` per axis."""
    w, h = width * supersample, height * supersample
    side = min(w, h)
    image = Image.new("RGB", (w, h), scene.background)
    canvas = ImageDraw.Draw(image)
    for figure in scene.figures:
        cx, cy = figure.points[0]
        if figure.kind == "ellipse":
            rx, ry = figure.points[1]
            box = (cx * w - rx * side, cy * h - ry * side, cx * w + rx * side, cy * h + ry * side)
            canvas.ellipse(box, fill=figure.colour)
        elif figure.kind == "band":
            canvas.rectangle((0, cx * h, w, cy * h), fill=figure.colour)
        else:
            corners = [(cx * w + x * side, cy * h + y * side) for x, y in figure.points[1:]]
            canvas.polygon(corners, fill=figure.colour)
    return image.reduce(supersample) if supersample > 1 else image


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Whether this combination is kept out of training, to measure on unseen captions (10 %)."""
    digest = hashlib.sha256(f"{shape}/{colour}/{background}".encode()).digest()
    return digest[0] < 26


def outline(shape: str, radius: float) -> tuple[Point, ...]:
    """Corner offsets of a shape that fills a circle of `radius` (empty for round shapes)."""
    r = radius
    if shape == "square":
        s = 0.86 * r
        return ((-s, -s), (s, -s), (s, s), (-s, s))
    if shape == "diamond":
        return ((0, -1.1 * r), (0.8 * r, 0), (0, 1.1 * r), (-0.8 * r, 0))
    if shape == "triangle":
        return ((0, -r), (r, 0.8 * r), (-r, 0.8 * r))
    if shape == "star":
        turns = ((r * (1.1 if k % 2 == 0 else 0.45), math.pi * k / 5) for k in range(10))
        return tuple((d * math.sin(a), -d * math.cos(a)) for d, a in turns)
    if shape == "cross":
        a, b = 0.34 * r, r
        half = ((-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a))
        return half + tuple((-x, -y) for x, y in half)
    if shape == "heart":
        turns = (2 * math.pi * k / 48 for k in range(48))
        return tuple(
            (
                r * math.sin(t) ** 3 * 1.05,
                -r * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15,
            )
            for t in turns
        )
    return ()


def shape_figures(
    shape: str, colour: Colour, background: Colour, at: Point, radius: float
) -> tuple[Figure, ...]:
    """The figures that make one shape; a ring is a disc with a hole of background colour."""
    disc = Figure("ellipse", colour, (at, (radius, radius)))
    if shape == "circle":
        return (disc,)
    if shape == "ring":
        return (disc, Figure("ellipse", background, (at, (0.55 * radius, 0.55 * radius))))
    return (Figure("polygon", colour, (at, *outline(shape, radius))),)


def shade(rng: random.Random, colour: Colour, spread: int = 10) -> Colour:
    """The colour with a little variation."""
    r, g, b = (min(255, max(0, c + rng.randint(-spread, spread))) for c in colour)
    return (r, g, b)


def word(rng: random.Random, name: str) -> str:
    """The name or one of its synonyms."""
    return rng.choice(SYNONYMS.get(name, (name,)))


def article(noun_phrase: str) -> str:
    """The phrase with its indefinite article."""
    return ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase


def plural(noun: str) -> str:
    """The noun's plural."""
    return noun + "es" if noun.endswith(("s", "x")) else noun + "s"


def finish(rng: random.Random, caption: str) -> str:
    """The caption in the manners that prompts come in: a lead, quality tags."""
    if rng.random() < 0.15:
        caption = rng.choice(("a picture of ", "a drawing of ", "an image of ", "a photo of ")) + caption
    if rng.random() < 0.1:
        caption += "".join(f", {tag}" for tag in rng.sample(QUALITY_TAGS, rng.randint(1, 3)))
    return caption


def backdrop(rng: random.Random, caption: str, background: str, stated: bool) -> str:
    """The caption with its background clause, if it is to be stated."""
    if not stated:
        return caption
    name = word(rng, background)
    form = rng.choice((f" on {article(name)} background",) * 3 + (f", {name} background", f" on {name}"))
    return caption + form


def pick_colours(rng: random.Random, shape: str, *, held_out: bool) -> tuple[str, str]:
    """A shape colour and a different background colour, from the asked side of the hold-out."""
    while True:
        colour, background = rng.sample(tuple(COLOURS), 2)
        if is_held_out(shape, colour, background) == held_out:
            return colour, background


def single_shape(rng: random.Random, *, held_out: bool = False) -> Scene:
    """One shape: size, colour, position and background stated or left open."""
    shape = rng.choice(SHAPES)
    colour, background = pick_colours(rng, shape, held_out=held_out)
    size = rng.choice(("", "", "", "small", "large"))
    position = rng.choice(tuple(POSITIONS)) if size != "large" and rng.random() < 0.35 else ""
    phrase = " ".join(p for p in (rng.choice(SIZE_WORDS[size]), word(rng, colour), word(rng, shape)) if p)
    stated = held_out or rng.random() < 0.85
    caption = article(phrase) if rng.random() < 0.8 else phrase
    where = f" {position}" if position else ""
    if rng.random() < 0.5:
        caption = backdrop(rng, caption + where, background, stated)
    else:
        caption = backdrop(rng, caption, background, stated) + (f", {position}" if position else "")
    x, y = POSITIONS[position] if position else (0.5, 0.5)
    jitter = 0.03
    at = (x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter))
    radius = rng.uniform(*RADII[size]) * (0.85 if position not in ("", "in the center") else 1.0)
    ground = shade(rng, COLOURS[background])
    figures = shape_figures(shape, shade(rng, COLOURS[colour]), ground, at, radius)
    facts = (("shape", shape), ("colour", colour), ("background", background))
    return Scene(finish(rng, caption), ground, figures, facts)


def counted_shapes(rng: random.Random) -> Scene:
    """Two, three or four equal shapes."""
    shape = rng.choice(SHAPES)
    colour, background = pick_colours(rng, shape, held_out=False)
    count = rng.choice((2, 2, 3, 4))
    spots = {
        2: ((0.28, 0.5), (0.72, 0.5)),
        3: ((0.28, 0.68), (0.72, 0.68), (0.5, 0.28)),
        4: ((0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)),
    }[count]
    ground, paint = shade(rng, COLOURS[background]), shade(rng, COLOURS[colour])
    radius = rng.uniform(0.15, 0.18)
    figures = tuple(
        figure
        for x, y in spots
        for figure in shape_figures(
            shape, paint, ground, (x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02)), radius
        )
    )
    number = {2: "two", 3: "three", 4: "four"}[count]
    caption = f"{number} {word(rng, colour)} {plural(word(rng, shape))}"
    caption = backdrop(rng, caption, background, rng.random() < 0.85)
    return Scene(finish(rng, caption), ground, figures)


def shape_pair(rng: random.Random) -> Scene:
    """Two different shapes side by side, or one above the other."""
    first, second = rng.sample(SHAPES, 2)
    while True:
        one, two, background = rng.sample(tuple(COLOURS), 3)
        if not is_held_out(first, one, background) and not is_held_out(second, two, background):
            break
    ground = shade(rng, COLOURS[background])
    stacked = rng.random() < 0.3
    spots = ((0.5, 0.27), (0.5, 0.73)) if stacked else ((0.27, 0.5), (0.73, 0.5))
    radius = rng.uniform(0.17, 0.2)
    figures = tuple(
        figure
        for shape, colour, at in ((first, one, spots[0]), (second, two, spots[1]))
        for figure in shape_figures(shape, shade(rng, COLOURS[colour]), ground, at, radius)
    )
    a, b = (article(f"{word(rng, c)} {word(rng, s)}") for c, s in ((one, first), (two, second)))
    joint = rng.choice(("above", "over")) if stacked else rng.choice(("and", "and", "next to", "left of"))
    caption = backdrop(rng, f"{a} {joint} {b}", background, rng.random() < 0.9)
    return Scene(finish(rng, caption), ground, figures)


@dataclass(frozen=True, slots=True)
class Face:
    """What a portrait shows; names are keys of the tables above."""

    woman: bool
    old: bool
    eyes: str
    hair: str
    long_hair: bool
    beard: bool
    smile: bool
    cinematic: bool
    background: str


def face_figures(rng: random.Random, face: Face, skin: Colour) -> tuple[Figure, ...]:
    """A cartoon head with big eyes, painted back to front."""
    hair, iris = shade(rng, HAIR[face.hair]), shade(rng, EYES[face.eyes])
    cloth = shade(rng, COLOURS[rng.choice(tuple(COLOURS))])
    shadow: Colour = (int(skin[0] * 0.85), int(skin[1] * 0.8), int(skin[2] * 0.78))

    def ellipse(x: float, y: float, rx: float, ry: float, colour: Colour) -> Figure:
        return Figure("ellipse", colour, ((x, y), (rx, ry)))

    def box(x: float, y: float, rx: float, ry: float, colour: Colour) -> Figure:
        return Figure("polygon", colour, ((x, y), (-rx, -ry), (rx, -ry), (rx, ry), (-rx, ry)))

    parts: list[Figure] = []
    if face.long_hair:
        parts += [ellipse(0.5, 0.42, 0.33, 0.34, hair), box(0.5, 0.64, 0.33, 0.24, hair)]
    else:
        parts += [ellipse(0.5, 0.40, 0.29, 0.30, hair)]
    parts += [ellipse(0.5, 1.04, 0.42, 0.24, cloth), box(0.5, 0.78, 0.09, 0.1, shadow)]
    parts += [ellipse(0.5, 0.48, 0.245, 0.31, skin)]
    if face.beard:
        parts += [ellipse(0.5, 0.68, 0.2, 0.13, hair), ellipse(0.5, 0.56, 0.17, 0.11, skin)]
    parts += [
        Figure(
            "polygon",
            hair,
            ((0.5, 0.26), (-0.22, 0.08), (-0.12, -0.1), (0.12, -0.1), (0.22, 0.08), (0.05, 0.03)),
        )
    ]
    for x in (0.39, 0.61):
        parts += [
            ellipse(x, 0.455, 0.075, 0.052, (252, 252, 252)),
            ellipse(x, 0.455, 0.048, 0.05, iris),
            ellipse(x, 0.455, 0.02, 0.02, (10, 10, 15)),
            box(x, 0.378, 0.07, 0.012, hair if face.hair != "white" else shadow),
        ]
    parts += [ellipse(0.5, 0.565, 0.03, 0.02, shadow)]
    lips = (205, 50, 70) if face.woman else (165, 90, 80)
    if face.smile:
        parts += [ellipse(0.5, 0.655, 0.09, 0.045, lips), box(0.5, 0.625, 0.1, 0.02, skin)]
    else:
        parts += [ellipse(0.5, 0.66, 0.07, 0.024, lips)]
    if face.old:
        parts += [box(0.5, y, 0.1, 0.006, shadow) for y in (0.315, 0.345)]
        parts += [box(x, 0.6, 0.008, 0.035, shadow) for x in (0.35, 0.65)]
    if face.woman and not face.old:
        parts += [
            ellipse(x, 0.585, 0.04, 0.03, (min(255, skin[0] + 5), skin[1] - 35, skin[2] - 30))
            for x in (0.345, 0.655)
        ]
        parts += [ellipse(0.5, 0.66, 0.06, 0.024, lips)]
    if face.cinematic:
        parts += [
            Figure("band", dark_bar, ((y0, y1),))
            for dark_bar, y0, y1 in (((8, 8, 10), 0.0, 0.1), ((8, 8, 10), 0.9, 1.0))
        ]
    return tuple(parts)


def portrait(rng: random.Random) -> Scene:
    """A head and shoulders; every stated attribute is drawn, the others vary freely."""
    woman, old = rng.random() < 0.6, rng.random() < 0.25
    face = Face(
        woman=woman,
        old=old,
        eyes=rng.choice(tuple(EYES)),
        hair=rng.choice(("gray", "white"))
        if old
        else rng.choice(("black", "brown", "blonde", "red", "pink", "blue")),
        long_hair=woman if rng.random() < 0.85 else not woman,
        beard=not woman and rng.random() < 0.3,
        smile=rng.random() < 0.3,
        cinematic=rng.random() < 0.25,
        background=rng.choice(tuple(COLOURS)),
    )
    young = ("girl", "boy") if not old else ("lady", "guy")
    nouns = ("woman", "woman", "women", "lady", young[0]) if woman else ("man", "man", "men", "guy", young[1])
    noun = rng.choice(nouns)
    age = rng.choice(("old", "elderly")) if old else rng.choice(("young", "young", ""))
    subject = article(" ".join(p for p in (age, noun) if p))
    lead = rng.choice(
        ("portrait of ", "portrait of ", "portrait of ", "a portrait of ", "face of ", "photo of ", "")
    )
    details = [
        d
        for d in (
            f"{face.eyes} eyes" if rng.random() < 0.75 else "",
            f"{face.hair} hair" if rng.random() < 0.5 else "",
            ("long hair" if face.long_hair else "short hair") if rng.random() < 0.25 else "",
            "beard" if face.beard and rng.random() < 0.8 else "",
            rng.choice(("smiling", "smile", "happy")) if face.smile and rng.random() < 0.8 else "",
            rng.choice(("cinematic", "cinematic", "movie still", "film")) if face.cinematic else "",
        )
        if d
    ]
    rng.shuffle(details)
    ground = shade(rng, COLOURS[face.background])
    if face.cinematic:
        tint = rng.choice(((15, 50, 60), (70, 40, 20), (25, 30, 50)))
        ground = shade(rng, tint)
    elif rng.random() < 0.4:
        details.append(f"{word(rng, face.background)} background")
    caption = ", ".join([lead + subject, *details])
    return Scene(finish(rng, caption), ground, face_figures(rng, face, shade(rng, rng.choice(SKIN))))


def any_scene(rng: random.Random) -> Scene:
    """A scene of the training distribution."""
    kind = rng.random()
    if kind < 0.63:
        return single_shape(rng)
    if kind < 0.73:
        return counted_shapes(rng)
    if kind < 0.83:
        return shape_pair(rng)
    return portrait(rng)
