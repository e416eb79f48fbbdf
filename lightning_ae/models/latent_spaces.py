"""Variational autoencoders whose codes are no points of a flat space: on a sphere, in a ball, and of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import Unpack

from lightning_ae.autoencoder import NetworkOptions
from lightning_ae.errors import InputError
from lightning_ae.models.vae import VAE, VAEOptions
from lightning_ae.parts.categorical import Concrete, UniformOnCategories
from lightning_ae.parts.hyperbolic import CentredWrappedNormal, WrappedNormal
from lightning_ae.parts.hyperspherical import UniformOnSphere, VonMisesFisher
from lightning_ae.parts.joint import JointCapacity, JointPosterior, JointPrior
from lightning_ae.parts.likelihoods import Likelihood
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.posteriors import DiagonalGaussian
from lightning_ae.parts.priors import StandardNormal
from lightning_ae.parts.schedules import Schedule, Warmup


class CurvedVAEOptions(VAEOptions, total=False):
    """What `HypersphericalVAE` and `PoincareVAE` pass on to `VAE`."""

    objective: Objective


class HypersphericalVAE(VAE):
    r"""A variational autoencoder whose codes lie on the unit sphere (Davidson et al. 2018).

    The prior is uniform on the sphere in m = `latent_dim` dimensions, the posterior von Mises-Fisher,

    .. math:: q(z \mid x) \propto e^{\kappa(x)\, \mu(x) \cdot z}, \qquad
        KL = \kappa A(\kappa) - \log F(\kappa),

    with A and F of `lightning_ae.parts.hyperspherical.bessel`. Unlike a Gaussian's, the divergence does not pull codes
    to a centre. Draws come from the inverse of the angle's distribution function and not by rejection as in the paper:
    the distribution is the same, a draw takes the same number of random numbers whatever kappa is, and the gradient
    needs no score function. `encode` gives the mean direction.

    Args:
        floor: the least concentration kappa, > 0.
    """

    reference: ClassVar[str] = "Davidson et al. 2018, https://arxiv.org/abs/1804.00891"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        floor: float = 1.0,
        **options: Unpack[CurvedVAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, prior=UniformOnSphere(), posterior=VonMisesFisher(floor), **options)


class JointVAEOptions(NetworkOptions, total=False):
    """What `JointVAE` passes on to `VAE`."""

    likelihood: Likelihood
    beta_schedule: Schedule | None


class CategoricalVAE(VAE):
    r"""A variational autoencoder of categorical variables (Jang et al. 2017; Maddison et al. 2017).

    The code has `latent_dim` variables of K classes, a priori equally likely. It minimises

    .. math:: -\mathbb E [\log p(x \mid z)] + \beta \sum_j \sum_k q_{jk}(x) \log K q_{jk}(x)

    with draws relaxed by Gumbel-softmax in training; in evaluation draws are zeros and ones, and the bound is that of
    the discrete model. `encode` gives the probabilities, latent_dim times K values, `draw` and the prior zeros and
    ones.

    Args:
        classes: K.
        temperature: of the relaxation, > 0.
        straight_through: whether training decodes zeros and ones, too, with the gradient of the relaxed draw.
        temperature_schedule: what the temperature is multiplied with at each step of a fit.
    """

    reference: ClassVar[str] = "Jang et al. 2017, https://arxiv.org/abs/1611.01144"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        classes: int = 10,
        temperature: float = 2 / 3,
        straight_through: bool = False,
        temperature_schedule: Schedule | None = None,
        **options: Unpack[VAEOptions],
    ) -> None:
        posterior = Concrete(classes, temperature, straight_through, temperature_schedule)
        super().__init__(input_shape, latent_dim, prior=UniformOnCategories(), posterior=posterior, **options)


class PoincareVAE(VAE):
    r"""A variational autoencoder whose codes lie in the Poincare ball (Mathieu et al. 2019).

    The ball :math:`c |z|^2 < 1` with its metric is a space of the curvature -c, whose volume grows exponentially with
    the distance from the origin, as the nodes of a tree do with their depth. Posterior and prior are wrapped normal
    distributions,

    .. math:: z = \exp_{\mu(x)}(v / \lambda_{\mu(x)}), \qquad v \sim N(0, \mathrm{diag}\, \sigma^2(x)),

    the prior's around the origin; the divergence is that of a draw. `encode` gives the means, points of the ball. The
    decoder sees a code's logarithm at the origin; the gyroplane layer, with which the paper's decoder begins, and its
    Riemannian normal distributions are not here.

    Args:
        curvature: c > 0; c times `latent_dim` is at most 100.
        prior_scale: of the prior, in distances of the ball.
    """

    reference: ClassVar[str] = "Mathieu et al. 2019, https://arxiv.org/abs/1901.06033"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        curvature: float = 1.0,
        prior_scale: float = 1.0,
        **options: Unpack[CurvedVAEOptions],
    ) -> None:
        prior, posterior = CentredWrappedNormal(prior_scale), WrappedNormal(curvature)
        super().__init__(input_shape, latent_dim, prior=prior, posterior=posterior, **options)


class JointVAE(VAE):
    r"""A variational autoencoder with continuous and categorical codes (Dupont 2018).

    Of the `latent_dim` units of a code `variables` are categorical, of K classes each, and the rest Gaussian. It
    minimises

    .. math:: -\mathbb E_{q(z, c \mid x)} [\log p(x \mid z, c)] + \gamma\, |KL(q(z \mid x) \,\|\, p(z)) - C_z|
        + \gamma\, |KL(q(c \mid x) \,\|\, p(c)) - C_c|,

    of the mean divergences over the batch of all ranks: the code is to take up so many nats, and the categories, which
    training would else leave unused, their share. Draws of the categories are relaxed in training, and zeros and ones
    in evaluation, as in `CategoricalVAE`. A code has the Gaussian units first, then the K values of each variable, of
    which `encode` gives the probabilities.

    Args:
        variables: how many of the units are categorical; `latent_dim` less that are Gaussian.
        classes: K.
        temperature: of the relaxation, > 0.
        temperature_schedule: what the temperature is multiplied with at each step of a fit.
        beta: gamma; the paper has 30 on MNIST, with a likelihood whose scale does not follow the errors.
        capacity: C_z in nats, at the end of the schedule.
        class_capacity: C_c, at most what the categories can hold, variables times log K; None is half of that.
        capacity_schedule: what both are multiplied with at each step of a fit. Where they rise too fast all samples
            may end in one class; the paper has `Warmup(25000)`.
    """

    reference: ClassVar[str] = "Dupont 2018, https://arxiv.org/abs/1804.00104"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        variables: int = 1,
        classes: int = 10,
        temperature: float = 2 / 3,
        temperature_schedule: Schedule | None = None,
        beta: float = 3.0,
        capacity: float = 25.0,
        class_capacity: float | None = None,
        capacity_schedule: Schedule | None = Warmup(400),
        **options: Unpack[JointVAEOptions],
    ) -> None:
        if isinstance(variables, bool) or not isinstance(variables, int) or not 0 < variables < latent_dim:
            raise InputError(
                f"variables must be an integer from 1 to latent_dim - 1, which leaves a Gaussian unit; got "
                f"{variables!r} and latent_dim={latent_dim!r}"
            )
        categories = Concrete(classes, temperature, temperature_schedule=temperature_schedule)
        super().__init__(
            input_shape,
            latent_dim,
            beta=beta,
            prior=JointPrior((StandardNormal(), UniformOnCategories())),
            posterior=JointPosterior((DiagonalGaussian(), categories), (variables,)),
            objective=JointCapacity((capacity, class_capacity), schedule=capacity_schedule),
            **options,
        )
