"""Makes the screenshots of docs/pictures: `python docs/screenshots.py [RUN]`, in an installed Chromium.

Without a run it trains the recipe `vae` on the embedded clothes for a few epochs. It needs the extras "report",
"explore" and "browser".
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from lightning_ae.cli import main as command

PICTURES = Path(__file__).resolve().parent / "pictures"
CHROMIUM = "/usr/bin/chromium"
EPOCHS, PORT = "8", 5016
SHOTS = {
    "report": (1200, 1180, "light", "h1"),
    "report_codes_dark": (1200, 1180, "dark", "#map"),
    "report_phone": (375, 812, "light", "#reconstructions"),
}
"""Of each picture the window's width and height, the scheme, and what stands at the top."""


def shoot(browser: Any, file: Path, name: str) -> Path:
    """Takes one picture."""
    width, height, scheme, top = SHOTS[name]
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    page.goto(file.resolve().as_uri())
    page.wait_for_selector("html[data-drawn=true]", state="attached", timeout=120_000)
    page.evaluate(f"document.querySelector('{top}').scrollIntoView({{block: 'start', behavior: 'instant'}})")
    if top == "h1":
        page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    if name == "report_codes_dark":
        page.locator("#chart-map svg path[aria-roledescription=point]").nth(40).hover(force=True)
    page.wait_for_timeout(300)
    place = PICTURES / f"{name}.png"
    page.screenshot(path=place)
    return place


@contextmanager
def explored(run: Path) -> Iterator[str]:
    """The address of the explorer of a run's best model, as long as it is served."""
    words = ["explore", str(run / "checkpoints" / "best.ckpt"), "--port", str(PORT)]
    server = subprocess.Popen([sys.executable, "-m", "lightning_ae.cli", *words])
    try:
        for _ in range(240):
            with socket.socket() as place:
                if place.connect_ex(("127.0.0.1", PORT)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{PORT}/"
    finally:
        server.terminate()
        server.wait(30)


def shoot_explorer(browser: Any, address: str, scheme: str) -> Path:
    """Takes the explorer, two of whose sliders were moved."""
    page = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme).new_page()
    page.goto(address, timeout=120_000)
    page.locator("img[name=decoded]").wait_for(timeout=120_000)
    for slider, steps in ((1, 8), (2, 5)):
        page.locator(".noUi-handle").nth(slider).focus()
        for _ in range(steps):
            page.keyboard.press("ArrowRight")
    page.wait_for_timeout(3000)
    place = PICTURES / ("explorer.png" if scheme == "light" else "explorer_dark.png")
    page.screenshot(path=place)
    return place


def main() -> None:
    """Makes all."""
    PICTURES.mkdir(exist_ok=True)
    run = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path("run")  # pages show it as it is given
    with tempfile.TemporaryDirectory() as folder, chdir(folder), sync_playwright() as driver:
        if len(sys.argv) == 1:
            words = ["-c", "vae", "-c", "fashion", "--trainer.max_epochs", EPOCHS, "--report", "false"]
            command(["fit", *words, "--run_dir", str(run)])
        file = Path("report.html")
        command(["report", str(run), "--output", str(file)])
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in SHOTS:
            print(shoot(browser, file, name))
        with explored(run) as address:
            for scheme in ("light", "dark"):
                print(shoot_explorer(browser, address, scheme))
        browser.close()


if __name__ == "__main__":
    main()
