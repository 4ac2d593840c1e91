"""Makes docs/page-*.webp: what the page looks like, on a desktop and on a phone, light and dark.

    python -m tools.page.screenshots [FOLDER]

Starts a server with the demo checkpoint, makes some pictures and looks at them in Debian's Chromium.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "Stable-diffusion" / "demo.safetensors"
DESKTOP = {"width": 1366, "height": 860}
PHONE = {"width": 390, "height": 844}
QUALITY = 82
MOST_BYTES = 150_000
START_SECONDS = 120
HOST = "127.0.0.1"
PROMPTS = (
    "a red circle on a white background",
    "a green triangle on a yellow background",
    "a blue square on a white background",
)


def main(folder: Path) -> None:
    """Write all pictures to a folder."""
    with (
        tempfile.TemporaryDirectory() as data,
        served(Path(data)) as address,
        sync_playwright() as playwright,
    ):
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for scheme in ("light", "dark"):
            look_at_desktop(browser, address, scheme, folder)
            look_at_phone(browser, address, scheme, folder)
        browser.close()


def look_at_desktop(browser: Browser, address: str, scheme: str, folder: Path) -> None:
    """txt2img while it works in the light, inpainting in the dark."""
    page = browser.new_page(viewport=DESKTOP, color_scheme=scheme)
    page.goto(address)
    panel = page.locator("#tab-txt2img")
    for prompt in PROMPTS:
        make(panel, prompt, 256)
    if scheme == "light":
        fill(panel, f"{PROMPTS[0]}, photographed by night", 256, 80)
        panel.get_by_role("button", name="Generate", exact=True).click()
        panel.locator(".preview").wait_for()
        keep(page, folder / "page-txt2img.webp")
        panel.get_by_role("button", name="Interrupt").click()
        panel.locator(".job").wait_for(state="detached")
        page.goto(f"{address}#gallery")
        page.locator(".tile img").first.wait_for()
        page.wait_for_timeout(1500)
        keep(page, folder / "page-gallery.webp")
    else:
        panel.get_by_role("button", name="To inpaint").click()
        canvas = page.locator("#tab-img2img canvas")
        canvas.wait_for()
        page.wait_for_timeout(1000)
        stroke(page, canvas)
        page.evaluate("() => scrollTo(0, 0)")
        keep(page, folder / "page-inpaint-dark.webp")
    page.close()


def look_at_phone(browser: Browser, address: str, scheme: str, folder: Path) -> None:
    """A picture that is done."""
    page = browser.new_page(
        viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    page.goto(address)
    make(page.locator("#tab-txt2img"), PROMPTS[0], 256)
    keep(page, folder / f"page-phone{'-dark' if scheme == 'dark' else ''}.webp")
    page.close()


def fill(panel: Locator, prompt: str, side: int, steps: int) -> None:
    for label, value in (("Width", side), ("Height", side), ("Sampling steps", steps), ("Seed", 7)):
        panel.get_by_role("spinbutton", name=label, exact=True).fill(str(value))
    panel.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)


def make(panel: Locator, prompt: str, side: int) -> None:
    """Have a picture made and wait until it is shown."""
    fill(panel, prompt, side, 15)
    panel.get_by_role("button", name="Generate", exact=True).click()
    panel.locator(f".shown img[alt='{prompt}']").wait_for()
    panel.page.wait_for_timeout(600)


def stroke(page: Page, canvas: Locator) -> None:
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.35)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.65, box["y"] + box["height"] * 0.5, steps=10)
    page.mouse.up()


def keep(page: Page, path: Path) -> None:
    """Save what is seen, small enough for the documents."""
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has {size} bytes, more than {MOST_BYTES}.")
    print(f"{path}: {size} bytes")


@contextmanager
def served(data: Path) -> Iterator[str]:
    """A server with the demo checkpoint; its address, with a slash at its end."""
    port, maintenance = free_port(), free_port()
    command = [sys.executable, "-m", "sdserver", "--data-dir", str(data), "--checkpoint", str(DEMO)]
    process = subprocess.Popen(  # noqa: S603 - our own server
        [*command, "--port", str(port), "--maintenance-port", str(maintenance)], cwd=ROOT, stdout=sys.stderr
    )
    try:
        wait(port, process)
        yield f"http://{HOST}:{port}/"
    finally:
        process.terminate()
        process.wait()


def wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until the port is open, which it is once a picture can be made."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The server did not start; see above.") from None
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
