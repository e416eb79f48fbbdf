"""The denoising autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import Unpack

from lightning_ae.architectures import Architecture
from lightning_ae.autoencoder import Autoencoder, LikelihoodOptions
from lightning_ae.parts.corruptions import Corruption, Masking


class DenoisingOptions(LikelihoodOptions, total=False):
    """What it passes on to `Autoencoder`."""

    architecture: Architecture


class DenoisingAutoencoder(Autoencoder):
    r"""Reconstructs the clean input from a corrupted one (Vincent et al. 2008, 2010).

    With a corruption process :math:`q(\tilde x \mid x)`, encoder :math:`\phi` and decoder :math:`\psi`, it minimises

    .. math:: \mathbb E_{q(\tilde x \mid x)} \left[ -\log p(x \mid \psi(\phi(\tilde x))) \right]

    averaged over the data. Undoing the corruption means moving a point back to where the data are dense, so the
    identity is no solution, and the code may be wider than the input. With Gaussian noise of standard deviation
    :math:`\sigma` and squared error, :math:`(\psi(\phi(\tilde x)) - \tilde x) / \sigma^2` estimates the score of the
    smoothed density (Vincent 2011; Alain & Bengio 2014).

    The input is corrupted in training, validation and test steps (in the latter two the same way every epoch), since
    that is the objective; `encode`, `decode` and `forward` take their input as it is.

    Args:
        corruption: what happens to the input, a corruption of `lightning_ae.parts.corruptions`.
    """

    reference: ClassVar[str] = "Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        corruption: Corruption = Masking(),
        **options: Unpack[DenoisingOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, corruption=corruption, **options)
