"""How good codes are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import SampleMetric, check_finite, code_doubles, positive


class ActiveUnits(SampleMetric):
    r"""The number of units of a code that respond to the data.

    A unit is active when the variance over the data of its expectation exceeds a threshold,

    .. math:: A_j = Var_x(E_{q(z|x)}[z_j]) > 0.01

    (Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, section 5.2).

    Args:
        latent_dim: the number of units, the values of a code; of a map, those at all positions.
        threshold: on the variance.

    Raises:
        InputError: when `latent_dim` is not positive, or the threshold is negative.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import ActiveUnits
        >>> metric = ActiveUnits(latent_dim=3)
        >>> metric(torch.tensor([[1.0, 0.00, -2.0], [1.0, 0.01, 2.0]]))
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = True
    plot_lower_bound = 0.0
    total: Tensor
    squares: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_options(self, latent_dim, threshold)
        self.latent_dim, self.threshold = latent_dim, threshold
        # float32 would cancel where the mean is large
        self.add_sum("total", latent_dim)
        self.add_sum("squares", latent_dim)

    def update(self, codes: Tensor) -> None:
        """Adds a batch of codes without randomness, (B, latent_dim), as `Autoencoder.units` gives them.

        Raises:
            InputError: when the codes have another shape, or are not finite.
        """
        codes = code_doubles(codes, self.latent_dim)
        self.total += codes.sum(dim=0)
        self.squares += codes.square().sum(dim=0)
        self.samples += len(codes)

    def compute(self) -> Tensor:
        """The number of active units, a scalar."""
        variance = self.squares / self.samples - (self.total / self.samples).square()
        return _known((variance > self.threshold).sum(), self.samples)


class Sparsity(SampleMetric):
    """How few units of a code are in use at a time.

    A unit is active in a sample when the size of its activation exceeds the threshold.

    Args:
        latent_dim: the number of units, the values of a code; of a map, those at all positions.
        threshold: on the size of an activation.

    Raises:
        InputError: when `latent_dim` is not positive, or the threshold is negative.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import Sparsity
        >>> metric = Sparsity(latent_dim=3)
        >>> metric(torch.tensor([[0.0, 0.5, 0.0], [0.0, 1.0, 1.5]]))
        {'l0': tensor(1.5000), 'mean_activation': tensor(0.5000), 'dead_units': tensor(1.)}
    """

    is_differentiable = False
    higher_is_better = None
    active: Tensor
    total: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_options(self, latent_dim, threshold)
        self.latent_dim, self.threshold = latent_dim, threshold
        self.add_sum("active", latent_dim, dtype=torch.long)
        self.add_sum("total")

    def update(self, codes: Tensor) -> None:
        """Adds a batch of codes, (B, latent_dim), as `Autoencoder.units` gives them.

        Raises:
            InputError: when the codes have another shape, or are not finite.
        """
        wide = code_doubles(codes, self.latent_dim)
        # compared in the codes' own type: a threshold of 0.1 is not above what bfloat16 makes of 0.1
        self.active += (codes.abs() > self.threshold).sum(dim=0)
        self.total += wide.sum()
        self.samples += len(codes)

    def compute(self) -> dict[str, Tensor]:
        """The mean number of active units "l0", the "mean_activation", the number of never active "dead_units"."""
        return {
            "l0": (self.active.sum() / self.samples.double()).float(),
            "mean_activation": (self.total / (self.samples * self.latent_dim)).float(),
            "dead_units": _known((self.active == 0).sum(), self.samples),
        }


def knn_error(
    train_codes: Tensor, train_labels: Tensor, codes: Tensor, labels: Tensor, k: int = 5, block: int = 1024
) -> float:
    """The error of the k-nearest-neighbour classifier with Euclidean distance.

    The majority of the k nearest training codes wins, the smallest label among equals, as in scikit-learn. It is
    computed in float64, on the device of the training codes.

    Args:
        train_codes: (N, D).
        train_labels: integers, (N,), of two classes or more.
        codes: (M, D).
        labels: integers, (M,).
        k: the number of neighbours.
        block: how many codes are compared with all training codes at a time.

    Returns:
        The fraction that is classified wrongly.

    Raises:
        InputError: when there are fewer than k training codes, when shapes or types are others, when codes are not
            finite, or when the training labels are all alike.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import knn_error
        >>> train, classes = torch.tensor([[0.0], [0.2], [1.0], [1.2]]), torch.tensor([0, 0, 1, 1])
        >>> knn_error(train, classes, torch.tensor([[0.1], [0.9]]), torch.tensor([0, 0]), k=1)
        0.5
    """
    if not 1 <= k <= len(train_codes):
        raise InputError(f"k must lie between 1 and the number of training codes, {len(train_codes)}; got {k}")
    if block < 1:
        raise InputError(f"block must be positive, got {block}")
    train_codes, train_labels, codes, labels = _labelled(train_codes, train_labels, codes, labels)
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

    Codes in half precision are widened to float32 first.

    Args:
        train_codes: (N, D).
        train_labels: integers, (N,), of two classes or more.
        codes: (M, D).
        labels: integers, (M,).

    Returns:
        The fraction that is classified wrongly.

    Raises:
        InputError: when shapes or types are others, when codes are not finite, or when the training labels are all
            alike.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import linear_probe_error
        >>> train, classes = torch.tensor([[0.0], [0.2], [1.0], [1.2]]), torch.tensor([0, 0, 1, 1])
        >>> linear_probe_error(train, classes, torch.tensor([[0.1], [0.9]]), torch.tensor([0, 0]))
        0.5
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learned = _labelled(train_codes, train_labels, codes, labels)
    arrays = [part.detach().cpu().numpy() for part in learned]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(*arrays[:2])
    return 1.0 - float(probe.score(*arrays[2:]))


def _labelled(
    train_codes: Tensor, train_labels: Tensor, codes: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same, checked: codes in float32 or more, labels as int64, all on the device of the training codes."""
    sets: list[Tensor] = []
    for kind, part, classes in (("train_", train_codes, train_labels), ("", codes, labels)):
        if part.ndim != 2 or not part.numel():
            raise InputError(f"{kind}codes must have the shape (N, D) and hold something, got {tuple(part.shape)}")
        if classes.shape != part.shape[:1]:
            raise InputError(f"{kind}labels must have the shape ({len(part)},), got {tuple(classes.shape)}")
        if classes.is_floating_point() or classes.is_complex():
            raise InputError(f"{kind}labels must be integers, got {classes.dtype}", "number the classes: labels.long()")
        check_finite(f"{kind}codes", part)
        sets.append(part.to(train_codes.device, torch.promote_types(part.dtype, torch.float32)))
        sets.append(classes.to(train_codes.device, torch.long))
    if train_codes.shape[1] != codes.shape[1]:
        raise InputError(f"train_codes have {train_codes.shape[1]} dimensions, codes {codes.shape[1]}")
    if (sets[1] == sets[1][0]).all():
        raise InputError(f"train_labels hold one class, {int(sets[1][0])}: there is nothing to tell apart")
    return sets[0], sets[1], sets[2], sets[3]


def _check_options(metric: ActiveUnits | Sparsity, latent_dim: int, threshold: float) -> None:
    positive(metric, latent_dim=latent_dim)
    if not threshold >= 0:
        raise InputError(f"threshold of {type(metric).__name__} must not be negative, got {threshold}")


def _known(count: Tensor, samples: Tensor) -> Tensor:
    """A count as a number, NaN where there was no sample to count."""
    return torch.where(samples > 0, count.float(), torch.nan)
