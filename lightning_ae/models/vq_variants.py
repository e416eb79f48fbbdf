"""The quantised autoencoders of further papers: each settles the quantizer of `VQVAE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from typing_extensions import Unpack

from lightning_ae.architectures import Architecture
from lightning_ae.autoencoder import LikelihoodOptions, TrainingOptions
from lightning_ae.models.vq import VQVAE
from lightning_ae.parts.corruptions import Corruption
from lightning_ae.parts.gumbel_quantizer import GumbelQuantizer
from lightning_ae.parts.likelihoods import Gaussian, Likelihood
from lightning_ae.parts.lookup_free import FiniteScalarQuantizer, LookupFreeQuantizer
from lightning_ae.parts.residual_quantizer import ResidualQuantizer
from lightning_ae.parts.schedules import Schedule
from lightning_ae.parts.spectral import MultiScaleSpectral
from lightning_ae.parts.vector_quantizers import SimVectorQuantizer, VectorQuantizer


class DrawnOptions(TrainingOptions, total=False):
    """What `GumbelVQVAE` passes on to `VQVAE`."""

    corruption: Corruption | None
    architecture: Architecture | None
    spectral: MultiScaleSpectral | None


class QuantisedOptions(DrawnOptions, LikelihoodOptions, total=False):
    """What the others pass on."""


class ResidualVQVAE(VQVAE):
    r"""Several indices at each position, each of what those before it leave (Lee et al. 2022; Zeghidour et al. 2021).

    .. math:: r_1 = h, \qquad r_{l+1} = r_l - \mathrm{sg}(e_l), \qquad z = \sum_l e_l

    with the nearest vector :math:`e_l` to :math:`r_l` of codebook l, and the commitment of every layer in the loss. Of
    L layers the indices are (B, L, *code_shape[1:]), the coarsest first.

    Args:
        layers: L, how many codebooks of running means.
        codes: how many vectors each has.
        commitment: beta of each layer; None for 0.25 / L, so that all of them together weigh what one codebook's does.
    """

    reference: ClassVar[str] = "Lee et al. 2022, https://arxiv.org/abs/2203.01941"

    @classmethod
    def of_earlier(cls, init_args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in a file; in an earlier version each layer's beta was 0.25."""
        return super().of_earlier({"commitment": 0.25, **init_args})

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        layers: int = 4,
        codes: int = 256,
        commitment: float | None = None,
        **options: Unpack[QuantisedOptions],
    ) -> None:
        quantizer = ResidualQuantizer(layers, VectorQuantizer(codes))  # which refuses layers that are no number
        beta = 0.25 / layers if commitment is None else commitment
        quantizer = replace(quantizer, quantizer=VectorQuantizer(codes, commitment=beta))
        super().__init__(input_shape, latent_dim, quantizer=quantizer, **options)


class FSQVAE(VQVAE):
    r"""Each value of the code is rounded to a few levels, and the code has no further term (Mentzer et al. 2024).

    .. math:: z = \mathrm{round}(\tanh(g h + c)\, s - o) / \lfloor L / 2 \rfloor

    for L levels of a value; `FiniteScalarQuantizer` has the constants. There are as many codes as products of levels,
    and no codebook that could collapse.

    Args:
        latent_dim: the values of each vector: as many as levels, or n times as many for n indices at each position.
        levels: of each value of an index.
        gain: what h is multiplied with first, so that inputs differ in their codes from the start; the paper has 1.
    """

    reference: ClassVar[str] = "Mentzer et al. 2024, https://arxiv.org/abs/2309.15505"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 4,
        *,
        levels: Sequence[int] = (8, 5, 5, 5),
        gain: float = 4.0,
        **options: Unpack[QuantisedOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, quantizer=FiniteScalarQuantizer(tuple(levels), gain), **options)


class LFQVAE(VQVAE):
    r"""Each value of the code becomes its sign, and the signs are the digits of an index (Yu et al. 2024).

    .. math:: -\log p(x \mid \mathrm{sign}(h)) + \beta\, |h - \mathrm{sg}(z)|^2
        + \lambda\, (\mathbb E[H(p)] - \gamma H(\mathbb E[p])),

    with the probabilities p of the codes given h that `LookupFreeQuantizer` has.

    Args:
        latent_dim: the values of each vector: as many as bits, or n times as many for n indices at each position.
        bits: of an index, of which there are 2^bits codes; by default 8, or latent_dim where that is less.
        entropy_weight: lambda.
        diversity: gamma.
    """

    reference: ClassVar[str] = "Yu et al. 2024, https://arxiv.org/abs/2310.05737"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 8,
        *,
        bits: int | None = None,
        entropy_weight: float = 0.1,
        diversity: float = 2.0,
        **options: Unpack[QuantisedOptions],
    ) -> None:
        if bits is None:
            bits = latent_dim if isinstance(latent_dim, int) and 0 < latent_dim < 8 else 8
        quantizer = LookupFreeQuantizer(bits, entropy_weight=entropy_weight, diversity=diversity)
        super().__init__(input_shape, latent_dim, quantizer=quantizer, **options)
        self.save_hyperparameters({"bits": bits})


class SimVQVAE(VQVAE):
    r"""The codebook is fixed vectors under one trained linear map, which moves all of them (Zhu et al. 2024).

    .. math:: e_k = W b_k, \qquad -\log p(x \mid z) + |\mathrm{sg}(h) - e|^2 + \beta\, |h - \mathrm{sg}(e)|^2

    Args:
        codes: how many vectors there are.
    """

    reference: ClassVar[str] = "Zhu et al. 2024, https://arxiv.org/abs/2411.02038"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        codes: int = 512,
        **options: Unpack[QuantisedOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, quantizer=SimVectorQuantizer(codes), **options)


class GumbelVQVAE(VQVAE):
    r"""Codes are drawn by Gumbel-softmax in training: the discrete VAE of DALL-E (Ramesh et al. 2021).

    .. math:: -\mathbb E [\log p(x \mid z)] + \beta \sum_k q_k(x) \log K q_k(x), \qquad z = \sum_k y_k e_k,

    with draws y, relaxed at a temperature; in evaluation the most probable code. Their likelihood is a logit-Laplace.

    Args:
        codes: K, how many vectors the codebook has.
        temperature: of the relaxation, > 0.
        temperature_schedule: what it is multiplied with at each step of a fit, which must stay above 0.
        kl_weight: beta; 1 is the bound's.
        likelihood: p(x | z), the distribution whose parameters the decoder gives; by default a Gaussian that has the
            scale of its errors (Rybkin et al. 2021).
    """

    reference: ClassVar[str] = "Ramesh et al. 2021, https://arxiv.org/abs/2102.12092"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        codes: int = 512,
        temperature: float = 1.0,
        temperature_schedule: Schedule | None = None,
        kl_weight: float = 0.1,
        likelihood: Likelihood = Gaussian(scale="optimal"),
        **options: Unpack[DrawnOptions],
    ) -> None:
        quantizer = GumbelQuantizer(codes, temperature, temperature_schedule, kl_weight)
        super().__init__(input_shape, latent_dim, quantizer=quantizer, likelihood=likelihood, **options)
