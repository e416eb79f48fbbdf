"""How codes lie in their space: in how many directions, on what, how close together, and in which groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import MomentsMetric, SampleMetric, code_doubles, positive
from lightning_ae.metrics.neighbours import BLOCK, check_neighbours, check_rows, nearest


class EffectiveRank(MomentsMetric):
    r"""In how many directions codes vary, all of them as much counting in full (Roy & Vetterli 2007).

    .. math:: erank = \exp\left(-\sum_i p_i \log p_i\right), \quad p_i = \frac{\sigma_i}{\sum_j \sigma_j}

    with the singular values :math:`\sigma_i` of the centred codes (EUSIPCO 2007,
    https://ieeexplore.ieee.org/document/7098875). It lies between 1 and the number of units; of codes that do not vary
    it is NaN.

    Args:
        latent_dim: the number of units, the values of a code; of a map, those at all positions.

    Raises:
        InputError: when `latent_dim` is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import EffectiveRank
        >>> metric = EffectiveRank(latent_dim=3)
        >>> metric(torch.tensor([[1.0, 0.0, 5.0], [-1.0, 0.0, 5.0], [0.0, 1.0, 5.0], [0.0, -1.0, 5.0]]))
        tensor(2.)
    """

    is_differentiable = False
    higher_is_better = True
    plot_lower_bound = 0.0

    def compute(self) -> Tensor:
        """The effective rank, a scalar."""
        if self.samples == 0:
            return torch.tensor(float("nan"), device=self.device)
        scatter = self.products - self.total.outer(self.total) / self.samples
        squares = torch.linalg.eigvalsh(scatter)
        # what is left of units that do not vary is rounding, whose root is not small
        squares = torch.where(squares > 1e-13 * self.products.trace(), squares, 0.0)
        sizes = squares.sqrt()
        return torch.special.entr(sizes / sizes.sum()).sum().exp().float()


class Alignment(SampleMetric):
    r"""How far apart the codes of two views of the same samples are on the unit sphere (Wang & Isola 2020).

    .. math:: E_{(x, y)} \|f(x) - f(y)\|_2^\alpha, \quad f(x) = z(x) / \|z(x)\|

    (https://arxiv.org/abs/2005.10242, section 4.1). Views are two noisy copies of a sample, say, or two draws of its
    code; 0 where all pairs have one direction. See `uniformity` beside it, which codes that are all alike fail.

    Args:
        latent_dim: the number of units, the values of a code.
        alpha: the power of the distance.

    Raises:
        InputError: when an argument is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import Alignment
        >>> metric = Alignment(latent_dim=2)
        >>> metric(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        tensor(1.)
    """

    is_differentiable = True
    higher_is_better = False
    plot_lower_bound = 0.0
    total: Tensor

    def __init__(self, latent_dim: int, alpha: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, latent_dim=latent_dim, alpha=alpha)
        self.latent_dim, self.alpha = latent_dim, alpha
        self.add_sum("total")

    def update(self, codes: Tensor, others: Tensor) -> None:
        """Adds a batch of codes (B, latent_dim), and those of the other view of the same samples, (B, latent_dim).

        Raises:
            InputError: when the codes have another shape, are not finite, or are zero, which has no direction.
        """
        one = _directions("codes", code_doubles(codes, self.latent_dim))
        other = _directions("others", code_doubles(others, self.latent_dim, "others"))
        if len(one) != len(other):
            raise InputError(f"codes are of {len(one)} samples, others of {len(other)}: they must be of the same")
        self.total += (one - other).square().sum(dim=1).pow(self.alpha / 2).sum()
        self.samples += len(one)

    def compute(self) -> Tensor:
        """The mean over samples, a scalar."""
        return (self.total / self.samples).float()


def uniformity(codes: Tensor, t: float = 2.0, block: int = BLOCK) -> float:
    r"""How evenly the directions of codes cover the unit sphere, the lower the more (Wang & Isola 2020).

    .. math:: \log E_{x \ne y} \exp(-t \|f(x) - f(y)\|_2^2), \quad f(x) = z(x) / \|z(x)\|

    over all pairs (https://arxiv.org/abs/2005.10242, section 4.1): 0 where all have one direction, and at least -4 t.

    Args:
        codes: (N, D), N > 1.
        t: the kernel's sharpness.
        block: how many codes are compared with all others at a time.

    Returns:
        The logarithm.

    Raises:
        InputError: when there is no pair, when codes have another shape, are not finite, or are zero.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import uniformity
        >>> round(uniformity(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])), 6)
        -8.0
    """
    if not 0 < t < math.inf:
        raise InputError(f"t must be positive and finite, got {t}")
    check_neighbours(1, block)
    rows = _directions("codes", check_rows("codes", codes, 2))
    parts = []
    for start in range(0, len(rows), block):
        exponents = -t * (2 - 2 * rows[start : start + block] @ rows.T).clamp(min=0)
        own = torch.arange(len(exponents), device=rows.device)
        exponents[own, own + start] = -torch.inf
        parts.append(exponents.flatten().logsumexp(0))
    return float(torch.stack(parts).logsumexp(0)) - math.log(len(rows)) - math.log(len(rows) - 1)


def intrinsic_dimension(codes: Tensor, k: int = 20, block: int = BLOCK) -> float:
    r"""The dimension of what codes lie on, by maximum likelihood (Levina & Bickel 2004).

    With the distance :math:`T_j` of a code from its j-th neighbour, the inverses of its estimates are averaged over all
    N codes, as MacKay & Ghahramani (2005, http://www.inference.org.uk/mackay/dimension/) correct it:

    .. math:: m = \left(\frac{1}{N (k - 1)} \sum_{i=1}^N \sum_{j=1}^{k-1} \log \frac{T_k(i)}{T_j(i)}\right)^{-1}

    (https://papers.nips.cc/paper/2577). Where dimensions are many the estimate is too low, since codes are
    too few for their neighbours to be near. See `two_nn_dimension`.

    Args:
        codes: (N, D), N > k, of which no two are equal.
        k: the number of neighbours, at least 2.
        block: how many codes are compared with all others at a time.

    Returns:
        The dimension, which need not be a whole number; infinite where all k neighbours are equally far.

    Raises:
        InputError: when there are k codes or fewer, or equal ones; when codes have another shape or are not finite.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import intrinsic_dimension
        >>> t = torch.rand(1000, generator=torch.Generator().manual_seed(0))
        >>> curve = torch.stack([t.cos(), t.sin(), t], dim=1)
        >>> round(intrinsic_dimension(curve), 1)
        1.0
    """
    far = _apart(codes, k, block, least=2)
    logs = far[:, -1:].log() - far[:, :-1].log()
    return _ratio(logs.numel(), float(logs.sum()))


def two_nn_dimension(codes: Tensor, discard: float = 0.1, block: int = BLOCK) -> float:
    r"""The dimension of what codes lie on, by the ratio of the distances to two neighbours (Facco et al. 2017).

    The ratio of a code's distances from its second and its first neighbour, :math:`\mu = r_2 / r_1 \ge 1`, has the
    distribution function :math:`F(\mu) = 1 - \mu^{-d}`, whatever the density, as long as it is constant that far. So
    d is the slope of the line through the origin that fits :math:`-\log(1 - F(\mu_{(i)}))` over
    :math:`\log \mu_{(i)}` by least squares, with :math:`F(\mu_{(i)}) = i / N` of the sorted ratios, the largest of
    which are left out (https://doi.org/10.1038/s41598-017-11873-y, Methods).

    Args:
        codes: (N, D), N > 2, of which no two are equal.
        discard: the share of the largest ratios that is left out; at least one is.
        block: how many codes are compared with all others at a time.

    Returns:
        The dimension, which need not be a whole number; infinite where both neighbours are equally far.

    Raises:
        InputError: when there are fewer than three codes, or equal ones; when codes have another shape or are not
            finite.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import two_nn_dimension
        >>> plane = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> round(two_nn_dimension(plane @ torch.randn(2, 50)), 0)
        2.0
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard must lie in [0, 1), got {discard}")
    far = _apart(codes, 2, block)
    logs = (far[:, 1].log() - far[:, 0].log()).sort().values
    n = len(logs)
    kept = max(1, min(n - 1, round(n * (1 - discard))))
    logs = logs[:kept]
    heights = -torch.log1p(-torch.arange(1, kept + 1, device=logs.device).double() / n)
    return _ratio(float((logs * heights).sum()), float(logs.square().sum()))


def cluster_scores(codes: Tensor, labels: Tensor, clusters: int | None = None, seed: int = 0) -> dict[str, float]:
    """How well k-means finds the classes in codes (scikit-learn, the best of ten starts).

    Args:
        codes: (N, D).
        labels: integers, (N,), of two classes or more.
        clusters: how many to find; as many as there are classes by default.
        seed: of the starts.

    Returns:
        "nmi", the mutual information of clusters and classes over the mean of their entropies, and "ari", the Rand
        index adjusted for chance (Hubert & Arabie 1985). Both are 1 where they are the same; of clusters that have
        nothing to do with the classes "ari" is 0 on the average, and "nmi" somewhat more.

    Raises:
        InputError: when codes or labels have another shape or type, codes are not finite or fewer than clusters, labels
            are all alike, or some are missing, -1.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import cluster_scores
        >>> cluster_scores(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), torch.tensor([7, 7, 3, 3]))
        {'nmi': 1.0, 'ari': 1.0}
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rows = check_rows("codes", codes, 2)
    if labels.shape != rows.shape[:1]:
        raise InputError(f"labels must have the shape ({len(rows)},), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels must be integers, got {labels.dtype}", "number the classes: labels.long()")
    labels = labels.long()
    if missing := int((labels < 0).sum()):
        raise InputError(f"{missing} of the {len(labels)} labels are missing, less than 0", "leave those rows out")
    classes = len(labels.unique())
    if classes < 2:
        raise InputError(f"labels hold one class, {int(labels[0])}: there is nothing to find")
    clusters = classes if clusters is None else clusters
    if not 2 <= clusters <= len(rows):
        raise InputError(f"clusters must lie between 2 and the number of codes, {len(rows)}; got {clusters}")
    found = KMeans(clusters, n_init=10, random_state=seed).fit_predict(rows.cpu().numpy())
    truth = labels.cpu().numpy()
    return {
        "nmi": float(normalized_mutual_info_score(truth, found)),
        "ari": float(adjusted_rand_score(truth, found)),
    }


def _apart(codes: Tensor, k: int, block: int, least: int = 1) -> Tensor:
    """The distances of each code from its k nearest others, rising, (N, k), of which none is zero."""
    check_neighbours(k, block, least)
    rows = check_rows("codes", codes, k + 1, f"k = {k} neighbours take")
    far = nearest(rows, rows, k, block, same=True)[0]
    if equal := int((far[:, 0] == 0).sum()):
        raise InputError(
            f"{equal} of the {len(rows)} codes equal another one, so that their neighbours say nothing of a dimension",
            "keep one of each: codes.unique(dim=0)",
        )
    return far


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.inf


def _directions(name: str, codes: Tensor) -> Tensor:
    """Codes (B, D) brought to the unit sphere."""
    sizes = torch.linalg.vector_norm(codes, dim=1, keepdim=True)
    if zero := int((sizes == 0).sum()):
        raise InputError(f"{zero} of the {len(codes)} rows of {name} are zero, which has no direction")
    return codes / sizes
