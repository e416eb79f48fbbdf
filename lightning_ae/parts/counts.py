"""Likelihoods of counts: whole numbers from 0."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import Likelihood, at_least_float32, bounded, known, per_sample
from lightning_ae.parts.quantiles import log_gamma_quantile, poisson_quantile

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder

Dispersion = Literal["feature", "feature_batch", "per_value"]
LOG_MEAN_RANGE = (-50.0, 30.0)
LOG_DISPERSION_RANGE = (-10.0, 20.0)
_STIRLING = 32.0
"""From here on three terms of Stirling's series give the logarithm of the gamma function to 1e-13."""


@dataclass(frozen=True)
class _Counts(Likelihood):
    """Counts whose first parameter is the logarithm of a mean."""

    support: ClassVar[tuple[float, float]] = (0.0, math.inf)
    whole: ClassVar[bool] = True

    library: bool = False

    @property
    def takes(self) -> tuple[str, ...]:
        """The library, where it is an offset."""
        return ("library",) if self.library else ()

    def implies(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The "library" of each sample, the sum of its known counts, (B,)."""
        return {"library": per_sample(at_least_float32(x), mask)} if self.library else {}

    def is_mass_at(self, x: Tensor) -> bool:
        """True for counts; but with a library, a probability given what is a part of them."""
        return not self.library and bool(((x >= 0) & (x == x.round())).all())

    def parameters(self, output: Tensor, shape: tuple[int, ...], *more: Tensor, **taken: Tensor) -> Tensor:
        """(B, P, *shape); with a library the first is log library + log softmax of the decoder's, over a sample."""
        params = super().parameters(output, shape, *more)
        if not self.library:
            return params
        params = at_least_float32(params)
        shares = params[:, 0].flatten(1).log_softmax(dim=1)
        log_mean = (shares + self._log_library(taken.get("library"), shares)).view_as(params[:, :1])
        return torch.cat([log_mean, params[:, 1:]], dim=1)

    def mean(self, params: Tensor) -> Tensor:
        """The mean, (B, *shape)."""
        return self._log_mean(params).exp()

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """log p(x) of each value in nats: (B, P, *shape) and (B, *shape) to (B, *shape)."""
        params = at_least_float32(params)
        return known(self._log_mass(params, known(x, mask).to(params.dtype)), mask)

    @abstractmethod
    def _log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        """Of each value, (B, *shape)."""

    def _log_mean(self, params: Tensor) -> Tensor:
        return bounded(at_least_float32(params[:, 0]), *LOG_MEAN_RANGE)

    def _log_library(self, library: Tensor | None, like: Tensor) -> Tensor:
        """(B, 1), or (1, 1) of one for all samples."""
        name = f"{type(self).__name__}(library=True)"
        if library is None:
            raise InputError(
                f"{name} takes the library of each sample, the sum of its counts, which a code does not say",
                "pass library=..., a number or one for each sample, to decode and sample",
            )
        library = torch.as_tensor(library, dtype=like.dtype, device=like.device)
        if library.ndim > 1 or (library.ndim == 1 and library.shape[0] != like.shape[0]):
            raise InputError(
                f"{name} takes a library of shape ({len(like)},), a number for each sample, got {tuple(library.shape)}"
            )
        # a sample without counts has a mean that is next to nothing; a negative number gives NaN
        tiny = torch.finfo(like.dtype).tiny
        return torch.where(library == 0, tiny, library).log().view(-1, 1)


@dataclass(frozen=True)
class Poisson(_Counts):
    r"""A Poisson distribution for each value; the decoder gives the logarithm of its mean.

    .. math:: -\log p(x) = \sum_i \mu_i - x_i \log \mu_i + \log x_i!

    Log-means are kept in [-50, 30].

    Args:
        library: whether the means of a sample are shares of its library, the sum of its counts: :math:`\mu_i = L\,
            \mathrm{softmax}(\text{logits})_i`. A batch may say it by an entry "library" (B,), else it is the sum of
            the sample's own (known) counts; `decode` and `sample` must be given it.
    """

    def _log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        log_mean = self._log_mean(params)
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape)."""
        mean = self.mean(params)
        return poisson_quantile((noise or Noise()).rand_like(mean), mean).to(mean.dtype)


@dataclass(frozen=True)
class NegativeBinomial(_Counts):
    r"""A negative binomial distribution for each value: a Poisson distribution whose mean varies.

    With mean :math:`\mu` and inverse dispersion :math:`\theta` the variance is :math:`\mu + \mu^2 / \theta`, and

    .. math:: p(x) = \frac{\Gamma(x + \theta)}{\Gamma(\theta)\, x!}
        \left(\frac{\theta}{\theta + \mu}\right)^\theta \left(\frac{\mu}{\theta + \mu}\right)^x.

    The decoder gives :math:`\log \mu`, kept in [-50, 30]; :math:`\log \theta` is kept in [-10, 20], where it is a
    Poisson distribution but for parts in a hundred million.

    Args:
        library: whether the means of a sample are shares of its library; see `Poisson`.
        dispersion: "feature", a :math:`\theta` learned for each index of a sample's first dimension (a column of a
            vector); "feature_batch", one for each of them in each batch of measurements, of a model that is given a
            condition, whose first column says the batch; or "per_value", given by the decoder.
        batches: how many there are, where it is by batch; a model says it.
    """

    dispersion: Dispersion = "feature"
    batches: int = 0

    def __post_init__(self) -> None:
        if self.dispersion not in get_args(Dispersion):
            raise unknown(f"dispersion of {type(self).__name__}", str(self.dispersion), get_args(Dispersion))
        if self.batches and self.dispersion != "feature_batch":
            raise InputError(f"batches of {type(self).__name__} go with dispersion='feature_batch', got {self}")

    @property
    def asks(self) -> tuple[str, ...]:
        """The condition, where the dispersion is by batch."""
        return ("condition",) if self.dispersion == "feature_batch" else ()

    def of_model(self, model: Autoencoder) -> NegativeBinomial:
        """With the number of batches that the first column of the model's condition has.

        Raises:
            InputError: when that has none, others, or may be missing.
        """
        if self.dispersion != "feature_batch":
            return self
        conditions: tuple[int, ...] = getattr(model, "conditions", ())
        name = f"{type(self).__name__}(dispersion='feature_batch')"
        if not conditions or not conditions[0] or self.batches not in (0, conditions[0]):
            raise InputError(
                f"{name} takes the batch from the first column of the model's condition, which must have"
                f"{f' {self.batches}' if self.batches else ''} classes; {type(model).__name__} has conditions "
                f"{list(conditions)}",
                "use ConditionalVAE(..., conditions=[batches, ...]), of data with condition=['batch', ...]",
            )
        if getattr(model, "condition_dropout", None) is not None:
            raise InputError(
                f"{name} has no dispersion of a sample whose batch is missing, and condition_dropout admits such",
                "leave condition_dropout out, or use dispersion='feature'",
            )
        return replace(self, batches=conditions[0])

    @property
    def decoder_parameters(self) -> int:
        """The log-mean, and the log-dispersion where it differs from value to value."""
        return 2 if self.dispersion == "per_value" else 1

    def shared_parameters(self) -> list[float]:
        """The log-dispersion, where each feature has one."""
        return [] if self.dispersion == "per_value" else [0.0]

    def shared_values(self, shape: tuple[int, ...]) -> int:
        """One for each feature, of each batch."""
        return shape[0] * max(1, self.batches)

    def parameters(self, output: Tensor, shape: tuple[int, ...], *more: Tensor, **taken: Tensor) -> Tensor:
        """(B, P, *shape), with the dispersions of each sample's batch where they are by batch."""
        if self.dispersion != "feature_batch":
            return super().parameters(output, shape, *more, **taken)
        (shared,) = more
        if (condition := taken.get("condition")) is None or not self.batches:
            raise InputError(
                f"{type(self).__name__}(dispersion='feature_batch') takes the condition of each sample, whose first "
                "column says the batch",
                "use it in a ConditionalVAE, or give condition=..., and batches",
            )
        params = _Counts.parameters(self, output, shape, **taken)
        each = shared.view(self.batches, shape[0])[condition[:, 0].long()]
        each = each.view(-1, 1, shape[0], *[1] * (len(shape) - 1)).to(params.dtype)
        return torch.cat([params, each.expand_as(params[:, :1])], dim=1)

    def _log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        return _log_mass(x, self._log_mean(params), self._log_dispersion(params))

    def _log_dispersion(self, params: Tensor) -> Tensor:
        return bounded(at_least_float32(params[:, -1]), *LOG_DISPERSION_RANGE)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape): of a Poisson distribution whose mean is drawn from a gamma distribution."""
        noise = noise or Noise()
        log_mean, log_dispersion = self._log_mean(params), self._log_dispersion(params)
        drawn = log_gamma_quantile(noise.rand_like(log_mean), log_dispersion.exp())
        rate = (drawn + (log_mean - log_dispersion)).exp()
        return poisson_quantile(noise.rand_like(log_mean), rate).to(log_mean.dtype)


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""A negative binomial distribution with more zeros: a share :math:`\pi` of the values are zero in any case.

    .. math:: p(0) = \pi + (1 - \pi)\, NB(0), \quad p(x) = (1 - \pi)\, NB(x) \text{ for } x > 0

    The decoder gives :math:`\log \mu` and the logit of :math:`\pi`. `mean` is :math:`(1 - \pi) \mu`, the
    distribution's.

    Args:
        library: whether the :math:`\mu` of a sample are shares of its library; see `Poisson`.
        dispersion: "feature", a :math:`\theta` learned for each index of a sample's first dimension (a column of a
            vector); "feature_batch", one for each of them in each batch of measurements, of a model that is given a
            condition, whose first column says the batch; or "per_value", given by the decoder.
        batches: how many there are, where it is by batch; a model says it.
    """

    @property
    def decoder_parameters(self) -> int:
        """The log-mean, the logit of the share, and the log-dispersion where it differs from value to value."""
        return 1 + super().decoder_parameters

    def mean(self, params: Tensor) -> Tensor:
        """The mean, (B, *shape)."""
        return super().mean(params) * at_least_float32(params[:, 1]).sigmoid().neg().add(1)

    def _log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        logit = params[:, 1]
        log_mass = F.logsigmoid(-logit) + super()._log_mass(params, x)
        return torch.where(x == 0, torch.logaddexp(F.logsigmoid(logit), log_mass), log_mass)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape)."""
        noise = noise or Noise()
        drawn = super().sample(params, noise)
        share = at_least_float32(params[:, 1]).sigmoid()
        return torch.where(noise.rand_like(drawn) < share, 0.0, drawn)


def _log_mass(x: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Of the negative binomial distribution, (B, *shape) each."""
    theta = log_dispersion.exp()
    few = log_dispersion.clamp(max=math.log(_STIRLING))
    small = few.exp()
    plain = torch.lgamma(x + small) - torch.lgamma(small) + small * F.logsigmoid(few - log_mean)
    plain = plain + x * F.logsigmoid(log_mean - few)
    # for large theta those gamma functions are near-equal numbers; by Stirling's series they cancel in closed form
    large = theta.clamp(min=_STIRLING)
    grown = large + x
    series = (grown - 0.5) * torch.log1p(x / large) - x + x * log_mean - grown * torch.log1p(log_mean.exp() / large)
    series = series + _stirling(grown) - _stirling(large)
    return torch.where(theta < _STIRLING, plain, series) - torch.lgamma(x + 1)


def _stirling(a: Tensor) -> Tensor:
    inverse = 1 / a
    square = inverse.square()
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))
