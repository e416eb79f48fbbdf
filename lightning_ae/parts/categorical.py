"""Codes of categories: the posterior relaxed by Gumbel-softmax, and the uniform prior (Jang et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.importance import IWAEObjective
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.moves import Geometry, Way
from lightning_ae.parts.objectives import ELBO
from lightning_ae.parts.posteriors import Distribution, Posterior
from lightning_ae.parts.priors import Prior, posterior_for
from lightning_ae.parts.sampling import Space
from lightning_ae.parts.schedules import Schedule, read_schedules

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.models.vae import VAE


class Categories(Distribution):
    """Independent categorical variables, each coded by as many values as it has classes, one beside the other.

    Args:
        log_probabilities: (B, variables, classes, ...).
        temperature: of relaxed draws; None for draws that are zeros and ones.
        straight_through: whether the value of a relaxed draw is rounded to zeros and ones, and its gradient is not.
    """

    def __init__(
        self, log_probabilities: Tensor, temperature: float | None = None, straight_through: bool = False
    ) -> None:
        self.log_probabilities, self.temperature = log_probabilities, temperature
        self.straight_through = straight_through
        self.mean = log_probabilities.exp().flatten(1, 2)

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """By the Gumbel noise g, softmax((log q + g) / temperature), or the one-hot code of its largest class."""
        logits, axis = self.log_probabilities, 2
        if n is not None:
            logits, axis = logits.unsqueeze(1).expand(-1, n, *logits.shape[1:]), 3
        uniform = noise.rand_like(logits).clamp(min=torch.finfo(logits.dtype).tiny)
        scores = logits - (-uniform.log()).log()
        hard = torch.zeros_like(scores).scatter_(axis, scores.argmax(dim=axis, keepdim=True), 1.0)
        if self.temperature is None:
            return hard.flatten(axis - 1, axis)
        z = (scores / self.temperature).softmax(dim=axis)
        if self.straight_through:
            z = hard + (z - z.detach())
        return z.flatten(axis - 1, axis)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats of codes of zeros and ones: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n).

        Raises:
            InputError: where draws are relaxed, whose densities these are not.
        """
        if self.temperature is not None:
            raise InputError(
                "relaxed draws of categories have no probability",
                "use the closed form: the objective ELBO() and the prior UniformOnCategories()",
            )
        log, start = self.log_probabilities.flatten(1, 2), 1 + z.ndim - self.mean.ndim
        each = (log if start == 1 else log.unsqueeze(1)).clamp(min=torch.finfo(log.dtype).min) * z
        return each.flatten(start).sum(dim=-1)

    def kl(self) -> Tensor:
        r"""The divergence from uniform categories in nats, :math:`\sum_j \sum_k q_{jk} \log K q_{jk}`: (B,)."""
        log = self.log_probabilities
        return (log.exp() * (log + math.log(log.shape[2]))).flatten(1).sum(dim=1)

    def detach(self) -> Categories:
        """The same, without gradients to the probabilities."""
        return Categories(self.log_probabilities.detach(), self.temperature, self.straight_through)


@dataclass(frozen=True)
class Concrete(Posterior):
    r"""`latent_dim` categorical variables of K classes, relaxed in training (Jang et al. 2017; Maddison et al. 2017).

    The encoder gives a logit for each class. A draw in training is, with Gumbel noise g,

    .. math:: z_k = \mathrm{softmax}_k((\log q_k(x) + g_k) / \tau),

    which has a gradient; the lower the temperature tau, the nearer it is to zeros and ones, and the larger the
    gradient's variance. In evaluation a draw is of q itself, zeros and a one, so that scores are those of the discrete
    model; the loss in training is not its bound. The mean, which `encode` gives, is the probabilities. A code has
    latent_dim times K values, a variable's classes beside each other.

    Args:
        classes: K > 1, of each variable.
        temperature: tau > 0.
        straight_through: whether training decodes zeros and ones, too, with the gradient of the relaxed draw.
        temperature_schedule: what tau is multiplied with at each step of a fit; it must stay above 0.
    """

    geometry: ClassVar[Geometry] = "discrete"

    classes: int = 10
    temperature: float = 2 / 3
    straight_through: bool = False
    temperature_schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.classes, int) or self.classes < 2:
            raise InputError(f"classes of Concrete must be an integer of 2 or more, got {self.classes!r}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature of Concrete must be positive and finite, got {self.temperature}")
        read_schedules(self, "temperature_schedule")
        schedule = self.temperature_schedule
        if schedule is not None and not schedule(1_000_000, 1e6) > 0:
            raise InputError(
                f"temperature_schedule of Concrete ends at a temperature of 0, got {schedule}",
                "give it a positive end, CosineDecay(last=0.5) say",
            )

    def values(self, units: int) -> int:
        """A logit for each class of each variable."""
        return self.classes * units

    def code_features(self, units: int) -> int:
        """A value for each class of each variable."""
        return self.classes * units

    def check(self, model: VAE) -> None:
        """Raises InputError for a prior or an objective that would ask relaxed draws for their probability."""
        if not isinstance(model.prior, UniformOnCategories):
            raise InputError(
                f"Concrete is a distribution of categories, {type(model.prior).__name__} one of numbers",
                "use the prior UniformOnCategories()",
            )
        drawn = isinstance(model.objective, ELBO) and model.objective.divergence == "drawn"
        if drawn or isinstance(model.objective, IWAEObjective):
            raise InputError(
                f"{model.objective} asks draws for their probability, which relaxed draws of categories do not have",
                "use the objective ELBO()",
            )

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> Categories:
        """(B, latent_dim * K, ...) to the distributions, not relaxed."""
        logits = at_least_float32(output).unflatten(1, (-1, self.classes))
        return Categories(logits.log_softmax(dim=2))

    def infer(self, model: VAE, output: Tensor, x: Tensor, given: Mapping[str, Tensor]) -> Categories:
        """The same, relaxed in training."""
        q = self(output)
        if not model.training:
            return q
        temperature = self.temperature * model.scheduled(self.temperature_schedule)
        return Categories(q.log_probabilities, temperature, self.straight_through)

    def space(self, shape: tuple[int, ...]) -> Space:
        """The number of a class for each variable at each position."""
        return Space(math.prod(shape) // self.classes, self.classes)

    def coordinates(self, z: Tensor) -> Tensor:
        """The number of each variable's largest class: (B, latent_dim * K, ...) to (B, units), int64."""
        return z.unflatten(1, (-1, self.classes)).argmax(dim=2).flatten(1)

    def from_coordinates(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Zeros and ones, of the numbers of classes: (B, units) to (B, *shape)."""
        classes = values.view(-1, shape[0] // self.classes, *shape[1:])
        return F.one_hot(classes, self.classes).movedim(-1, 2).flatten(1, 2)

    def ways(self, features: Tensor) -> list[Way]:
        """A way for each variable, from its first class on through all."""
        variance = features.var(dim=0, correction=0).view(-1, self.classes).sum(dim=1)
        return [Way(i * self.classes, spread, self.classes) for i, spread in enumerate(variance.sqrt().tolist())]

    def move(self, z: Tensor, feature: int, by: Tensor) -> Tensor:
        """Codes of which one variable is of the class `by` (B,) classes after that of a feature, in a circle."""
        variable, first = divmod(feature, self.classes)
        chosen = F.one_hot((first + by.round().long()) % self.classes, self.classes).to(z)
        moved = z.unflatten(1, (-1, self.classes)).clone()
        moved[:, variable] = chosen.view(*chosen.shape, *[1] * (z.ndim - 2))
        return moved.flatten(1, 2)


@dataclass(frozen=True)
class UniformOnCategories(Prior):
    """All classes of each variable equally likely. Draws are zeros and ones."""

    def check(self, model: Autoencoder) -> None:
        """Raises InputError where the posterior is none of categories."""
        self._classes(model)

    def closed_form(self, posterior: Posterior) -> bool:
        """Of categories."""
        return isinstance(posterior, Concrete)

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats, of codes of zeros and ones: (..., *code_shape) to (...)."""
        shape = model.code_shape
        classes = self._classes(model)
        return z.new_full(z.shape[: z.ndim - len(shape)], -(math.prod(shape) // classes) * math.log(classes))

    def kl(self, model: Autoencoder, q: Distribution, z: Tensor, log_q: Tensor | None = None) -> Tensor:
        """In closed form: (B,)."""
        return q.kl() if isinstance(q, Categories) else super().kl(model, q, z, log_q)

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape), of zeros and ones."""
        classes = self._classes(model)
        uniform = noise.rand_like(at_least_float32(model.zeros(n)).unflatten(1, (-1, classes))[:, :, 0])
        chosen = (uniform * classes).long().clamp(max=classes - 1)
        return F.one_hot(chosen, classes).movedim(-1, 2).flatten(1, 2).to(uniform.dtype)

    def _classes(self, model: Autoencoder) -> int:
        return posterior_for(self, model, Concrete, "of categories").classes
