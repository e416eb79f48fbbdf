"""Likelihoods p(x | z): what the decoder's output means.

A likelihood is stateless plain data. Its `params` are a tensor (B, num_parameters, *shape) for data (B, *shape): those
that the decoder gives, then those that are learned for all samples, then the one that is fitted to the data's errors;
`lightning_ae.parts.head` holds the latter two. Log-probabilities are computed in float32 (float64 where the parameters
are), also under autocast.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder

Scale = float | Literal["learned", "per_pixel"]
OptimalScale = float | Literal["optimal", "optimal_per_feature", "learned", "per_pixel"]
LOG_SCALE_RANGE = (-7.0, 7.0)


class Likelihood(Configurable):
    """A family of distributions over data."""

    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """The closed interval of values it admits."""
    whole: ClassVar[bool] = False
    """Whether it admits whole numbers only."""

    @property
    def takes(self) -> tuple[str, ...]:
        """What its parameters are made of besides the decoder's output, by role; `implies` makes it of samples."""
        return ()

    @property
    def asks(self) -> tuple[str, ...]:
        """What its parameters are made of besides, by role, that no sample implies: the model must be given it."""
        return ()

    def of_model(self, model: Autoencoder) -> Likelihood:
        """This likelihood, with what it must know of the model.

        Raises:
            InputError: when it cannot be that model's.
        """
        return self

    def implies(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """What it takes, as it follows from samples (B, *shape), of what the mask marks as known."""
        return {}

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError where it cannot be of samples of `shape`."""

    @property
    def distance(self) -> Callable[[Tensor], Tensor] | None:
        """How far values (B, *shape) are from those that it admits, where `support` does not say all."""
        return (lambda x: (x - x.round()).abs()) if self.whole else None

    @property
    def admits(self) -> str:
        """What `support` is, in words."""
        return f"what {type(self).__name__} takes{', in whole numbers' if self.whole else ''}"

    @property
    def decoder_parameters(self) -> int:
        """How many parameters the decoder network gives for each value."""
        return 1

    def shared_parameters(self) -> list[float]:
        """Where the parameters start that are learned once for all values."""
        return []

    def shared_values(self, shape: tuple[int, ...]) -> int:
        """How many numbers each of those is made of: 1, one for all values; shape[0], one for each feature."""
        return 1

    def fitted_values(self, shape: tuple[int, ...]) -> int:
        """How many numbers the last parameter of samples of `shape` is made of, where no gradient moves it.

        It is fitted to the data's errors: 1, one for all values; shape[0], one for each feature; 0, there is none.
        """
        return 0

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What the decoder network has to give for samples of `shape`."""
        return (self.decoder_parameters * shape[0], *shape[1:])

    def parameters(self, output: Tensor, shape: tuple[int, ...], *more: Tensor, **taken: Tensor) -> Tensor:
        """All parameters, (B, num_parameters, *shape).

        Args:
            output: the decoder's, (B, *output_shape).
            shape: of a sample.
            more: those that all samples share, (P, 1), or (P, shape[0]) with one for each feature.
            taken: what it `takes` and `asks` for.
        """
        parts = [output.unflatten(1, (self.decoder_parameters, shape[0]))]
        parts += [part.view(1, len(part), -1, *[1] * (len(shape) - 1)).to(output.dtype) for part in more]
        each = parts[0].shape[2:]
        return torch.cat([part.expand(output.shape[0], -1, *each) for part in parts], dim=1) if more else parts[0]

    @property
    def num_parameters(self) -> int:
        """How many parameters each value has."""
        return self.decoder_parameters + len(self.shared_parameters()) + (self.fitted_values((1,)) > 0)

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x) in nats, summed over the dimensions of a sample: (B, P, *shape) and (B, *shape) to (B,).

        An override does the same with fewer passes.

        Args:
            params: (B, P, *shape).
            x: (B, *shape).
            mask: of x's shape, true where a value is known; only those count, whatever stands elsewhere, NaN too.
        """
        return per_sample(self.log_prob_each(params, x, mask))

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """Each value's share of `log_prob` in nats, 0 of what is not known: (B, P, *shape), (B, *shape) to (B, *shape).

        Args:
            params: (B, P, *shape).
            x: (B, *shape).
            mask: of x's shape, true where a value is known.
            fitted: what stands in the place of the last parameter, (fitted_values,), of a likelihood that fits one.

        Raises:
            InputError: of a likelihood of a user's own that gives `log_prob` alone.
        """
        raise InputError(
            f"{type(self).__name__} does not say what each value has of its log-probability",
            "override log_prob_each(params, x, mask, fitted), of which log_prob is the sum",
        )

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """The distribution's mean: (B, P, *shape) to (B, *shape)."""

    @abstractmethod
    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw: (B, P, *shape) to (B, *shape), from `noise` (torch's global generator by default)."""

    def errors(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the last parameter is fitted to: sums of errors, and of how many values, (fitted_values,) each.

        With weights, (B,), a sample's errors and values count so much.
        """
        raise NotImplementedError(f"{type(self).__name__} fits no parameter to errors")

    def fit(self, error: Tensor) -> Tensor:
        """The last parameter that makes the data most likely, of their mean errors: (fitted_values,) to the same."""
        raise NotImplementedError(f"{type(self).__name__} fits no parameter to errors")

    def log_prob_fitted(self, fitted: Tensor, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`log_prob` with `fitted`, (fitted_values,), in the place of the last parameter."""
        raise NotImplementedError(f"{type(self).__name__} fits no parameter to errors")

    def is_mass_at(self, x: Tensor) -> bool:
        """Whether `log_prob` is the logarithm of a probability at `x`, so that bits per dimension mean something."""
        return False


@dataclass(frozen=True)
class _LocationScale(Likelihood):
    """A location for each value, and a scale."""

    scale: OptimalScale = 1.0

    def __post_init__(self) -> None:
        words = [word for kind in get_args(get_type_hints(type(self))["scale"])[1:] for word in get_args(kind)]
        if self.scale not in words and (isinstance(self.scale, str) or not 0 < self.scale < math.inf):
            raise InputError(
                f"scale of {type(self).__name__} must be a positive number or one of {', '.join(words)}, "
                f"got {self.scale!r}"
            )

    @property
    def decoder_parameters(self) -> int:
        """The location, and the log-scale where it differs from pixel to pixel."""
        return 2 if self.scale == "per_pixel" else 1

    def shared_parameters(self) -> list[float]:
        """The log-scale where it is learned once for all values."""
        return [0.0] if self.scale == "learned" else []

    def _location_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) each; a log-scale that is one for all values of a sample is (B, 1, ...), where it is fixed ()."""
        params = at_least_float32(params)
        if not isinstance(self.scale, str):
            return params.squeeze(1), params.new_full((), math.log(self.scale))
        location, log_scale = params.unbind(1)  # whose backward pass is one, where each of params[:, i] fills zeros
        if self.scale in ("learned", "optimal"):
            log_scale = one_for_all(log_scale)
        return location, bounded(log_scale, *LOG_SCALE_RANGE)  # so that no variance collapses

    def mean(self, params: Tensor) -> Tensor:
        """The location."""
        return params[:, 0]


@dataclass(frozen=True)
class _Calibrated(_LocationScale):
    """One whose scale, where it makes data most likely, follows from their mean error."""

    @abstractmethod
    def _error(self, location: Tensor, x: Tensor) -> Tensor:
        """(B, *shape) each."""

    @abstractmethod
    def _affine(self, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """What -log p(x) is of an error: a factor, and what is added."""

    def shared_values(self, shape: tuple[int, ...]) -> int:
        """How many numbers each of those is made of: 1, one for all values; shape[0], one for each feature."""
        return 1

    def fitted_values(self, shape: tuple[int, ...]) -> int:
        """The log-scale where it is optimal."""
        return {"optimal": 1, "optimal_per_feature": shape[0]}.get(str(self.scale), 0)

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x) in nats: (B, P, *shape) and (B, *shape) to (B,)."""
        location, log_scale = self._location_and_log_scale(params)
        return -_affine_per_sample(self._error(location, known(x, mask)), *self._affine(log_scale), mask)

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """Each value's share in nats: (B, P, *shape) and (B, *shape) to (B, *shape)."""
        location, log_scale = self._location_and_log_scale(params)
        if fitted is not None:
            log_scale = self._spread(fitted, location)
        factor, offset = self._affine(log_scale)
        return -known(factor * self._error(location, known(x, mask)) + offset, mask)

    def log_prob_fitted(self, fitted: Tensor, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`log_prob` with the log-scales `fitted`."""
        location = at_least_float32(params).unbind(1)[0]
        factor, offset = self._affine(self._spread(fitted, location))
        return -_affine_per_sample(self._error(location, known(x, mask)), factor, offset, mask)

    def _spread(self, fitted: Tensor, location: Tensor) -> Tensor:
        """The fitted log-scales (fitted_values,) for values (B, *shape): (1, 1, ...), or one for each value."""
        each = fitted.to(location.dtype).view(1, -1, *[1] * (location.ndim - 2))
        return each if self.scale == "optimal" else each.expand_as(location)

    def errors(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sums of errors and of how many known values, over the batch: of all values, or of each feature's."""
        location = at_least_float32(params[:, 0])
        error = known(self._error(location, known(x, mask)), mask)
        counts = torch.ones_like(error) if mask is None else mask.to(error.dtype)
        if weights is not None:
            each = weights.to(error.dtype).view(-1, *[1] * (error.ndim - 1))
            error, counts = error * each, counts * each
        if self.scale == "optimal":
            return error.sum().view(1), counts.sum().view(1)
        return error.transpose(0, 1).flatten(1).sum(dim=1), counts.transpose(0, 1).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class Gaussian(_Calibrated):
    r"""A normal distribution for each value; with a fixed scale, squared error.

    .. math:: -\log p(x) = \sum_i \frac{(x_i - \mu_i)^2}{2 \sigma^2} + \log \sigma + \tfrac12 \log 2 \pi

    With `scale="optimal"` it is the calibrated decoder (Rybkin, Daniilidis & Levine 2021,
    https://arxiv.org/abs/2006.13202): a step of training has the variance under which the batch of all ranks is most
    likely, the mean squared error, and evaluation that of the last epoch of training; see
    `lightning_ae.parts.head.LikelihoodHead`.

    Args:
        scale: the standard deviation, in data units: a number, "optimal" (that of the errors, one for all values),
            "optimal_per_feature" (one for each index of a sample's first dimension: a column of a vector, a channel of
            an image), "learned" (one for all values) or "per_pixel" (given by the decoder). Log-scales other than of a
            number are kept in [-7, 7].
    """

    def _error(self, location: Tensor, x: Tensor) -> Tensor:
        return F.mse_loss(location, x.to(location.dtype), reduction="none")

    def _affine(self, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * (-2 * log_scale).exp(), log_scale + 0.5 * math.log(2 * math.pi)

    def fit(self, error: Tensor) -> Tensor:
        """Half the logarithm of the mean squared error."""
        return 0.5 * error.log()

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape)."""
        location, log_scale = self._location_and_log_scale(params)
        return location + log_scale.exp() * (noise or Noise()).randn_like(location)


@dataclass(frozen=True)
class Laplace(_Calibrated):
    r"""A Laplace distribution for each value; with a fixed scale, absolute error.

    .. math:: -\log p(x) = \sum_i |x_i - \mu_i| / b + \log 2 b

    Args:
        scale: b, in data units: a number, "optimal" (the mean absolute error, one for all values; as in `Gaussian`),
            "optimal_per_feature" (one for each index of a sample's first dimension), "learned" (one for all values) or
            "per_pixel" (given by the decoder). Log-scales other than of a number are kept in [-7, 7].
    """

    def _error(self, location: Tensor, x: Tensor) -> Tensor:
        return F.l1_loss(location, x.to(location.dtype), reduction="none")

    def _affine(self, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        return (-log_scale).exp(), log_scale + math.log(2)

    def fit(self, error: Tensor) -> Tensor:
        """The logarithm of the mean absolute error."""
        return error.log()

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape), by the inverse of the distribution function."""
        location, log_scale = self._location_and_log_scale(params)
        u = (noise or Noise()).rand_like(location) - 0.5
        return location - log_scale.exp() * u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.5 - 1e-7))


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    r"""A coin for each value; the decoder gives logits. Grey values are admitted: the loss is the cross-entropy.

    .. math:: -\log p(x) = -\sum_i x_i \log p_i + (1 - x_i) \log (1 - p_i)
    """

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def is_mass_at(self, x: Tensor) -> bool:
        """True for zeros and ones; the cross-entropy of grey values is no probability."""
        return bool(((x == 0) | (x == 1)).all())

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x) in nats: (B, 1, *shape) and (B, *shape) to (B,)."""
        return -per_sample(cross_entropy(params, known(x, mask)), mask)

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """Each value's share in nats: (B, 1, *shape) and (B, *shape) to (B, *shape)."""
        return -known(cross_entropy(params, known(x, mask)), mask)

    def mean(self, params: Tensor) -> Tensor:
        """The probabilities, (B, *shape)."""
        return params[:, 0].sigmoid()

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw of zeros and ones, (B, *shape)."""
        probability = at_least_float32(params[:, 0]).sigmoid()
        return ((noise or Noise()).rand_like(probability) < probability).to(probability.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is in float64: log-probabilities and divergences need the digits."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, products of matrices have the type that they are given; a model without memory has no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """`x` clamped to [low, high]; the gradient passes, so that it can come back from beyond."""
    return x + (x.clamp(low, high) - x).detach()


def one_for_all(x: Tensor) -> Tensor:
    """A parameter that is the same for all values of a sample: (B, *shape) to (B, 1, ...)."""
    return x.flatten(1)[:, :1].unflatten(1, [1] * (x.ndim - 1))


def float64(x: Tensor) -> Tensor:
    """`x` with all digits that its device has."""
    return x.float() if x.device.type == "mps" else x.double()


def per_sample(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The sum of each sample's known values: (B, *shape) to (B,)."""
    return known(x, mask).flatten(1).sum(dim=1)


def known(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` where the mask is true, 0 elsewhere.

    Data are made so before anything is computed of them, since a NaN comes back in the gradient of what is left out.
    """
    if mask is None:
        return x
    if mask.shape != x.shape or mask.is_floating_point():
        raise InputError(
            f"a mask is true (or 1) where a value is known, of the data's shape {tuple(x.shape)}; got {mask.dtype} "
            f"{tuple(mask.shape)}",
            "mask = ~x.isnan(), or (mask > 0.5).expand_as(x)",
        )
    return torch.where(mask.bool(), x, 0.0)


def _affine_per_sample(x: Tensor, factor: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each sample's sum of `factor * x + offset`: x (B, *shape), the others too, or one for all values of a sample."""
    if factor.shape[1:] == x.shape[1:]:
        return per_sample(factor * x + offset, mask)
    # what is one for all values waits for their sum: the passes over (B, *shape) are what takes the time
    count = math.prod(x.shape[1:]) if mask is None else mask.bool().flatten(1).sum(dim=1)
    return factor.flatten() * per_sample(x, mask) + offset.flatten() * count


def cross_entropy(params: Tensor, x: Tensor) -> Tensor:
    """Of each value under the coin with that logit: (B, 1, *shape) and (B, *shape) to (B, *shape)."""
    logits = at_least_float32(params.squeeze(1))  # a view both ways, where params[:, 0] has to fill zeros backwards
    return F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none")
