"""The report in a real browser: it draws itself from a file alone, and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Tab, chromium

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.parts import Bernoulli
from lightning_ae.report import Run, report_of
from lightning_ae.report.runs import Series

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vl_convert", reason="needs the extra 'report'")
    torch.manual_seed(0)
    data = HFDataModule("digits")
    model = VAE(data.input_shape, 4, architecture=MLP((32,)), likelihood=Bernoulli())
    model.use_columns_of(data)
    curves = {
        name: [Series("train", [(i, 1 / (i + 1)) for i in range(50)], 50)] for name in ("loss", "kl", "odd/<name>")
    }
    report = report_of(model, data, run=Run("a.ckpt", terms=curves), title="VAE <b>on</b> digits", rows=200)
    return report.write(tmp_path_factory.mktemp("page") / "page with a space.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (375, "light")])
def test_it_draws_itself_from_a_file(browser: Any, file: Path, width: int, scheme: str) -> None:
    tab = Tab(browser, width, scheme).open(file)
    page = tab.page
    assert tab.errors == []
    assert [url for url in tab.asked if not url.startswith(("file:", "data:"))] == []
    charts = page.locator(".chart")
    assert charts.count() == 5  # three terms, the map, the units
    assert page.locator(".chart svg").count() == charts.count()
    assert page.locator("#chart-map svg path[aria-roledescription=point]").count() == 200
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate("[...document.querySelectorAll('.chart svg')].map((e) => e.getBoundingClientRect().width)")
    assert all(100 < each <= width for each in boxes)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 18, 22)"}[scheme]
    assert page.inner_text("h1") == "VAE <b>on</b> digits"


def test_it_answers(browser: Any, file: Path) -> None:
    tab = Tab(browser).open(file)
    page = tab.page
    # a slider
    view, slider = page.locator(".slider .view").first, page.locator(".slider input").first
    view.scroll_into_view_if_needed()
    before, said = view.screenshot(), page.locator(".slider output").first.inner_text()
    assert said == "as it is"
    slider.focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    assert page.locator(".slider output").first.inner_text().endswith("+3.0 std")
    assert view.screenshot() != before
    # a point of the map shows its thumbnail and its class
    point = page.locator("#chart-map svg path[aria-roledescription=point]").nth(20)
    point.scroll_into_view_if_needed()
    # the page hides its tip where it scrolls, which it is told with the next frame
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    point.hover(force=True)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "row" in tip.inner_text()
    assert page.locator("#tip .thumb").bounding_box()["width"] == 84
    # a class stands out
    points = "[...document.querySelectorAll('#chart-map path[aria-roledescription=point]')]"
    page.locator(".classes button").nth(3).click()
    page.wait_for_timeout(300)
    opacities = page.evaluate(f"{points}.map((e) => e.getAttribute('opacity'))")
    data = "JSON.parse(document.getElementById('data-charts').textContent).map.data.values"
    labels = page.evaluate(f"{data}.map((v) => v.k)")
    assert [float(each) > 0.5 for each in opacities] == [k == 3 for k in labels]
    # the other scheme
    page.click("#theme")
    page.wait_for_timeout(500)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 22)"
    assert page.locator(".chart svg").count() == 5
    assert tab.errors == []
