"""Everybody can use the page: with a screen reader, in the dark, on a phone, over a slow line."""

from typing import Any

import pytest
from node import Node

from tests.browser.browsing import PHONE, Page, Visitor, ask, expect, generate, shown
from tests.browser.conftest import Visit

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="scripts/bootstrap.py install dev")

TABS = ("txt2img", "img2img", "extras", "pnginfo", "gallery", "queue", "models", "settings", "status")
GRAVE = ("serious", "critical")
FIRST_PAINT = 300_000
"""Bytes, compressed, of all that is fetched before the page can be used."""


def faults(page: Page, **options: Any) -> list[str]:
    """What axe-core finds that keeps people from using what is shown."""
    found = axe.Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {[node['html'] for node in fault['nodes']][:5]}"
        for fault in found
        if fault["impact"] in GRAVE
    ]


def make_picture(visitor: Visitor) -> None:
    panel = visitor.open("txt2img")
    ask(panel, "a red circle", Width=64, Height=64, Sampling_steps=1)
    generate(panel)
    expect(shown(panel)).to_be_visible()


def start_to_inpaint(visitor: Visitor) -> None:
    visitor.page.locator("#tab-txt2img").get_by_role("button", name="To inpaint").click()
    expect(visitor.page.locator("#tab-img2img").get_by_label("Mask", exact=True)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_grave_fault(visit: Visit, scheme: str) -> None:
    visitor = visit(color_scheme=scheme)
    page = visitor.page
    make_picture(visitor)
    # Only colours differ.
    options = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    found: dict[str, list[str]] = {}
    start_to_inpaint(visitor)
    for tab in TABS:
        panel = visitor.open(tab)
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        expect(panel.get_by_text("Loading…")).to_have_count(0)
        found[tab] = faults(page, **options)
    visitor.open("txt2img").get_by_role("button", name="Networks…").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    found["dialog"] = faults(page, **options)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Colours").click()
    found["light by choice"] = faults(page, runOnly=["color-contrast"])
    assert {tab: each for tab, each in found.items() if each} == {}


@pytest.mark.parametrize("width", [320, PHONE["width"]])
def test_nothing_is_wider_than_a_phone(visit: Visit, width: int) -> None:
    visitor = visit(viewport=PHONE | {"width": width}, has_touch=True, is_mobile=True)
    make_picture(visitor)
    start_to_inpaint(visitor)
    for tab in TABS:
        visitor.open(tab)
        widths = visitor.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [width, width], tab


def test_the_first_paint_is_light(visit: Visit, node: Node) -> None:
    visitor = visit()
    sizes: list[int] = []
    visitor.page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    visitor.open("txt2img")
    assert 0 < sum(sizes) < FIRST_PAINT
    policy = node.api("GET", "/").headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
