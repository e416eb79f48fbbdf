"""The explorer: what it shows is the model's, what it cannot show is refused, and its page answers in a browser."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Tab, chromium
from contrast import contrast
from PIL import Image

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError
from lightning_ae.architectures import MLP
from lightning_ae.explore.page import check_port
from lightning_ae.explore.state import Explorer
from lightning_ae.parts import Bernoulli
from lightning_ae.report.images import data_uri, pixels


def model_of(data: HFDataModule) -> VAE:
    torch.manual_seed(0)
    model = VAE(data.input_shape, 3, architecture=MLP((16,)), likelihood=Bernoulli()).eval()
    model.signature = data.signature
    model.use_columns_of(data)
    return model


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    data = HFDataModule("digits")
    return Explorer(model_of(data), data, rows=60)


@torch.no_grad()
def test_it_shows_what_the_model_makes(explorer: Explorer) -> None:
    model, x = explorer.model, explorer.x
    assert len(x) == 60

    def shown(images: torch.Tensor) -> str:
        return data_uri(pixels(model, images, 256)[0])

    codes = model.encode(x)
    assert explorer.image(3) == shown(x[3:4])
    assert explorer.reconstruction(3) == shown(model.decode(codes[3:4]))
    way = explorer.ways[1]
    moved = codes[3:4].clone()
    moved[:, way.feature] += 2 * codes[:, way.feature].std(correction=0)
    assert explorer.moved(3, (0, 2.0)) == shown(model.decode(moved))
    assert explorer.between(3, 5, 0.25) == shown(model.decode(torch.lerp(codes[3:4], codes[5:6], 0.25)))
    distances = torch.cdist(codes[3:4].double(), codes.double())[0]
    assert explorer.neighbours(3, 5) == distances.argsort()[1:6].tolist()
    assert explorer.neighbours(0, 59) == distances.new_tensor(
        torch.cdist(codes[:1].double(), codes.double())[0].tolist()
    ).argsort()[1:].tolist()  # fmt: skip
    scores = torch.cat([model.score_batch(row[None], row[None], seed=0).score for row in x])
    assert explorer.strangest(4) == scores.argsort(descending=True)[:4].tolist()
    assert explorer.strangest(4, least=True) == scores.argsort()[:4].tolist()


def png(size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), 128).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_file_is_read_as_the_model_reads_images(explorer: Explorer) -> None:
    x = explorer.read(png())
    assert x.shape == (1, 1, 8, 8)
    assert explorer.moved(0, (), x) != explorer.moved(0, ())
    for content in (b"", b"no image", png()[:40]):
        with pytest.raises(InputError, match="no image that can be read"):
            explorer.read(content)


def test_what_it_refuses() -> None:
    digits = HFDataModule("digits")
    table = HFDataModule({"train": {"a": [1.0, 2.0]}, "test": {"a": [1.0, 2.0]}})
    with pytest.raises(InputError, match="shows images"):
        Explorer(Autoencoder((1,), 1), table)

    class NoDecoder(Autoencoder):
        def decode(self, z: Any, **given: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(InputError, match="NoDecoder has no decoder"):
        Explorer(NoDecoder(digits.input_shape, 2), digits, rows=20)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be had: Address already in use"):
            check_port(taken.getsockname()[1])
    with pytest.raises(InputError, match="port must be from 1"):
        check_port(70_000)


def hexadecimal(colour: str) -> str:
    """Of rgb(r, g, b)."""
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])


SERVER = """
import sys
from test_explore import model_of
from lightning_ae import HFDataModule
from lightning_ae.explore import Explorer, serve
data = HFDataModule("digits")
serve(Explorer(model_of(data), data, rows=200), int(sys.argv[1]), "VAE on digits")
"""


@pytest.mark.slow
def test_the_page_answers_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("panel", reason="needs the extra 'explore'")
    with chromium() as browser:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], cwd=Path(__file__).parent)
        try:
            for _ in range(240):
                assert server.poll() is None
                with socket.socket() as place:
                    if place.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            tab = Tab(browser)
            page = tab.page
            page.goto(f"http://127.0.0.1:{port}/", timeout=120_000)
            decoded = page.locator("img[name=decoded]")
            decoded.wait_for(timeout=120_000)
            took = []
            handle = page.locator(".noUi-handle").nth(1)
            handle.focus()
            for _ in range(8):
                before = decoded.get_attribute("src")
                began = time.perf_counter()
                page.keyboard.press("ArrowRight")
                page.wait_for_function(
                    "(before) => { const find = (root) => root.querySelector('img[name=decoded]') || [...root."
                    "querySelectorAll('*')].filter((e) => e.shadowRoot).map((e) => find(e.shadowRoot)).find((e) => e); "
                    "const image = find(document); return image && image.getAttribute('src') !== before; }",
                    arg=before,
                )
                took.append(1000 * (time.perf_counter() - began))
            print(f"slider to picture: median {sorted(took)[4]:.0f} ms of {[round(each) for each in took]}")
            file = tmp_path / "mine.png"
            file.write_bytes(png())
            before = page.locator("img[name=input]").get_attribute("src")
            page.locator("input[type=file]").set_input_files(str(file))
            page.wait_for_timeout(3000)
            assert page.locator("img[name=input]").get_attribute("src") != before
            assert page.locator("img[name=neighbour]").count() == 8
            assert page.locator("img[name=scored]").count() == 16
            assert tab.errors == []
            outside = [url for url in tab.asked if f"127.0.0.1:{port}" not in url and not url.startswith("data:")]
            assert outside == []
            behind = set()
            for scheme in ("light", "dark"):
                page = Tab(browser, scheme=scheme).page
                page.goto(f"http://127.0.0.1:{port}/", timeout=120_000)
                page.locator("img[name=decoded]").wait_for(timeout=120_000)
                back = page.evaluate("getComputedStyle(document.body).backgroundColor")
                behind.add(back)
                for text in (".bk-slider-title", "h1", "h3", "figcaption"):
                    colour = page.locator(text).first.evaluate("(one) => getComputedStyle(one).color")
                    assert contrast(*map(hexadecimal, (colour, back))) >= 7, (scheme, text, colour, back)
            assert len(behind) == 2
        finally:
            server.terminate()
            server.wait(30)
