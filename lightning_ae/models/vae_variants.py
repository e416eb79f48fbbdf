"""Variational autoencoders of the literature that settle a part: a prior or an objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import Unpack

from lightning_ae.autoencoder import NetworkOptions
from lightning_ae.models.vae import VAE, VAEOptions
from lightning_ae.parts.importance import Gradient, IWAEObjective
from lightning_ae.parts.likelihoods import Likelihood
from lightning_ae.parts.objectives import Objective, TotalCorrelation
from lightning_ae.parts.posteriors import Posterior
from lightning_ae.parts.priors import Prior, VampPrior
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


class BetaTCVAEOptions(IWAEOptions, total=False):
    """What `BetaTCVAE` passes on to `VAE`."""

    beta_schedule: Schedule | None


class VampPriorVAE(VAE):
    r"""A variational autoencoder whose prior is a mixture of its own posteriors (Tomczak & Welling 2018).

    At pseudo-inputs :math:`u_1, \ldots, u_K`, which are learned with the rest,

    .. math:: p(z) = \frac1K \sum_k q(z \mid u_k),

    an approximation of the best prior that there is for a given encoder, the mean of all samples' posteriors. The
    divergence is that of a draw, :math:`\log q(z \mid x) - \log p(z)`. Each step encodes the pseudo-inputs, too.

    Args:
        pseudo_inputs: K, how many.
    """

    reference: ClassVar[str] = "Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        pseudo_inputs: int = 500,
        **options: Unpack[VampPriorVAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, prior=VampPrior(pseudo_inputs), **options)


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
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        samples: int = 5,
        gradient: Gradient = "plain",
        chunk: int | None = None,
        **options: Unpack[IWAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, objective=IWAEObjective(samples, gradient, chunk), **options)


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
    """

    reference: ClassVar[str] = "Chen et al. 2018, https://arxiv.org/abs/1802.04942"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        **options: Unpack[BetaTCVAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, beta=beta, objective=TotalCorrelation(alpha, gamma), **options)
