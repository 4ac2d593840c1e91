"""The page of a guarded server that a proxy serves below a prefix."""

import re
from collections.abc import Iterator

import pytest
from node import running

from tests.browser.browsing import Page, ask, expect, generate, shown
from tests.browser.conftest import DEMO, Visit
from tests.browser.proxy import proxied

PREFIX = "/pictures/sd"
USER, PASSWORD = "ann", "pass:w<ö>rd"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ("--checkpoint", str(DEMO), "--gradio-auth", f"{USER}:{PASSWORD}", "--subpath", PREFIX)
    with running(tmp_path_factory.mktemp("guarded"), *flags) as node:
        node.wait_ready()
        with proxied(node.port, PREFIX) as address:
            yield address


def log_in(page: Page, password: str) -> None:
    page.get_by_label("User").fill(USER)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button").click()


def test_login_below_a_prefix(visit: Visit, address: str) -> None:
    visitor = visit(address)
    visitor.excuse("status of 40[01]")
    page = visitor.page
    page.goto(address)
    expect(page).to_have_url(re.compile(f"^{address}login"))
    log_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("User and password do not fit.")
    log_in(page, PASSWORD)
    expect(page).to_have_url(re.compile(f"^{address}(#.*)?$"))
    panel = page.locator("#tab-txt2img")
    ask(panel, "a red circle", Width=64, Height=64, Sampling_steps=4)
    generate(panel)
    expect(shown(panel)).to_have_attribute("alt", "a red circle")
    with page.expect_response(f"{address}v1/jobs/**") as answer:
        panel.get_by_role("button", name="Save", exact=True).click()
    assert answer.value.headers["content-type"] == "image/png"

    visitor.context.clear_cookies()
    generate(panel)
    expect(page.get_by_label("Password")).to_be_visible()
    log_in(page, PASSWORD)
    expect(panel.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("a red circle")
    expect(panel.locator(".thumbs button")).to_have_count(1)
