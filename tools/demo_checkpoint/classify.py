"""What a picture of one shape shows, read off its pixels: shape, colour and background.

No learning: the background is the border's median colour, the figure is what differs from it, its
colour is its median, and its shape is the template that overlaps it best.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scenes import COLOURS, SHAPES, Scene, draw, shape_figures

SIDE = 64
BORDER_SHARE = 0.06
CONTRAST = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read; `shape` and `colour` are None where the picture is empty."""

    shape: str | None
    colour: str | None
    background: str
    overlap: float


def nearest_colour(rgb: np.ndarray) -> str:
    """The named colour closest in redmean distance, which weighs channels as the eye does."""

    def distance(name: str) -> float:
        red, green, blue = (float(a) - b for a, b in zip(rgb, COLOURS[name], strict=True))
        mean = (float(rgb[0]) + COLOURS[name][0]) / 2
        return (2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2

    return min(COLOURS, key=distance)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the True pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def normalised(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box, centred and scaled so that its longer side fills SIDE pixels."""
    left, top, right, bottom = box_of(mask)
    cut = Image.fromarray((mask[top:bottom, left:right] * 255).astype(np.uint8))
    scale = SIDE / max(cut.size)
    width, height = (max(1, round(side * scale)) for side in cut.size)
    sheet = Image.new("L", (SIDE, SIDE))
    sheet.paste(
        cut.resize((width, height), Image.Resampling.BILINEAR), ((SIDE - width) // 2, (SIDE - height) // 2)
    )
    return np.asarray(sheet) > 127


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The mask's largest connected part."""
    sheet = Image.fromarray((mask * 255).astype(np.uint8))
    best, best_size = mask, 0
    for _ in range(8):
        pixels = np.asarray(sheet)
        rest = np.argwhere(pixels == 255)
        if len(rest) <= best_size:
            break
        y, x = rest[0]
        ImageDraw.floodfill(sheet, (int(x), int(y)), 128)
        part = np.asarray(sheet) == 128
        if part.sum() > best_size:
            best, best_size = part, int(part.sum())
        erased = np.asarray(sheet).copy()
        erased[part] = 0
        sheet = Image.fromarray(erased)
    return best


def templates() -> dict[str, np.ndarray]:
    """A normalised mask of every shape."""
    found = {}
    for shape in SHAPES:
        figures = shape_figures(shape, (255, 255, 255), (0, 0, 0), (0.5, 0.5), 0.4)
        picture = draw(Scene("", (0, 0, 0), figures), 128, 128, supersample=2)
        found[shape] = normalised(np.asarray(picture)[..., 0] > 127)
    return found


def classify(picture: Image.Image) -> Reading:
    """Read a picture of one shape."""
    pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    edge = max(1, round(BORDER_SHARE * min(pixels.shape[:2])))
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[edge:-edge, edge:-edge] = True
    ground = np.median(pixels[~inner], axis=0)
    difference = np.linalg.norm(pixels - ground, axis=2)
    background = nearest_colour(ground)
    figure = difference > CONTRAST
    if figure.mean() < 0.004:
        return Reading(None, None, background, 0.0)
    # Half-way between ground and figure lies the true outline of a soft edge.
    figure = difference > 0.5 * np.median(difference[figure])
    figure = largest_part(figure)
    colour = nearest_colour(np.median(pixels[figure], axis=0))
    seen = normalised(figure)
    overlaps = {name: float((seen & mask).sum() / (seen | mask).sum()) for name, mask in templates().items()}
    shape = max(overlaps, key=lambda name: overlaps[name])
    return Reading(shape, colour, background, overlaps[shape])
