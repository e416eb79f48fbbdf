"""Quantizers: a code of which each vector is one of a codebook.

A quantizer is plain data that builds a codebook, a module that the model holds. Channels are dimension 1: of a code
(B, latent_dim) each sample has one vector, of (B, latent_dim, n) it has n, of (B, latent_dim, h, w) one at each
position. Computed in float32 (float64 where the weights are), also under autocast: distances in bfloat16 would give
some 4 % of the vectors another index.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise, rank, sum_over_ranks, world_size
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast

Start = Literal["uniform", "batch"]
EPSILON = 1e-5


class Codebook(nn.Module):
    r"""Vectors :math:`e_1, \dots, e_K`, the nearest of which takes the place of each vector of a code.

    Args:
        codes: K.
        latent_dim: the values of a vector.
        commitment: beta, the weight of the term that keeps the encoder's vectors near those of the codebook.
    """

    vectors: Tensor
    """(codes, latent_dim)."""

    def __init__(self, codes: int, latent_dim: int, commitment: float) -> None:
        super().__init__()
        self.codes, self.latent_dim, self.commitment = codes, latent_dim, commitment

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantises the encoder's output.

        Args:
            h: (B, latent_dim, ...).

        Returns:
            The quantised code in the shape of `h`, whose gradient goes to `h` as it is (straight through); the indices
            (B, ...), int64; and the terms that belong to the loss, each summed over a sample's vectors and averaged
            over the batch.
        """
        h = at_least_float32(h)
        indices = self.nearest(h)
        e = self.lookup(indices)
        return e.detach() + (h - h.detach()), indices, self.terms(h, e)

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        """The index of the nearest vector, of several the first: (B, latent_dim, ...) to (B, ...)."""
        e = at_least_float32(self.vectors)
        centre = e.mean(dim=0)  # far from the origin squares would leave no digits for the differences
        rows, e = _rows(h) - centre, e - centre
        with without_autocast(h.device):
            distances = torch.addmm(e.square().sum(dim=1), rows, e.T, alpha=-2)  # without |h|^2, the same for all
        return distances.argmin(dim=1).view(h.shape[0], *h.shape[2:])  # len() would fix the batch of a graph

    def lookup(self, indices: Tensor) -> Tensor:
        """The code that indices stand for: (B, ...) to (B, latent_dim, ...)."""
        return F.embedding(indices, at_least_float32(self.vectors)).movedim(-1, 1)

    def terms(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        r"""Of the encoder's output and what it becomes: "commitment", :math:`\beta\, |h - \mathrm{sg}(e)|^2`."""
        return {"commitment": self.commitment * _squared(h - e.detach())}

    def update(self, h: Tensor, indices: Tensor, noise: Noise) -> None:
        """What a training batch changes in the codebook besides the optimizer's step, after it was quantised.

        Args:
            h: the encoder's output, of this rank's samples.
            indices: what it was quantised to.
            noise: of the step, the same on all ranks.
        """

    @torch.no_grad()
    def perplexity(self, indices: Tensor) -> Tensor:
        """exp of the entropy of how often each code is used in the batch of all ranks: from 1 to `codes`."""
        counts = self._used(indices).sum(dim=0)
        (counts,) = sum_over_ranks(counts)
        return torch.special.entr(counts / counts.sum()).sum().exp()

    def _used(self, indices: Tensor) -> Tensor:
        """(vectors, codes), one where a vector has that code."""
        return F.one_hot(indices.flatten(), self.codes).to(at_least_float32(self.vectors).dtype)


class Quantizer(Configurable):
    """What a code is quantised by, plain data."""

    codes: int
    """How many indices there are."""

    @abstractmethod
    def build(self, latent_dim: int) -> Codebook:
        """The codebook for vectors of so many values."""


@dataclass(frozen=True)
class VectorQuantizer(Quantizer):
    r"""A codebook of running means of the vectors that are quantised to each code (van den Oord et al. 2017, A.1).

    Of a training batch, quantised with the codebook as it is, let :math:`n_k` vectors over all ranks have the code k,
    with the sum :math:`s_k`. Then

    .. math::

        N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \qquad m_k \leftarrow \gamma m_k + (1 - \gamma) s_k, \qquad
        e_k = m_k \Big/ \frac{N_k + \epsilon}{\sum_j N_j + K \epsilon} \sum_j N_j .

    At first N and m are zero, and a code that was never used stays where it is. This happens once for each training
    batch, as with the statistics of batch normalisation: in each part of an accumulated gradient, not in evaluation.

    A code that is used less than `revive` times an even share, :math:`N_k < r \sum_j N_j / K`, is dead, and starts
    again: :math:`e_k` is a vector of the batch of all ranks, chosen at random, and it has an even share,
    :math:`N_k = \sum_j N_j / K` and :math:`m_k = N_k e_k`. No two take the same vector; where there are more dead codes
    than vectors, the rest waits for the next batch. So a codebook that starts at random is one of data after the first
    batches. The draws, and the codebook, are the same on all ranks, and on any number of them.

    Args:
        codes: K, how many vectors the codebook has.
        decay: gamma, in [0, 1).
        commitment: beta, the weight of the commitment term :math:`|h - \mathrm{sg}(e)|^2`.
        revive: r, the part of an even share below which a code is dead, in [0, 1); with 0 none ever is.
        start: "uniform", from draws as those of a linear layer's weights, between :math:`\pm 1 / \sqrt{d}` of d values;
            or "batch", after the first batch all codes are vectors of it, of which it must have as many as there are
            codes.
    """

    codes: int = 512
    decay: float = 0.99
    commitment: float = 0.25
    revive: float = 0.02
    start: Start = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        for name in ("decay", "revive"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} of {type(self).__name__} must lie in [0, 1), got {getattr(self, name)}")
        if self.start not in get_args(Start):
            raise unknown(f"start of {type(self).__name__}", str(self.start), get_args(Start))

    def build(self, latent_dim: int) -> Codebook:
        """Its state is in buffers: `vectors`, `counts` (N) and `sums` (m)."""
        return _RunningMeans(self, latent_dim)


@dataclass(frozen=True)
class GradientVectorQuantizer(Quantizer):
    r"""A codebook trained by the gradient of its distance to what it quantises (van den Oord et al. 2017, eq. 3).

    The loss has one term more, :math:`|\mathrm{sg}(h) - e|^2`, "codebook". The vectors start as a linear layer's
    weights do, between :math:`\pm 1 / \sqrt{d}` for d values. Codes that are never the nearest stay where they are.

    Args:
        codes: K, how many vectors the codebook has.
        commitment: beta, the weight of the commitment term :math:`|h - \mathrm{sg}(e)|^2`.
    """

    codes: int = 512
    commitment: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def build(self, latent_dim: int) -> Codebook:
        """Its `vectors` are a parameter."""
        return _Trained(self, latent_dim)


class _Trained(Codebook):
    def __init__(self, options: GradientVectorQuantizer, latent_dim: int) -> None:
        super().__init__(options.codes, latent_dim, options.commitment)
        self.vectors = nn.Parameter(_uniform(options.codes, latent_dim))

    def terms(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        return {"codebook": _squared(h.detach() - e), **super().terms(h, e)}


class _RunningMeans(Codebook):
    counts: Tensor
    sums: Tensor

    def __init__(self, options: VectorQuantizer, latent_dim: int) -> None:
        super().__init__(options.codes, latent_dim, options.commitment)
        self.decay, self.revive, self.start = options.decay, options.revive, options.start
        self.register_buffer("vectors", _uniform(options.codes, latent_dim))
        self.register_buffer("counts", torch.zeros(options.codes))
        self.register_buffer("sums", torch.zeros(options.codes, latent_dim))

    @torch.no_grad()
    def update(self, h: Tensor, indices: Tensor, noise: Noise) -> None:
        h = at_least_float32(h)
        used = self._used(indices)
        draws = self.revive > 0 or self.start == "batch"
        drawn = self._draw(h, noise) if draws else h.new_empty(0, self.latent_dim)
        with without_autocast(h.device):
            # a product, since adding up by index has no fixed order on some devices
            counts, sums, drawn = sum_over_ranks(used.sum(dim=0), used.T @ _rows(h), drawn)
        first = self.counts.sum() == 0
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) / (total + self.codes * EPSILON) * total
        seen = self.counts > 0
        self.vectors.copy_(torch.where(seen[:, None], self.sums / smoothed[:, None], self.vectors))
        if not draws:
            return
        dead = self.counts < self.revive * total / self.codes
        if self.start == "batch":
            if len(drawn) < self.codes and first:
                raise InputError(
                    f"codes = {self.codes} are to start from the first batch, which has {len(drawn)} vectors over all "
                    "ranks",
                    'give fewer codes or larger batches, or start="uniform", which takes the vectors of several',
                )
            dead = dead | first
        place = dead.cumsum(dim=0) - 1
        revived = dead & (place < len(drawn))
        again = drawn[place.clamp(0, len(drawn) - 1)]
        share = total / self.codes
        self.vectors.copy_(torch.where(revived[:, None], again, self.vectors))
        self.counts.copy_(torch.where(revived, share, self.counts))
        self.sums.copy_(torch.where(revived[:, None], share * again, self.sums))

    def _draw(self, h: Tensor, noise: Noise) -> Tensor:
        """At most `codes` different vectors of the batch of all ranks; of those of other ranks zeros."""
        (samples,) = sum_over_ranks(torch.tensor(len(h), device=h.device))
        rows, each = _rows(h), h[0, 0].numel()
        chosen = noise.permutation(int(samples) * each, h.device)[: self.codes]
        sample, position = chosen // each, chosen % each
        own = sample % world_size() == rank()  # rank r has the samples r, r + W, ...
        row = (sample // world_size()).clamp(max=len(h) - 1) * each + position
        return torch.where(own[:, None], rows[row], 0.0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Leaves the state in float32 where weights are made bfloat16, which has too few digits for running means."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in self._buffers.items():
            kept = before[name]
            if value is not None and kept is not None and value.dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = at_least_float32(kept).to(value.device)
        return self


def _uniform(codes: int, latent_dim: int) -> Tensor:
    return (2 * torch.rand(codes, latent_dim) - 1) / math.sqrt(latent_dim)


def _rows(h: Tensor) -> Tensor:
    """Vectors of a code: (B, latent_dim, ...) to (B * positions, latent_dim)."""
    return h.movedim(1, -1).reshape(-1, h.shape[1])


def _squared(difference: Tensor) -> Tensor:
    return difference.square().flatten(1).sum(dim=1).mean()


def _check(quantizer: VectorQuantizer | GradientVectorQuantizer) -> None:
    name = type(quantizer).__name__
    if isinstance(quantizer.codes, bool) or not isinstance(quantizer.codes, int) or quantizer.codes < 2:
        raise InputError(f"codes of {name} must be an integer of at least 2, got {quantizer.codes!r}")
    if not quantizer.commitment >= 0:
        raise InputError(f"commitment of {name} must not be negative, got {quantizer.commitment}")
