"""Missing values: bounds and imputations against the closed forms of a linear Gaussian model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightning_ae.batches
from lightning_ae import InputError, MissingDataIWAE, get_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.parts import Bernoulli, Categorical, Gaussian, Mixed, MixturePrior, VampPrior

WEIGHT = torch.tensor([[1.0, 0.3], [-0.6, 0.8], [0.5, -1.1], [0.2, 0.9]], dtype=torch.float64)
BIAS = torch.tensor([0.4, -0.2, 0.1, 0.8], dtype=torch.float64)
SCALE = 0.6
NAN = math.nan
ROWS = torch.tensor(
    [[0.9, NAN, -0.5, NAN], [NAN, 1.1, NAN, NAN], [0.3, -0.8, 0.2, 1.4], [NAN, NAN, NAN, NAN], [NAN, 0.2, 1.0, 0.1]],
    dtype=torch.float64,
)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(WEIGHT.clone()), nn.Parameter(BIAS.clone())

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.weight, self.bias)


class LinearGaussian(MissingDataIWAE):
    """x = W z + b + noise, with an encoder that is not the posterior."""

    def build_decoder(self) -> nn.Module:
        return Linear()


def linear_gaussian(**options: Any) -> LinearGaussian:
    torch.manual_seed(0)
    return LinearGaussian((4,), 2, architecture=MLP(()), likelihood=Gaussian(SCALE), **options).double()


def closed_form(row: Tensor) -> tuple[float, Tensor]:
    """log p of what is known of a row, and the row with the conditional mean of the rest."""
    known = ~row.isnan()
    covariance = WEIGHT @ WEIGHT.T + SCALE**2 * torch.eye(4, dtype=torch.float64)
    if not known.any():
        return 0.0, BIAS
    inner = covariance[known][:, known]
    normal = torch.distributions.MultivariateNormal(BIAS[known], inner)
    mean = BIAS + covariance[:, known] @ torch.linalg.solve(inner, row[known] - BIAS[known])
    return float(normal.log_prob(row[known])), torch.where(known, row, mean)


@torch.no_grad()
def test_the_bound_goes_to_the_evidence_of_what_is_known() -> None:
    evidence = sum(closed_form(row)[0] for row in ROWS) / len(ROWS)
    mask = ~ROWS.isnan()
    found = []
    for samples in (1, 10, 10_000):
        model = linear_gaussian(samples=samples, chunk=1000)
        x, target, given = model.read((ROWS.repeat(40, 1), mask.repeat(40, 1)))
        found.append(float(model.loss(x, target, **given)["loss"]))
    assert found == sorted(found, reverse=True)
    assert found[0] + evidence > 0.1
    assert found[-1] == pytest.approx(-evidence, abs=0.01)


@torch.no_grad()
def test_imputations_go_to_the_conditional_mean() -> None:
    model, times = linear_gaussian(), 60
    expected = torch.stack([closed_form(row)[1] for row in ROWS])
    found = model.impute(ROWS.repeat(times, 1), samples=2000, chunk=500).view(times, *ROWS.shape)
    known = ~ROWS.isnan()
    assert torch.equal(found[:, known], ROWS[known].expand(times, -1))
    error = found.std(dim=0)[~known] / math.sqrt(times)
    assert float(error.max()) < 0.01
    assert ((found.mean(dim=0) - expected)[~known].abs() < 5 * error).all()
    plain = model(torch.where(known, ROWS, 0.0), mask=known)  # decoding the posterior's mean is something else
    assert not ((plain - expected)[~known].abs() < 5 * error).all()


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_an_imputation_is_the_weighted_mean_whatever_the_chunk(chunk: int) -> None:
    """On images, by the formula; with weights far apart, and a mask that is given."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"likelihood": Gaussian(1.0), "prior": MixturePrior(3)}
    model = MissingDataIWAE((2, 8, 8), 3, architecture=ConvNet((4, 8), norm="batch"), **options).double()
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    mask = torch.rand(x.shape) < 0.5
    torch.manual_seed(1)
    found = model.impute(torch.where(mask, x, NAN), mask, samples=40, chunk=chunk)
    assert model.training
    model.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        q = model.infer(torch.where(mask, x, 0.0), mask=mask)
        z = q.draw(model.noise("impute"), 40)
        normal = torch.distributions.Normal(q.mean, (q.log_variance / 2).exp())  # type: ignore[attr-defined]
        log_weights = torch.stack(
            [
                (torch.distributions.Normal(model.decode(z[:, k]), 1.0).log_prob(x) * mask).flatten(1).sum(1)
                + model.prior.log_prob(model, z[:, k])
                - normal.log_prob(z[:, k]).sum(1)
                for k in range(40)
            ]
        )
        shares = log_weights.softmax(dim=0)
        mean = sum(shares[k].view(-1, 1, 1, 1) * model.decode(z[:, k]) for k in range(40))
    torch.testing.assert_close(found, torch.where(mask, x, mean))
    assert 0.1 < float(shares.max()) < 0.99  # some count more than others, and none alone


def test_what_is_missing_has_no_say() -> None:
    model = linear_gaussian(samples=3)
    mask = ~ROWS.isnan()
    losses = []
    for unknown in (NAN, 7.0):
        x, target, given = model.read((torch.where(mask, ROWS, unknown), mask))
        torch.manual_seed(0)
        losses.append(model.loss(x, target, **given)["loss"])
        losses[-1].backward()
    assert losses[0] == losses[1]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    filled, gaps = torch.where(mask, ROWS, 0.0), torch.where(mask, ROWS, NAN)
    assert torch.equal(model.infer(gaps, mask=mask).mean, model.infer(filled, mask=mask).mean)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    known = torch.ones_like(zero, dtype=torch.bool)
    assert not torch.equal(model.infer(zero, mask=known).mean, model.infer(zero, mask=~known).mean)
    assert torch.equal(model.infer(zero, mask=known).mean, model.infer(zero).mean)


def test_it_learns_from_data_of_which_much_is_missing() -> None:
    torch.manual_seed(0)
    z, noise = torch.randn(300, 2), torch.randn(300, 4)
    x = z @ WEIGHT.float().T + BIAS.float() + 0.2 * noise
    mask = torch.rand(x.shape) < 0.7
    model = get_model("miwae")((4,), 2, architecture=MLP((32,)), likelihood=Gaussian("learned"), gradient="dreg")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        read, target, given = model.read((torch.where(mask, x, NAN), mask))
        optimizer.zero_grad()
        model.loss(read, target, **given)["loss"].backward()
        optimizer.step()
    assert isinstance(model, MissingDataIWAE)

    def error(filled: Tensor) -> float:
        return float((filled - x)[~mask].square().mean().sqrt())

    means = torch.stack([x[:, i][mask[:, i]].mean() for i in range(4)])
    assert error(model.impute(torch.where(mask, x, NAN), samples=200)) < 0.75 * error(means.expand_as(x))


def test_complete_data_need_no_mask_and_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    losses: list[float] = []
    monkeypatch.setattr(lightning_ae.batches, "rank_zero_info", said.append)
    lightning_ae.batches._tell_without.cache_clear()
    model = MissingDataIWAE((4,), 2, architecture=MLP((8,)))
    x = torch.rand(5, 4)
    for given in ({}, {"mask": torch.ones_like(x, dtype=torch.bool)}):
        torch.manual_seed(0)
        read = model.read({"x": x, **given})
        assert (read[2].keys() == {"mask"}) == bool(given)
        loss = model.loss(*read[:2], **read[2])["loss"]
        model.read((x, *given.values()))
        losses.append(float(loss))
    assert losses[0] == losses[1]
    assert said == ["MissingDataIWAE takes a mask, and the batches hold none: every value counts as known"]
    model.columns["mask"] = "mask"  # as of a data module that has one
    with pytest.raises(InputError, match="takes 'mask' besides the input"):
        model.read({"x": x})


def test_categories_of_a_table_stay_categories() -> None:
    kinds = (0, 3, 0)
    model = MissingDataIWAE((3,), 2, architecture=MLP((8,), categories=kinds), likelihood=Mixed(kinds))
    x = torch.tensor([[0.3, 2.0, -0.5], [0.1, 0.0, 0.0]])
    assert model.loss(x, x, mask=torch.tensor([[True, True, False], [False, True, True]]))["loss"].isfinite()
    with pytest.raises(InputError, match="the classes of .* have none"):
        model.impute(x)


def test_what_is_refused() -> None:
    model = MissingDataIWAE((4,), 2, architecture=MLP((8,)))
    x = torch.rand(2, 4)
    for name, value in (("samples", 0), ("chunk", 0), ("samples", 1.5)):
        with pytest.raises(InputError, match=f"{name} of impute must be a positive integer, got {value}"):
            model.impute(x, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a mask is true .* where a value is known, of the data's shape"):
        model.impute(x, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="pseudo-inputs, which come without mask"):
        MissingDataIWAE((4,), prior=VampPrior())
    with pytest.raises(InputError, match="the classes of Categorical"):
        MissingDataIWAE((4,), likelihood=Categorical(3)).impute(x)
    assert MissingDataIWAE((4,), likelihood=Bernoulli()).impute(torch.full((1, 4), NAN)).isfinite().all()
