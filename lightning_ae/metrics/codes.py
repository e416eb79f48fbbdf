"""How good codes are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_ae.errors import InputError


class ActiveUnits(Metric):
    r"""The number of code dimensions that respond to the data.

    A unit is active when the variance over the data of its expectation exceeds a threshold,

    .. math:: A_j = Var_x(E_{q(z|x)}[z_j]) > 0.01

    (Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, section 5.2).

    Args:
        latent_dim: the number of code dimensions.
        threshold: on the variance.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    squares: Tensor
    samples: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        # sums in float64, of which two ranks' add up; float32 would cancel where the mean is large
        self.add_state("total", torch.zeros(latent_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(latent_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Adds a batch of codes without randomness, (B, latent_dim)."""
        codes = codes.double()
        self.total += codes.sum(dim=0)
        self.squares += codes.square().sum(dim=0)
        self.samples += len(codes)

    def compute(self) -> Tensor:
        """The number of active units, a scalar."""
        variance = self.squares / self.samples - (self.total / self.samples).square()
        return (variance > self.threshold).sum().float()


class Sparsity(Metric):
    """How few code dimensions are in use at a time.

    A unit is active in a sample when the size of its activation exceeds the threshold.

    Args:
        latent_dim: the number of code dimensions.
        threshold: on the size of an activation.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    active: Tensor
    total: Tensor
    samples: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.add_state("active", torch.zeros(latent_dim, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Adds a batch of codes, (B, latent_dim)."""
        self.active += (codes.abs() > self.threshold).sum(dim=0)
        self.total += codes.double().sum()
        self.samples += len(codes)

    def compute(self) -> dict[str, Tensor]:
        """The mean number of active units "l0", the "mean_activation", the number of never active "dead_units"."""
        return {
            "l0": (self.active.sum() / self.samples).float(),
            "mean_activation": (self.total / (self.samples * len(self.active))).float(),
            "dead_units": (self.active == 0).sum().float(),
        }


def knn_error(
    train_codes: Tensor, train_labels: Tensor, codes: Tensor, labels: Tensor, k: int = 5, block: int = 1024
) -> float:
    """The error of the k-nearest-neighbour classifier with Euclidean distance.

    The majority of the k nearest training codes wins, the smallest label among equals, as in scikit-learn.

    Args:
        train_codes: (N, D).
        train_labels: integers, (N,).
        codes: (M, D).
        labels: integers, (M,).
        k: the number of neighbours.
        block: how many codes are compared with all training codes at a time.

    Returns:
        The fraction that is classified wrongly.

    Raises:
        InputError: when there are fewer than k training codes.
    """
    if k < 1 or k > len(train_codes):
        raise InputError(f"k must lie between 1 and the number of training codes, {len(train_codes)}; got {k}")
    classes, train_classes = torch.unique(train_labels, return_inverse=True)
    # cdist multiplies matrices: in float32 that cancels where codes lie far from the origin
    train_codes = train_codes.double()
    wrong = 0
    for part, truth in zip(codes.split(block), labels.split(block), strict=True):
        nearest = torch.cdist(part.double(), train_codes).topk(k, dim=1, largest=False).indices
        votes = torch.zeros(len(part), len(classes), device=part.device)
        votes.scatter_add_(1, train_classes[nearest], torch.ones_like(nearest, dtype=votes.dtype))
        wrong += int((classes[votes.argmax(dim=1)] != truth).sum())
    return wrong / len(codes)


def linear_probe_error(train_codes: Tensor, train_labels: Tensor, codes: Tensor, labels: Tensor) -> float:
    """The error of multinomial logistic regression on standardised codes (scikit-learn, C = 1).

    Args:
        train_codes: (N, D).
        train_labels: integers, (N,).
        codes: (M, D).
        labels: integers, (M,).

    Returns:
        The fraction that is classified wrongly.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train_codes.cpu().numpy(), train_labels.cpu().numpy())
    return 1.0 - float(probe.score(codes.cpu().numpy(), labels.cpu().numpy()))
