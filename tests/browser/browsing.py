"""A browser at the page, and what a visitor does with it."""

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from patience import PATIENCE
from PIL import Image

NEEDED = "the page's tests need playwright (python3 scripts/bootstrap.py install dev)"
pytest.importorskip("playwright.sync_api", reason=NEEDED)

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright  # noqa: E402

__all__ = ["Browser", "Locator", "Page", "Visitor", "chromium", "decoded", "expect", "sent_picture"]

PATIENCE_MS = 1000 * PATIENCE
"""For anything that a loaded machine may delay."""
DESKTOP = {"width": 1366, "height": 900}
PHONE = {"width": 390, "height": 844}

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; the tests are skipped where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("the page's tests need Chromium (apt-get install chromium)")
    # Root, as in containers, has no sandbox to give away.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


class Visitor:
    """Somebody's browser with a storage of its own. It notes what a page must never do.

    Args:
        browser: a running one.
        base: the page's address, with a slash at its end.
        settings: of the browser's context, such as `color_scheme`.
    """

    def __init__(self, browser: Browser, base: str, **settings: Any) -> None:
        self.base = base
        self.troubles: list[str] = []
        self._excused: list[re.Pattern[str]] = []
        self.context = browser.new_context(**({"viewport": DESKTOP, "reduced_motion": "reduce"} | settings))
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.window()

    def window(self, tab: str = "") -> Page:
        """Another window of the same browser, at a tab of the page if one is named."""
        page = self.context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self._trouble(f"uncaught: {error}"))
        page.on("request", self._look)
        if tab:
            self.open(tab, page)
        return page

    def open(self, tab: str, page: Page | None = None) -> Locator:
        """Go to a tab of the page; the tab's content."""
        page = page or self.page
        page.goto(f"{self.base}#{tab}")
        panel = page.locator(f"#tab-{tab}")
        expect(panel).to_be_visible()
        return panel

    def excuse(self, pattern: str) -> None:
        """Let a trouble pass that the test itself makes."""
        self._excused.append(re.compile(pattern))

    def leave(self) -> list[str]:
        """Close all windows; what went wrong in them."""
        self.context.close()
        return [told for told in self.troubles if not any(each.search(told) for each in self._excused)]

    def _trouble(self, text: str) -> None:
        self.troubles.append(text)

    def _listen(self, told: Any) -> None:
        if told.type in ("error", "warning"):
            self._trouble(f"{told.text} {told.location['url']}")

    def _look(self, request: Any) -> None:
        """Note requests to anywhere but the server."""
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != urlsplit(self.base).netloc:
            self._trouble(f"foreign: {request.url}")


def ask(panel: Locator, prompt: str, **numbers: float) -> None:
    """Fill in a tab's form: the prompt, and numbers by their labels with `_` for spaces."""
    for label, value in numbers.items():
        name = label.replace("_", " ")
        panel.get_by_role("spinbutton", name=name, exact=True).fill(str(value))
    panel.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)


def generate(panel: Locator) -> None:
    panel.get_by_role("button", name="Generate", exact=True).click()


def shown(panel: Locator) -> Locator:
    """The large picture that a tab shows."""
    return panel.locator(".shown img")


def decoded(data: bytes) -> np.ndarray:
    """A picture file as rows, columns, and the values of red, green and blue."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def sent_picture(picture: Locator) -> np.ndarray:
    """The pixels of a picture element, fetched again from the server."""
    address = picture.get_attribute("src")
    assert address
    return decoded(picture.page.request.get(address).body())
