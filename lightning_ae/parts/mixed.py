"""Likelihoods of classes, of numbers with outliers, and of columns that are each of their own kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import (
    Gaussian,
    Likelihood,
    Scale,
    _LocationScale,
    at_least_float32,
    bounded,
    float64,
    known,
    one_for_all,
)
from lightning_ae.parts.quantiles import log_gamma_quantile

_LOG_RANGE = (-5.0, 7.0)


@dataclass(frozen=True)
class StudentT(_LocationScale):
    r"""Student's t distribution for each value, whose tails let an outlier be one.

    .. math:: -\log p(x) = \sum_i \frac{\nu + 1}{2} \log\Bigl(1 + \frac{(x_i - \mu_i)^2}{\nu \sigma^2}\Bigr)
        + \log \sigma + \tfrac12 \log \nu \pi + \log \Gamma(\tfrac\nu2) - \log \Gamma(\tfrac{\nu + 1}2)

    `mean` is the location, the distribution's mean with more than one degree of freedom and its median with any.

    Args:
        scale: in data units: a number, "learned" (one for all values) or "per_pixel" (given by the decoder). Learned
            log-scales are kept in [-7, 7].
        degrees: :math:`\nu`: a number, or "learned" (one for all values, from 5; kept in [1.007, 1097]).
    """

    scale: Scale = "learned"
    degrees: float | Literal["learned"] = "learned"

    def __post_init__(self) -> None:
        if isinstance(self.scale, str) and self.scale.startswith("optimal"):
            raise InputError(
                f"scale of StudentT must be a positive number or one of learned, per_pixel, got {self.scale!r}: under "
                "which scale data are most likely follows from no sum of their errors, as it does for Gaussian and "
                "Laplace",
                "StudentT(scale='learned'), or Laplace(scale='optimal'), whose tails are heavy, too",
            )
        super().__post_init__()
        if self.degrees != "learned" and (isinstance(self.degrees, str) or not 0 < self.degrees < math.inf):
            raise InputError(f"degrees of StudentT must be a positive number or 'learned', got {self.degrees!r}")

    def shared_parameters(self) -> list[float]:
        """The log-scale, and the logarithm of the degrees above one, where each is learned."""
        return [*super().shared_parameters(), *([math.log(4)] if self.degrees == "learned" else [])]

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """log p(x) of each value in nats: (B, P, *shape) and (B, *shape) to (B, *shape)."""
        location, log_scale, degrees = self._all(params)
        error = (known(x, mask).to(location.dtype) - location) * (-log_scale).exp()
        wide = float64(degrees)  # of gamma functions that are near-equal numbers, but one for all values
        constant = torch.lgamma((wide + 1) / 2) - torch.lgamma(wide / 2) - 0.5 * (wide * math.pi).log()
        tails = (degrees + 1) / 2 * torch.log1p(error.square() / degrees)
        return known(constant.to(error.dtype) - log_scale - tails, mask)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape): of a normal distribution whose precision is drawn from a gamma distribution."""
        noise = noise or Noise()
        location, log_scale, degrees = self._all(params)
        normal = noise.randn_like(location)
        half = (degrees / 2).expand_as(location)
        drawn = log_gamma_quantile(noise.rand_like(location), half) - float64(half).log()
        return location + log_scale.exp() * normal * (-0.5 * drawn).exp().to(normal.dtype)

    def _all(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Location, log-scale and degrees of freedom, (B, *shape) or what goes with it."""
        if self.degrees != "learned":
            location, log_scale = self._location_and_log_scale(params)
            return location, log_scale, location.new_full((), float(self.degrees))
        location, log_scale = self._location_and_log_scale(params[:, :-1])
        learned = one_for_all(at_least_float32(params[:, -1]))
        return location, log_scale, 1 + bounded(learned, *_LOG_RANGE).exp()


@dataclass(frozen=True)
class Categorical(Likelihood):
    r"""A class for each value, as a whole number from 0; the decoder gives a logit for each class.

    .. math:: -\log p(x) = -\sum_i \log \mathrm{softmax}(\text{logits}_i)_{x_i}

    `mean` is the most likely class, since numbers of classes have no mean.

    Args:
        classes: how many.
    """

    whole: ClassVar[bool] = True

    classes: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 2:
            raise InputError(f"classes of Categorical must be an integer of at least 2, got {self.classes!r}")
        object.__setattr__(self, "support", (0.0, self.classes - 1.0))

    @property
    def decoder_parameters(self) -> int:
        """A logit for each class."""
        return self.classes

    def is_mass_at(self, x: Tensor) -> bool:
        """True of the classes."""
        return bool(((x >= 0) & (x < self.classes) & (x == x.round())).all())

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """log p(x) of each value in nats: (B, classes, *shape) and (B, *shape) to (B, *shape); of no class, -inf."""
        x = known(x, mask)
        chosen = x.round().clamp(0, self.classes - 1)
        log_mass = at_least_float32(params).log_softmax(dim=1).gather(1, chosen.long().unsqueeze(1)).squeeze(1)
        return known(torch.where(chosen == x, log_mass, -math.inf), mask)

    def mean(self, params: Tensor) -> Tensor:
        """The most likely class, (B, *shape)."""
        return params.argmax(dim=1).to(params.dtype)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, *shape): the largest logit after noise from Gumbel's distribution."""
        params = at_least_float32(params)
        u = (noise or Noise()).rand_like(params).clamp(1e-9, 1 - 1e-7)
        return (params - (-u.log()).log()).argmax(dim=1).to(params.dtype)


@dataclass(frozen=True)
class Mixed(Likelihood):
    """Vectors whose columns are numbers or classes: the sum of each column's own log-probability.

    Its `params` are (B, 1, values): those of the numbers, then the logits of the columns of classes, of those with
    the fewest classes first. `mean` is the number's mean, and the most likely class.

    Args:
        categories: for each column of the vector 0, where it is a number, or the number of its classes, which are whole
            numbers from 0.
        number: the likelihood of the columns of numbers, the same for all, any of this package's but Mixed; by default
            each column has the scale of its errors.
    """

    categories: tuple[int, ...] = ()
    number: Likelihood = Gaussian(scale="optimal_per_feature")

    def __post_init__(self) -> None:
        super().__post_init__()
        for k in self.categories:
            if isinstance(k, bool) or not isinstance(k, int) or k < 0 or k == 1:
                raise InputError(
                    f"categories of Mixed are 0 for a number, else how many classes the column has, got {k!r}"
                )
        if isinstance(self.number, Mixed):
            raise InputError("number of Mixed is itself Mixed", "give categories for all columns")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError where samples are no vectors, or of another length."""
        if len(shape) != 1 or shape[0] != len(self.categories):
            raise InputError(
                f"Mixed is for vectors, of which its categories describe each column: they are {len(self.categories)}, "
                f"and input_shape is {shape}",
                "give categories a 0 for each column of numbers, and the number of classes for each other",
            )
        self.number.check((len(self._numbers),))

    @cached_property
    def _numbers(self) -> list[int]:
        return [i for i, k in enumerate(self.categories) if k == 0]

    @cached_property
    def _groups(self) -> list[tuple[Categorical, list[int]]]:
        """The columns with the same number of classes."""
        sizes = sorted(set(self.categories) - {0})
        return [(Categorical(k), [i for i, n in enumerate(self.categories) if n == k]) for k in sizes]

    @property
    def takes(self) -> tuple[str, ...]:
        """What the numbers take."""
        return self.number.takes if self._numbers else ()

    def implies(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """What the numbers imply."""
        return self.number.implies(*_columns(self._numbers, x, mask)) if self._numbers else {}

    @property
    def distance(self) -> Callable[[Tensor], Tensor]:
        """How far values (B, columns) are from what each column admits."""

        def distance(x: Tensor) -> Tensor:
            far = [_distance(likelihood, x[:, columns]) for likelihood, columns in self._parts]
            return self._in_order(far)

        return distance

    @property
    def admits(self) -> str:
        """The values that it admits, in words."""
        number = type(self.number).__name__
        return f"Mixed takes what {number} takes, and whole numbers from 0 to K - 1 in a column of K classes"

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The parameters of all columns in one vector."""
        return (self.number.decoder_parameters * len(self._numbers) + sum(self.categories),)

    @property
    def num_parameters(self) -> int:
        """The vector of all columns' parameters counts as one."""
        return 1

    def shared_parameters(self) -> list[float]:
        """Those of the numbers."""
        return self.number.shared_parameters() if self._numbers else []

    def shared_values(self, shape: tuple[int, ...]) -> int:
        """As the numbers say."""
        return self.number.shared_values((len(self._numbers),))

    def fitted_values(self, shape: tuple[int, ...]) -> int:
        """As the numbers say."""
        return self.number.fitted_values((len(self._numbers),)) if self._numbers else 0

    def parameters(self, output: Tensor, shape: tuple[int, ...], *more: Tensor, **taken: Tensor) -> Tensor:
        """(B, 1, values)."""
        count = len(self._numbers)
        numbers, classes = output.split([self.number.decoder_parameters * count, sum(self.categories)], dim=1)
        if count:
            numbers = self.number.parameters(numbers, (count,), *more, **taken).flatten(1)
        return torch.cat([numbers, classes.to(numbers.dtype)], dim=1).unsqueeze(1)

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x) in nats: (B, 1, values) and (B, columns) to (B,)."""
        return self._sum(lambda number, *args: number.log_prob(*args), params, x, mask)

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """Each column's log p(x) in nats: (B, 1, values) and (B, columns) to the same shape as x."""
        found = []
        for (likelihood, columns), own in zip(self._parts, self._apart(params), strict=True):
            its = fitted if likelihood is self.number else None
            found.append(likelihood.log_prob_each(own, *_columns(columns, x, mask), its))
        return self._in_order(found)

    def errors(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Those of the numbers."""
        return self.number.errors(self._apart(params)[0], *_columns(self._numbers, x, mask), weights)

    def fit(self, error: Tensor) -> Tensor:
        """That of the numbers."""
        return self.number.fit(error)

    def log_prob_fitted(self, fitted: Tensor, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`log_prob` with `fitted` for the numbers."""
        return self._sum(lambda number, *args: number.log_prob_fitted(fitted, *args), params, x, mask)

    def mean(self, params: Tensor) -> Tensor:
        """(B, columns)."""
        found = [part.mean(own) for (part, _), own in zip(self._parts, self._apart(params), strict=True)]
        return self._in_order(found)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw, (B, columns)."""
        noise = noise or Noise()
        found = [part.sample(own, noise) for (part, _), own in zip(self._parts, self._apart(params), strict=True)]
        return self._in_order(found)

    def is_mass_at(self, x: Tensor) -> bool:
        """Where every column's is."""
        return all(part.is_mass_at(x[:, columns]) for part, columns in self._parts)

    @cached_property
    def _parts(self) -> list[tuple[Likelihood, list[int]]]:
        """Each likelihood, with its columns."""
        numbers: list[tuple[Likelihood, list[int]]] = [(self.number, self._numbers)] if self._numbers else []
        return [*numbers, *self._groups]

    def _apart(self, params: Tensor) -> list[Tensor]:
        """The parameters of each, (B, P, its columns)."""
        sizes = [self.number.num_parameters * len(self._numbers)] if self._numbers else []
        sizes += [likelihood.classes * len(columns) for likelihood, columns in self._groups]
        parts = params.squeeze(1).split(sizes, dim=1)
        return [part.unflatten(1, (-1, len(own))) for part, (_, own) in zip(parts, self._parts, strict=True)]

    def _sum(self, of_numbers: Any, params: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        total = at_least_float32(params).new_zeros(params.shape[0])
        for (likelihood, columns), own in zip(self._parts, self._apart(params), strict=True):
            function = of_numbers if likelihood is self.number else type(likelihood).log_prob
            total = total + function(likelihood, own, *_columns(columns, x, mask))
        return total

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """What each has for its columns, in the order of the vector's."""
        order = [i for _, columns in self._parts for i in columns]
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat([at_least_float32(part) for part in parts], dim=1)[:, back]


def _columns(columns: list[int], x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return x[:, columns], None if mask is None else mask[:, columns]


def _distance(likelihood: Likelihood, x: Tensor) -> Tensor:
    outside = (x - x.clamp(*likelihood.support)).abs()
    return outside if likelihood.distance is None else torch.maximum(outside, likelihood.distance(x))


def refuse_classes(likelihood: Likelihood) -> None:
    """Refuses to fill in what is missing where it is a class.

    Raises:
        InputError: of a likelihood that has some.
    """
    if isinstance(likelihood, Categorical) or (isinstance(likelihood, Mixed) and any(likelihood.categories)):
        raise InputError(
            f"impute fills in means, and the classes of {likelihood} have none",
            "give a model of the columns that are numbers, or decode draws of the posterior",
        )
