"""Codes of several parts, each with a posterior and a prior of its own: continuous units beside categories, say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.aggregated import mean_of_all
from lightning_ae.parts.categorical import Concrete, UniformOnCategories
from lightning_ae.parts.flow_posteriors import FlowPosterior
from lightning_ae.parts.hamiltonian import HamiltonianFlow
from lightning_ae.parts.moves import Geometry, Way
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.posteriors import DiagonalGaussian, Distribution, Posterior
from lightning_ae.parts.priors import Prior, StandardNormal
from lightning_ae.parts.sampling import Space
from lightning_ae.parts.schedules import Schedule, read_schedules

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.models.vae import VAE


class JointDistribution(Distribution):
    """Distributions that are independent of each other, over the parts of a code.

    Args:
        parts: one for each, over (B, features of the part, ...).
    """

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        self.mean = torch.cat([part.mean for part in self.parts], dim=1)

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """A draw of each part, one beside the other."""
        return torch.cat([part.draw(noise, n) for part in self.parts], dim=1 if n is None else 2)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats, the sum over the parts: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n)."""
        return torch.stack([q.log_prob(part) for q, part in zip(self.parts, self.split(z), strict=True)]).sum(dim=0)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """The parts of codes (B, *code_shape) or (B, n, *code_shape)."""
        return z.split([part.mean.shape[1] for part in self.parts], dim=1 + z.ndim - self.mean.ndim)

    def detach(self) -> JointDistribution:
        """The same, without gradients to any part."""
        return JointDistribution([part.detach() for part in self.parts])


@dataclass(frozen=True)
class JointPosterior(Posterior):
    r"""q(z | x) of which the units fall into independent parts, of a family each (Dupont 2018, section 3).

    .. math:: q(z_1, z_2, \ldots \mid x) = \prod_i q_i(z_i \mid x)

    A code has the features of the first part, then those of the second, and so on. Its prior is a `JointPrior` of as
    many parts. A part with weights of its own, a flow, is refused.

    Args:
        parts: the families.
        units: how many units each but the first has; that has the rest of `latent_dim`.
    """

    geometry: ClassVar[Geometry] = "discrete"

    parts: tuple[Posterior, ...] = (DiagonalGaussian(), Concrete())
    units: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = tuple(from_plain(Posterior, part, f"parts[{i}]") for i, part in enumerate(self.parts))
        object.__setattr__(self, "parts", parts)
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in self.units)
        if len(parts) != len(self.units) + 1 or not self.units or not whole:
            raise InputError(
                f"JointPosterior takes two parts or more, and for each but the first how many units it has, got "
                f"{len(parts)} parts and units={self.units!r}",
                "parts=(DiagonalGaussian(), Concrete(10)), units=(1,) say",
            )
        for part in parts:
            if isinstance(part, FlowPosterior | HamiltonianFlow | JointPosterior):
                raise InputError(
                    f"a part of JointPosterior has no weights and no parts of its own, got {type(part).__name__}",
                    "use DiagonalGaussian(), FullCovarianceGaussian(), Concrete() or another without weights",
                )

    def shares(self, units: int) -> tuple[int, ...]:
        """How many of so many units each part has.

        Raises:
            InputError: where none is left for the first.
        """
        first = units - sum(self.units)
        if first < 1:
            raise InputError(
                f"units={self.units} of JointPosterior leave none of latent_dim={units} for its first part",
                f"give latent_dim={sum(self.units) + 1} or more",
            )
        return (first, *self.units)

    def values(self, units: int) -> int:
        """Those of all parts."""
        return sum(part.values(n) for part, n in zip(self.parts, self.shares(units), strict=True))

    def code_features(self, units: int) -> int:
        """Those of all parts."""
        return sum(part.code_features(n) for part, n in zip(self.parts, self.shares(units), strict=True))

    def check(self, model: VAE) -> None:
        """Raises InputError for a prior that has no such parts, and what each part refuses."""
        _check_pair(self, model.prior)
        for i, part in enumerate(self.parts):
            part.check(_share(model, i))

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> JointDistribution:
        """(B, values(units), ...) to the distributions."""
        return JointDistribution([q(values) for q, values in zip(self.parts, self._split(output), strict=True)])

    def infer(self, model: VAE, output: Tensor, x: Tensor, given: Mapping[str, Tensor]) -> JointDistribution:
        """The same, at the model's step of a fit."""
        values = self._split(output)
        return JointDistribution([q.infer(_share(model, i), values[i], x, given) for i, q in enumerate(self.parts)])

    def unfold(self, z: Tensor) -> Tensor:
        """What the decoder sees of each part, one beside the other."""
        return torch.cat([q.unfold(part) for q, part in zip(self.parts, self._of_code(z), strict=True)], dim=1)

    def space(self, shape: tuple[int, ...]) -> Space:
        """Refused: the parts are of several kinds.

        Raises:
            InputError: always.
        """
        kinds = " and ".join(type(part).__name__ for part in self.parts)
        raise InputError(
            f"codes of JointPosterior have parts of several kinds, {kinds}, of which no sampler is a density",
            "draw from its prior, or fit a sampler to the codes of a model that has one kind",
        )

    def between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Codes on the shortest path of each part: probabilities of classes on a line."""
        pairs = zip(self.parts, self._of_code(a), self._of_code(b), strict=True)
        return torch.cat([q.between(first, second, t) for q, first, second in pairs], dim=1)

    def ways(self, features: Tensor) -> list[Way]:
        """Those of each part."""
        found, before = [], 0
        for q, part in zip(self.parts, self._of_code(features), strict=True):
            found += [replace(way, feature=before + way.feature) for way in q.ways(part)]
            before += part.shape[1]
        return found

    def move(self, z: Tensor, feature: int, by: Tensor) -> Tensor:
        """Codes of which the part that has the feature moves as its posterior says."""
        moved = list(self._of_code(z))
        for i, (q, part) in enumerate(zip(self.parts, moved, strict=True)):
            if 0 <= feature < part.shape[1]:
                moved[i] = q.move(part, feature, by)
            feature -= part.shape[1]
        return torch.cat(moved, dim=1)

    def _of_code(self, z: Tensor) -> tuple[Tensor, ...]:
        """The parts of codes (B, *code_shape)."""
        sizes = [part.code_features(n) for part, n in zip(self.parts[1:], self.units, strict=True)]
        return z.split([z.shape[1] - sum(sizes), *sizes], dim=1)

    def _split(self, output: Tensor) -> tuple[Tensor, ...]:
        sizes = [part.values(n) for part, n in zip(self.parts[1:], self.units, strict=True)]
        return output.split([output.shape[1] - sum(sizes), *sizes], dim=1)


@dataclass(frozen=True)
class JointPrior(Prior):
    """p(z) of a `JointPosterior`: a prior for each part of the code.

    Args:
        parts: the priors.
    """

    parts: tuple[Prior, ...] = (StandardNormal(), UniformOnCategories())

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = tuple(from_plain(Prior, part, f"parts[{i}]") for i, part in enumerate(self.parts))
        object.__setattr__(self, "parts", parts)
        if any(isinstance(part, JointPrior) for part in parts):
            raise InputError("a part of JointPrior has no parts of its own", "name them all in one JointPrior")

    def check(self, model: Autoencoder) -> None:
        """Raises InputError for a posterior that has no such parts, and what each part refuses."""
        _check_pair(getattr(model, "posterior", None), self)
        for i, part in enumerate(self.parts):
            part.check(_share(model, i))

    def closed_form(self, posterior: Posterior) -> bool:
        """Where that of each part is."""
        assert isinstance(posterior, JointPosterior)
        return all(p.closed_form(q) for p, q in zip(self.parts, posterior.parts, strict=True))

    def build(self, model: Autoencoder) -> nn.Module | None:
        """The parts' weights, by the part's number, where any has some."""
        built = {str(i): part.build(_share(model, i)) for i, part in enumerate(self.parts)}
        found = {name: weights for name, weights in built.items() if weights is not None}
        return nn.ModuleDict(found) if found else None

    def observe(self, model: Autoencoder, x: Tensor) -> None:
        """What each part takes of the batch."""
        for i, part in enumerate(self.parts):
            part.observe(_share(model, i), x)

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""
        shares = [_share(model, i) for i in range(len(self.parts))]
        values = z.split([share.code_shape[0] for share in shares], dim=z.ndim - len(model.code_shape))
        each = [p.log_prob(share, part) for p, share, part in zip(self.parts, shares, values, strict=True)]
        return torch.stack(each).sum(dim=0)

    def kl(self, model: Autoencoder, q: Distribution, z: Tensor, log_q: Tensor | None = None) -> Tensor:
        """The sum over the parts, of each in closed form or from its draw: (B,)."""
        return self.kl_by_part(model, q, z).sum(dim=1)

    def kl_by_part(self, model: Autoencoder, q: Distribution, z: Tensor) -> Tensor:
        """The terms of that sum, (B, parts)."""
        assert isinstance(q, JointDistribution)
        triples = zip(self.parts, q.parts, q.split(z), strict=True)
        return torch.stack([p.kl(_share(model, i), of, part) for i, (p, of, part) in enumerate(triples)], dim=1)

    def draw_for_kl(self, posterior: Posterior, q: Distribution, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """A draw z ~ q; the parts without a closed form ask for the density of theirs."""
        return q.draw(noise), None

    def tempered(self, model: Autoencoder) -> bool:
        """Where each part is."""
        return all(part.tempered(_share(model, i)) for i, part in enumerate(self.parts))

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape), a part's beside the other's."""
        return torch.cat([part.sample(_share(model, i), n, noise) for i, part in enumerate(self.parts)], dim=1)


@dataclass(frozen=True)
class JointCapacity(Objective):
    r"""The reconstruction, and how far each part's divergence is from what it may hold (Dupont 2018, equation 7).

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \gamma \sum_i w_i\, |KL(q_i(z_i \mid x) \,\|\, p_i) - C_i|

    The divergences are means over the batch of all ranks, gamma the model's beta. The C, in nats, rise over the fit. A
    part of D categorical variables of K classes holds at most D log K (times the positions of a map), when each
    sample's class is certain; that may be the same for all samples, and a capacity so large at once makes it so.

    Args:
        capacities: C of each part of a `JointPosterior`, at the end; of categories None is half of what they can hold.
        weights: w of each; None is 1.
        schedule: what the C are multiplied with at each step of a fit; None leaves them as they are.
    """

    capacities: tuple[float | None, ...] = (25.0, None)
    weights: tuple[float, ...] | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        read_schedules(self, "schedule")
        for name in ("capacities", "weights"):
            values = getattr(self, name)
            if any(value is not None and not 0 <= value < math.inf for value in values or ()):
                raise InputError(f"{name} of JointCapacity must not be negative, got {values}")
        if self.weights is not None and len(self.weights) != len(self.capacities):
            raise InputError(f"JointCapacity takes a weight for each of {self.capacities}, got {self.weights}")

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "capacity_loss"

    def check(self, model: VAE) -> None:
        """Raises InputError where the code has not as many parts, or one cannot hold what it is to."""
        posterior = model.posterior
        parts = posterior.parts if isinstance(posterior, JointPosterior) else ()
        if len(parts) != len(self.capacities):
            raise InputError(
                f"JointCapacity has {len(self.capacities)} capacities, for the parts of a JointPosterior, got "
                f"{posterior}",
                "give as many as it has parts, or use the objective Capacity()",
            )
        for i, (capacity, most) in enumerate(zip(self.capacities, _most(model), strict=True)):
            if capacity is None and math.isinf(most):
                raise InputError(
                    f"capacities[{i}] of JointCapacity is None, and {type(parts[i]).__name__} can hold any number of "
                    "nats",
                    "give a number; None is for categories",
                )
            if capacity is not None and capacity > most:
                raise InputError(
                    f"capacities[{i}] of JointCapacity is {capacity:g} nats, but the part's categories hold "
                    f"{most:.4g} at most",
                    "give less, or None for half of that",
                )

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction", "kl", that of each part, "kl_1" and so on, and "excess".

        "excess" is the weighted sum of the distances.
        """
        prior = model.prior
        assert isinstance(prior, JointPrior)
        z = q.draw(model.noise("posterior"))
        reconstruction = model.reconstruction_loss(z, target, **given)
        each = mean_of_all(prior.kl_by_part(model, q, z))
        most = _most(model)
        capacities = each.new_tensor([most[i] / 2 if c is None else c for i, c in enumerate(self.capacities)])
        weights = each.new_tensor(self.weights or [1.0] * len(self.capacities))
        excess = (weights * (each - model.scheduled(self.schedule) * capacities).abs()).sum()
        parts = {f"kl_{i}": kl for i, kl in enumerate(each.unbind(), start=1)}
        loss = reconstruction + model.kl_weight * excess
        return {"loss": loss, "reconstruction": reconstruction, "kl": each.sum(), **parts, "excess": excess}


class _Share:
    """A model as the posterior and the prior of one part of its code see it: as if there were no others."""

    def __init__(self, model: Any, index: int) -> None:
        self._model, self._index = model, index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def posterior(self) -> Posterior:
        found: Posterior = self._model.posterior.parts[self._index]
        return found

    @property
    def prior(self) -> Prior:
        found: Prior = self._model.prior.parts[self._index]
        return found

    @property
    def prior_weights(self) -> nn.Module:
        found: nn.Module = self._model.prior_weights[str(self._index)]
        return found

    @property
    def latent_dim(self) -> int:
        units: int = self._model.posterior.shares(self._model.latent_dim)[self._index]
        return units

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.posterior.code_features(self.latent_dim), *self._model.code_shape[1:])

    def zeros(self, n: int) -> Tensor:
        return torch.zeros(n, *self.code_shape, dtype=self._model.dtype, device=self._model.device)

    def infer(self, x: Tensor, **given: Tensor) -> Distribution:
        q: JointDistribution = self._model.infer(x, **given)
        return q.parts[self._index]


def _share(model: Any, index: int) -> Any:
    return _Share(model, index)


def _most(model: VAE) -> list[float]:
    """The nats that each part of a code can hold: its largest divergence from its prior."""
    posterior, positions = model.posterior, math.prod(model.code_shape[1:])
    assert isinstance(posterior, JointPosterior)
    shares = zip(posterior.parts, posterior.shares(model.latent_dim), strict=True)
    return [n * positions * math.log(q.classes) if isinstance(q, Concrete) else math.inf for q, n in shares]


def _check_pair(posterior: Posterior | None, prior: Prior) -> None:
    parts = [len(each.parts) if isinstance(each, JointPosterior | JointPrior) else 0 for each in (posterior, prior)]
    if parts[0] != parts[1] or not parts[0]:
        raise InputError(
            f"a joint code has a prior for each part, got the posterior {posterior} and the prior {prior}",
            "use a JointPosterior and a JointPrior of as many parts",
        )
