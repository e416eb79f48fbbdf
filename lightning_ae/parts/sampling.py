"""What a sampler is: a density that is fitted to the codes of a trained model (Ghosh et al. 2020, section 4).

A sampler is plain data; what it fits is a module, which the model holds as `sampler`. The samplers themselves are in
`lightning_ae.samplers`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise

PREFIX = "sampler."
"""What the names of its tensors begin with, among those of the model that holds it."""


@dataclass(frozen=True)
class Space:
    """Where codes lie, as a sampler sees them: vectors (N, units).

    Args:
        units: how many values a code has.
        classes: of indices, which are 0 to classes - 1, how many there are; 0 of numbers.
    """

    units: int
    classes: int = 0


class Density(nn.Module):
    """A fitted density over codes as vectors, (N, units).

    Its tensors keep their types whatever the model around it is converted to, `half()` or `to(torch.bfloat16)`: the
    statistics of codes are of float64. On a device that has no float64 they are of float32.

    Args:
        config: the sampler that fits it.
        space: where the codes lie.
    """

    tempered: ClassVar[bool] = False
    """Whether its draws are made of Gaussian ones, which a temperature multiplies; see `Prior.tempered`."""
    held_out: Tensor
    """-log p of codes that were held out of the fit, in nats, their mean; NaN where none were, or of no fit."""

    def __init__(self, config: Sampler, space: Space) -> None:
        super().__init__()
        self.config, self.space = config, space
        self.register_buffer("held_out", torch.full((), torch.nan, dtype=torch.float64))

    @abstractmethod
    def sample(self, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, units); int64 of indices."""

    def log_prob(self, values: Tensor) -> Tensor:
        """log p in nats: (..., units) to (...).

        Raises:
            InputError: where it is not to be had.
        """
        raise InputError(
            f"{type(self.config).__name__} draws codes, and has no density that can be computed",
            "take GaussianSampler(), MixtureSampler() or FlowSampler()",
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def moved(value: Tensor) -> Tensor:
            try:
                result = fn(value)
            except TypeError:  # a device without float64
                return fn(value.float())
            return result if result.dtype == value.dtype else value.to(result.device)

        return super()._apply(moved, recurse)


class Sampler(Configurable):
    """A density of codes, and how it is fitted to them."""

    discrete: ClassVar[bool] = False
    """Whether it is of indices, and not of numbers."""

    @property
    def fewest(self) -> int:
        """How many codes it takes at least."""
        return 2

    def check(self, space: Space, whose: str = "these codes") -> None:
        """Refuses codes that it is no density of.

        Raises:
            InputError: naming both.
        """
        name = type(self).__name__
        if self.discrete and not space.classes:
            raise InputError(
                f"{name} is of indices, and {whose} are numbers",
                "take MixtureSampler(), GaussianSampler(), FlowSampler() or TwoStageSampler()",
            )
        if not self.discrete and space.classes:
            raise InputError(
                f"{name} is of numbers, and {whose} are indices, of {space.classes} each", "take IndexSampler()"
            )

    @abstractmethod
    def build(self, space: Space) -> Density:
        """The density for codes that lie there, before it is fitted: its tensors have the shapes that a fit leaves.

        Raises:
            InputError: when it cannot be.
        """

    @abstractmethod
    def estimate(self, density: Density, codes: Tensor, seed: int) -> None:
        """Fits what `build` made to codes (N, units), on their device."""

    def fit(self, codes: Tensor, seed: int = 0, space: Space | None = None) -> Density:
        """The density, fitted to codes.

        All that is random in it follows from the seed, and torch's global generator stays as it is: so every process
        that is given the same codes makes the same density.

        Args:
            codes: (N, units), numbers or, of a discrete one, indices.
            seed: of what is random in the fit.
            space: where they lie; by default as the codes say, whose largest index then is the last class.

        Raises:
            InputError: for codes of another kind or shape, that are too few, NaN or infinite.
        """
        space = self._check_codes(codes, space)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            density = self.build(space).to(codes.device)
        self.estimate(density, codes.detach(), seed)
        return density.requires_grad_(False).eval()

    def _check_codes(self, codes: Tensor, space: Space | None) -> Space:
        name = type(self).__name__
        if codes.ndim != 2 or not codes.shape[1]:
            raise InputError(f"codes must be vectors, (N, units), got the shape {tuple(codes.shape)}")
        whole = not codes.is_floating_point()
        if len(codes) < self.fewest:
            raise InputError(
                f"{name} takes {self.fewest} codes or more, got {len(codes)}",
                "give a split with more rows" + (", or fewer components" if self.fewest > 2 else ""),
            )
        if space is None:
            space = Space(codes.shape[1], int(codes.max()) + 1 if whole else 0)
        self.check(space)
        if codes.shape[1] != space.units or whole != bool(space.classes):
            raise InputError(
                f"codes must have {space.units} {'indices' if space.classes else 'numbers'} each, got {codes.dtype} of "
                f"the shape {tuple(codes.shape)}"
            )
        wrong = (codes < 0) | (codes >= space.classes) if whole else ~codes.isfinite()
        if wrong.any():
            row, unit = wrong.nonzero()[0].tolist()
            within = f"none of 0 to {space.classes - 1}" if whole else "no finite number"
            raise InputError(
                f"value {unit} of code {row} is {codes[row, unit].item()}, {within}",
                "the model's weights, or the data's values, are not what they should be",
            )
        return space
