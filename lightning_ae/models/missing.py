"""The importance-weighted autoencoder of data of which values are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_ae.errors import InputError
from lightning_ae.exact import rows
from lightning_ae.models.vae_variants import IWAE, IWAEOptions
from lightning_ae.parts.importance import Gradient
from lightning_ae.parts.likelihoods import known
from lightning_ae.parts.mixed import refuse_classes
from lightning_ae.scores import asked


class MissingDataIWAE(IWAE):
    r"""The importance-weighted autoencoder of data with missing values (Mattei & Frellsen 2019, their MIWAE).

    Another method is called MIWAE, too: the multiply importance-weighted autoencoder of Rainforth et al. (2018,
    "Tighter variational bounds are not necessarily better"), an average of several bounds, which this is not.

    Of a sample only a part :math:`x^o` is known. It minimises a bound on :math:`-\log p(x^o)`, from K draws,

    .. math:: -\mathbb E_{z_1 \ldots z_K \sim q(z \mid x^o)} \log \frac1K \sum_k w_k, \quad
        w_k = \frac{p(x^o \mid z_k)\, p(z_k)}{q(z_k \mid x^o)},

    the bound of the paper, where what is missing does not depend on its value given what is known (at random). The
    encoder sees the sample with zeros for what is missing, as in the paper, and beside its channels the mask, 1 where a
    value is known, so that a zero can be told from none. `impute` fills in what is missing.

    A batch holds the mask, true where a value is known, as the data module's or as a tuple (input, mask). Batches
    without count as complete, which is said once.

    Args:
        samples: K, how many draws.
        gradient: the encoder's: "plain", "stl" or "dreg"; see `lightning_ae.parts.IWAEObjective`.
        chunk: how many draws of each sample are computed at a time, so that many fit into memory; by default all.
    """

    reference: ClassVar[str] = "Mattei & Frellsen 2019, https://arxiv.org/abs/1812.02633"
    given: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        samples: int = 20,
        gradient: Gradient = "plain",
        chunk: int | None = None,
        **options: Unpack[IWAEOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, samples=samples, gradient=gradient, chunk=chunk, **options)

    def build_encoder(self) -> nn.Module:
        """The network from (B, 2 * channels, ...) to (B, encoder_features, ...)."""
        channels, *rest = self.input_shape
        architecture: Any = self.architecture
        if categories := getattr(architecture, "categories", None):
            architecture = replace(architecture, categories=(*categories, *[0] * channels))  # the mask is a number
        network: nn.Module = architecture.encoder((2 * channels, *rest), self.encoder_features)
        return network

    def encoder_input(self, x: Tensor, **given: Tensor) -> Tensor:
        """(B, *input_shape) and the mask, of that shape, to (B, 2 * channels, ...)."""
        mask = given.get("mask")
        seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        return torch.cat([known(x, mask), seen], dim=1)

    def impute(
        self, x: Tensor, mask: Tensor | None = None, *, samples: int = 1000, chunk: int | None = None, **given: Tensor
    ) -> Tensor:
        r"""Samples with what is missing filled in by its mean given the rest; what is known stays as it is.

        By self-normalised importance sampling, as in the paper, with the mean,

        .. math:: \mathbb E[x^m \mid x^o] \approx \sum_k \frac{w_k}{\sum_j w_j}\, \mathbb E[x^m \mid z_k],

        which tends to the model's conditional mean with the number of draws. It is computed in evaluation mode.

        Args:
            x: (B, *input_shape), in data units; what stands where a value is missing does not matter.
            mask: true where a value is known, of that shape; by default where it is not NaN.
            samples: how many draws of each sample.
            chunk: how many of them are computed at a time; the result is the same to rounding. By default all.
            given: what else the model takes.

        Returns:
            (B, *input_shape).

        Raises:
            InputError: when a number is not positive, or the likelihood has classes, which have no mean.
        """
        for name, value in (("samples", samples), ("chunk", 1 if chunk is None else chunk)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} of impute must be a positive integer, got {value!r}")
        refuse_classes(self.likelihood)
        mask = ~x.isnan() if mask is None else mask.bool()
        filled = known(x, mask)
        given = self.completed(filled, {**given, "mask": mask})
        with asked(self):
            mean = self._conditional_mean(filled, samples, chunk or samples, given)
        return torch.where(mask, x, mean.to(x.dtype))

    def _conditional_mean(self, x: Tensor, samples: int, chunk: int, given: dict[str, Tensor]) -> Tensor:
        q = self.infer(x, **given)
        z, log_q = q.draw_with_log_prob(self.noise("impute"), samples)
        of_sample = (-1, *[1] * (x.ndim - 1))
        highest, total, mean = x.new_full((len(x),), -torch.inf), x.new_zeros(len(x)), torch.zeros_like(x)
        for part, log_q_part in zip(z.split(chunk, dim=1), log_q.split(chunk, dim=1), strict=True):
            n = part.shape[1]
            repeated = {role: value.repeat_interleave(n, dim=0) for role, value in given.items()}
            with rows("by_sample"):
                parameters = self.decoder_parameters(part.flatten(0, 1), **repeated)
                log_p = self.log_prob(parameters, x.repeat_interleave(n, dim=0), **repeated).unflatten(0, (-1, n))
            log_weights = log_p + self.prior.log_prob(self, part) - log_q_part
            # weights relative to the highest so far, so that none overflows
            before, highest = highest, torch.maximum(highest, log_weights.amax(dim=1))
            weights, kept = (log_weights - highest.unsqueeze(1)).exp(), (before - highest).exp()
            values = self.likelihood.mean(parameters).unflatten(0, (-1, n))
            weighted = (weights.view(*weights.shape, *of_sample[1:]) * values).sum(dim=1)
            total, mean = kept * total + weights.sum(dim=1), kept.view(of_sample) * mean + weighted
        return mean / total.view(of_sample)
