"""Whatever a name, a prompt or a file says, the page shows it as text."""

import json
from pathlib import Path

import pytest
from node import Node
from PIL import Image, PngImagePlugin

from tests.browser.browsing import Page, ask, expect, generate, shown
from tests.browser.conftest import HOSTILE, Visit


def assert_text_only(page: Page) -> None:
    """No name has become an element: ours have no handlers in attributes and no such source."""
    made = "() => [...document.querySelectorAll('[onerror], [onload], [src=x], main script')].length"
    assert page.evaluate(made) == 0


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture whose file lies about all that the page reads from it."""
    facts = PngImagePlugin.PngInfo()
    pairs = f"Steps: 2, Sampler: {HOSTILE}, CFG scale: 7, Seed: 1, Size: 64x64, Model: {HOSTILE}"
    facts.add_text("parameters", f"{HOSTILE}\nNegative prompt: {HOSTILE}\n{pairs}")
    facts.add_text("Comment", HOSTILE)
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.new("RGB", (64, 64), "white").save(path, pnginfo=facts)
    return path


def test_names_of_files_and_styles(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    panel = visitor.open("txt2img")
    checkpoint = page.get_by_label("Checkpoint", exact=True).first
    expect(checkpoint.locator("option", has_text=HOSTILE)).to_have_count(1)
    panel.get_by_label("Add a style").select_option(HOSTILE)
    expect(panel.get_by_label(f"Remove the style {HOSTILE}")).to_be_visible()
    panel.get_by_role("button", name="Networks…").click()
    dialog = page.get_by_role("dialog")
    card = dialog.get_by_role("button", name=HOSTILE)
    card.click()
    expect(page.get_by_text(f"{HOSTILE} was added to the prompt.")).to_be_visible()
    dialog.get_by_label("Close", exact=True).click()
    expect(visitor.open("models").get_by_text(f"{HOSTILE}.safetensors").first).to_be_visible()
    for tab in ("settings", "status"):
        expect(visitor.open(tab)).not_to_be_empty()
        assert_text_only(page)


def test_prompts_in_all_tabs(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    panel = visitor.open("txt2img")
    ask(panel, HOSTILE, Width=64, Height=64, Sampling_steps=2)
    panel.get_by_label("Add a style").select_option(HOSTILE)
    generate(panel)
    expect(shown(panel)).to_have_attribute("alt", f"{HOSTILE}, in the style of {HOSTILE}")
    expect(panel.locator(".infotext")).to_contain_text(HOSTILE)
    assert_text_only(page)
    expect(visitor.open("queue").get_by_role("cell", name=HOSTILE)).to_be_visible()
    assert_text_only(page)
    gallery = visitor.open("gallery")
    gallery.locator(f".tile[title^='{HOSTILE}']").first.click()
    expect(page.get_by_role("dialog").locator(".infotext")).to_contain_text(HOSTILE)
    assert_text_only(page)


def test_the_error_of_a_job(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    failed = {
        "id": HOSTILE, "kind": "txt2img", "state": "failed", "queue_position": 0, "progress": 0, "images": 1,
        "images_done": 0, "pictures": 0, "created": "2026-01-01T00:00:00Z", "error": {"message": HOSTILE},
    }  # fmt: skip
    page.route("**/v1/jobs?limit=200", lambda route: route.fulfill(json={"jobs": [failed]}))
    sent = json.dumps([{"id": HOSTILE, "tab": "txt2img", "asked": {"prompt": HOSTILE}}])
    visitor.context.add_init_script(f"localStorage.setItem('sdserver:jobs', {json.dumps(sent)})")
    expect(visitor.open("txt2img").get_by_role("alert")).to_have_text(f"{HOSTILE}✕")
    row = visitor.open("queue").get_by_role("row").last
    expect(row.get_by_role("cell", name=HOSTILE)).to_have_count(2)
    assert_text_only(page)


def test_a_picture_from_elsewhere_and_the_error_it_leads_to(visit: Visit, picture: Path, node: Node) -> None:
    visitor = visit()
    visitor.excuse("status of 400")
    page = visitor.page
    panel = visitor.open("pnginfo")
    panel.locator("input[type=file]").set_input_files(picture)
    expect(panel.locator("pre.infotext")).to_contain_text(HOSTILE)
    expect(panel.get_by_role("definition")).to_contain_text([HOSTILE])
    assert_text_only(page)
    panel.get_by_role("button", name="To txt2img").click()
    panel = page.locator("#tab-txt2img")
    expect(panel.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(HOSTILE)
    generate(panel)
    expect(page.get_by_role("alert")).to_contain_text(HOSTILE)
    assert_text_only(page)
