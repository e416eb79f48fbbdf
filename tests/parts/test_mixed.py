"""Student's t, classes, and columns that are each of their own kind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, distributions
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, Autoencoder, InputError, load_model
from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    Categorical,
    Gaussian,
    Laplace,
    Likelihood,
    Mixed,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from lightning_ae.parts.head import LikelihoodHead

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


# ---- Student's t ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, "learned", "per_pixel"])
@pytest.mark.parametrize("degrees", [0.7, 3.0, 1e7, "learned"])
def test_student_t_is_torchs(scale: Any, degrees: Any) -> None:
    torch.manual_seed(0)
    likelihood = StudentT(scale, degrees)
    head = LikelihoodHead(likelihood, (2, 5)).double()
    if head.shared is not None:
        torch.nn.init.normal_(head.shared)
    output = torch.randn(6, *likelihood.output_shape((2, 5)), dtype=torch.float64)
    x = torch.randn(6, 2, 5, dtype=torch.float64)
    params = head(output)
    spread = 0.3 if scale == 0.3 else params[:, 1].exp()
    nu = 1 + params[:, -1].exp() if degrees == "learned" else degrees
    reference = distributions.StudentT(nu, params[:, 0], spread).log_prob(x).sum(dim=(1, 2))
    torch.testing.assert_close(likelihood.log_prob(params, x), reference, rtol=1e-7, atol=1e-7)
    single = likelihood.log_prob(params.float(), x.float())  # near-equal gamma functions cost no digits there
    torch.testing.assert_close(single.double(), likelihood.log_prob(params, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(likelihood.mean(params), params[:, 0])


def test_student_t_draws() -> None:
    from scipy import stats

    params = torch.tensor([0.4, -0.5]).view(1, 2, 1).repeat(5000, 1, 1)
    draws = StudentT("per_pixel", 2.5).sample(params, Noise("a")).flatten()
    assert stats.kstest(draws.numpy(), stats.t(2.5, 0.4, math.exp(-0.5)).cdf).pvalue > 1e-3


def test_degrees_of_freedom_are_learned_from_outliers() -> None:
    torch.manual_seed(0)
    x = distributions.StudentT(3.0, 0.0, 0.5).sample((20_000, 1))
    head = LikelihoodHead(StudentT(), (1,))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -StudentT().log_prob(head(torch.zeros_like(x)), x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert head.shared is not None
    assert head.shared.exp().tolist() == pytest.approx([0.5, 2.0], rel=0.1)  # the scale, and the degrees above one


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: StudentT(degrees=0.0), "degrees of StudentT must be a positive number or 'learned', got 0.0"),
        (lambda: StudentT(degrees="fixed"), "degrees of StudentT must be"),
        *(
            (
                lambda s=scale: StudentT(s),
                rf"one of learned, per_pixel, got '{scale}': .*no sum of .*\n.*Laplace\(scale=",
            )
            for scale in ("optimal", "optimal_per_feature")
        ),
        (lambda: Categorical(1), "classes of Categorical must be an integer of at least 2, got 1"),
        (lambda: Mixed((0, 1)), "categories of Mixed are 0 for a number, else how many classes"),
        (lambda: Mixed((0,), number=Mixed()), "number of Mixed is itself Mixed"),
        (lambda: Autoencoder((3,), 2, likelihood=Mixed((0, 2))), r"they are 2, and input_shape is \(3,\)"),
        (lambda: Autoencoder((2, 4), 2, likelihood=Mixed((0, 2))), "Mixed is for vectors"),
    ],
)
def test_what_cannot_work_is_refused(build: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build()


# ---- classes ----------------------------------------------------------------------------------------------------


def test_categorical_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, x = torch.randn(6, 4, 2, 5), torch.randint(4, (6, 2, 5))
    expected = -F.cross_entropy(logits, x, reduction="none").sum(dim=(1, 2))
    torch.testing.assert_close(Categorical(4).log_prob(logits, x.float()), expected)
    assert torch.equal(Categorical(4).mean(logits), logits.argmax(dim=1).float())
    assert Categorical(4).is_mass_at(x.float())
    for other in (0.5, 4.0, -1.0):
        assert not Categorical(4).is_mass_at(torch.tensor(other))
        assert (Categorical(4).log_prob(logits, torch.full((6, 2, 5), other)) == -math.inf).all()


def test_categorical_draws() -> None:
    logits = torch.tensor([0.3, -1.0, 1.2]).view(1, 3, 1).repeat(40_000, 1, 1)
    share = F.one_hot(Categorical(3).sample(logits, Noise("a")).long().flatten(), 3).float().mean(dim=0)
    torch.testing.assert_close(share, logits[0, :, 0].softmax(dim=0), atol=0.01, rtol=0)


# ---- columns ----------------------------------------------------------------------------------------------------

COLUMNS = (3, 0, 2, 0, 3, 0)
NUMBERS, CLASSES = [1, 3, 5], {0: 3, 2: 2, 4: 3}
NUMBER: list[Likelihood] = [
    Gaussian(0.7), Gaussian("learned"), Gaussian("per_pixel"), Gaussian("optimal"), Gaussian("optimal_per_feature"),
    Laplace("optimal"), StudentT(), Poisson(), NegativeBinomial(), Poisson(library=True),
]  # fmt: skip
by_number = pytest.mark.parametrize("number", NUMBER, ids=str)


def table(n: int = 8) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((n, 6), 3.0), generator=g)
    for i, k in CLASSES.items():
        x[:, i] %= k
    return x, torch.rand(n, 6, generator=g) < 0.7


def apart(output: Tensor, width: int) -> tuple[Tensor, dict[int, Tensor]]:
    """The numbers' part of the decoder's output, and the logits of each column of classes."""
    numbers, twos, threes = output.split([width, 2, 6], dim=1)
    threes = threes.unflatten(1, (3, 2))
    return numbers, {2: twos, 0: threes[:, :, 0], 4: threes[:, :, 1]}


@by_number
@pytest.mark.parametrize("masked", [False, True])
def test_mixed_is_the_sum_of_its_columns(number: Likelihood, masked: bool) -> None:
    torch.manual_seed(0)
    likelihood, (x, mask) = Mixed(COLUMNS, number), table()
    mask = mask if masked else torch.ones_like(mask)
    head, alone = LikelihoodHead(likelihood, (6,)), LikelihoodHead(number, (3,))
    if head.shared is not None:
        torch.nn.init.normal_(head.shared)
        alone.load_state_dict(head.state_dict())
    output = torch.randn(8, *likelihood.output_shape((6,)), requires_grad=True)
    taken = likelihood.implies(x, mask)
    own, logits = apart(output, 3 * number.decoder_parameters)
    expected = alone.log_prob(alone(own, **taken), x[:, NUMBERS], mask[:, NUMBERS])
    for i, each in logits.items():
        chosen = -F.cross_entropy(each, x[:, i].long(), reduction="none")
        expected = expected + torch.where(mask[:, i], chosen, 0.0)
    found = head.log_prob(head(output, **taken), torch.where(mask, x, math.nan), mask)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each.sum(), output, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)
    # in evaluation, and through the plain parameters
    head.eval()
    torch.testing.assert_close(head.log_prob(head(output, **taken), x, mask), expected)
    torch.testing.assert_close(likelihood.log_prob(head(output, **taken), x, mask), expected)
    mean = likelihood.mean(head(output, **taken))
    torch.testing.assert_close(mean[:, NUMBERS], number.mean(alone(own, **taken)))
    for i, each in logits.items():
        assert torch.equal(mean[:, i], each.argmax(dim=1).float())
    drawn = likelihood.sample(head(output, **taken), Noise("a"))
    assert drawn.shape == x.shape
    assert likelihood.distance(drawn)[:, list(CLASSES)].max() == 0


@pytest.mark.parametrize("columns", [(0, 0), (2, 3), (0, 2)])
@by_number
def test_mixed_of_numbers_or_classes_alone_trains(number: Likelihood, columns: tuple[int, ...]) -> None:
    model = VAE((2,), 2, likelihood=Mixed(columns, number))
    x = torch.ones(5, 2)
    model.loss(x, x)["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.eval()(x).shape == x.shape


def trainer() -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "number"),
    [(0, 3.0, Gaussian()), (2, 0.5, Gaussian()), (4, -1.0, Gaussian()), (1, math.nan, Gaussian()), (3, 0.5, Poisson())],
)
def test_a_column_with_what_it_does_not_admit_is_named(column: int, value: float, number: Likelihood) -> None:
    x, _ = table(12)
    model = Autoencoder((6,), 2, likelihood=Mixed(COLUMNS, number))
    trainer().fit(model, DataLoader(TensorDataset(x), batch_size=4))
    x[6, column] = value
    with pytest.raises(InputError, match=rf"row 2 of batch 1, column {column}: {value:g}, where Mixed takes what"):
        trainer().fit(model, DataLoader(TensorDataset(x), batch_size=4))
    if number == Gaussian():
        x[6, column] = 1
        x[5, 1] = -7.25  # a number may be any
        trainer().fit(model, DataLoader(TensorDataset(x), batch_size=4))


def test_a_mixed_model_comes_back_from_its_checkpoint(tmp_path: Any) -> None:
    x, _ = table()
    model = VAE((6,), 2, likelihood=Mixed(COLUMNS, NegativeBinomial()), architecture=MLP((8,)))
    run = trainer()
    run.fit(model, DataLoader(TensorDataset(x), batch_size=4))
    run.save_checkpoint(tmp_path / "model.ckpt")
    again: Any = load_model(tmp_path / "model.ckpt")
    assert again.likelihood == model.likelihood
    assert torch.equal(again.eval()(x), model.eval()(x))
