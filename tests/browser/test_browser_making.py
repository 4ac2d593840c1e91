"""A picture from words to a file: asked for, watched, saved, and read again."""

from math import pi
from pathlib import Path

import numpy as np
import pytest
from node import Node
from PIL import Image

from tests.browser.browsing import Locator, ask, expect, generate, sent_picture, shown
from tests.browser.conftest import Visit

SMALL = {"Width": 128, "Height": 128}
CIRCLE = "a red circle on a white background"
COUNT_PREVIEWS = """() => {
  window.previews = new Set();
  const note = () => document.querySelectorAll(".preview").forEach((one) => window.previews.add(one.src));
  const all = { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] };
  new MutationObserver(note).observe(document.body, all);
}"""


def assert_red_circle(picture: np.ndarray) -> None:
    """One red thing on white, as wide as high, that fills its frame as a circle does."""
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    inside = (red > 150) & (green < 110) & (blue < 110)
    assert picture[:4, :4].mean() > 220
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert min(height, width) > 20
    assert height / width == pytest.approx(1, abs=0.12)
    assert inside.sum() / (height * width) == pytest.approx(pi / 4, abs=0.06)


def test_type_generate_watch_save_and_read(visit: Visit, tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.page
    panel = visitor.open("txt2img")
    page.evaluate(COUNT_PREVIEWS)
    ask(panel, CIRCLE, **SMALL, Sampling_steps=40, Seed=7)
    generate(panel)
    expect(shown(panel)).to_have_attribute("alt", CIRCLE)
    assert page.evaluate("() => window.previews.size") >= 2
    assert_red_circle(sent_picture(shown(panel)))
    infotext = panel.locator(".shown .infotext").inner_text()
    assert infotext.startswith(f"{CIRCLE}\nSteps: 40, ")

    with page.expect_download() as download:
        panel.get_by_role("button", name="Save", exact=True).click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    with Image.open(file) as saved:
        assert (saved.format, saved.size, file.name) == ("PNG", (128, 128), "7-0.png")

    panel.get_by_role("button", name="Reset to defaults").click()
    expect(panel.get_by_role("spinbutton", name="Seed", exact=True)).to_have_value("-1")
    info = visitor.open("pnginfo")
    info.locator("input[type=file]").set_input_files(file)
    expect(info.locator("pre.infotext")).to_have_text(infotext)
    info.get_by_role("button", name="To txt2img").click()
    expect(panel.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(CIRCLE)
    for name, value in {"Seed": "7", "Sampling steps": "40", "Width": "128", "Height": "128"}.items():
        expect(panel.get_by_role("spinbutton", name=name, exact=True)).to_have_value(value)


def test_keys_alone(visit: Visit) -> None:
    visitor = visit()
    panel = visitor.open("txt2img")
    ask(panel, "", **SMALL, Sampling_steps=3)
    visitor.page.reload()
    prompt = panel.get_by_role("textbox", name="Prompt", exact=True)
    expect(prompt).to_be_visible()
    press = visitor.page.keyboard.press
    for _ in range(20):
        press("Tab")
        if prompt.evaluate("(box) => box === document.activeElement"):
            break
    visitor.page.keyboard.type("a red circle")
    for _ in range(3):
        press("Control+ArrowUp")
    press("Control+ArrowDown")
    expect(prompt).to_have_value("a red (circle:1.2)")
    press("Control+Enter")
    expect(shown(panel)).to_have_attribute("alt", "a red (circle:1.2)")
    smaller = panel.get_by_role("button", name="Show larger")
    smaller.focus()
    press("Enter")
    larger = visitor.page.get_by_role("dialog")
    expect(larger.locator(".pswp__img").first).to_be_visible()
    press("Escape")
    expect(larger).to_have_count(0)
    expect(smaller).to_be_focused()


def test_jobs_of_two_windows_are_made_at_once(visit: Visit, node: Node) -> None:
    visitor = visit()
    windows = [(visitor.page, "red"), (visitor.window(), "blue")]
    for page, colour in windows:
        panel = visitor.open("txt2img", page)
        ask(panel, f"a {colour} circle on a white background", **SMALL, Sampling_steps=60, Seed=7)
    for page, _ in windows:
        generate(page.locator("#tab-txt2img"))
    node.wait_running(2)
    for page, colour in windows:
        panel = page.locator("#tab-txt2img")
        expect(panel.get_by_role("progressbar")).to_have_count(0)
        for each in ("red", "blue"):
            made = panel.locator(f".thumbs button[title*='{each}']")
            expect(made).to_have_count(1)
            made.click()
            middle = sent_picture(shown(panel))[56:72, 56:72].mean((0, 1))
            assert middle.argmax() == {"red": 0, "blue": 2}[each], colour
    visitor.page.reload()
    expect(visitor.page.locator("#tab-txt2img .thumbs button")).to_have_count(2)


def test_a_job_outlives_a_reload(visit: Visit, node: Node) -> None:
    visitor = visit()
    panel = visitor.open("txt2img")
    ask(panel, CIRCLE, **SMALL, Sampling_steps=60, Seed=7)
    generate(panel)
    node.wait_running()
    visitor.page.reload()
    expect(panel.get_by_role("progressbar")).to_be_visible()
    assert node.ops("/load").json()["running"] == 1
    expect(shown(panel)).to_have_attribute("alt", CIRCLE)
    assert_red_circle(sent_picture(shown(panel)))


def test_interrupted_and_cancelled(visit: Visit, node: Node) -> None:
    visitor = visit()
    panel = visitor.open("txt2img")
    ask(panel, CIRCLE, **SMALL, Sampling_steps=150)
    steps = node.metric("sdserver_steps_total")
    generate(panel)
    node.wait_stepped()
    panel.get_by_role("button", name="Interrupt").click()
    expect(shown(panel)).to_be_visible()
    assert node.ops("/load").json()["running"] == 0
    assert node.metric("sdserver_steps_total") - steps < 150, "it went on to its end"

    generate(panel)
    node.wait_running()
    queue = visitor.open("queue")
    row = queue.get_by_role("row").filter(has=visitor.page.get_by_role("progressbar"))
    expect(row).to_contain_text(CIRCLE)
    row.get_by_role("button", name="Cancel").click()
    node.wait_idle()
    expect(queue.get_by_role("progressbar")).to_have_count(0)


def test_what_cannot_be_made_says_why(visit: Visit) -> None:
    visitor = visit()
    visitor.excuse("status of 422")
    panel = visitor.open("txt2img")
    ask(panel, "a cat", Width=100_000, Height=100_000)
    generate(panel)
    notice = visitor.page.get_by_role("alert")
    expect(notice).to_contain_text("width")
    notice.get_by_role("button", name="Close message").click()
    expect(notice).to_have_count(0)
    button: Locator = panel.get_by_role("button", name="Generate", exact=True)
    expect(button).to_be_enabled()
