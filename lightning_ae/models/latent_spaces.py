"""Variational autoencoders whose codes are no points of a flat space: on a sphere, and of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import Unpack

from lightning_ae.models.vae import VAE, VAEOptions
from lightning_ae.parts.categorical import Concrete, UniformOnCategories
from lightning_ae.parts.hyperspherical import UniformOnSphere, VonMisesFisher
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.schedules import Schedule


class HypersphericalVAEOptions(VAEOptions, total=False):
    """What `HypersphericalVAE` passes on to `VAE`."""

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
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        floor: float = 1.0,
        **options: Unpack[HypersphericalVAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, prior=UniformOnSphere(), posterior=VonMisesFisher(floor), **options)


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
        input_shape: Sequence[int],
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
