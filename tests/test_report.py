"""The report: its numbers are an evaluation's, each kind of model has its page, and nothing is half written."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from report_pages import Page

from lightning_ae import VAE, VQVAE, Autoencoder, HFDataModule, InputError, TopKDictionary, get_model, load_model
from lightning_ae import evaluation as evaluations
from lightning_ae.architectures import MLP, ConvNet, SequenceNet
from lightning_ae.cli import main
from lightning_ae.colours import PALETTE
from lightning_ae.data import Counts, Sequence
from lightning_ae.evaluation.report import shown
from lightning_ae.metrics import untrained
from lightning_ae.parts import Bernoulli, Poisson
from lightning_ae.report import Report, find_run, report_of
from lightning_ae.report.charts import MOST_CLASSES
from lightning_ae.report.loggers import log
from lightning_ae.report.runs import POINTS_IN_A_CURVE, read_metrics

pytest.importorskip("vl_convert", reason="needs the extra 'report'")

EVIL = "<script>alert('a & b')</script>"
SHORT = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
LARGEST = 5 * 2**20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one short fit, which wrote its report at its end."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("report") / "run"
    main(
        ["fit", "-c", "vae", "-c", "digits", "-c", "tensorboard", "--report", "true", "--run_dir", str(folder), *SHORT]
    )
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text())


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that must be refused says."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    return capsys.readouterr().err


# ---- the page of a run ----------------------------------------------------------------------------------------------


def test_a_fit_ends_with_its_page(run: Path, page: Page) -> None:
    parts = {"about", "curves", "numbers", "reconstructions", "samples", "map", "traversals", "units", "load"}
    assert page.parts >= parts | {"configuration", "left-out"}
    assert (run / "report.html").stat().st_size < LARGEST
    facts = json.loads((run / "run.json").read_text())
    assert facts["command"].startswith("lightning-ae fit -c vae -c digits")
    assert facts["started"] <= facts["ended"]
    assert facts["epochs"] == 2
    text = page.text
    for said in ("VAE on digits", facts["command"], "1,293", "144", "360", f"torch {torch.__version__}", "seed 0"):
        assert said in text, said
    assert "load_model('" in text
    assert f"{run}/checkpoints/best.ckpt" in text
    assert "class_path: lightning_ae.callbacks.ReconstructionMetrics" in text


def test_nothing_on_it_comes_from_elsewhere(page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            value = attrs.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "http" not in (attrs.get("style") or "")
    (policy,) = [attrs["content"] for attrs in page.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")  # a browser would refuse what is left
    assert "http" not in json.dumps(page.data("charts"))


@torch.no_grad()
def test_its_numbers_are_an_evaluations(run: Path, page: Page) -> None:
    model = load_model(run / "checkpoints" / "best.ckpt")
    data = HFDataModule("digits")
    model.use_columns_of(data)
    looked = evaluations.look(model, data, rows=1000, draws=None)
    found, _ = evaluations.evaluate(model, data, rows=1000, draws=2)
    numbers = {(side, each.name): each for side, many in found.numbers.items() for each in many}
    told = {(a["data-side"], a["data-name"]): cells[1] for a, cells in page.rows if "data-side" in a}
    assert len(told) > 10
    for key, text in told.items():
        assert text == shown(numbers[key]), key  # type: ignore[index]
    assert {key for key in numbers if key[0] != "samples"} - told.keys() == {
        ("likelihood", "log_evidence"), ("likelihood", "bits_per_dimension")
    } & numbers.keys()  # fmt: skip
    # beside the baselines, each computed again in another way
    train, test = (looked.samples.inputs[split].flatten(1).double() for split in ("train", "test"))
    from sklearn.decomposition import PCA

    pca = PCA(8, svd_solver="full").fit(train.numpy())
    rest = test.numpy() - pca.inverse_transform(pca.transform(test.numpy()))
    fresh = untrained(model, 0).eval()
    x = looked.samples.inputs["test"]
    expected = {
        "model": float((model(x) - x).flatten(1).double().square().sum(1).mean()),
        "mean": float((test - train.mean(0)).square().sum(1).mean()),
        "PCA": float((rest**2).sum(1).mean()),
        "raw": None,
        "untrained": float((fresh(x) - x).flatten(1).double().square().sum(1).mean()),
    }
    assert model.latent_dim == 8
    (cells,) = [cells for attrs, cells in page.rows if attrs.get("data-number") == "squared_error"]
    assert cells[0] == "squared error (8 components)"
    for text, (name, value) in zip(cells[1:], expected.items(), strict=True):
        assert (text == "") if value is None else float(text) == pytest.approx(value, rel=1e-3), name
    for name in ("probe_error", "knn_error"):
        (cells,) = [cells for attrs, cells in page.rows if attrs.get("data-number") == name]
        assert cells[1] == f"{numbers['classes', name].value:.4g}"
        assert cells[3] == f"{numbers['classes', f'pca_{name}'].value:.4g}"
        assert cells[4] == f"{numbers['classes', f'raw_{name}'].value:.4g}"
    # the best and the worst rows
    errors = (model(x) - x).flatten(1).double().square().sum(1).sort().values
    captions = [float(word) for word in re.findall(r"(?<= )\d+\.?\d*(?= \d )", _between(page.text, "best", "Samples"))]
    assert captions[:8] == pytest.approx(errors[:8].tolist(), rel=1e-3)
    assert captions[8:16] == pytest.approx(errors.flip(0)[:8].tolist(), rel=1e-3)
    active = int((model.encode(x[:500]).double().var(0, correction=0) > 0.01).sum())
    assert f"{active} of 8" in page.text


def _between(text: str, first: str, last: str) -> str:
    start = text.rindex("mean is ")
    return text[text.index(first, start) : text.index(last, start)]


def test_its_curves_are_the_logs(run: Path, page: Page) -> None:
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in rows[0]}
    drawn = [chart for name, chart in page.data("charts").items() if name.startswith("curve-")]
    titles = list(read_metrics(run / "metrics.csv"))
    assert titles[0] == "loss"
    columns = {"train/{}": PALETTE[0], "train/{}_epoch": PALETTE[0], "val/{}": PALETTE[1]}
    seen = set()
    for term, chart in zip(titles, drawn, strict=True):
        curves = [layer for layer in chart["layer"] if layer["mark"]["type"] == "line"]
        points = [[(each["step"], each["value"]) for each in layer["data"]["values"]] for layer in curves]
        for column, colour in columns.items():
            name = column.format(term)
            if name in logged:
                seen.add(name)
                place = points.index(logged[name])
                assert curves[place]["mark"]["color"] == colour
        (rule,) = [layer for layer in chart["layer"] if layer["mark"]["type"] == "rule"]
        assert rule["data"]["values"] == [{"step": 42}]
    assert seen == logged.keys() - {"epoch", "step"}


def test_every_chart_is_vega_lite(page: Page) -> None:
    import vl_convert

    charts = page.data("charts")
    whole = {"vconcat": [chart | {"width": 300} for chart in charts.values()]}  # one question takes seconds
    whole["vconcat"] = [{k: v for k, v in chart.items() if k != "params"} for chart in whole["vconcat"]]
    whole["params"] = charts["map"]["params"]
    compiled = vl_convert.vegalite_to_vega(whole)
    assert len([mark for mark in compiled["marks"] if mark["type"] == "group"]) == len(charts)


def test_its_log_has_it(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run / "tensorboard"))
    log.Reload()
    (text,) = log.Tensors("report/text_summary")
    assert b"VAE on digits" in text.tensor_proto.string_val[0]
    assert b"squared_error" in text.tensor_proto.string_val[0]


def test_weights_and_biases_has_the_page_itself(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    logger = pl.loggers.WandbLogger(save_dir=tmp_path, offline=True, settings=wandb.Settings(silent=True))
    shown = report_of(VAE((1, 8, 8), 2))
    text = shown.html  # which says the minute
    monkeypatch.setattr(Report, "html", text)
    try:
        log(shown, tmp_path / "report.html", [logger, pl.loggers.CSVLogger(tmp_path)], 42)
        assert dict(logger.experiment.summary)["trainer/global_step"] == 42
    finally:
        wandb.finish()
    (file,) = tmp_path.rglob("media/html/*.html")
    assert file.read_text() == text
    assert Page(text).parts


TOLD = """
import lightning_ae.cli.report as report
from pathlib import Path
from pytorch_lightning import Callback

class Told(Callback):
    \"\"\"Notes which rank makes the page.\"\"\"

    def on_fit_start(self, trainer, pl_module):
        made, rank = report.at_the_end, trainer.global_rank

        def at_the_end(*args):
            with open(f"told-{trainer.world_size}", "a") as file:
                file.write(f"{rank}")
            return made(*args)

        report.at_the_end = at_the_end
"""


@pytest.mark.slow
def test_ranks_end_with_the_page_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TOLD)
    pages = []
    for ranks in (1, 2):
        words = ["fit", "-c", "vae", "-c", "digits", "--report", "true", "--run_dir", f"run-{ranks}", *SHORT]
        words += ["--trainer.callbacks+=told.Told", "--trainer.devices", str(ranks)]
        words += ["--trainer.strategy", "ddp"] if ranks > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "lightning_ae.cli", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"told-{ranks}").read_text() == "0"
        pages.append(Page((tmp_path / f"run-{ranks}" / "report.html").read_text()))
    one, two = pages
    assert len(list(tmp_path.rglob("*.html"))) == 2
    assert one.parts == two.parts
    assert _cells(two) == _nearly(_cells(one))
    assert two.data("charts") == _nearly(one.data("charts"))


def _cells(page: Page) -> list[list[Any]]:
    """Of its tables, numbers as such."""
    number = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")
    return [[float(cell) if number.fullmatch(cell) else cell for cell in cells] for _, cells in page.rows]


def _nearly(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _nearly(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_nearly(value) for value in plain]
    return pytest.approx(plain, rel=0.03, abs=0.01) if isinstance(plain, float) else plain


def test_long_curves_and_values_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    lines = [f"0,{i},{math.sin(i)},{'nan' if i == 5 else 1.0}," for i in range(1001)]
    file.write_text("\n".join(["epoch,step,train/loss,own,val/x_epoch", *lines, "1,1001,,,3.5"]) + "\n")
    terms = read_metrics(file)
    assert list(terms) == ["loss", "own", "x_epoch"]
    (loss,) = terms["loss"]
    assert loss.logged == 1001
    assert len(loss.points) <= POINTS_IN_A_CURVE + 1
    assert loss.points[0] == (0, 0.0)
    assert loss.points[-1] == (1000, pytest.approx(math.sin(1000)))
    assert all(value == math.sin(step) for step, value in loss.points)
    assert terms["own"][0].broken == 1
    assert terms["x_epoch"][0].points == [(1001, 3.5)]
    assert terms["x_epoch"][0].name == "validation"  # a callback's own name, not the mean of an epoch


# ---- a page for each kind -------------------------------------------------------------------------------------------


def images(n: int = 60, size: tuple[int, int] = (8, 8), channels: int = 1, names: list[str] | None = None) -> Any:
    """A data module of images that are drawn, with classes of these names or none."""
    draw = np.random.default_rng(0)
    shape = (n, *size) if channels == 1 else (n, *size, channels)
    columns: dict[str, Any] = {"image": [PILImage.fromarray(each) for each in draw.integers(0, 255, shape, np.uint8)]}
    features: dict[str, Any] = {"image": Image()}
    if names is not None:
        columns["label"] = [i % len(names) for i in range(n)]
        features["label"] = ClassLabel(names=names)
    rows = Dataset.from_dict(columns, features=Features(features))
    half = DatasetDict(train=rows.select(range(n // 2)), test=rows.select(range(n // 2, n)))
    return HFDataModule(half, cache="memory", val_fraction=0.0)


def table(n: int = 80, **options: Any) -> Any:
    draw = np.random.default_rng(0)
    a = draw.normal(size=n)
    columns = {"a": a, "b": 2 * a + draw.normal(size=n), EVIL: draw.normal(size=n), "y": [EVIL, "other"] * (n // 2)}
    return HFDataModule({"train": {k: v[: n // 2] for k, v in columns.items()},
                         "test": {k: v[n // 2 :] for k, v in columns.items()}}, label="y", **options)  # fmt: skip


def counts() -> Any:
    draw = np.random.default_rng(0)
    x = draw.poisson(3.0, (60, 30))
    return HFDataModule({"train": {"x": x[:30]}, "test": {"x": x[30:]}}, kind=Counts())


def sequences() -> Any:
    draw = np.random.default_rng(0)
    x = np.cumsum(draw.normal(size=(40, 2, 16)), axis=2).astype("float32")
    rows = {"train": Dataset.from_dict({"s": x[:20].tolist()}), "test": Dataset.from_dict({"s": x[20:].tolist()})}
    return HFDataModule(DatasetDict(rows), kind=Sequence(("s",), layout="NCL"), val_fraction=0.0)


PICTURES = {"about", "numbers", "reconstructions", "units", "load", "configuration"}
KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], set[str], dict[str, str]]] = {
    "images without labels": (
        lambda: images(), lambda data: VAE(data.input_shape, 4, architecture=MLP((8,))),
        PICTURES | {"map", "samples", "traversals"}, {"how well classes are told apart": "no label"},
    ),
    "a model that does not generate": (
        lambda: images(names=["a", "b"]), lambda data: Autoencoder(data.input_shape, 4, architecture=MLP((8,))),
        PICTURES | {"map", "traversals"}, {"samples": "no distribution over codes"},
    ),
    "codes of one feature": (
        lambda: images(names=["a", "b"]), lambda data: Autoencoder(data.input_shape, 1, architecture=MLP((8,))),
        PICTURES | {"traversals"}, {"map of codes": "one feature"},
    ),
    "colours": (
        lambda: images(size=(70, 40), channels=3, names=["a", "b"]),
        lambda data: VAE(data.input_shape, 3, architecture=MLP((8,))), PICTURES | {"map", "samples", "traversals"}, {},
    ),
    "images of any size": (
        lambda: images(size=(16, 24), channels=3),
        lambda data: VAE((3, None, None), 3, architecture=ConvNet((4, 6), code="map")),
        PICTURES | {"map"} , {"samples": "of one size", "traversals": "of one size"},
    ),
    "a table": (
        lambda: table(), lambda data: VAE(data.input_shape, 2, architecture=MLP((8,))),
        PICTURES | {"map"}, {"samples": "no images", "traversals": "no images"},
    ),
    "counts": (
        lambda: counts(), lambda data: VAE(data.input_shape, 2, architecture=MLP((8,)), likelihood=Poisson()),
        PICTURES | {"map"}, {"samples": "no images", "traversals": "no images"},
    ),
    "sequences": (
        lambda: sequences(), lambda data: Autoencoder(data.input_shape, 3, architecture=SequenceNet((4,))),
        PICTURES | {"map"}, {"samples": "no distribution", "traversals": "no images"},
    ),
    "discrete codes": (
        lambda: images(), lambda data: VQVAE(data.input_shape, 4, architecture=MLP((8,), tokens=4)),
        PICTURES | {"map"}, {"traversals": "finite number"},
    ),
    "sparse codes": (
        lambda: images(), lambda data: TopKDictionary(data.input_shape, 32, k=3), PICTURES | {"map", "traversals"}, {},
    ),
    "levels": (
        lambda: images(), lambda data: get_model("ladder_vae")(data.input_shape), PICTURES | {"map", "samples"}, {},
    ),
    "a model that is given labels": (
        lambda: images(names=["a", "b"]), lambda data: get_model("conditional_vae")(data.input_shape, num_classes=2),
        PICTURES | {"map"}, {},
    ),
    "no likelihood": (
        lambda: images(), lambda data: get_model("score_matching")(data.input_shape),
        PICTURES | {"map"}, {"likelihood": ""},
    ),
    "many classes": (
        lambda: images(names=[f"class {i}" for i in range(MOST_CLASSES + 5)]),
        lambda data: VAE(data.input_shape, 4, architecture=MLP((8,))), PICTURES | {"map"}, {},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[Report, Page]]:
    return {}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_page(kind: str, pages: dict[str, tuple[Report, Page]]) -> None:
    make_data, make_model, parts, why = KINDS[kind]
    torch.manual_seed(0)
    data = make_data()
    model = make_model(data)
    if hasattr(model, "seen"):
        model.seen.fill_(1)
    model.use_columns_of(data)
    if model.signature is None:
        model.signature = data.signature
    report = report_of(model, data, rows=40, title=f"{kind} {EVIL}")
    text = report.html
    assert len(text) < LARGEST
    found = Page(text)
    pages[kind] = report, found
    assert found.parts >= parts
    for name, reason in why.items():
        assert reason in report.left_out[name], report.left_out
        assert found.text.count(report.left_out[name]) == 1
        assert not {"samples", "traversals"} & {name} & found.parts
    assert "curves" not in found.parts
    assert EVIL in found.text  # read as words
    assert not any(tag == "script" and attrs.get("id") is None for tag, attrs in found.tags[:-3])
    assert "<script>alert" not in text
    drawn = {attrs["id"] for attrs in found.of("div", "chart")}
    assert drawn == {f"chart-{name}" for name in found.data("charts")}


def test_what_pages_of_kinds_say(pages: dict[str, tuple[Report, Page]]) -> None:
    if len(pages) < len(KINDS):
        pytest.skip("needs the pages of all kinds")
    report, page = pages["a table"]
    assert EVIL in [each["name"] for each in page.data("charts")["columns"]["data"]["values"]]
    assert [attrs["data-k"] for attrs in page.of("button") if "data-k" in attrs] == ["0", "1"]
    assert set(page.data("about")["captions"]) == {EVIL, "other"}
    assert page.data("about")["thumbnails"] is None
    assert report.contents.worst[0].error >= report.contents.worst[1].error >= report.contents.best[0].error
    _, page = pages["many classes"]
    assert "25 classes are too many for a legend" in page.text
    assert not [attrs for attrs in page.of("button") if "data-k" in attrs]
    _, page = pages["sequences"]
    assert len(page.data("charts")["pair-0" if "pair-0" in page.data("charts") else next(
        name for name in page.data("charts") if name.startswith("pair-"))]["layer"]) == 4  # fmt: skip
    report, _ = pages["images without labels"]
    (slider, *others) = report.contents.sliders
    assert slider.steps[slider.start] == "as it is"
    assert slider.steps[-1].endswith("+3.0 std")
    assert (slider.sprite.count, slider.sprite.columns) == (15, 15)
    report, _ = pages["colours"]
    assert (slider.sprite.width, report.contents.thumbnails.width) == (8, 18)  # type: ignore[union-attr]
    assert report.contents.best[0].images[0].startswith("data:image/png")  # type: ignore[index]


def test_pictures_are_what_the_model_makes() -> None:
    import base64
    import io

    torch.manual_seed(0)
    data = images(20)
    model = VAE(data.input_shape, 3, architecture=MLP((8,)), likelihood=Bernoulli()).eval()
    model.use_columns_of(data)
    report = report_of(model, data, rows=20)

    def read(uri: str) -> torch.Tensor:
        picture = PILImage.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        return torch.from_numpy(np.asarray(picture).copy())

    samples = evaluations.Samples.read(model, data, ("train", "test"), 20)
    x = samples.inputs["test"]
    best = report.contents.best[0]
    assert best.images is not None
    row = x[best.row : best.row + 1]
    with torch.no_grad():
        assert torch.equal(read(best.images[0]), (255 * row[0, 0]).round().to(torch.uint8))
        assert torch.equal(read(best.images[1]), (255 * model(row)[0, 0]).round().to(torch.uint8))
        # a slider's images, by hand: one value of the first row's code moves, in its standard deviations
        codes = model.encode(x)
        slider = report.contents.sliders[0]
        unit = int(slider.name.removeprefix("z"))
        moved = codes[:1].repeat(15, 1)
        moved[:, unit] += torch.linspace(-3, 3, 15) * codes[:, unit].std(correction=0)
        frames = (255 * model.decode(moved)[:, 0]).round().to(torch.uint8)
    strip = read(slider.sprite.uri).unflatten(1, (15, 8)).transpose(0, 1)
    assert int((strip.int() - frames.int()).abs().max()) <= 1
    assert report.contents.thumbnails is not None
    tiles = read(report.contents.thumbnails.uri)
    n = report.contents.thumbnails.columns
    assert torch.equal(tiles[8:16, :8], (255 * x[n, 0]).round().to(torch.uint8))  # the first of the second row


def test_without_data_the_page_says_what_there_is(run: Path) -> None:
    model = load_model(run / "checkpoints" / "best.ckpt")
    report = report_of(model, run=find_run(run))
    page = Page(report.html)
    assert {"about", "curves", "samples", "load"} <= page.parts
    assert not {"numbers", "map", "reconstructions"} & page.parts
    assert report.left_out["what is made of data"] == "no data are at hand"
    assert "srcdoc" in report._repr_html_()


def test_a_model_whose_decoder_is_none() -> None:
    class NoDecoder(Autoencoder):
        def decode(self, z: Any, **given: Any) -> Any:
            raise NotImplementedError

    data = images()
    model = NoDecoder(data.input_shape, 4, architecture=MLP((8,)))
    model.use_columns_of(data)
    report = report_of(model, data, rows=20)
    assert {"reconstructions", "traversals"} <= report.left_out.keys()
    assert Page(report.html).parts >= {"map", "units", "numbers"}


# ---- the command, and what it refuses -------------------------------------------------------------------------------


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.html").read_bytes()
    assert "report.html exists already" in fails(capsys, "report", str(run))
    assert (run / "report.html").read_bytes() == before
    file = tmp_path / "new" / "page.html"
    main(["report", str(run / "checkpoints" / "last.ckpt"), "--output", str(file), "--rows", "50", "--full"])
    page = Page(file.read_text())
    assert "log evidence" in page.text
    assert "precision held out" in page.text
    assert "curves" in page.parts
    assert [each.name for each in file.parent.iterdir()] == ["page.html"]
    main(["report", str(run), "--output", str(file), "--rows", "50", "--overwrite"])
    assert "log evidence" not in Page(file.read_text()).text


def test_what_the_command_refuses(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    shutil.copy(run / "config.yaml", stopped)
    said = fails(capsys, "report", str(stopped))
    assert "has no checkpoint: it was stopped before the end of its first epoch" in said
    assert f"lightning-ae fit -c {stopped}/config.yaml" in said
    assert [each.name for each in stopped.iterdir()] == ["config.yaml"]
    assert "no checkpoint at" in fails(capsys, "report", str(tmp_path / "nothing.ckpt"))
    assert "rows must be a positive integer" in fails(capsys, "report", str(run), "--rows", "0")
    blocked = tmp_path / "file"
    blocked.touch()
    said = fails(capsys, "report", str(run), "--output", str(blocked / "page.html"))
    assert "cannot be written: its folder is a file" in said
    monkeypatch.setattr("lightning_ae.report.page.EXTRA", ("jinja2", "vl_convert_that_is_not_here"))
    assert "pip install 'lightning_ae[report]'" in fails(capsys, "report", str(run), "--overwrite")


def test_a_report_that_fails_leaves_the_run_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["fit", "-c", "vae", "-c", "digits", "--report", "true", "--trainer.max_steps", "2",
             "--trainer.limit_val_batches", "1", *SHORT[2:]]  # fmt: skip

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr("lightning_ae.report.page.look", broken)
    with pytest.warns(UserWarning, match="no report is written: RuntimeError: no more. The run is complete"):
        main([*words, "--run_dir", str(tmp_path / "a")])
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "a" / "report.html").exists()
    monkeypatch.setattr("lightning_ae.report.page.EXTRA", ("vl_convert_that_is_not_here",))
    main([*words, "--run_dir", str(tmp_path / "b")])
    assert caplog.text.count("no report is written: a report needs vl_convert_that_is_not_here") == 1
    assert not (tmp_path / "b" / "report.html").exists()
    caplog.clear()
    main([*words, "--run_dir", str(tmp_path / "c"), "--report", "false"])
    assert "no report" not in caplog.text


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(VAE((1, 8, 8), 2, architecture=MLP((4,))))
    file = tmp_path / "page.html"
    report.write(file)
    before = file.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        report.write(file)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        report.write(file, overwrite=True)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


# ---- codes in the plane, for a viewer -------------------------------------------------------------------------------


def test_features_in_the_plane(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datasets import load_dataset
    from sklearn.decomposition import PCA

    checkpoint = str(run / "checkpoints" / "best.ckpt")
    words = ["features", checkpoint, "--splits", "val,test", "--plane", "--output", str(tmp_path / "out")]
    main(words)
    rows = {
        split: load_dataset("parquet", data_files=str(tmp_path / "out" / f"{split}.parquet"), split="train",
                            cache_dir=str(tmp_path / "cache")) for split in ("val", "test")
    }  # fmt: skip
    codes = np.concatenate([np.asarray(each["code"]) for each in rows.values()])
    plane = np.concatenate([np.stack([each["x"], each["y"]], axis=1) for each in rows.values()])
    expected = PCA(2, svd_solver="full").fit_transform(codes)
    assert np.abs(plane) == pytest.approx(np.abs(expected), abs=1e-3)  # the sign of a component is free
    data = HFDataModule("digits")
    first = data.natural_rows("test", torch.arange(3))
    for i in range(3):
        shown = np.asarray(rows["test"][i]["thumbnail"])
        assert np.array_equal(shown, first[i, 0].numpy())
    assert "plane is of all codes together" in fails(capsys, *words[:-1], str(tmp_path / "b"), "--shard_rows", "50")
