"""Variational autoencoders of the literature that settle a part: a prior or an objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import Unpack

from lightning_ae.autoencoder import NetworkOptions
from lightning_ae.errors import InputError
from lightning_ae.models.vae import VAE, VAEOptions
from lightning_ae.parts.aggregated import Capacity, DisentangledPrior, MaximumMeanDiscrepancy
from lightning_ae.parts.hamiltonian import HamiltonianFlow
from lightning_ae.parts.importance import CIWAEObjective, Gradient, IWAEObjective, PIWAEObjective
from lightning_ae.parts.likelihoods import Likelihood
from lightning_ae.parts.objectives import ELBO, Objective, TotalCorrelation
from lightning_ae.parts.posteriors import Posterior
from lightning_ae.parts.priors import Prior, PseudoStart, VampPrior
from lightning_ae.parts.schedules import Schedule


class VampPriorVAEOptions(VAEOptions, total=False):
    """What `VampPriorVAE` passes on to `VAE`."""

    posterior: Posterior
    objective: Objective


class IWAEOptions(NetworkOptions, total=False):
    """What `IWAE` passes on to `VAE`."""

    likelihood: Likelihood
    prior: Prior
    posterior: Posterior


class HamiltonianVAEOptions(VAEOptions, total=False):
    """What `HamiltonianVAE` passes on to `VAE`."""

    prior: Prior
    objective: Objective


class BetaTCVAEOptions(IWAEOptions, total=False):
    """What `BetaTCVAE` passes on to `VAE`."""

    beta_schedule: Schedule | None


class ObjectiveSettled(BetaTCVAEOptions, total=False):
    """What a variational autoencoder that settles its objective passes on to `VAE`."""

    beta: float


class VampPriorVAE(VAE):
    r"""A variational autoencoder whose prior is a mixture of its own posteriors (Tomczak & Welling 2018).

    At pseudo-inputs :math:`u_1, \ldots, u_K`, which are learned with the rest,

    .. math:: p(z) = \frac1K \sum_k q(z \mid u_k),

    an approximation of the best prior that there is for a given encoder, the mean of all samples' posteriors. The
    divergence is that of a draw, :math:`\log q(z \mid x) - \log p(z)`. Each step encodes the pseudo-inputs, too.

    Args:
        pseudo_inputs: K, how many.
        start: "normal", from draws, or "data", from the first K training samples.
    """

    reference: ClassVar[str] = "Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        pseudo_inputs: int = 500,
        start: PseudoStart = "normal",
        **options: Unpack[VampPriorVAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, prior=VampPrior(pseudo_inputs, start), **options)


class IWAE(VAE):
    r"""The importance-weighted autoencoder (Burda, Grosse & Salakhutdinov 2016).

    A variational autoencoder trained by a tighter bound on :math:`-\log p(x)`, that of K draws of each sample,

    .. math:: -\mathbb E_{z_1 \ldots z_K \sim q(z \mid x)} \log \frac1K \sum_k
        \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}.

    A step decodes K codes for each sample. The encoder's plain gradient gets the noisier the more draws there are;
    `gradient="dreg"` (Tucker et al. 2019) does not. `lightning_ae.parts.IWAEObjective` has the equations.

    Args:
        samples: K, how many draws.
        gradient: the encoder's: "plain", "stl" or "dreg".
        chunk: how many draws of each sample are computed at a time, so that many fit into memory; by default all.
    """

    reference: ClassVar[str] = "Burda et al. 2016, https://arxiv.org/abs/1509.00519"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        samples: int = 5,
        gradient: Gradient = "plain",
        chunk: int | None = None,
        **options: Unpack[IWAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, objective=IWAEObjective(samples, gradient, chunk), **options)


class CIWAE(VAE):
    r"""The combination importance-weighted autoencoder (Rainforth et al. 2018).

    A variational autoencoder trained by a mean of two bounds on :math:`-\log p(x)` from the same K draws, the evidence
    lower bound and that of `IWAE`; with the importance weights w,

    .. math:: -\mathbb E_{z_1 \ldots z_K \sim q(z \mid x)} \Big[ \beta \frac1K \sum_k \log w_k
        + (1 - \beta) \log \frac1K \sum_k w_k \Big].

    Args:
        samples: K, how many draws.
        elbo_weight: beta, in [0, 1]; with 0 it is `IWAE`.
        weight_schedule: what that is multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
        gradient: the encoder's: "plain", "stl" or "dreg"; see `lightning_ae.parts.CIWAEObjective`.
        chunk: how many draws of each sample are computed at a time, so that many fit into memory; by default all.
    """

    reference: ClassVar[str] = "Rainforth et al. 2018, https://arxiv.org/abs/1802.04537"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        samples: int = 5,
        elbo_weight: float = 0.5,
        weight_schedule: Schedule | None = None,
        gradient: Gradient = "plain",
        chunk: int | None = None,
        **options: Unpack[IWAEOptions],
    ) -> None:
        objective = CIWAEObjective(samples, gradient, chunk, elbo_weight, weight_schedule)
        super().__init__(input_shape, latent_dim, objective=objective, **options)


class PIWAE(VAE):
    r"""The partially importance-weighted autoencoder (Rainforth et al. 2018).

    Of the same K = M L draws of each sample the decoder minimises the bound of all, that of `IWAE`, and the encoder the
    mean of M bounds of L draws each, whose gradient has less noise,

    .. math:: -\log \frac{1}{M L} \sum_{ml} w_{ml} \quad \text{and} \quad
        -\frac1M \sum_m \log \frac1L \sum_l w_{ml}.

    "loss" is the first. One backward pass gives both gradients; `lightning_ae.parts.PIWAEObjective` has the equations.

    Args:
        samples: K, how many draws.
        bounds: M, of which K is a multiple; with 1 it is `IWAE`.
        gradient: the encoder's: "plain", "stl" or "dreg".
        chunk: how many draws of each sample are computed at a time, so that many fit into memory; by default all.
    """

    reference: ClassVar[str] = "Rainforth et al. 2018, https://arxiv.org/abs/1802.04537"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        samples: int = 16,
        bounds: int = 4,
        gradient: Gradient = "plain",
        chunk: int | None = None,
        **options: Unpack[IWAEOptions],
    ) -> None:
        objective = PIWAEObjective(samples, gradient, chunk, bounds)
        super().__init__(input_shape, latent_dim, objective=objective, **options)


class HamiltonianVAE(VAE):
    r"""A variational autoencoder whose codes follow Hamiltonian dynamics (Caterini, Doucet & Sejdinovic 2018).

    A draw of the encoder's Gaussian, :math:`z_0`, and of a momentum :math:`\rho_0 \sim N(0, I / \beta_0)` takes K
    leapfrog steps in the potential :math:`-\log p(x, z)`, the momentum being cooled, and with where they end it
    minimises

    .. math:: -\mathbb E [\log p(x, z_K) + \log N(\rho_K; 0, I) - \log q(z_0 \mid x) - \log N(\rho_0; 0, I / \beta_0)
        + \tfrac D2 \log \beta_0],

    a bound on :math:`-\log p(x)`; scores have it, too. `encode` gives the mean of the Gaussian. A training step
    differentiates the decoder K + 1 times and through that; `lightning_ae.parts.HamiltonianFlow` has the equations.

    Args:
        steps: K.
        step_size: at the start of a fit; each unit of the code learns its own.
        largest_step: no step exceeds it.
        temperature: 1 / beta_0 >= 1, at the start of a fit.
        learned_temperature: whether it is learned, or stays.
    """

    reference: ClassVar[str] = "Caterini et al. 2018, https://arxiv.org/abs/1805.11328"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        steps: int = 3,
        step_size: float = 0.05,
        largest_step: float = 0.5,
        temperature: float = 2.0,
        learned_temperature: bool = True,
        **options: Unpack[HamiltonianVAEOptions],
    ) -> None:
        posterior = HamiltonianFlow(steps, step_size, largest_step, temperature, learned_temperature)
        super().__init__(input_shape, latent_dim, posterior=posterior, **options)


class BetaTCVAE(VAE):
    r"""A variational autoencoder that weights the total correlation of its code (Chen et al. 2018).

    With :math:`q(z)` the mean of all N training samples' posteriors, it minimises

    .. math:: -\mathbb E [\log p(x \mid z)] + \alpha\, I(z; x) + \beta\, KL(q(z) \,\|\, \prod_j q(z_j))
        + \gamma \sum_j KL(q(z_j) \,\|\, p(z_j)),

    so that the units of the code become independent of each other, without the loss of information that a weight on
    the whole divergence brings. :math:`q(z)` is estimated from the samples that all ranks have of a batch, which is
    biased; see `lightning_ae.parts.TotalCorrelation`.

    Args:
        beta: the weight of the total correlation.
        alpha: the weight of the mutual information of code and sample.
        gamma: the weight of the divergence of each unit.
        alpha_schedule: what alpha is multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
        gamma_schedule: what gamma is; beta has its beta_schedule.
    """

    reference: ClassVar[str] = "Chen et al. 2018, https://arxiv.org/abs/1802.04942"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        alpha_schedule: Schedule | None = None,
        gamma_schedule: Schedule | None = None,
        **options: Unpack[BetaTCVAEOptions],
    ) -> None:
        objective = TotalCorrelation(alpha, gamma, alpha_schedule=alpha_schedule, gamma_schedule=gamma_schedule)
        super().__init__(input_shape, latent_dim, beta=beta, objective=objective, **options)


class BetaVAE(VAE):
    r"""A variational autoencoder that weights the divergence of its code (Higgins et al. 2017; Burgess et al. 2018).

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \beta\, KL(q(z \mid x) \,\|\, p(z)),

    or, with a capacity C in nats that the code is to take up, :math:`\beta\, |KL - C|` instead, of the mean divergence
    over the batch of all ranks. The likelihood's scale and beta weigh the same: with the default, a scale that follows
    the errors, beta is relative to the bound's own balance.

    Args:
        beta: the weight of the divergence; with a capacity, of its distance from that, gamma in the paper (1000).
        capacity: C, at the end of its schedule; None is the weight on the whole divergence.
        capacity_schedule: what C is multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
    """

    reference: ClassVar[str] = "Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        beta: float = 4.0,
        capacity: float | None = None,
        capacity_schedule: Schedule | None = None,
        **options: Unpack[BetaTCVAEOptions],
    ) -> None:
        if capacity is None and capacity_schedule is not None:
            raise InputError("capacity_schedule is of a capacity, and none is given", "give capacity, 25.0 nats say")
        objective = ELBO() if capacity is None else Capacity(capacity, capacity_schedule)
        super().__init__(input_shape, latent_dim, beta=beta, objective=objective, **options)


class DIPVAE(VAE):
    r"""A variational autoencoder whose codes have the prior's covariance (Kumar, Sattigeri & Balakrishnan 2018).

    To the bound it adds

    .. math:: \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2,

    C being the covariance of the posteriors' means (I) or of draws (II) over the batch of all ranks; see
    `lightning_ae.parts.DisentangledPrior`.

    Args:
        kind: "I" or "II".
        off_diagonal: lambda_od.
        diagonal: lambda_d; None is ten times off_diagonal in I, and the same in II.
        penalty_schedule: what both are multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
    """

    reference: ClassVar[str] = "Kumar et al. 2018, https://arxiv.org/abs/1711.00848"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        kind: Literal["I", "II"] = "I",
        off_diagonal: float = 10.0,
        diagonal: float | None = None,
        penalty_schedule: Schedule | None = None,
        **options: Unpack[ObjectiveSettled],
    ) -> None:
        objective = DisentangledPrior(kind, off_diagonal, diagonal, penalty_schedule)
        super().__init__(input_shape, latent_dim, objective=objective, **options)


class InfoVAE(VAE):
    r"""A variational autoencoder that keeps what its code knows of the input (Zhao, Song & Ermon 2019).

    .. math:: -\mathbb E [\log p(x \mid z)] + (1 - \alpha)\, KL(q(z \mid x) \,\|\, p(z)) + (\alpha + \lambda - 1)\,
        MMD(q(z), p(z))

    The divergence of each sample's posterior, which takes information out of the code, gives way to the distance of
    all of them together from the prior, over the batch of all ranks; see
    `lightning_ae.parts.MaximumMeanDiscrepancy`. With alpha = 1, the MMD-VAE, nothing else holds the code.

    Args:
        alpha: how much of the divergence is left out, at most 1.
        marginal_weight: lambda, of the distance; at least 1 - alpha.
        marginal_schedule: what the distance's whole weight is multiplied with at each step of a fit, a schedule of
            `lightning_ae.parts`; that of the divergence has the beta_schedule.
    """

    reference: ClassVar[str] = "Zhao et al. 2019, https://arxiv.org/abs/1706.02262"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        alpha: float = 0.5,
        marginal_weight: float = 100.0,
        marginal_schedule: Schedule | None = None,
        **options: Unpack[BetaTCVAEOptions],
    ) -> None:
        if not alpha <= 1:
            raise InputError(f"alpha must be at most 1, got {alpha}", "0 is the variational autoencoder's divergence")
        if not marginal_weight >= 1 - alpha:
            raise InputError(f"marginal_weight must be at least 1 - alpha = {1 - alpha:g}, got {marginal_weight}")
        objective = MaximumMeanDiscrepancy(alpha + marginal_weight - 1, marginal_schedule)
        super().__init__(input_shape, latent_dim, beta=1 - alpha, objective=objective, **options)
