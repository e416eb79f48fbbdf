"""A scale that is fitted to the errors: of the batch in training, of the training data in evaluation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import IWAE, VAE, Autoencoder, ConditionalVAE, LadderVAE, StackedAutoencoder
from lightning_ae.architectures import MLP
from lightning_ae.parts import Gaussian, Laplace, Likelihood
from lightning_ae.parts.head import LikelihoodHead

SHAPE = (3, 4)
SCALES = ["optimal", "optimal_per_feature"]
LIKELIHOODS: list[Likelihood] = [family(scale) for family in (Gaussian, Laplace) for scale in SCALES]  # type: ignore[operator]
by_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def data(masked: bool, n: int = 9) -> tuple[Tensor, Tensor, Tensor | None]:
    g = torch.Generator().manual_seed(0)
    x, output = torch.randn(2, n, *SHAPE, generator=g, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=g) < 0.7 if masked else None
    return x * torch.tensor([1.0, 3.0, 0.1]).view(3, 1), output.requires_grad_(), mask


def best(likelihood: Any, output: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """The largest total log-likelihood that any scale gives, in closed form, of which autograd sees all."""
    known = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    total = x.new_zeros(())
    for part in [slice(i, i + 1) for i in range(3)] if "feature" in likelihood.scale else [slice(0, 3)]:
        error = (x - output)[:, part][known[:, part]]
        if isinstance(likelihood, Gaussian):
            total = total - len(error) / 2 * ((2 * math.pi * error.square().mean()).log() + 1)
        else:
            total = total - len(error) * ((2 * error.abs().mean()).log() + 1)
    return total


@by_likelihood
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_has_the_best_scale_of_its_batch_and_the_gradient_through_it_is_zero(
    likelihood: Likelihood, masked: bool
) -> None:
    x, output, mask = data(masked)
    head = LikelihoodHead(likelihood, SHAPE).double()
    seen = x if mask is None else torch.where(mask, x, math.nan)
    ours, expected = head.log_prob(head(output), seen, mask).sum(), best(likelihood, output, x, mask)
    torch.testing.assert_close(ours, expected)
    (mine,), (its,) = torch.autograd.grad(ours, output), torch.autograd.grad(expected, output)
    torch.testing.assert_close(mine, its)
    # and evaluation, which has the last step's, says the same through the plain parameters
    head.eval()
    torch.testing.assert_close(head.log_prob(head(output), seen, mask).sum(), expected)
    torch.testing.assert_close(likelihood.log_prob(head(output), seen, mask).sum(), expected)


@by_likelihood
def test_an_epoch_settles_the_scale_of_all_its_errors(likelihood: Likelihood) -> None:
    x, output, _ = data(False)
    head, whole = (LikelihoodHead(likelihood, SHAPE).double() for _ in range(2))
    head.log_prob(head(output) + 1, x)  # of an epoch before
    for batch, rows in ((0, slice(0, 2)), (1, slice(2, 5)), (1, slice(2, 5)), (2, slice(5, 9))):  # the second, twice
        head.begin(batch)
        head.log_prob(head(output[rows]), x[rows])
    last = head.fitted.clone()
    head.end_epoch()
    whole.log_prob(whole(output), x)
    torch.testing.assert_close(head.fitted, whole.fitted)
    assert not torch.allclose(last, whole.fitted)
    settled = head.fitted.clone()
    head.log_prob(head(output[:2]), x[:2], held=True)  # the next epoch's steps leave it
    assert torch.equal(head.fitted, settled)
    head.log_prob(head(output[:2]), x[:2])  # but in a loop without a trainer
    assert not torch.equal(head.fitted, settled)


def test_the_scale_is_bounded_and_stays_where_nothing_is_known() -> None:
    head = LikelihoodHead(Gaussian("optimal_per_feature"), (3,))
    x = torch.tensor([[0.0, 1e9, math.nan]])
    mask = torch.tensor([[True, True, False]])
    head.fitted.copy_(torch.tensor([1.0, 1.0, 0.5]))
    head.end_epoch()  # of no errors at all
    assert head.fitted.tolist() == [1.0, 1.0, 0.5]
    assert not head.settled
    assert torch.isfinite(head.log_prob(head(torch.zeros(1, 3)), x, mask)).all()
    assert head.fitted.tolist() == [-7.0, 7.0, 0.5]
    head.end_epoch()
    assert head.fitted.tolist() == [-7.0, 7.0, 0.5]


def test_neither_a_half_precision_model_nor_autocast_costs_digits() -> None:
    x, output, _ = data(False)
    expected = LikelihoodHead(Gaussian("optimal"), SHAPE)
    expected.log_prob(expected(output.bfloat16().float()), x.float())
    half = LikelihoodHead(Gaussian("optimal"), SHAPE).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half.log_prob(half(output.bfloat16()), x.float()).dtype == torch.float32
    assert torch.equal(half.fitted, expected.fitted)
    assert half.sums.dtype == torch.float64
    half.bfloat16().half()
    assert torch.equal(half.fitted, expected.fitted)
    assert torch.equal(half.sums, expected.sums)
    assert torch.equal(copy.deepcopy(half).double().fitted, expected.fitted.double())


class Epochs(pl.Callback):
    """The errors of each epoch's steps, and the scale that stood when the validation ran."""

    def __init__(self) -> None:
        self.errors: list[Tensor] = []
        self.seen: list[tuple[float, float]] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        self.errors = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.errors:
            mean = torch.cat(self.errors).double().mean()
            self.seen.append((float(pl_module.head.fitted), 0.5 * math.log(mean)))


class Watched(VAE):
    def log_prob(self, parameters: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        if self.training:
            callback: Any = self.trainer.callbacks[0]
            callback.errors.append((parameters[:, 0] - target).detach().square().flatten())
        return super().log_prob(parameters, target, **given)


def test_a_validation_at_the_epochs_end_has_that_epochs_scale() -> None:
    torch.manual_seed(0)
    seen = Epochs()
    loader = DataLoader(TensorDataset(torch.rand(50, 6)), batch_size=16)  # the last batch has two
    options: Any = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 3}
    trainer = pl.Trainer(callbacks=[seen], enable_progress_bar=False, enable_model_summary=False, **options)
    trainer.fit(Watched((6,), 2, architecture=MLP((8,)), lr=0.01), loader, loader)
    found, expected = zip(*seen.seen, strict=True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(set(found)) == 3


def test_of_several_draws_all_count() -> None:
    x = torch.rand(5, 6)
    model = IWAE((6,), 2, samples=4, architecture=MLP((8,)))
    torch.manual_seed(1)
    q = model.infer(x)
    torch.manual_seed(2)
    means = model.decode(q.draw(model.noise("posterior"), 4).flatten(0, 1))
    torch.manual_seed(2)
    model.loss(x, x)
    error = (means - x.repeat_interleave(4, dim=0)).square().mean()
    torch.testing.assert_close(model.head.fitted, 0.5 * error.log().detach().view(1))


@pytest.mark.parametrize("model", [Autoencoder, VAE, LadderVAE, ConditionalVAE, StackedAutoencoder])
@by_likelihood
def test_every_loss_says_it_to_the_head(model: type[Autoencoder], likelihood: Likelihood) -> None:
    built = model(SHAPE, latent_dim=2, likelihood=likelihood)
    x = torch.rand(5, *SHAPE)
    built.loss(x, x, **({"label": torch.arange(5)} if model is ConditionalVAE else {}))
    assert (built.head.fitted != 0).all()
    assert int(built.head.sums[1, 1].sum()) == x.numel()


@pytest.mark.parametrize("model", [VAE, LadderVAE, IWAE, ConditionalVAE])
def test_a_variational_autoencoder_has_it_unless_told_otherwise(model: type[Autoencoder]) -> None:
    assert model((6,)).likelihood == Gaussian("optimal")
