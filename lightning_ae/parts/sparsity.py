"""Sparsity: how few units of a code are in use, and what that costs.

A part makes the code of pre-activations (B, *code_shape), and says what is added to the loss. Units are the channels
(dimension 1) at each position of a code; costs are summed over everything but the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.parts.penalties import kl_sparsity

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder


class Sparsity(Configurable):
    """How a code is made sparse."""

    in_use: ClassVar[float] = 0.0
    """A unit is in use where its activation exceeds this in size."""

    @abstractmethod
    def __call__(self, pre: Tensor) -> Tensor:
        """The code that pre-activations make, (B, *code_shape) both."""

    def terms(self, model: Autoencoder, x: Tensor, pre: Tensor, code: Tensor) -> dict[str, Tensor]:
        """Named scalars, of which "loss", where it is there, is added to that of the reconstruction.

        Args:
            model: whose code it is.
            x: what is reconstructed, (B, *input_shape).
            pre: the pre-activations, (B, *code_shape).
            code: what was made of them.
        """
        return {}

    def active(self, code: Tensor) -> Tensor:
        """Which units are in use, of the code's shape."""
        return code.abs() > self.in_use


@dataclass(frozen=True)
class _Penalised(Sparsity):
    weight: float = 0.1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"weight of {type(self).__name__} must not be negative, got {self.weight}")

    @abstractmethod
    def penalty(self, pre: Tensor, code: Tensor) -> Tensor:
        """What the weight multiplies, a scalar: (B, *code_shape) both."""

    def terms(self, model: Autoencoder, x: Tensor, pre: Tensor, code: Tensor) -> dict[str, Tensor]:
        """The "loss", and "sparsity", the same without its weight."""
        sparsity = self.penalty(pre, code)
        return {"loss": self.weight * sparsity, "sparsity": sparsity}


@dataclass(frozen=True)
class KLSparsity(_Penalised):
    r"""Sigmoid units whose mean activations over the batch are drawn to a small target (Ng 2011, CS294A notes).

    .. math:: \sum_j \rho \log \frac{\rho}{\hat\rho_j} + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho_j}

    The mean is over the batch of all ranks; see `lightning_ae.parts.penalties.kl_sparsity`.

    Args:
        weight: of the penalty, in nats per sample.
        rho: the target, in (0, 1).
    """

    in_use: ClassVar[float] = 0.1  # no sigmoid is zero

    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < 1:
            raise InputError(f"rho, the target of the mean activation, must lie in (0, 1), got {self.rho}")

    def __call__(self, pre: Tensor) -> Tensor:
        """In (0, 1): (B, *code_shape) to the same shape."""
        return pre.sigmoid()

    def penalty(self, pre: Tensor, code: Tensor) -> Tensor:
        """The divergence, summed over units."""
        return kl_sparsity(pre, self.rho)


@dataclass(frozen=True)
class L1Sparsity(_Penalised):
    r"""Rectified units, of whose activations the sum is penalised: :math:`\mathbb E \sum_j |z_j|`.

    Args:
        weight: of the penalty, in nats per sample.
    """

    def __call__(self, pre: Tensor) -> Tensor:
        """In [0, inf): (B, *code_shape) to the same shape."""
        return pre.relu()

    def penalty(self, pre: Tensor, code: Tensor) -> Tensor:
        """The sum of absolute values, averaged over the batch."""
        return code.flatten(1).abs().sum(1).mean()


@dataclass(frozen=True)
class TopK(Sparsity):
    r"""At each position the k largest channels stay, and all others are zero (Makhzani & Frey 2014).

    The gradient flows through those that stay.

    Args:
        k: how many stay, at most the number of channels.
        rectified: whether those that stay are rectified, so that fewer are left where fewer than k are positive (Gao et
            al. 2024); else they are linear.
    """

    k: int = 4
    rectified: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise InputError(f"k of TopK must be a positive integer, got {self.k!r}")

    def __call__(self, pre: Tensor) -> Tensor:
        """(B, *code_shape) to the same shape."""
        values, units = pre.topk(self.k, dim=1)
        return torch.zeros_like(pre).scatter(1, units, values.relu() if self.rectified else values)
