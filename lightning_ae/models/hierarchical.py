"""Hierarchical variational autoencoders: a code on each of several levels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures import MLP
from lightning_ae.autoencoder import Autoencoder, Code, NetworkOptions
from lightning_ae.config import from_plain, to_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import Gaussian, Likelihood
from lightning_ae.parts.posteriors import DiagonalGaussian, DiagonalNormal
from lightning_ae.parts.schedules import Schedule
from lightning_ae.scores import Coded, asked


class Hierarchy(Autoencoder):
    r"""Base of the models that have a code on each of several levels, which generate the data from the top down.

    .. math:: p(x, z) = p(x \mid z_1, \ldots) \, p(z_1 \mid z_2, \ldots) \cdots p(z_L), \quad p(z_L) = N(0, I).

    What the levels from the top to a certain one say to those below it is a *state*. A variant says what the data say
    of each level (`evidence`), what follows from the state above for a level (`prior`), what both say together
    (`inferred`), and which state a code makes of the one above (`below`); the decoder takes the last one.

    Args:
        latent_dim: the dimensions of z_1, the level next to the data.
        upper_dims: those of z_2, z_3 and so on; one number for each further level.
        width: of the fully connected networks between levels.
        likelihood: p(x | z), the distribution whose parameters the decoder gives; by default a Gaussian that has the
            scale of its errors (Rybkin et al. 2021).
        beta: the weight of the divergences.
        beta_schedule: what beta is multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
    """

    latents: ClassVar[tuple[str, ...]] = ("mean", "sample")
    generates: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        upper_dims: Sequence[int] = (8,),
        width: int = 128,
        likelihood: Likelihood = Gaussian(scale="optimal"),
        beta: float = 1.0,
        beta_schedule: Schedule | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None:
        name = type(self).__name__
        self.width, self.upper_dims = to_plain(width, "width"), tuple(to_plain(upper_dims, "upper_dims"))
        if not self.upper_dims or any(not isinstance(n, int) or n < 1 for n in (*self.upper_dims, self.width)):
            raise InputError(
                f"{name} takes positive integers, upper_dims for one level or more above the first, and width; got "
                f"{self.upper_dims} and {self.width}",
                "upper_dims=[8] makes two levels; for one, use VAE",
            )
        if not beta >= 0:
            raise InputError(f"beta must not be negative, got {beta}")
        super().__init__(input_shape, latent_dim, likelihood=likelihood, **options)
        self.beta = beta
        self.beta_schedule = None if beta_schedule is None else from_plain(Schedule, beta_schedule, "beta_schedule")
        self.posterior = DiagonalGaussian()
        self.dims = (self.latent_dim, *self.upper_dims)
        self.build_levels()
        with asked(self):
            shape = tuple(self.encoder(self.new_inputs(1)).shape[1:])
        if len(shape) != 1:
            raise InputError(
                f"the levels of {name} are vectors, but {self.architecture} gives codes of shape {shape}",
                "use an architecture whose code is a vector, such as MLP or ConvNet(code='vector')",
            )

    # ---- what a variant says ------------------------------------------------------------------------------------

    @abstractmethod
    def build_levels(self) -> None:
        """Makes the networks between the levels."""

    @abstractmethod
    def evidence(self, x: Tensor, **given: Tensor) -> Sequence[Any]:
        """What the data say of each level, the lowest first: of (B, *input_shape)."""

    @abstractmethod
    def prior(self, i: int, state: Tensor) -> DiagonalNormal:
        """p(z_i | state), of levels counted from 0, but for the top: over (B, dims[i])."""

    @abstractmethod
    def inferred(self, i: int, evidence: Any, p: DiagonalNormal | None, state: Tensor | None) -> DiagonalNormal:
        """q(z_i | state, x), from the evidence of the level, its prior and its state, neither of which the top has."""

    @abstractmethod
    def below(self, i: int, state: Tensor | None, code: Tensor) -> Tensor:
        """The state for what is below level i, of the one for it and of its code (B, dims[i])."""

    # ---- what follows -------------------------------------------------------------------------------------------

    @property
    def drawn_objective(self) -> str:
        """The bound, from a draw."""
        return "negative_elbo"

    def descend(self, evidence: Sequence[Any], pick: Callable[[DiagonalNormal], Tensor]) -> list[Level]:
        """The levels, the lowest first, where `pick` takes a code (B, dims[i]) from each level's q, the top's first."""
        levels: list[Level] = []
        state: Tensor | None = None
        for i in reversed(range(len(self.dims))):
            p = None if state is None else self.prior(i, state)
            q = self.inferred(i, evidence[i], p, state)
            code = pick(q)
            levels.insert(0, Level(q, _standard(q.mean) if p is None else p, code))
            state = self.below(i, state, code)
        return levels

    def encode(self, x: Tensor, **given: Tensor) -> tuple[Tensor, ...]:
        """The means of all levels, each given those above: (B, *input_shape) to a tuple of (B, dims[i])."""
        levels = self.descend(self.evidence(x, **given), lambda q: q.mean)
        return tuple(level.code.to(self.dtype) for level in levels)

    def draw(self, x: Tensor, **given: Tensor) -> tuple[Tensor, ...]:
        """A draw of all levels from q(z | x): (B, *input_shape) to a tuple of (B, dims[i])."""
        levels = self.descend(self.evidence(x, **given), lambda q: q.draw(self.noise("draw")))
        return tuple(level.code.to(self.dtype) for level in levels)

    def decoder_parameters(self, z: Any, **given: Tensor) -> Tensor:
        """The parameters of p(x | z): of a tuple of (B, dims[i]), (B, likelihood.num_parameters, *input_shape)."""
        if not isinstance(z, tuple) or len(z) != len(self.dims):
            raise InputError(
                f"{type(self).__name__} decodes a tuple of {len(self.dims)} codes, one for each level, got "
                f"{type(z).__name__}{f' of {len(z)}' if isinstance(z, tuple) else ''}",
                "encode(x) and draw(x) give one",
            )
        state: Tensor | None = None
        for i in reversed(range(len(z))):
            state = self.below(i, state, z[i])
        return super().decoder_parameters(state, **given)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The bound "loss", in nats per sample, and "reconstruction", "kl" and its parts, "kl_1" of the first level.

        In evaluation, on data of which the likelihood gives a probability (zeros and ones for Bernoulli), also
        "bits_per_dimension", the bound with beta = 1.
        """
        levels = self.descend(self.evidence(x, **given), lambda q: q.draw(self.noise("posterior")))
        reconstruction = self.reconstruction_loss(tuple(level.code for level in levels), target, **given)
        parts = {f"kl_{i}": level.kl.mean() for i, level in enumerate(levels, start=1)}
        kl = torch.stack(list(parts.values())).sum()
        loss = reconstruction + self.beta * self.scheduled(self.beta_schedule) * kl
        terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl, **parts}
        return terms | self.bits_per_dimension(reconstruction + kl, target, **given)

    def prior_codes(self, n: int, temperature: float = 1.0) -> tuple[Tensor, ...]:
        """`n` draws from the prior, the top level's first: a tuple of (n, dims[i])."""
        noise, codes = Noise(temperature=temperature), list(self.zeros(n))
        state: Tensor | None = None
        for i in reversed(range(len(codes))):
            p = _standard(codes[i]) if state is None else self.prior(i, state)
            codes[i] = p.draw(noise).to(self.dtype)
            state = self.below(i, state, codes[i])
        return tuple(codes)

    def kl_by_unit(self, x: Tensor, **given: Tensor) -> Tensor:
        """What each value of all levels has of the divergences, (B, values), by a draw of the levels above each."""
        levels = self.descend(self.evidence(x, **given), lambda q: q.draw(self.noise("rate")))
        return torch.cat([level.kl_by_unit for level in levels], dim=1)

    def rate(self, x: Tensor, **given: Tensor) -> Tensor:
        """The sum of all levels' divergences for each sample in bits, (B,), by a draw of the levels above each."""
        levels = self.descend(self.evidence(x, **given), lambda q: q.draw(self.noise("rate")))
        return torch.stack([level.kl for level in levels]).sum(dim=0) / math.log(2)

    def coded(self, x: Tensor, draws: int = 1, **given: Tensor) -> Iterator[Coded]:
        """Draws of all levels, with the divergences of all levels."""
        evidence = self.evidence(x, **given)
        for _ in range(draws):
            levels = self.descend(evidence, lambda q: q.draw(self.noise("score")))
            divergence = torch.stack([level.kl for level in levels]).sum(dim=0)
            ratios = [level.q.log_prob(level.code) - level.p.log_prob(level.code) for level in levels]
            yield Coded(tuple(level.code for level in levels), divergence, torch.stack(ratios).sum(dim=0))

    def move(self, code: Code, feature: int, by: Tensor) -> Code:
        """Codes of which one feature is larger by `by` (B,); the levels below move as far as their priors' means do."""
        moved = list(super().move(code, feature, by))
        old: Tensor | None = None
        new: Tensor | None = None
        for i in reversed(range(len(moved))):
            if old is not None and new is not None:
                step = self.prior(i, new).mean - self.prior(i, old).mean
                moved[i] = moved[i] + step.to(moved[i].dtype)
            old, new = self.below(i, old, code[i]), self.below(i, new, moved[i])
        return tuple(moved)


class LadderVAE(Hierarchy):
    r"""Codes on several levels; what the data say of each is weighed against what the level above expects.

    The ladder variational autoencoder (Sønderby et al. 2016). The levels generate the data from the top down,

    .. math:: p(x, z) = p(x \mid z_1) \, p(z_1 \mid z_2) \cdots p(z_{L-1} \mid z_L) \, p(z_L), \quad p(z_L) = N(0, I).

    A deterministic pass upwards gives :math:`N(\hat\mu_i(x), \hat\sigma_i^2(x))` for each level. A pass downwards
    multiplies that by the prior of the level, whose parameters :math:`\mu_{p,i}, \sigma_{p,i}` follow from the code of
    the level above (equations 16 to 18 of the paper, of which 17 is of variances):

    .. math:: q(z_i \mid z_{i+1}, x) = N(\mu_i, \sigma_i^2), \quad
        \sigma_i^2 = \frac{1}{\hat\sigma_i^{-2} + \sigma_{p,i}^{-2}}, \quad
        \mu_i = \frac{\hat\mu_i \hat\sigma_i^{-2} + \mu_{p,i} \sigma_{p,i}^{-2}}{\hat\sigma_i^{-2} + \sigma_{p,i}^{-2}},

    and at the top :math:`q(z_L \mid x) = N(\hat\mu_L, \hat\sigma_L^2)`. It minimises, by one draw of all levels,

    .. math:: -\mathbb E_q [\log p(x \mid z_1)]
        + \beta \sum_i \mathbb E_q\, KL(q(z_i \mid z_{i+1}, x) \,\|\, p(z_i \mid z_{i+1})).

    Upper levels tend to go unused; the paper lets beta rise from 0 ("deterministic warm-up"):
    `beta_schedule=Warmup(...)`.

    The architecture builds the lowest stage, from x to the first level's mean and log-variance and `width` values for
    the stage above, and the decoder, from z_1; its code must be a vector. All else is fully connected with one hidden
    layer of `width` leaky rectified units: a stage upwards for each further level, and a prior for each level but the
    top. Unlike in the paper, variances are given by their logarithm, as everywhere in this package, and there is no
    batch normalisation unless the architecture has it.

    `encode` gives a tuple (z_1, ..., z_L) of means, each given the means above it; `decode` takes such a tuple, of
    which p(x | z_1) needs the first alone.

    Args:
        likelihood: p(x | z_1), the distribution whose parameters the decoder gives; by default a Gaussian that has the
            scale of its errors (Rybkin et al. 2021).
    """

    reference: ClassVar[str] = "Sønderby et al. 2016, https://arxiv.org/abs/1602.02282"

    def build_levels(self) -> None:
        """A stage upwards for each further level, and a prior for each but the top."""
        mlp = MLP(hidden=(self.width,), activation="leaky_relu")
        self.stages = nn.ModuleList(mlp.encoder((self.width,), 2 * dim + self.width) for dim in self.upper_dims[:-1])
        self.stages.append(mlp.encoder((self.width,), 2 * self.upper_dims[-1]))
        self.priors = nn.ModuleList(
            mlp.encoder((above,), 2 * below) for below, above in zip(self.dims, self.upper_dims, strict=False)
        )

    @property
    def encoder_features(self) -> int:
        """Mean and log-variance of the first level, and what the stage above sees."""
        return 2 * self.latent_dim + self.width

    def evidence(self, x: Tensor, **given: Tensor) -> list[DiagonalNormal]:
        """What the data say of each level, N(mu_hat, sigma_hat^2): (B, *input_shape) to one over (B, dims[i]) each."""
        self.check_given(given)
        output, found = self.encoder(x), []
        for dim, stage in zip(self.dims, (*self.stages, None), strict=True):
            found.append(self.posterior(output[:, : 2 * dim]))
            if stage is not None:
                output = stage(F.leaky_relu(output[:, 2 * dim :]))
        return found

    def prior(self, i: int, state: Tensor) -> DiagonalNormal:
        """p(z_i | z_{i+1}), of levels counted from 0."""
        return self.posterior(self.priors[i](state.to(self.dtype)))

    def inferred(
        self, i: int, evidence: DiagonalNormal, p: DiagonalNormal | None, state: Tensor | None
    ) -> DiagonalNormal:
        """The evidence, multiplied by the prior."""
        return evidence if p is None else combine(evidence, p)

    def below(self, i: int, state: Tensor | None, code: Tensor) -> Tensor:
        """The code: a level knows of the one above it alone, and the decoder of the first."""
        return code


@dataclass(frozen=True)
class Level:
    """A level on the way down: q, p given the code above, and a code (B, dim) from q."""

    q: DiagonalNormal
    p: DiagonalNormal
    code: Tensor

    @property
    def kl(self) -> Tensor:
        """KL(q || p) in nats for each sample, (B,)."""
        return self.kl_by_unit.sum(dim=1)

    @property
    def kl_by_unit(self) -> Tensor:
        r"""The terms of KL(q || p), (B, dim), in closed form.

        .. math:: \tfrac12 \Big(\log\frac{\sigma_{p,j}^2}{\sigma_j^2}
            + \frac{\sigma_j^2 + (\mu_j - \mu_{p,j})^2}{\sigma_{p,j}^2} - 1\Big)
        """
        ratio = self.q.log_variance - self.p.log_variance
        squared = (self.q.mean - self.p.mean).square() * (-self.p.log_variance).exp()
        return 0.5 * (ratio.exp() - ratio + squared - 1)


def combine(a: DiagonalNormal, b: DiagonalNormal) -> DiagonalNormal:
    """The normal distribution that is the product of two, normalised: precisions add up, and weigh the means."""
    log_variance = -torch.logaddexp(-a.log_variance, -b.log_variance)
    weight = (b.log_variance - a.log_variance).sigmoid()
    return DiagonalNormal(b.mean + weight * (a.mean - b.mean), log_variance)


def _standard(like: Tensor) -> DiagonalNormal:
    zeros = torch.zeros_like(like)
    return DiagonalNormal(zeros, zeros)
