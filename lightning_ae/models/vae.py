"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_ae.autoencoder import Autoencoder, NetworkOptions
from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import Gaussian, Likelihood
from lightning_ae.parts.moves import Geometry, Way
from lightning_ae.parts.objectives import ELBO, Objective
from lightning_ae.parts.posteriors import DiagonalGaussian, Distribution, Posterior
from lightning_ae.parts.priors import Prior, StandardNormal
from lightning_ae.parts.sampling import Space
from lightning_ae.parts.schedules import Schedule
from lightning_ae.scores import Coded


class VAEOptions(NetworkOptions, total=False):
    """What a variational autoencoder that settles prior, posterior or objective passes on to `VAE`."""

    likelihood: Likelihood
    beta: float
    beta_schedule: Schedule | None


class VAE(Autoencoder):
    r"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014).

    A latent variable :math:`z \sim p(z)` generates the data through :math:`p(x \mid z)`, the decoder. The encoder gives
    an approximate posterior :math:`q(z \mid x)`. It minimises the negative evidence lower bound, in nats,

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \beta\, KL(q(z \mid x) \,\|\, p(z)),

    the mean over samples of a sum over dimensions. With the default parts, :math:`p(z) = N(0, I)` and
    :math:`q(z \mid x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))`, the expectation takes one draw
    :math:`z = \mu + \sigma \epsilon`, :math:`\epsilon \sim N(0, I)` (the reparametrisation), and the divergence is

    .. math:: KL = \tfrac12 \sum_j (\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1).

    With :math:`\beta = 1` the loss bounds :math:`-\log p(x)` from above; other values are the beta-VAE of Higgins et
    al. (2017). `encode` gives the posterior's mean.

    Args:
        likelihood: p(x | z), the distribution whose parameters the decoder gives; by default a Gaussian that has the
            scale of its errors (Rybkin et al. 2021), so that no weight of the divergence needs to be found.
        beta: the weight of the divergence.
        beta_schedule: what beta is multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
        prior: p(z), a prior of `lightning_ae.parts`.
        posterior: the family of q(z | x); it says how many values the encoder gives for a code.
        objective: what is minimised; the default is the bound above.
        lr: the learning rate of AdamW; by default that of other models, 1e-3, and three times that where the network
            flattens its input (`MLP`), so that a few epochs of a small set take it further. Others lose their code at
            3e-3 in the first steps, and do not find it again.
    """

    reference: ClassVar[str] = "Kingma & Welling 2014, https://arxiv.org/abs/1312.6114"
    latents: ClassVar[tuple[str, ...]] = ("mean", "sample")
    generates: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        likelihood: Likelihood = Gaussian(scale="optimal"),
        beta: float = 1.0,
        beta_schedule: Schedule | None = None,
        prior: Prior = StandardNormal(),
        posterior: Posterior = DiagonalGaussian(),
        objective: Objective = ELBO(),
        **options: Unpack[NetworkOptions],
    ) -> None:
        self.posterior = from_plain(Posterior, posterior, "posterior")
        self.objective = from_plain(Objective, objective, "objective")
        self.needs_data_size = self.objective.needs_data_size  # type: ignore[misc]
        super().__init__(input_shape, latent_dim, likelihood=likelihood, **options)
        if not beta >= 0:
            raise InputError(f"beta must not be negative, got {beta}")
        self.beta = beta
        self.beta_schedule = None if beta_schedule is None else from_plain(Schedule, beta_schedule, "beta_schedule")
        self.prior = from_plain(Prior, prior, "prior")
        self.posterior_weights: nn.Module | None = None
        self.posterior.check(self)
        self.posterior_weights = self.posterior.build(self)
        self.prior.check(self)
        self.prior_weights: nn.Module | None = self.prior.build(self)
        self.objective.check(self)

    @property
    def default_lr(self) -> float:
        """3e-3 of a network that flattens its input, else 1e-3."""
        return 3e-3 if self.architecture.flattens else super().default_lr

    @property
    def drawn_objective(self) -> str:
        """The objective, from draws."""
        return self.objective.name(self)

    @property
    def encoder_features(self) -> int:
        """What the posterior takes at each position of the code."""
        return self.posterior.values(self.latent_dim)

    @property
    def code_features(self) -> int:
        """How many values the posterior's code has at each position."""
        return self.posterior.code_features(self.latent_dim)

    @property
    def kl_weight(self) -> float:
        """beta, at this step."""
        return self.beta * self.scheduled(self.beta_schedule)

    def encoder_input(self, x: Tensor, **given: Tensor) -> Tensor:
        """What the encoder network takes of an input (B, *input_shape); a variant may put more beside it."""
        return x

    def infer(self, x: Tensor, **given: Tensor) -> Distribution:
        """q(z | x): of (B, *input_shape), over codes (B, *code_shape), in float32 at least."""
        self.check_given(given)
        return self.posterior.infer(self, self.encoder(self.encoder_input(x, **given)), x, given)

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The posterior's mean: (B, *input_shape) to (B, *code_shape), in the weights' type."""
        return self.infer(x, **given).mean.to(self.dtype)

    def draw(self, x: Tensor, **given: Tensor) -> Tensor:
        """A draw from q(z | x): (B, *input_shape) to (B, *code_shape), in the weights' type."""
        return self.infer(x, **given).draw(self.noise("draw")).to(self.dtype)

    def decoder_input(self, z: Tensor, **given: Tensor) -> Tensor:
        """What the decoder network takes of codes (B, *code_shape), as `encoder_input`."""
        return self.posterior.unfold(z)

    def decoder_parameters(self, z: Any, **given: Tensor) -> Tensor:
        """The parameters of p(x | z): (B, *code_shape) to (B, likelihood.num_parameters, *input_shape)."""
        self.check_given(given)
        return super().decoder_parameters(self.decoder_input(z, **given), **given)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The objective's terms, in nats per sample: by default "reconstruction" and "kl", and "loss", the bound.

        In evaluation, on data of which the likelihood gives a probability (zeros and ones for Bernoulli), also
        "bits_per_dimension", the bound with beta = 1.
        """
        if self.training:
            self.prior.observe(self, target)
        terms = self.objective(self, self.infer(x, **given), target, **given)
        if self.training:
            return terms
        return terms | self.bits_per_dimension(self.objective.bound(terms), target, **given)

    def ways(self, features: Tensor) -> list[Way]:
        """What `move` can do with codes, from those of data, (N, feature_dim): as the posterior says."""
        return self.posterior.ways(features)

    def move(self, code: Any, feature: int, by: Tensor) -> Tensor:
        """Codes of which one feature is moved by `by` (B,), as the posterior moves it, so that they stay codes."""
        return self.posterior.move(code, feature, by)

    @property
    def code_space(self) -> Space:
        """Where codes lie, as the posterior says."""
        return self.posterior.space(self.code_shape)

    @property
    def geometry(self) -> Geometry:
        """Of the space that codes lie in, as the posterior says."""
        return self.posterior.geometry

    def between(self, a: Any, b: Any, t: Tensor) -> Tensor:
        """Codes on the shortest path from a to b, (B, *code_shape), at the places t (B,), as the posterior says."""
        return self.posterior.between(a, b, t)

    def coordinates(self, code: Any) -> Tensor:
        """Codes (B, *code_shape) as what a density is fitted to, (B, units), as the posterior says."""
        return self.posterior.coordinates(code)

    def from_coordinates(self, values: Tensor) -> Tensor:
        """Codes of what a density draws, (B, units), brought to where codes lie as the posterior says."""
        return self.posterior.from_coordinates(values, self.code_shape)

    def prior_codes(self, n: int, temperature: float = 1.0) -> Tensor:
        """`n` draws from the prior, (n, *code_shape), in the weights' type."""
        return self.prior.sample(self, n, Noise(temperature=temperature)).to(self.dtype)

    def coded(self, x: Tensor, draws: int = 1, **given: Tensor) -> Iterator[Coded]:
        """Draws from q(z | x), with the divergence from the prior: of the bound with beta = 1."""
        q = self.infer(x, **given)
        for _ in range(draws):
            if draws == 1:
                z, density = self.prior.draw_for_kl(self.posterior, q, self.noise("score"))
                yield Coded(z, divergence=self.prior.kl(self, q, z, density))
            else:
                z, log_q = q.draw_with_log_prob(self.noise("score"))
                yield Coded(z, log_ratio=log_q - self.prior.log_prob(self, z))

    def kl_by_unit(self, x: Tensor, **given: Tensor) -> Tensor | None:
        """The terms of KL(q(z | x) || p(z)), (B, values), where it is a sum over the code's values in closed form."""
        terms = self.prior.kl_by_unit(self.infer(x, **given))
        return None if terms is None else self.units(terms)

    def rate(self, x: Tensor, **given: Tensor) -> Tensor:
        """KL(q(z | x) || p(z)) of each sample in bits, (B,), by a draw where it has no closed form."""
        q = self.infer(x, **given)
        return self.prior.kl(self, q, *self.prior.draw_for_kl(self.posterior, q, self.noise("rate"))) / math.log(2)
