"""Quantizers without a codebook to search: each value is rounded by itself, and its levels make the index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast
from lightning_ae.parts.quantizers import Codebook, Quantizer, check_number, check_weights, squared, straight_through

WIDEST = 14
"""The bits of an index of which the entropy of all values can be computed."""
MARGIN = 1e-3
"""How far the outermost levels reach beyond their middles, so that each has inputs of its own."""


@dataclass(frozen=True)
class FiniteScalarQuantizer(Quantizer):
    r"""Each value is rounded to one of a few levels (FSQ; Mentzer et al. 2024, section 3.1).

    With L levels of a value, :math:`s = (L - 1)(1 + 10^{-3}) / 2` and :math:`o = 1/2` where L is even, else 0,

    .. math:: z = \frac{\mathrm{round}(\tanh(g h + \mathrm{artanh}(o / s))\, s - o)}{\lfloor L / 2 \rfloor},

    where rounding passes gradients on as they are. The levels of a vector's values are the digits of its index, the
    first value's the lowest; so there are :math:`\prod L` codes, each of which can be reached. The loss has no further
    term.

    A vector of n times as many values as there are levels has n indices, each of as many values one after the other: of
    a code (B, latent_dim, ...) the indices are (B, n, ...), where n > 1.

    Args:
        levels: of each value, each at least 2. (8, 5, 5, 5) makes 1000 codes, (8, 8, 8, 5, 5, 5) 64 000.
        gain: g, what h is multiplied with first. With 1, the paper's, a network whose outputs start small has all
            inputs at the middle levels at first.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.levels if isinstance(self.levels, tuple) else ()
        if not given or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in given):
            raise InputError(
                f"levels of FiniteScalarQuantizer must be integers from 2 on, one for each value, got {self.levels}",
                "a value of one level says nothing",
            )
        if not 0 < self.gain < math.inf:
            raise InputError(f"gain of FiniteScalarQuantizer must be positive and finite, got {self.gain}")
        if math.prod(given) >= 2**31:
            raise InputError(
                f"levels of FiniteScalarQuantizer make {math.prod(given)} codes, more than an index holds: 2^31 - 1",
                "give fewer levels; a latent_dim that is a multiple of their number makes several indices",
            )

    def build(self, latent_dim: int) -> Codebook:
        """It has buffers alone, which follow from the levels."""
        return _Scalars(self, latent_dim, _depth(self, "levels", len(self.levels), latent_dim))


@dataclass(frozen=True)
class LookupFreeQuantizer(Quantizer):
    r"""Each value becomes its sign (LFQ; Yu et al. 2024, MAGVIT-v2, section 3.1).

    :math:`z = \mathrm{sign}(h)`, with the gradient straight through; the signs of `bits` values are the binary digits
    of an index, the first value's the lowest, so there are :math:`2^{bits}` codes. With the codes' probabilities

    .. math:: p(c \mid h) \propto \exp(-|h - c|^2 / \tau)

    the loss has two terms more: "commitment", :math:`\beta\, |h - \mathrm{sg}(z)|^2`, and "entropy",

    .. math:: \lambda\, (\mathbb E[H(p)] - \gamma H(\mathbb E[p])),

    for each vector: each is to be sure of its code, and all codes are to be used. Both means are over all vectors of
    the batch of all ranks.

    A vector of n times `bits` values has n indices, each of as many values one after the other, and the entropies are
    those of each: of a code (B, latent_dim, ...) the indices are (B, n, ...), where n > 1.

    Args:
        bits: of an index, 1 to 14; latent_dim must be a multiple of it.
        commitment: beta.
        entropy_weight: lambda.
        diversity: gamma; 1 is the paper's, with which more codes stay unused on small data.
        temperature: tau > 0.
    """

    bits: int = 8
    commitment: float = 0.05
    entropy_weight: float = 0.1
    diversity: float = 2.0
    temperature: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "bits", 1)
        if self.bits > WIDEST:
            raise InputError(
                f"bits of LookupFreeQuantizer must be at most {WIDEST}, since the entropy is over all 2^bits codes, "
                f"got {self.bits}",
                "a latent_dim that is a multiple of bits makes several indices",
            )
        check_weights(self, "commitment", "entropy_weight", "diversity")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature of LookupFreeQuantizer must be positive and finite, got {self.temperature}")

    def build(self, latent_dim: int) -> Codebook:
        """It has buffers alone, which follow from the bits."""
        return _Signs(self, latent_dim, _depth(self, "bits", self.bits, latent_dim))


class _Digits(Codebook):
    """Values that are digits of indices: `levels` of each value of an index."""

    levels: Tensor
    places: Tensor
    unit: Tensor

    def __init__(self, levels: Sequence[int], latent_dim: int, depth: int) -> None:
        super().__init__(math.prod(levels), latent_dim, depth)
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(list(levels) * depth), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.register_buffer("unit", torch.ones(()), persistent=False)  # of the weights' type

    def index(self, digits: Tensor) -> Tensor:
        """Of digits (B, latent_dim, ...), the indices (B, ...) or (B, depth, ...), int64."""
        each = digits.long().unflatten(1, (self.depth, len(self.places)))
        found = (each * _along(self.places, each, 2)).sum(dim=2)
        return found if self.depth > 1 else found.squeeze(1)

    def digits(self, indices: Tensor) -> Tensor:
        """Of indices (B, ...) or (B, depth, ...) the digits (B, latent_dim, ...), int64."""
        each = (indices if self.depth > 1 else indices.unsqueeze(1)).unsqueeze(2)
        levels = self.levels[: len(self.places)]
        return (each // _along(self.places, each, 2) % _along(levels, each, 2)).flatten(1, 2)

    @property
    def dtype(self) -> torch.dtype:
        """Of codes: float32 at least."""
        return at_least_float32(self.unit).dtype


class _Scalars(_Digits):
    def __init__(self, options: FiniteScalarQuantizer, latent_dim: int, depth: int) -> None:
        super().__init__(options.levels, latent_dim, depth)
        self.gain = options.gain

    def bounded(self, h: Tensor) -> Tensor:
        """The encoder's output where whole numbers are levels: (B, latent_dim, ...) to the same shape."""
        levels = _along(self.levels, h, 1).to(h.dtype)
        reach, offset = (levels - 1) * (1 + MARGIN) / 2, 0.5 * (levels % 2 == 0).to(h.dtype)
        return (self.gain * h + (offset / reach).atanh()).tanh() * reach - offset

    def middle(self, like: Tensor) -> Tensor:
        """Half of the levels, rounded down, to go with values (B, latent_dim, ...)."""
        return _along(self.levels, like, 1) // 2

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        h = self.prepared(h)
        return self.index(self.bounded(h).round().long() + self.middle(h))

    def indices_of(self, code: Tensor) -> Tensor:
        middle = self.middle(code)
        return self.index((self.prepared(code) * middle).round().long() + middle)

    def lookup(self, indices: Tensor) -> Tensor:
        digits = self.digits(indices)
        middle = self.middle(digits)
        return (digits - middle).to(self.dtype) / middle

    def through(self, h: Tensor, e: Tensor) -> Tensor:
        return straight_through(self.bounded(h) / self.middle(h), e)


class _Signs(_Digits):
    def __init__(self, options: LookupFreeQuantizer, latent_dim: int, depth: int) -> None:
        super().__init__((2,) * options.bits, latent_dim, depth)
        self.options = options

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        return self.index(h > 0)

    def lookup(self, indices: Tensor) -> Tensor:
        return (2 * self.digits(indices) - 1).to(self.dtype)

    def terms(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        sure, varied = self.entropies(h)
        entropy = self.options.entropy_weight * (sure - self.options.diversity * varied)
        return {"commitment": self.options.commitment * squared(h - e.detach()), "entropy": entropy}

    def entropies(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """E[H(p)] and H(E[p]) in nats, each summed over a sample's vectors: the mean of this rank, and that of all."""
        a = 4 / self.options.temperature * h  # the logarithm of how much likelier + is than -
        # codes' values are independent, and so their entropies add up
        sure = (F.softplus(a) - a * a.sigmoid()).flatten(1).sum(dim=1).mean()
        each = a.reshape(len(a), self.depth, self.options.bits, -1).permute(1, 0, 3, 2).flatten(1, 2)
        codes = torch.arange(self.codes, device=h.device).unsqueeze(1) // self.places % 2
        with without_autocast(h.device):
            p = (each @ (codes.to(h.dtype) - 0.5).T).softmax(dim=2)
        sums, count = sum_over_ranks(p.sum(dim=1), p.new_tensor(float(p.shape[1])))
        mean = sums / count
        varied = -(mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum()
        return sure, varied * (p.shape[1] / len(h))


def _along(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """Values that go with dimension `dim` of another tensor."""
    return values.view(*[1] * dim, -1, *[1] * (like.ndim - dim - 1))


def _depth(quantizer: Quantizer, argument: str, values: int, latent_dim: int) -> int:
    """How many indices a vector has, of so many values each."""
    if latent_dim % values:
        raise InputError(
            f"latent_dim must be a multiple of {values}, the values of an index ({argument} of "
            f"{type(quantizer).__name__}), got {latent_dim}",
            f"give latent_dim {values}, or a multiple for several indices at each position",
        )
    return latent_dim // values
