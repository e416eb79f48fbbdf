"""Schedules: what a learning rate or the weight of a term is multiplied with, over the steps of a fit."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from lightning_ae.config import Configurable, from_plain
from lightning_ae.errors import InputError


class Schedule(Configurable):
    """A factor for each step of the optimizer, plain data."""

    needs_total = True
    """Whether it asks how many steps the fit has."""

    @abstractmethod
    def __call__(self, step: int, total: float) -> float:
        """The factor of the step.

        Args:
            step: how many steps the optimizer has taken.
            total: how many it takes in the whole fit.
        """

    def check(self, total: float) -> None:
        """Raises InputError where it ends before it begins, in a fit of so many steps."""


@dataclass(frozen=True)
class Warmup(Schedule):
    """Rises linearly to 1 over the first steps, and stays there.

    Args:
        steps: of the optimizer, until 1 is reached; the first has the factor 1 / steps.
    """

    steps: int = 100
    needs_total = False

    def __post_init__(self) -> None:
        _check(self, steps=self.steps)

    def __call__(self, step: int, total: float) -> float:
        """The factor of the step."""
        return _rise(step, self.steps)


@dataclass(frozen=True)
class CosineDecay(Schedule):
    r"""Falls by half a cosine to the end of the fit, after a linear warm-up (Loshchilov & Hutter 2017, equation 5).

    .. math:: l + (1 - l) \tfrac12 (1 + \cos \pi t)

    Args:
        warmup: the number of steps in which the factor rises to 1; a fit that has fewer is refused.
        last: l, the factor at the end, in [0, 1].
    """

    warmup: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        _check(self, warmup=self.warmup, last=self.last)

    def check(self, total: float) -> None:
        """Raises InputError where the fit ends before the warm-up does."""
        _check_warmup(self, self.warmup, total)

    def __call__(self, step: int, total: float) -> float:
        """The factor of the step."""
        progress = _progress(step, self.warmup, total)
        return _rise(step, self.warmup) * (self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """Falls linearly at the end of the fit, after a linear warm-up.

    Args:
        warmup: the number of steps in which the factor rises to 1; a fit that has fewer is refused.
        last: the factor at the end, in [0, 1].
        decay: the last part of the fit in which it falls, in (0, 1]: 0.2 is its last fifth.
    """

    warmup: int = 0
    last: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        _check(self, warmup=self.warmup, last=self.last)
        if not 0 < self.decay <= 1:
            raise InputError(f"decay of LinearDecay must lie in (0, 1], got {self.decay}")

    def check(self, total: float) -> None:
        """Raises InputError where the fit ends before the warm-up does."""
        _check_warmup(self, self.warmup, total)

    def __call__(self, step: int, total: float) -> float:
        """The factor of the step."""
        start = max(self.warmup, (1 - self.decay) * total)
        return _rise(step, self.warmup) * (1 - (1 - self.last) * _progress(step, start, total))


def read_schedules(part: Configurable, *names: str) -> None:
    """Makes schedules of those arguments of a frozen dataclass that came as plain data, from a checkpoint say.

    Raises:
        InputError: where one is no schedule.
    """
    for name in names:
        if (value := getattr(part, name)) is not None:
            object.__setattr__(part, name, from_plain(Schedule, value, f"{name} of {type(part).__name__}"))


def _check_warmup(schedule: Schedule, warmup: int, total: float) -> None:
    if warmup > total:
        raise InputError(
            f"{schedule} ends before it begins: it warms up for {warmup} steps of the optimizer, and the fit has "
            f"{total:g}",
            "give a shorter warmup or a longer fit",
        )


def _rise(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def _progress(step: int, start: float, total: float) -> float:
    """How much of what lies between is behind, in [0, 1]."""
    return min(1.0, max(0.0, (step - start) / max(1.0, total - start)))


def _check(schedule: Schedule, **values: float) -> None:
    name = type(schedule).__name__
    for key, value in values.items():
        if key == "last" and not 0 <= value <= 1:
            raise InputError(f"last of {name} must lie in [0, 1], got {value}")
        if key != "last" and (not isinstance(value, int) or value < (1 if key == "steps" else 0)):
            raise InputError(f"{key} of {name} must be a number of steps, got {value!r}")
