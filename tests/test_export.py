"""Exported graphs: raw rows go in, and what comes out is what the model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import shape_of, told
from torch import Tensor

from lightning_ae import VAE, Autoencoder, InputError, get_model, list_models
from lightning_ae.architectures import MLP
from lightning_ae.cli.app import main
from lightning_ae.data.signature import Column, Signature
from lightning_ae.export import export, graphs, onnx_ops
from lightning_ae.parts import Mixed, NegativeBinomial, StudentT
from lightning_ae.preprocess import ImagePreprocess, TabularPreprocess

OFFSET = 1e9
KNOTS = tuple(float(each) for each in torch.linspace(-2, 2, 21, dtype=torch.float64).exp())


def table(knots: bool = False, **options: Any) -> VAE:
    """Of a large offset, skewed values, a column that may be missing, and a category."""
    torch.manual_seed(0)
    sizes = (0, 0, 0, 3)
    model = VAE((4,), 2, architecture=MLP((8,), categories=sizes), likelihood=Mixed(categories=sizes), **options)
    missing: Any = "masked"
    model.given = ("mask",)
    model.signature = Signature(
        TabularPreprocess((OFFSET, 0, 0, 0), (2.0, 1, 1, 1), ((), KNOTS, (), ()) if knots else None),
        (
            Column("far", "number", "double", missing=missing),
            Column("skewed", "number", "double", missing=missing),
            Column("plain", "number", "double", missing=missing),
            Column("kind", "category", "string", classes=("a", "b", "c"), missing=missing),
        ),
    )
    return model.eval()


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    x[:, 0] = OFFSET + 2 * x[:, 0]
    x[:, 1] = x[:, 1].exp()
    x[:, 3] = torch.arange(30) % 3
    x[torch.rand(x.shape, generator=generator) < 0.2] = torch.nan
    return x


def images() -> tuple[Autoencoder, list[Tensor]]:
    torch.manual_seed(0)
    model = Autoencoder((1, 8, 8), 3, architecture=MLP((16,)))
    columns = (Column("image", "image", "image", (3, 12, 10), (0, 255)),)
    model.signature = Signature(ImagePreprocess((8, 8), 1, (0.3,), (0.2,)), columns)
    sizes = [(12, 10)] * 5 + [(31, 17), (8, 8)]
    return model.eval(), [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]


def described(file: Path) -> dict[str, Any]:
    said: dict[str, Any] = {"export.json": "", "signature.json": "", "signature_hash": ""}
    torch.export.load(file, extra_files=said)
    return said


# ---- what ONNX lacks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("erf", -9, 9), ("special.ndtr", -9, 9), ("special.ndtri", 0, 1), ("lgamma", 1e-9, 1e6), ("log1p", -0.9, 9),
     ("expm1", -9, 9), ("nn.functional.logsigmoid", -99, 30)],
)  # fmt: skip
def test_functions_that_onnx_lacks(name: str, low: float, high: float) -> None:
    theirs: Any = torch
    for part in name.split("."):
        theirs = getattr(theirs, part)
    ours = getattr(onnx_ops, {"logsigmoid": "log_sigmoid"}.get(name.split(".")[-1], name.split(".")[-1]))
    x = torch.linspace(low, high, 10001, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-13, atol=1e-14)
    assert ours(x.float()).dtype == torch.float32
    assert ours(torch.tensor([torch.nan])).isnan().all()


def test_cross_entropy_has_torchs_digits() -> None:
    x, target = 30 * torch.randn(1000, dtype=torch.float64), torch.rand(1000, dtype=torch.float64)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(x, target, reduction="none")
    torch.testing.assert_close(onnx_ops.cross_entropy(x, target, reduction=0), theirs, rtol=1e-13, atol=1e-14)


# ---- graphs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knots", [False, True])
def test_a_table_with_gaps_categories_and_an_offset(knots: bool, tmp_path: Path) -> None:
    model, x, file = table(knots), rows(), tmp_path / "graph.pt2"
    export(model, file, "encode", "torch", rows=x)
    graph = torch.export.load(file).module()
    for size in (1, 2, 7):
        torch.testing.assert_close(graph(x[:size]), model.features(x[:size]), rtol=1e-5, atol=1e-5)
    near = torch.stack([rows()[0], rows()[0]])
    near[:, 0] = torch.tensor([OFFSET, OFFSET + 1], dtype=torch.float64)  # float32 would not tell them apart
    assert not torch.equal(*graph(near))
    about = json.loads(described(file)["export.json"])
    assert described(file)["signature_hash"] == model.signature.hash  # type: ignore[union-attr]
    assert about["what"] == "encode"
    assert about["inputs"][0]["columns"][3]["classes"] == ["a", "b", "c"]


def test_a_reconstruction_is_in_natural_units(tmp_path: Path) -> None:
    model, x, file = table(True), rows(), tmp_path / "graph.pt2"
    export(model, file, "decode", "torch", rows=x)
    code = model.features(x)
    found = torch.export.load(file).module()(code)
    assert found.dtype == torch.float64
    units = model.decode(code).double()
    torch.testing.assert_close(found[:, 0], OFFSET + 2 * units[:, 0], rtol=0, atol=1e-5)
    middle = (x[:, 1].nan_to_num(1) > 0) & (found[:, 1] > KNOTS[0]) & (found[:, 1] < KNOTS[-1])
    assert middle.any()


def test_a_score_is_the_models_with_a_threshold(tmp_path: Path) -> None:
    model, x, file = table(), rows(), tmp_path / "graph.pt2"
    expected = model.score(x, seed=3)
    threshold = float(expected.median())
    export(model, file, "score", "torch", rows=x, seed=3, threshold=threshold)
    score, exceeds = torch.export.load(file).module()(x)
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(exceeds, expected > threshold)
    about = json.loads(described(file)["export.json"])
    assert (about["threshold"], about["seed"], about["outputs"]) == (threshold, 3, ["score", "exceeds"])


def test_what_the_likelihood_does_not_take_has_no_score(tmp_path: Path) -> None:
    model, file = VAE((5,), 2, likelihood=NegativeBinomial()), tmp_path / "graph.pt2"
    export(model, file, "score", "torch")
    score = torch.export.load(file).module()(torch.tensor([[1.0, 2, 3, 4, 5], [1, 2, 3, 4, 0.5], [1, 2, 3, 4, -1]]))
    assert score.isnan().tolist() == [False, True, True]
    for row in ([1.0, 2, 3, 4, 0.5], [1.0, 2, 3, 4, -1]):
        with pytest.raises(InputError):
            model.score(torch.tensor([row]))


def test_images_of_any_size(tmp_path: Path) -> None:
    (model, x), file = images(), tmp_path / "graph.pt2"
    export(model, file, "encode", "torch", rows=x)
    graph = torch.export.load(file).module()
    for image in (*x, torch.randint(256, (3, 50, 9), dtype=torch.uint8)):
        torch.testing.assert_close(graph(image[None]), model.features(image[None]))
    export(model, file, "encode", "torch", rows=x, resize=False, overwrite=True)
    assert json.loads(described(file)["export.json"])["inputs"][0]["shape"] == [-1, 1, 8, 8]


def test_onnx_takes_raw_rows(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x, file = Autoencoder((2,), 1, architecture=MLP((4,))), rows()[:, :2], tmp_path / "graph.onnx"
    model.given = ("mask",)
    columns = (Column("far", "number", "double", missing="masked"), Column("skewed", "number", "double"))
    model.signature = Signature(TabularPreprocess((OFFSET, 0.0), (2.0, 1.0)), columns)
    export(model, file, rows=x)
    (code,) = onnxruntime.InferenceSession(str(file)).run(["code"], {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(code), model.features(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_onnx_runs_the_whole_of_it(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x, file = table(), rows(), tmp_path / "graph.onnx"
    expected = model.score(x)
    export(model, file, "score", rows=x, threshold=2.0)
    session = onnxruntime.InferenceSession(str(file))
    score, exceeds = session.run(["score", "exceeds"], {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(score), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.from_numpy(exceeds), expected > 2)
    said = session.get_modelmeta().custom_metadata_map
    assert said["signature_hash"] == model.signature.hash  # type: ignore[union-attr]
    assert json.loads(said["export.json"])["threshold"] == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["encode", "decode", "score"])
@pytest.mark.parametrize("name", ["images", "knots", "student", "bernoulli"])
def test_onnx_of_other_kinds(name: str, what: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from lightning_ae.parts import Bernoulli

    cases: dict[str, Any] = {
        "images": images,
        "knots": lambda: (table(True), rows()),
        "student": lambda: (VAE((4,), 2, likelihood=StudentT(degrees="learned")), None),
        "bernoulli": lambda: (VAE((4,), 2, likelihood=Bernoulli()), None),
    }
    model, x = cases[name]()
    assert export(model, tmp_path / "graph.onnx", what, rows=x).is_file()


@pytest.mark.parametrize(
    ("name", "what", "to"),
    [
        pytest.param(name, what, to, marks=[] if (name, to) in QUICK else [pytest.mark.slow])
        for QUICK in [[("vq_vae", "torch")]]
        for name in list_models()
        for what in ("encode", "decode", "score")
        for to in ("torch", "onnx")
    ],
)
def test_every_variant(name: str, what: Any, to: Any, tmp_path: Path) -> None:
    """`export` itself compares the graph with the model, in three sizes of batch."""
    if to == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    cls: Any = get_model(name)
    options: dict[str, Any] = {"bits": 4} if name == "lfq_vae" else {}
    shape = (6,) if options else shape_of(name, (6,))
    model, file = told(cls(shape, 4, **options)), tmp_path / f"graph{graphs.SUFFIX[to]}"
    refused = {"score_matching": "has no likelihood", "hamiltonian_vae": "takes gradients of the decoder"}
    if to == "onnx":  # onnxruntime has no arc tangent of float64
        refused["hyperspherical_vae"] = "the operation Atan is not there"
    if what == "score" and name in refused:
        with pytest.raises(InputError, match=refused[name]):
            export(model, file, what, to)
        assert list(tmp_path.iterdir()) == []
        return
    assert export(model, file, what, to).is_file()


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"what": "encoder"}, "unknown value of what 'encoder'"),
        ({"to": "onxx"}, "unknown value of to 'onxx'"),
        ({"to": "torch", "file": "graph.onnx"}, "ends in .pt2"),
        ({"to": "torch", "threshold": 1.0}, "threshold=1.0 is of scores"),
        ({"to": "torch", "file": "there.pt2"}, "exists already"),
    ],
)
def test_what_cannot_work(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "there.pt2").write_text("mine")
    file = tmp_path / options.pop("file", "graph.pt2")
    with pytest.raises(InputError, match=reason):
        export(Autoencoder((4,), 2), file, **options)
    assert [each.name for each in tmp_path.iterdir()] == ["there.pt2"]


def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs onnx, onnxscript, onnxruntime") as error:
        export(Autoencoder((4,), 2), tmp_path / "graph.onnx")
    assert "lightning_ae[onnx]" in error.value.hint


class Asks(Autoencoder):
    """Its code depends on a value that no graph knows."""

    def encode(self, x: Tensor, **given: Tensor) -> Any:
        code = super().encode(x, **given)
        return code if x.sum() > 0 else -code


class Counts(Autoencoder):
    """Gives something else in a graph."""

    def encode(self, x: Tensor, **given: Tensor) -> Any:
        return super().encode(x, **given) + 1e-4 * torch.compiler.is_exporting()


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Asks, "Asks.encode cannot be a graph: .*data-dependent"),
        (Counts, "differs from that of Counts.encode by 1.0e-04"),
    ],
)
def test_no_file_of_what_is_no_graph_or_another_one(cls: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason) as error:
        export(cls((4,), 2), tmp_path / "graph.pt2", to="torch")
    assert "\n" not in error.value.message
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "code.pt2"
    args = ["export", "ae_mlp.digits_v1", "--what", "encode", "--to", "torch", "--output", str(file)]
    main(args)
    assert "checked on 100 rows of the data" in capsys.readouterr().out
    x = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    assert torch.export.load(file).module()(x).shape[0] == 3
    with pytest.raises(SystemExit):
        main(args)
    assert "exists already" in capsys.readouterr().err
