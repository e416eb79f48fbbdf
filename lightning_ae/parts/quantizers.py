"""Quantizers: a code of which each vector is one of finitely many.

A quantizer is plain data that builds a codebook, a module that the model holds. Channels are dimension 1: of a code
(B, latent_dim) each sample has one vector, of (B, latent_dim, n) it has n, of (B, latent_dim, h, w) one at each
position. Computed in float32 (float64 where the weights are), also under autocast: distances in bfloat16 would give
some 4 % of the vectors another index.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise, sum_over_ranks
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast
from lightning_ae.parts.schedules import Schedule

Distance = Literal["euclidean", "cosine"]
Estimator = Literal["straight_through", "rotation"]


class Codebook(nn.Module):
    r"""Finitely many vectors, one of which takes the place of each vector of a code.

    Args:
        codes: K, how many values an index has.
        latent_dim: the values of a vector.
        depth: how many indices a vector has; those of a code (B, latent_dim, ...) are (B, ...) where it is one, else
            (B, depth, ...).
    """

    def __init__(self, codes: int, latent_dim: int, depth: int = 1) -> None:
        super().__init__()
        self.codes, self.latent_dim, self.depth = codes, latent_dim, depth

    def forward(
        self, h: Tensor, noise: Noise | None = None, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantises the encoder's output.

        Args:
            h: (B, latent_dim, ...).
            noise: of a training step; without it nothing is drawn.
            scale: what the quantizer's schedule gives at this step.

        Returns:
            What the decoder takes, in the shape of `h`, with a gradient to `h`; the indices, int64; and the terms that
            belong to the loss, each summed over a sample's vectors and averaged over the batch.
        """
        h = self.prepared(h)
        if noise is not None:
            self.begin(h, noise)
        indices = self.nearest(h)
        e = self.lookup(indices)
        return self.through(h, e), indices, self.terms(h, e)

    def quantised(self, h: Tensor) -> Tensor:
        """What the decoder takes in evaluation, with a gradient to `h`: (B, latent_dim, ...) to the same shape."""
        h = self.prepared(h)
        return self.through(h, self.lookup(self.nearest(h)))

    def prepared(self, h: Tensor) -> Tensor:
        """The encoder's output as it is compared: (B, latent_dim, ...) to the same shape, in float32 at least."""
        return at_least_float32(h)

    @abstractmethod
    def nearest(self, h: Tensor) -> Tensor:
        """The indices of the encoder's output: (B, latent_dim, ...) to (B, ...) or (B, depth, ...)."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """The code that indices stand for: (B, ...) or (B, depth, ...) to (B, latent_dim, ...)."""

    def indices_of(self, code: Tensor) -> Tensor:
        """The indices that stand for a quantised code, which `lookup` gave."""
        return self.nearest(code)

    def through(self, h: Tensor, e: Tensor) -> Tensor:
        """`e`, with the gradient that the encoder's output `h` gets: as it is, straight through."""
        return straight_through(h, e)

    def terms(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        """Of the encoder's output, prepared, and what it becomes: what the loss has besides the reconstruction."""
        return {}

    def begin(self, h: Tensor, noise: Noise) -> None:
        """What the first training batch makes of the codebook before it is quantised.

        Args:
            h: the encoder's output, prepared, of this rank's samples.
            noise: of the step, the same on all ranks.
        """

    def update(self, h: Tensor, indices: Tensor, noise: Noise) -> None:
        """What a training batch changes in the codebook besides the optimizer's step, after it was quantised.

        Args:
            h: the encoder's output, of this rank's samples.
            indices: what it was quantised to.
            noise: of the step, the same on all ranks.
        """

    @torch.no_grad()
    def perplexity(self, indices: Tensor) -> Tensor:
        """exp of the entropy of how often each value of an index is used in the batch of all ranks: 1 to `codes`.

        The mean of those of several indices.
        """
        (counts,) = sum_over_ranks(counted(indices, self.codes, self.depth))
        p = counts / counts.sum(dim=1, keepdim=True)
        return torch.special.entr(p).sum(dim=1).exp().mean()


class VectorCodebook(Codebook):
    r"""Vectors :math:`e_1, \dots, e_K`, the nearest of which takes the place of each vector of a code.

    Args:
        codes: K.
        latent_dim: the values of a vector.
        commitment: beta, the weight of the term that keeps the encoder's vectors near those of the codebook.
        distance: what is near.
        gradient: how the decoder's gradient reaches the encoder.
    """

    vectors: Tensor
    """(codes, latent_dim)."""

    def __init__(self, codes: int, latent_dim: int, commitment: float, distance: Distance, gradient: Estimator) -> None:
        super().__init__(codes, latent_dim)
        self.commitment, self.distance, self.gradient = commitment, distance, gradient

    @property
    def table(self) -> Tensor:
        """The vectors as codes have them, (codes, latent_dim), in float32 at least; of unit length for the cosine."""
        e = at_least_float32(self.vectors)
        return F.normalize(e, dim=1) if self.distance == "cosine" else e

    def prepared(self, h: Tensor) -> Tensor:
        """In float32 at least, and of unit length for the cosine."""
        h = at_least_float32(h)
        return F.normalize(h, dim=1) if self.distance == "cosine" else h

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        """The index of the nearest vector, of several the first: (B, latent_dim, ...) to (B, ...)."""
        h = self.prepared(h)
        return nearest_rows(rows_of(h), self.table).view(h.shape[0], *h.shape[2:])  # len() would fix a graph's batch

    def lookup(self, indices: Tensor) -> Tensor:
        """The code that indices stand for: (B, ...) to (B, latent_dim, ...)."""
        return F.embedding(indices, self.table).movedim(-1, 1)

    def through(self, h: Tensor, e: Tensor) -> Tensor:
        """`e`, with a gradient to `h`, as the quantizer has it."""
        return rotated(h, e) if self.gradient == "rotation" else straight_through(h, e)

    def terms(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        r"""Of the encoder's output and what it becomes: "commitment", :math:`\beta\, |h - \mathrm{sg}(e)|^2`."""
        return {"commitment": self.commitment * squared(h - e.detach())}


class Quantizer(Configurable):
    """What a code is quantised by, plain data."""

    schedule: Schedule | None = None
    """Of a quantizer that has one: what it is scaled by at each step of a fit."""

    @abstractmethod
    def build(self, latent_dim: int) -> Codebook:
        """The codebook for vectors of so many values.

        Raises:
            InputError: when it cannot quantise such.
        """


def straight_through(h: Tensor, e: Tensor) -> Tensor:
    """`e`, whose gradient goes to `h` as it is."""
    return e.detach() + (h - h.detach())


def rotated(h: Tensor, e: Tensor) -> Tensor:
    r"""`e` as `h` turned and stretched, through which the gradient goes (Fifty et al. 2024, section 4.2).

    Of each vector, along dimension 1,

    .. math:: e = \frac{|e|}{|h|} R h, \qquad R = I - 2 w w^T + 2 \hat e\, \hat h^T, \quad
        w = \frac{\hat e + \hat h}{|\hat e + \hat h|},

    with the directions :math:`\hat e, \hat h`; R and the factor have no gradient. Where a vector is zero there is no
    direction, and the gradient goes straight through.
    """
    with torch.no_grad():
        e_norm, h_norm = e.norm(dim=1, keepdim=True), h.norm(dim=1, keepdim=True)
        tiny = torch.finfo(h.dtype).tiny ** 0.5
        plain = (e_norm < tiny) | (h_norm < tiny)
        e_hat, h_hat = e / e_norm.clamp(min=tiny), h / h_norm.clamp(min=tiny)
        w = F.normalize(e_hat + h_hat, dim=1)
        factor = e_norm / h_norm.clamp(min=tiny)
    turned = h - 2 * w * (w * h).sum(dim=1, keepdim=True) + 2 * e_hat * (h_hat * h).sum(dim=1, keepdim=True)
    moved = torch.where(plain, h, factor.masked_fill(plain, 1.0) * turned)
    return straight_through(moved, e)  # whose value is e, without rounding


def nearest_rows(rows: Tensor, e: Tensor) -> Tensor:
    """The number of the nearest of the vectors `e` (K, d) for each of the rows (N, d), of several the first: (N,)."""
    centre = e.mean(dim=0)  # far from the origin squares would leave no digits for the differences
    rows, e = rows - centre, e - centre
    with without_autocast(rows.device):
        distances = torch.addmm(e.square().sum(dim=1), rows, e.T, alpha=-2)  # without |h|^2, the same for all
    return distances.min(dim=1).indices  # on a processor several times as fast as argmin


def counted(indices: Tensor, codes: int, depth: int = 1) -> Tensor:
    """How often each value of each index occurs, (depth, codes), float64 but where a device has none."""
    each = indices.reshape(len(indices), depth, -1) if depth > 1 else indices.reshape(1, 1, -1)
    numbers = each + codes * torch.arange(depth, device=indices.device).view(-1, 1)
    dtype = torch.float32 if indices.device.type == "mps" else torch.float64
    found = torch.zeros(depth * codes, dtype=dtype, device=indices.device)
    return found.scatter_add_(0, numbers.flatten(), found.new_ones(numbers.numel())).view(depth, codes)


def rows_of(h: Tensor) -> Tensor:
    """Vectors of a code: (B, latent_dim, ...) to (B * positions, latent_dim)."""
    return h.movedim(1, -1).reshape(-1, h.shape[1])


def squared(difference: Tensor) -> Tensor:
    """The squared norm of a sample's vectors, averaged over the batch."""
    return difference.square().flatten(1).sum(dim=1).mean()


def uniform(codes: int, latent_dim: int) -> Tensor:
    """Vectors (codes, latent_dim) as a linear layer's weights are drawn."""
    return (2 * torch.rand(codes, latent_dim) - 1) / math.sqrt(latent_dim)


def check_number(quantizer: Quantizer, name: str, least: int) -> None:
    """Raises InputError unless an argument is an integer of at least that."""
    value = getattr(quantizer, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} of {type(quantizer).__name__} must be an integer of at least {least}, got {value!r}")


def check_weights(quantizer: Quantizer, *names: str) -> None:
    """Raises InputError where an argument is negative, or not finite."""
    for name in names:
        if not 0 <= getattr(quantizer, name) < math.inf:
            raise InputError(
                f"{name} of {type(quantizer).__name__} must not be negative, got {getattr(quantizer, name)}"
            )


def check_choice(quantizer: Quantizer, name: str, choices: object) -> None:
    """Raises InputError unless an argument is one of a Literal's."""
    if getattr(quantizer, name) not in get_args(choices):
        raise unknown(f"{name} of {type(quantizer).__name__}", str(getattr(quantizer, name)), get_args(choices))
