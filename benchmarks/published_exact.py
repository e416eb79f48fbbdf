"""The rows of `reproduce.py` whose answers are known: by quadrature, or by what the machine says."""

from __future__ import annotations

import math
import multiprocessing
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from published import Asked, Figure, Found, Number, row
from torch import Tensor

import lightning_ae as ae
from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    IAF,
    Bernoulli,
    DiagonalGaussian,
    FullCovarianceGaussian,
    IWAEObjective,
    PlanarFlow,
    Posterior,
    SplineFlow,
    TotalCorrelation,
)
from lightning_ae.parts.posteriors import DiagonalNormal

ERROR = "the standard error over draws"

# ---- total correlation ----------------------------------------------------------------------------------------------

SAMPLES = 2048
BATCHES = (64, 512, SAMPLES)
ESTIMATORS = ("stratified", "weighted")


def correlation_figure(estimator: str, batch: int) -> str:
    """What a figure of the row is called."""
    of = "the whole data set" if batch == SAMPLES else "B"
    less = " less (D - 1) log N" if estimator == "weighted" else ""
    return f"{estimator}{less}, {of} = {batch}, nats"


def posteriors() -> DiagonalNormal:
    """Those of the data set, in two dimensions that depend on each other."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(SAMPLES, 2, generator=generator, dtype=torch.float64)
    mean[:, 1] = 0.9 * mean[:, 0] + math.sqrt(1 - 0.9**2) * mean[:, 1]
    scale = 0.2 + 0.3 * torch.rand(SAMPLES, 2, generator=generator, dtype=torch.float64)
    return DiagonalNormal(mean, 2 * scale.log())


def total_correlation_by_quadrature(q: DiagonalNormal, halves: float = 7, points: int = 701) -> float:
    """KL(q(z) || q(z_1) q(z_2)) of the mixture of posteriors in two dimensions."""
    axis = torch.linspace(-halves, halves, points, dtype=torch.float64)
    cell = float(axis[1] - axis[0])
    first, second = (
        (-0.5 * ((axis - q.mean[:, i, None]) ** 2 * (-q.log_variance[:, i, None]).exp() + q.log_variance[:, i, None]
                 + math.log(2 * math.pi))).exp()
        for i in (0, 1)
    )  # fmt: skip
    joint = first.T @ second / len(first)
    apart = first.mean(dim=0)[:, None] * second.mean(dim=0)
    return float(torch.special.xlogy(joint, joint / apart.clamp(min=1e-300)).sum()) * cell**2


@torch.no_grad()
def total_correlation_by_batches(q: DiagonalNormal, estimator: str, batch: int, repeats: int) -> Tensor:
    """log q(z) - sum_j log q(z_j), as `TotalCorrelation` estimates it, of draws in random batches, (repeats,)."""
    objective = TotalCorrelation(estimator=estimator)  # type: ignore[arg-type]
    model = ae.VAE((2,), 2, objective=objective).double()
    model.data_size.fill_(len(q.mean))
    generator, found = torch.Generator().manual_seed(1), []
    for repeat in range(repeats):
        rows = torch.randperm(len(q.mean), generator=generator)[:batch]
        some = DiagonalNormal(q.mean[rows], q.log_variance[rows])
        joint, units = objective.aggregate(model, some, some.draw(Noise(repeat, "posterior")))
        found.append((joint - units).mean())
    constant = (q.mean.shape[1] - 1) * math.log(len(q.mean)) if estimator == "weighted" else 0.0
    return torch.stack(found) - constant


@row(
    "Total correlation from minibatches against quadrature, two latent dimensions",
    "Chen et al. 2018, https://arxiv.org/abs/1802.04942, for the estimators",
    [
        Figure(
            correlation_figure(estimator, batch),
            beside="{reference}: by quadrature"
            + (", to be met within 5 %" if batch == SAMPLES else "; such a batch is biased"),
        )
        for estimator in ESTIMATORS
        for batch in reversed(BATCHES)
    ],
    spread=ERROR,
)
def total_correlation(asked: Asked) -> Iterator[Found]:
    """Total correlation by minibatch sampling, weighted and stratified, against quadrature."""
    q, figures = posteriors(), {}
    exact = total_correlation_by_quadrature(q)
    for estimator in ESTIMATORS:
        for batch in BATCHES:
            each = total_correlation_by_batches(q, estimator, batch, repeats := 20 * SAMPLES // batch)
            error = float(each.std()) / math.sqrt(repeats)
            figures[correlation_figure(estimator, batch)] = Number(float(each.mean()), error, reference=exact)
    yield Found(
        f"N = {SAMPLES} Gaussian posteriors, their means of correlation 0.9, their scales 0.2 to 0.5, one draw of each "
        f"sample of a batch, {20 * SAMPLES} draws in all for each figure",
        [0],
        figures,
    )


# ---- bounds ---------------------------------------------------------------------------------------------------------

POSTERIORS: dict[str, Posterior] = {
    "diagonal Gaussian": DiagonalGaussian(),
    "full-covariance Gaussian": FullCovarianceGaussian(),
    "planar flow": PlanarFlow(8),
    "IAF": IAF(4, 32),
    "spline flow": SplineFlow(4, 32),
}
BOUNDS = {"ELBO": 1, "IWAE-5": 5, "IWAE-50": 50}


class Ring(ae.VAE):
    """A decoder that is fixed: p(x | z) = N(|z|, .3^2) of a scalar x, whose posteriors are rings."""

    def log_likelihood(self, z: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        return -0.5 * ((z.norm(dim=1) - target[:, 0]) / 0.3).square() - math.log(0.3 * math.sqrt(2 * math.pi))

    def reconstruction_loss(self, z: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        return -self.log_likelihood(z, target).mean()


def evidence(model: ae.VAE, x: Tensor, halves: float = 8, points: int = 241) -> Tensor:
    """log p(x) of each row by quadrature over codes of two units."""
    axis = torch.linspace(-halves, halves, points, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    prior = model.prior.log_prob(model, grid)
    each = [model.log_likelihood(grid, row.expand(len(grid), -1)) + prior for row in x]
    return torch.stack(each).logsumexp(dim=1) + 2 * math.log(float(axis[1] - axis[0]))


def ring(posterior: Posterior, steps: int = 600) -> tuple[float, dict[str, tuple[float, float]]]:
    """log p(x) of the ring at x = 1.5, and each bound on it of a posterior that was fitted, with its standard error."""
    x = torch.full((96, 1), 1.5, dtype=torch.float64)
    torch.manual_seed(0)
    model = Ring((1,), 2, posterior=posterior, architecture=MLP((8,))).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        optimizer.zero_grad()
        model.loss(x, x)["loss"].backward()
        optimizer.step()
    n, found = 20_000, {}
    with torch.no_grad():
        z, log_q = model.infer(x[:1]).draw_with_log_prob(Noise(5, "a"), n)
        weights = model.log_likelihood(z[0], x[:1].expand(n, 1)) + model.prior.log_prob(model, z[0]) - log_q[0]
        for name, k in BOUNDS.items():
            each = weights.view(-1, k).logsumexp(dim=1) - math.log(k)
            found[name] = (float(each.mean()), float(each.std()) / math.sqrt(len(each)))
        return float(evidence(model, x[:1])), found


@row(
    "Bounds of Gaussian and flow posteriors on a ring whose evidence is known",
    "Rezende & Mohamed 2015, https://arxiv.org/abs/1505.05770; Kingma et al. 2016, https://arxiv.org/abs/1606.04934; "
    "Durkan et al. 2019, https://arxiv.org/abs/1906.04032, for the posteriors",
    [
        Figure(f"{posterior}, {bound}, nats", beside="at most {reference}: the evidence, by quadrature")
        for posterior in POSTERIORS
        for bound in BOUNDS
    ],
    spread=ERROR,
)
def bounds(asked: Asked) -> Iterator[Found]:
    """Gaussian and flow posteriors on a ring: ELBO, IWAE-5 and IWAE-50 against the evidence by quadrature."""
    figures: dict[str, Number] = {}
    for name, posterior in POSTERIORS.items():
        exact, found = ring(posterior)
        for bound, (value, error) in found.items():
            figures[f"{name}, {bound}, nats"] = Number(value, error, reference=exact)
        yield Found(
            "z ~ N(0, I) in two dimensions, p(x | z) = N(|z|, 0.3^2) at x = 1.5, which is fixed; the posterior alone "
            "is fitted, by the ELBO, 600 steps of Adam 5e-3 falling to 0, 96 draws each; 20 000 draws for the figures",
            [0],
            dict(figures),
        )


# ---- memory ---------------------------------------------------------------------------------------------------------

DRAWS, ROWS_OF_STEP = 5000, 4


def growth(chunk: int | None) -> float:
    """By how many MiB the process's peak of resident memory rises in a training step of so many draws."""
    torch.manual_seed(0)
    network = MLP(hidden=(200, 200), activation="tanh")
    x = (torch.rand(ROWS_OF_STEP, 1, 28, 28) < 0.2).float()
    peaks = []
    for samples in (2, DRAWS):  # the first brings what every step takes
        objective = IWAEObjective(samples, "dreg", None if chunk is None else min(chunk, samples))
        model = ae.VAE((1, 28, 28), 50, architecture=network, likelihood=Bernoulli(), objective=objective)
        model.loss(x, x)["loss"].backward()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return peaks[1] - peaks[0]


@row(
    f"Memory of a training step of K = {DRAWS} draws in chunks",
    "Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, for the bound",
    [
        Figure("all draws at a time, MiB"),
        Figure("chunks of 100 draws, MiB"),
    ],
)
def memory(asked: Asked) -> Iterator[Found]:
    """Peak memory of 5 000 importance samples at a time, and in chunks."""
    figures = {}
    for what, chunk in (("all draws at a time, MiB", None), ("chunks of 100 draws, MiB", 100)):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            figures[what] = Number(fresh.submit(growth, chunk).result())
    yield Found(
        f"784-200-200-50, tanh, {ROWS_OF_STEP} images, gradient 'dreg', one step forwards and backwards; by how much "
        "the peak of resident memory rises, each in a process of its own",
        [0],
        figures,
    )
