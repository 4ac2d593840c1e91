"""Pictures from pictures: painted over by hand, and enlarged."""

import numpy as np

from tests.browser.browsing import Locator, ask, expect, generate, sent_picture, shown
from tests.browser.conftest import Visit

SIDE = 128
BRUSH = 24
BLUR = 4
FROM, TO = (0.3, 0.3), (0.7, 0.4)


def stroke(canvas: Locator) -> None:
    """Drag the mouse over the picture in a straight line."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    mouse = canvas.page.mouse
    start, end = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (FROM, TO))
    mouse.move(*start)
    mouse.down()
    mouse.move(*end, steps=10)
    mouse.up()


def from_stroke() -> np.ndarray:
    """How far each pixel is from the line that `stroke` draws, in pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    (x, y), (end_x, end_y) = np.multiply(FROM, SIDE), np.multiply(TO, SIDE)
    across, down = end_x - x, end_y - y
    along = ((columns - x) * across + (rows - y) * down) / (across**2 + down**2)
    along = along.clip(0, 1)
    return np.hypot(columns - x - along * across, rows - y - along * down)


def test_inpainting_changes_what_was_painted_and_nothing_else(visit: Visit) -> None:
    visitor = visit()
    panel = visitor.open("txt2img")
    ask(panel, "a red circle on a white background", Width=SIDE, Height=SIDE, Sampling_steps=15, Seed=7)
    generate(panel)
    expect(shown(panel)).to_be_visible()
    before = sent_picture(shown(panel))

    panel.get_by_role("button", name="To inpaint").click()
    panel = visitor.page.locator("#tab-img2img")
    canvas = panel.get_by_label("Mask", exact=True)
    expect(canvas).to_have_js_property("width", SIDE)
    ask(panel, "a blue square on a black background", Denoising_strength=1, Mask_blur=BLUR)
    box = canvas.bounding_box()
    assert box
    brush = panel.get_by_role("spinbutton", name="Brush size (on the screen)")
    brush.fill(str(round(BRUSH * box["width"] / SIDE)))
    stroke(canvas)
    undo = panel.get_by_role("button", name="Undo")
    undo.click()
    expect(undo).to_be_disabled()
    generate(panel)
    told = visitor.page.get_by_role("alert")
    expect(told).to_contain_text("Paint or choose a mask")
    told.get_by_role("button").click()
    stroke(canvas)
    generate(panel)
    expect(shown(panel)).to_be_visible()

    change = np.abs(sent_picture(shown(panel)) - before).max(2)
    far = from_stroke()
    assert change[far > BRUSH / 2 + 3 * BLUR].max() == 0
    assert change[far < BRUSH / 2 - BLUR].mean() > 40


def test_a_picture_is_enlarged(visit: Visit) -> None:
    visitor = visit()
    panel = visitor.open("txt2img")
    ask(panel, "a green triangle", Width=64, Height=64, Sampling_steps=2)
    generate(panel)
    expect(shown(panel)).to_be_visible()
    panel.get_by_role("button", name="To Extras").click()
    panel = visitor.page.locator("#tab-extras")
    generate(panel)
    expect(shown(panel)).to_be_visible()
    assert sent_picture(shown(panel)).shape == (128, 128, 3)
