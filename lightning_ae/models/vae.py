"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_ae.architectures import MLP, Architecture
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import Gaussian, Likelihood, at_least_float32


class VAE(Autoencoder):
    r"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014).

    A latent variable :math:`z \sim p(z) = N(0, I)` generates the data through :math:`p(x \mid z)`, the decoder. The
    encoder gives an approximate posterior :math:`q(z \mid x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))`. It minimises
    the negative evidence lower bound, in nats,

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \beta\, KL(q(z \mid x) \,\|\, p(z)),

    the mean over samples of a sum over dimensions. The expectation takes one draw
    :math:`z = \mu + \sigma \epsilon`, :math:`\epsilon \sim N(0, I)` (the reparametrisation), and the divergence is

    .. math:: KL = \tfrac12 \sum_j (\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1).

    With :math:`\beta = 1` the loss bounds :math:`-\log p(x)` from above; other values are the beta-VAE of Higgins et
    al. (2017). `encode` gives the posterior's mean.

    Args:
        input_shape: the shape of one sample: (channels, height, width) for images, (dimensions,) for vectors.
        latent_dim: the number of dimensions of z.
        architecture: builds the encoder, which gives 2 * latent_dim values, and the decoder.
        likelihood: p(x | z), the distribution whose parameters the decoder gives.
        beta: the weight of the divergence.
        lr: the learning rate of AdamW.
        weight_decay: AdamW's decoupled weight decay; with 0 it is Adam.
    """

    reference: ClassVar[str] = "Kingma & Welling 2014, https://arxiv.org/abs/1312.6114"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        architecture: Architecture = MLP(),
        likelihood: Likelihood = Gaussian(scale="learned"),
        beta: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture, likelihood, lr, weight_decay)
        if not beta >= 0:
            raise InputError(f"beta must not be negative, got {beta}")
        self.beta = beta

    @property
    def encoder_features(self) -> int:
        """The posterior's mean and log-variance."""
        return 2 * self.latent_dim

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and log-variance of q(z | x), (B, latent_dim) each, in float32 at least."""
        mean, log_variance = at_least_float32(self.encoder(x)).chunk(2, dim=1)
        # bounded so that exp() stays finite; the gradient passes, so that a variance can come back from beyond
        bounded = log_variance + (log_variance.clamp(-30.0, 20.0) - log_variance).detach()
        return mean, bounded

    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean: (B, *input_shape) to (B, latent_dim), in the weights' type."""
        return self.posterior(x)[0].to(self.dtype)

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The negative ELBO "loss" and its terms "reconstruction" and "kl", in nats per sample.

        In evaluation, on data of which the likelihood gives a probability (zeros and ones for Bernoulli), also
        "bits_per_dimension", the bound with beta = 1.
        """
        mean, log_variance = self.posterior(x)
        z = mean + (0.5 * log_variance).exp() * self.noise("posterior").randn_like(mean)
        reconstruction = self.reconstruction_loss(z, target)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()
        terms = {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}
        if not self.training and self.likelihood.is_mass_at(target):
            terms["bits_per_dimension"] = (reconstruction + kl) / (math.prod(self.input_shape) * math.log(2))
        return terms

    def sample(self, n: int) -> Tensor:
        """The means of p(x | z) for `n` draws z from the prior, (n, *input_shape), in data units."""
        z = torch.randn(n, self.latent_dim, dtype=self.dtype, device=self.device)
        return self.decode(z)
