"""Quantizers by the nearest of learned vectors: running means, vectors with a gradient, and a basis that is turned."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise, rank, sum_over_ranks, world_size
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast
from lightning_ae.parts.quantizers import (
    Codebook,
    Distance,
    Estimator,
    Quantizer,
    VectorCodebook,
    check_choice,
    check_number,
    check_weights,
    nearest_rows,
    rows_of,
    squared,
    uniform,
)

Start = Literal["uniform", "batch", "kmeans"]
EPSILON = 1e-5
ITERATIONS = 10
"""Of k-means at the start, each an assignment and new means."""


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
    again: :math:`e_k` is a vector of the batch of all ranks, chosen at random, and it has `restart` times an even
    share, :math:`N_k = r' \sum_j N_j / K` and :math:`m_k = N_k e_k`. No two take the same vector; where there are more
    dead codes than vectors, the rest waits for the next batch. So a codebook that starts at random is one of data after
    the first batches. The draws, and the codebook, are the same on all ranks, and on any number of them.

    Args:
        codes: K, how many vectors the codebook has.
        decay: gamma, in [0, 1).
        commitment: beta, the weight of the commitment term :math:`|h - \mathrm{sg}(e)|^2`.
        revive: r, the part of an even share below which a code is dead, in [0, 1); with 0 none ever is.
        restart: r', the part of an even share that a code has when it starts again, from r to 1; by default r, the
            least: so it soon is the mean of what it is used for, and is given up if the next batch has no use for it.
        start: "uniform", from draws as those of a linear layer's weights, between :math:`\pm 1 / \sqrt{d}` of d values;
            "batch", after the first batch all codes are vectors of it, of which it must have as many as there are
            codes; or "kmeans", they are the means that 10 steps of k-means make of such vectors.
        distance: "euclidean"; or "cosine", the encoder's vectors and those of the codebook are of unit length (Yu et
            al. 2022, https://arxiv.org/abs/2110.04627), so the nearest is the one of the largest cosine.
        gradient: how the decoder's gradient reaches the encoder: "straight_through", as it is; or "rotation", turned
            and stretched as the vector was that was quantised (Fifty et al. 2024, https://arxiv.org/abs/2410.06424).
    """

    codes: int = 512
    decay: float = 0.99
    commitment: float = 0.25
    revive: float = 0.02
    start: Start = "uniform"
    distance: Distance = "euclidean"
    gradient: Estimator = "straight_through"
    restart: float | None = None

    earlier: ClassVar[dict[str, Any]] = {"restart": 1.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        for name in ("decay", "revive"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} of {type(self).__name__} must lie in [0, 1), got {getattr(self, name)}")
        if self.restart is not None and not self.revive <= self.restart <= 1:
            raise InputError(
                f"restart of {type(self).__name__} must lie between revive = {self.revive} and 1, got {self.restart}",
                "a code that starts again with less would be dead at once",
            )

    def build(self, latent_dim: int) -> Codebook:
        """Its state is in buffers: `vectors`, `counts` (N) and `sums` (m)."""
        return _RunningMeans(self, latent_dim)


@dataclass(frozen=True)
class _ByGradient(Quantizer):
    """What codebooks have that the optimizer trains."""

    codes: int = 512
    commitment: float = 0.25
    distance: Distance = "euclidean"
    gradient: Estimator = "straight_through"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)


@dataclass(frozen=True)
class GradientVectorQuantizer(_ByGradient):
    r"""A codebook trained by the gradient of its distance to what it quantises (van den Oord et al. 2017, eq. 3).

    The loss has one term more, :math:`|\mathrm{sg}(h) - e|^2`, "codebook". Codes that are never the nearest stay where
    they are: from draws many may never be, from data each is the nearest to what it is made of.

    Args:
        codes: K, how many vectors the codebook has.
        commitment: beta, the weight of the commitment term :math:`|h - \mathrm{sg}(e)|^2`.
        distance: "euclidean", or "cosine"; see `VectorQuantizer`.
        gradient: "straight_through", or "rotation"; see `VectorQuantizer`.
        start: "uniform", "batch" or "kmeans", as of `VectorQuantizer`; but the first training batch is quantised by
            the vectors that are made of it, so that the first step of the optimizer is of these. Weight decay, where
            there is any, draws them back to where they started.
    """

    start: Start = "uniform"

    def build(self, latent_dim: int) -> Codebook:
        """Its `vectors` are a parameter; of a start from data the buffer `origin` plus the parameter `moves`."""
        return _Trained(self, latent_dim) if self.start == "uniform" else _Moved(self, latent_dim)


@dataclass(frozen=True)
class SimVectorQuantizer(_ByGradient):
    r"""A codebook of fixed vectors that one trained linear map moves together (SimVQ; Zhu et al. 2024).

    .. math:: e_k = W b_k, \qquad b_k \sim N(0, I / d),

    with the terms of `GradientVectorQuantizer`, whose gradient goes to W alone: so codes that are never the nearest
    move with the others, and do not die. W is initialised as a linear layer's weights, of d x d.

    Args:
        codes: K, how many vectors the codebook has.
        commitment: beta, the weight of the commitment term :math:`|h - \mathrm{sg}(e)|^2`.
        distance: "euclidean", or "cosine"; see `VectorQuantizer`.
        gradient: "straight_through", or "rotation"; see `VectorQuantizer`.
    """

    def build(self, latent_dim: int) -> Codebook:
        """The fixed vectors are the buffer `basis`, W is the parameter `map`."""
        return _Turned(self, latent_dim)


def _check(quantizer: Quantizer) -> None:
    """Raises InputError where an option that these quantizers share cannot be."""
    check_number(quantizer, "codes", 2)
    check_weights(quantizer, "commitment")
    for name, choices in (("start", Start), ("distance", Distance), ("gradient", Estimator)):
        if hasattr(quantizer, name):
            check_choice(quantizer, name, choices)


class _Trained(VectorCodebook):
    def __init__(self, options: _ByGradient, latent_dim: int) -> None:
        super().__init__(options.codes, latent_dim, options.commitment, options.distance, options.gradient)
        self.make_vectors()

    def make_vectors(self) -> None:
        self.vectors = nn.Parameter(uniform(self.codes, self.latent_dim))

    def terms(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        return {"codebook": squared(h.detach() - e), **super().terms(h, e)}


class _Turned(_Trained):
    basis: Tensor

    def make_vectors(self) -> None:
        self.register_buffer("basis", torch.randn(self.codes, self.latent_dim) / math.sqrt(self.latent_dim))
        self.map = nn.Parameter(uniform(self.latent_dim, self.latent_dim))

    @property
    def vectors(self) -> Tensor:  # type: ignore[override]
        with without_autocast(self.basis.device):
            return at_least_float32(self.basis) @ at_least_float32(self.map).T


class _OfData(VectorCodebook):
    """A codebook that may start from data, those of the first training batch of all ranks."""

    start: Start
    _begun = False

    @property
    @abstractmethod
    def mark(self) -> Tensor:
        """Zero until it has begun."""

    @property
    def begins(self) -> bool:
        """Whether the first training batch is to come, which makes the codebook one of data."""
        # asked for once: an accelerator would wait in each step
        self._begun = self._begun or self.start == "uniform" or bool(self.mark.any())
        return not self._begun

    def _made_of(self, h: Tensor, drawn: Tensor) -> Tensor:
        """The vectors with which it starts, (codes, latent_dim): those drawn of all ranks, or the means around them."""
        if len(drawn) < self.codes:
            raise InputError(
                f"codes = {self.codes} are to start from the first batch, which has {len(drawn)} vectors over all "
                "ranks",
                'give fewer codes or larger batches, or start="uniform", which takes the vectors of several',
            )
        vectors = drawn
        for _ in range(ITERATIONS if self.start == "kmeans" else 0):
            counts, sums = self._sums(h, nearest_rows(rows_of(h), vectors))
            means = sums / counts.clamp(min=1)[:, None]
            seen = counts > 0  # a mean of no vectors stays where it is
            if self.distance == "cosine":
                seen, means = seen & (means.norm(dim=1) > EPSILON), F.normalize(means, dim=1)
            vectors = torch.where(seen[:, None], means, vectors)
        return vectors

    def _sums(self, h: Tensor, indices: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """How many vectors of all ranks have each code, their sums, and the sums of what else ranks have."""
        numbers, rows = indices.flatten(), rows_of(h)
        if h.device.type == "cpu":
            counts = numbers.bincount(minlength=self.codes).to(rows.dtype)
            return sum_over_ranks(counts, rows.new_zeros(self.codes, rows.shape[1]).index_add_(0, numbers, rows), *more)
        # a product, since there adding up by index has no fixed order
        used = rows.new_zeros(len(rows), self.codes).scatter_(1, numbers[:, None], 1.0)
        with without_autocast(h.device):
            return sum_over_ranks(used.sum(dim=0), used.T @ rows, *more)

    def _draw(self, h: Tensor, noise: Noise) -> Tensor:
        """At most `codes` different vectors of the batch of all ranks; of those of other ranks zeros."""
        (samples,) = sum_over_ranks(torch.tensor(len(h), device=h.device))
        rows, each = rows_of(h), h[0, 0].numel()
        chosen = noise.permutation(int(samples) * each, h.device)[: self.codes]
        sample, position = chosen // each, chosen % each
        own = sample % world_size() == rank()  # rank r has the samples r, r + W, ...
        row = (sample // world_size()).clamp(max=len(h) - 1) * each + position
        return torch.where(own[:, None], rows[row], 0.0)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._begun = False  # what was loaded says it

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Leaves buffers in float32 where weights are made bfloat16, which has too few digits for running means."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in self._buffers.items():
            kept = before[name]
            if value is not None and kept is not None and value.dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = at_least_float32(kept).to(value.device)
        return self


class _Moved(_OfData, _Trained):
    """Vectors that start from data, as what is trained adds to: a parameter is no place for values that are set.

    A sharded one would lose them, and an optimizer may hold a copy of its own.
    """

    origin: Tensor
    begun: Tensor

    def __init__(self, options: GradientVectorQuantizer, latent_dim: int) -> None:
        self.start = options.start
        super().__init__(options, latent_dim)

    def make_vectors(self) -> None:
        self.register_buffer("origin", uniform(self.codes, self.latent_dim))
        self.register_buffer("begun", torch.tensor(False))
        self.moves = nn.Parameter(torch.zeros(self.codes, self.latent_dim))

    @property
    def vectors(self) -> Tensor:  # type: ignore[override]
        return at_least_float32(self.origin) + at_least_float32(self.moves)

    @property
    def mark(self) -> Tensor:
        return self.begun

    @torch.no_grad()
    def begin(self, h: Tensor, noise: Noise) -> None:
        if self.begins:
            (drawn,) = sum_over_ranks(self._draw(h, noise))
            self.origin.copy_(self._made_of(h, drawn))
            self.begun.fill_(True)


class _RunningMeans(_OfData):
    counts: Tensor
    sums: Tensor

    def __init__(self, options: VectorQuantizer, latent_dim: int) -> None:
        super().__init__(options.codes, latent_dim, options.commitment, options.distance, options.gradient)
        self.decay, self.revive, self.start = options.decay, options.revive, options.start
        self.restart = options.revive if options.restart is None else options.restart
        vectors = uniform(options.codes, latent_dim)
        self.register_buffer("vectors", F.normalize(vectors, dim=1) if self.distance == "cosine" else vectors)
        self.register_buffer("counts", torch.zeros(options.codes))
        self.register_buffer("sums", torch.zeros(options.codes, latent_dim))

    @property
    def table(self) -> Tensor:
        """The vectors, whose length is kept where they are changed."""
        return at_least_float32(self.vectors)

    @property
    def mark(self) -> Tensor:
        """N: no code was used before the first update."""
        return self.counts

    @torch.no_grad()
    def update(self, h: Tensor, indices: Tensor, noise: Noise) -> None:
        h, begins = self.prepared(h), self.begins
        draws = self.revive > 0 or begins
        drawn = self._draw(h, noise) if draws else h.new_empty(0, self.latent_dim)
        if begins:
            (drawn,) = sum_over_ranks(drawn)
            self.vectors.copy_(self._made_of(h, drawn))
            counts, sums = self._sums(h, self.nearest(h))
        else:
            counts, sums, drawn = self._sums(h, indices, drawn)
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.counts.sum()
        share = total / self.codes
        if begins and self.start == "batch":
            self.counts.copy_(share.expand_as(self.counts))
            self.sums.copy_(share * self.vectors)
            return
        smoothed = (self.counts + EPSILON) / (total + self.codes * EPSILON) * total
        seen = self.counts > 0
        means = self.sums / smoothed[:, None]
        if self.distance == "cosine":
            seen = seen & (means.norm(dim=1) > EPSILON)  # opposite vectors have a mean without a direction
            means = F.normalize(means, dim=1)
        self.vectors.copy_(torch.where(seen[:, None], means, self.vectors))
        if not self.revive:
            return
        dead = self.counts < self.revive * share
        place = dead.cumsum(dim=0) - 1
        revived = dead & (place < len(drawn))
        again = drawn[place.clamp(0, len(drawn) - 1)]
        self.vectors.copy_(torch.where(revived[:, None], again, self.vectors))
        weight = self.restart * share
        self.counts.copy_(torch.where(revived, weight, self.counts))
        self.sums.copy_(torch.where(revived[:, None], weight * again, self.sums))
