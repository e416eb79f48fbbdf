"""Metrics against numpy, scikit-learn and scikit-image: in one pass, over two processes, in every precision."""

from __future__ import annotations

import doctest
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from sklearn.metrics import explained_variance_score, r2_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection

from lightning_ae import metrics
from lightning_ae.errors import InputError
from lightning_ae.metrics import (
    ActiveUnits,
    EffectiveRank,
    ExplainedVariance,
    PSNRPerImage,
    RSquared,
    Sparsity,
    SquaredErrorPerSample,
)
from lightning_ae.training import processes

SHAPE = (3, 4, 5)
SIZE = 60
UNITS = 6


def squared_error(reconstruction: np.ndarray, target: np.ndarray) -> float:
    return float(((reconstruction - target) ** 2).sum() / len(target))


def of_sklearn(score: Callable[..., float]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda r, x: score(
        x.reshape(len(x), -1), r.reshape(len(r), -1), multioutput="variance_weighted", force_finite=False
    )


def psnr(reconstruction: np.ndarray, target: np.ndarray) -> float:
    from skimage.metrics import peak_signal_noise_ratio

    pairs = zip(target, reconstruction, strict=True)
    return float(np.mean([peak_signal_noise_ratio(*pair, data_range=2.0) for pair in pairs]))


def sparsity(codes: np.ndarray) -> dict[str, float]:
    active = np.abs(codes) > 0.5
    return {"l0": active.sum(1).mean(), "mean_activation": codes.mean(), "dead_units": (~active.any(0)).sum()}


def effective_rank(codes: np.ndarray) -> float:
    sizes = np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False)
    p = sizes[sizes > 1e-10] / sizes.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


@dataclass
class Case:
    make: Callable[[], Metric]
    reference: Callable[..., Any]
    takes_pairs: bool

    def inputs(self, n: int = 700) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        if not self.takes_pairs:
            spread = torch.tensor([0.0, 0.05, 0.09, 0.11, 0.5, 1.0])  # the threshold is a variance of 0.01
            return (spread * torch.randn(n, UNITS, generator=generator) + 0.2,)
        target = 3 + torch.randn(n, *SHAPE, generator=generator)
        size = torch.rand(n, 1, 1, 1, generator=generator)  # some images are off by far more than others
        return 0.3 + target + size * torch.randn(n, *SHAPE, generator=generator), target

    def expected(self, *inputs: Tensor) -> dict[str, float]:
        return as_floats(self.reference(*(part.double().numpy() for part in inputs)))


CASES = {
    "squared error": Case(SquaredErrorPerSample, squared_error, True),
    "r squared": Case(lambda: RSquared(SIZE), of_sklearn(r2_score), True),
    "explained variance": Case(lambda: ExplainedVariance(SIZE), of_sklearn(explained_variance_score), True),
    "psnr": Case(lambda: PSNRPerImage(data_range=2.0), psnr, True),
    "active units": Case(lambda: ActiveUnits(UNITS), lambda codes: (codes.var(axis=0) > 0.01).sum(), False),
    "effective rank": Case(lambda: EffectiveRank(UNITS), effective_rank, False),
    "sparsity": Case(lambda: Sparsity(UNITS, threshold=0.5), sparsity, False),
}
every_metric = pytest.mark.parametrize("name", CASES)


def as_floats(value: Any) -> dict[str, float]:
    return {k: float(v) for k, v in (value if isinstance(value, dict) else {"": value}).items()}


def close(value: Any, expected: dict[str, float]) -> bool:
    return as_floats(value) == pytest.approx(expected, rel=1e-5)


def batches(inputs: tuple[Tensor, ...], size: int = 150) -> list[tuple[Tensor, ...]]:
    return list(zip(*(part.split(size) for part in inputs), strict=True))


# ---- values -------------------------------------------------------------------------------------------------------


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_reference_in_one_pass_and_in_parts(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs = tuple(part.to(dtype) for part in case.inputs())
    expected = case.expected(*inputs)
    metric = case.make()
    for batch in batches(inputs):
        assert close(metric(*batch), case.expected(*batch))  # forward: the batch's own value
    assert close(metric.compute(), expected)
    assert close(pickle.loads(pickle.dumps(metric)).compute(), expected)
    metric.reset()
    metric.update(*inputs)
    assert close(metric.compute(), expected)


def in_a_process(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    values = {}
    for name, case in CASES.items():
        metric = case.make()
        for batch in batches(case.inputs())[rank::world]:  # 5 batches, the last one smaller
            metric.update(*batch)
        values[name] = as_floats(metric.compute())
    torch.save(values, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_value_of_one(tmp_path: Path) -> None:
    processes.run(in_a_process, (2, str(tmp_path)), 2)
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt")
        for name, case in CASES.items():
            assert close(values[name], case.expected(*case.inputs())), name


def test_active_units_with_a_large_mean() -> None:
    (codes,) = CASES["active units"].inputs(5000)
    codes += 300
    metric = ActiveUnits(UNITS)
    for part in codes.split(777):
        metric.update(part)
    assert float(metric.compute()) == (codes.numpy().astype(np.float64).var(axis=0) > 0.01).sum() == 3


def test_half_precision_overflows_nowhere() -> None:
    reconstruction, target = torch.full((2, 1, 20, 20), 300.0).half(), torch.zeros(2, 1, 20, 20).half()
    assert float(SquaredErrorPerSample()(reconstruction, target)) == 400 * 300**2  # 300^2 is infinite in float16
    assert float(PSNRPerImage(data_range=300.0)(reconstruction, target)) == 0


def test_an_exact_image_does_not_hide_the_others() -> None:
    target = torch.rand(2, 1, 8, 8)
    reconstruction = target + torch.tensor([0.0, 0.1]).reshape(2, 1, 1, 1)
    assert float(PSNRPerImage()(reconstruction, target)) == pytest.approx((100 + 20) / 2, rel=1e-5)
    assert float(PSNRPerImage(ceiling=60)(reconstruction, target)) == pytest.approx((60 + 20) / 2, rel=1e-5)
    assert float(PSNRPerImage()(target, target)) == pytest.approx(100)
    reconstruction.requires_grad_()
    PSNRPerImage()(reconstruction, target).backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.isfinite().all()


@pytest.mark.parametrize("name", ["r squared", "explained variance"])
def test_data_that_do_not_vary(name: str) -> None:
    case = CASES[name]
    target = torch.full((100, *SHAPE), 0.1)
    wrong = target + torch.randn(100, *SHAPE)
    for reconstruction in (target, wrong):
        with np.errstate(all="ignore"):
            expected = case.expected(reconstruction, target)[""]
        metric = case.make()
        for batch in batches((reconstruction, target), 7):
            metric.update(*batch)
        assert float(metric.compute()) == pytest.approx(expected, nan_ok=True)


def test_only_explained_variance_forgives_an_offset() -> None:
    target = torch.randn(100, *SHAPE)
    assert float(ExplainedVariance(SIZE)(target + 3, target)) == pytest.approx(1)
    assert float(RSquared(SIZE)(target + 3, target)) < -5
    mean = target.mean(dim=0).expand_as(target)
    assert float(RSquared(SIZE)(mean, target)) == pytest.approx(0, abs=1e-6)


@every_metric
def test_before_the_first_sample_the_value_is_unknown(name: str) -> None:
    with pytest.warns(UserWarning, match="before the ``update``"):
        values = as_floats(CASES[name].make().compute())
    assert all(np.isnan(value) for value in values.values())


def test_together_in_a_collection() -> None:
    chosen = {name.replace(" ", "_"): case for name, case in CASES.items() if case.takes_pairs}
    inputs = CASES["psnr"].inputs()
    together = MetricCollection({name: case.make() for name, case in chosen.items()})
    for batch in batches(inputs):
        together.update(*batch)
    values = together.compute()
    assert all(close(values[name], case.expected(*inputs)) for name, case in chosen.items())


# ---- types --------------------------------------------------------------------------------------------------------


class Module(nn.Module):
    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.layer, self.metric = nn.Linear(2, 2), metric


CONVERSIONS: dict[str, Callable[[Module], Any]] = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "to(float16)": lambda module: module.to(torch.float16),
    "to(bfloat16)": lambda module: module.to(torch.bfloat16),
    "to(float32)": lambda module: module.to(torch.float32),
    "double": lambda module: module.double(),
    "type": lambda module: module.type(torch.float16),
    "metric.to": lambda module: module.metric.to(torch.float16),
    "set_dtype": lambda module: module.metric.set_dtype(torch.float16),
    "set_dtype(str)": lambda module: module.metric.set_dtype("torch.HalfTensor"),
}


@every_metric
@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_module_in_another_type_leaves_the_sums(name: str, convert: Callable[[Module], Any]) -> None:
    case = CASES[name]
    inputs = case.inputs(5000)
    module = Module(case.make())
    convert(module)
    half = len(inputs[0]) // 2
    module.metric.update(*(part[:half] for part in inputs))
    convert(module)
    module.metric.update(*(part[half:] for part in inputs))
    assert close(module.metric.compute(), case.expected(*inputs))
    module.metric.reset()
    assert {state.dtype for state in module.metric.metric_state.values()} <= {torch.float64, torch.int64}
    module.metric.update(*inputs)
    assert close(module.metric.compute(), case.expected(*inputs))


@every_metric
def test_devices_are_followed(name: str) -> None:
    metric = Module(CASES[name].make()).to("meta").metric
    assert {state.device.type for state in metric.metric_state.values()} == {"meta"}
    assert metric.device.type == "meta"


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_trainer_in_another_precision_logs_the_same(precision: Any, tmp_path: Path) -> None:
    class Measured(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(UNITS, UNITS)
            self.active, self.error = ActiveUnits(UNITS, threshold=0.3), SquaredErrorPerSample()
            self.seen: list[tuple[Tensor, Tensor]] = []

        def validation_step(self, batch: Tensor) -> None:
            output = self.layer(batch)
            self.seen.append((output, batch))
            self.active(output)
            self.error(output, batch)
            self.log_dict({"active": self.active, "error": self.error}, on_epoch=True)

    torch.manual_seed(0)
    module = Measured()
    trainer = pl.Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    (logged,) = trainer.validate(module, DataLoader(5 * torch.randn(4000, UNITS), batch_size=100), verbose=False)
    output, target = (torch.cat(parts).double().numpy() for parts in zip(*module.seen, strict=True))
    assert logged["active"] == (output.var(axis=0) > 0.3).sum()
    assert logged["error"] == pytest.approx(squared_error(output, target), rel=1e-6)


@every_metric
def test_gradients_flow_where_it_says_so(name: str) -> None:
    case = CASES[name]
    first, *rest = case.inputs(20)
    metric = case.make()
    value = metric(first.requires_grad_(), *rest)
    value = value["l0"] if isinstance(value, dict) else value
    assert value.requires_grad == metric.is_differentiable
    if value.requires_grad:
        value.backward()
        assert first.grad is not None
        assert first.grad.abs().sum() > 0
    metric.update(first, *rest)
    assert not any(state.requires_grad for state in metric.metric_state.values())


# ---- what is refused ----------------------------------------------------------------------------------------------

PAIRS = [name for name, case in CASES.items() if case.takes_pairs]
CODES = [name for name, case in CASES.items() if not case.takes_pairs]


def refused(name: str, *inputs: Tensor, match: str) -> None:
    metric = CASES[name].make()
    metric.update(*CASES[name].inputs(10))
    before = as_floats(metric.compute())
    with pytest.raises(InputError, match=match):
        metric.update(*inputs)
    assert as_floats(metric.compute()) == before  # nothing of it was added


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(3, 1), (3, 16), (1, 3, 16), (2, 1), ()])
def test_shapes_that_differ_are_refused(name: str, shape: tuple[int, ...]) -> None:
    other = (3, 16) if shape != (3, 16) else (3, 1)
    refused(name, torch.rand(shape), torch.rand(other), match=r"reconstruction has the shape .*, target \(")


@pytest.mark.parametrize("name", PAIRS)
def test_a_sample_without_a_batch_is_refused(name: str) -> None:
    sample = torch.rand(SIZE)
    refused(name, sample, sample, match=r"must have the shape \(B, .* got \(60,\)")
    sample = torch.rand(SHAPE)
    if name != "squared error":  # which is not told how large a sample is
        refused(name, sample, sample, match=r"got \(3, 4, 5\)|batch \(3, 4, 5\) has 20 values")


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("shape", [(UNITS,), (4, UNITS + 1), (4, 1), (4, UNITS, 1), ()])
def test_codes_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    refused(name, torch.rand(shape), match=r"codes must have the shape \(B, 6\)")


@every_metric
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    inputs = CASES[name].inputs(10)
    for i, part in enumerate(inputs):
        spoilt = part.clone()
        spoilt[3, 2] = value
        count = spoilt[3, 2].numel()
        argument = ("reconstruction", "target")[i] if len(inputs) > 1 else "codes"
        message = f"^{count} of the {part.numel()} values of {argument} are NaN or infinite"
        refused(name, *inputs[:i], spoilt, *inputs[i + 1 :], match=message)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ActiveUnits(0), "latent_dim of ActiveUnits"),
        (lambda: ActiveUnits(4, threshold=-0.1), "threshold of ActiveUnits"),
        (lambda: Sparsity(-1), "latent_dim of Sparsity"),
        (lambda: Sparsity(4, threshold=float("nan")), "threshold of Sparsity"),
        (lambda: RSquared(0), "dimensions of RSquared"),
        (lambda: ExplainedVariance(-2), "dimensions of ExplainedVariance"),
        (lambda: PSNRPerImage(data_range=0), "data_range of PSNRPerImage"),
        (lambda: PSNRPerImage(ceiling=float("inf")), "ceiling of PSNRPerImage"),
    ],
)
def test_options_that_cannot_work_are_refused(make: Callable[[], Metric], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()


# ---- pictures and examples ----------------------------------------------------------------------------------------


@every_metric
def test_plot(name: str) -> None:
    from matplotlib import pyplot

    case = CASES[name]
    metric = case.make()
    values = [metric(*batch) for batch in batches(case.inputs())]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = metric.plot()
        drawn = [line.get_ydata() for line in axes.get_lines()]
        assert any(np.allclose(ys, list(as_floats(metric.compute()).values())[0]) for ys in drawn)
        same, axes = metric.plot(values, axes)
        assert same is None or same is figure
        drawn = [list(line.get_ydata()) for line in axes.get_lines()]
        assert [list(as_floats(value).values())[0] for value in values] in drawn
    pyplot.close(figure)


@pytest.mark.parametrize("name", sorted({*metrics.__all__} - {"SampleMetric"}))
def test_each_has_an_example_that_is_true(name: str) -> None:
    item = getattr(metrics, name)
    (test,) = [t for t in doctest.DocTestFinder(recurse=False).find(item, name) if t.examples]
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0
