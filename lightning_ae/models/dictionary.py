"""Sparse dictionaries: codes of many units, few of them in use, of the activations of another network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures import MLP
from lightning_ae.autoencoder import Autoencoder, TrainingOptions
from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.models.sparse import check_reaches_loss
from lightning_ae.parts.likelihoods import Gaussian, at_least_float32, known
from lightning_ae.parts.sparsity import Sparsity, TopK


class TopKDictionary(Autoencoder):
    r"""A dictionary of directions, of which k at a time make up a sample; latents that died are revived (AuxK).

    With :math:`x \in \mathbb R^d`, inputs of any shape flattened,

    .. math:: z = W_e (x - b_d) + b_e,\quad f = \mathrm{ReLU}(\mathrm{top}_k(z)),\quad \hat x = W_d f + b_d,

    where the columns of :math:`W_d` have unit norm, and :math:`W_e = W_d^\top` at the start. The k largest latents are
    rectified, as in the authors' code; so where fewer than k are positive, fewer are in use. It minimises

    .. math:: \mathbb E\left[-\log N(x; \hat x, I)\right] + \alpha\, \frac{\sum |e - \hat e|^2}{\sum |e - \bar e|^2},
        \quad e = x - \hat x,\quad \hat e = W_d\, \mathrm{top}_{k_{aux}, dead}(z),

    where the sums are over the batch of all ranks, :math:`\bar e` is its mean, and e has no gradient: the `auxk`
    largest of the dead latents learn to reconstruct what the others leave. They are not rectified: one that is negative
    for every sample would have no gradient, and stay dead. A latent is dead when it has not been in use for
    `dead_after` samples of training, counted over all ranks, this batch included. Without dead latents the term is
    zero, as where e does not vary.

    The paper's error is divided by that of predicting the mean, which is "fvu", the fraction of variance unexplained.
    The first term here is V / 2 times as much and a constant, with :math:`V = \mathbb E |x - \bar x|^2`; so
    :math:`\alpha V / 2` in the place of :math:`\alpha` has the paper's proportion. A dead latent has no gradient but
    that of the second, whose size Adam divides out.

    The gradient's part along each column of :math:`W_d`, which would change nothing but its norm, is taken away before
    a step, once all ranks' and an accumulation's gradients are there, and before clipping. Under gradient accumulation
    a part is a batch of its own for the second term and for "fvu".

    Args:
        latent_dim: the number of latents, often many times that of the input's dimensions.
        k: how many are in use at a time.
        auxk: of the dead ones; by default half as many as the input has dimensions, and all where there are fewer.
        auxk_weight: alpha.
        dead_after: the number of samples. The paper's 10 million tokens are 76 of its batches.
    """

    reference: ClassVar[str] = "Gao et al. 2024, https://arxiv.org/abs/2406.04093"

    encodes_with: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    unfired: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        k: int = 4,
        auxk: int | None = None,
        auxk_weight: float = 1 / 32,
        dead_after: int = 100_000,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture=MLP(hidden=()), likelihood=Gaussian(), **options)
        for name, value in {"k": k, "dead_after": dead_after, "auxk": 1 if auxk is None else auxk}.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if k > latent_dim:
            raise InputError(f"k = {k} exceeds the number of latents, latent_dim = {latent_dim}")
        if not 0 <= auxk_weight < math.inf:
            raise InputError(f"auxk_weight must not be negative, got {auxk_weight}")
        past_the_loss = {"encode": "pre_activation"} | dict.fromkeys(
            ("reconstruction_loss", "log_likelihood"), "decoder_parameters"
        )
        check_reaches_loss(self, TopKDictionary, past_the_loss)
        self.k, self.auxk_weight, self.dead_after = k, auxk_weight, dead_after
        self.auxk = max(1, math.prod(self.input_shape) // 2) if auxk is None else auxk
        self.sparsity: Sparsity = TopK(k, rectified=True)
        self.register_buffer("unfired", torch.zeros(latent_dim, dtype=torch.long))
        encoder, decoder = _linear(self.encoder), _linear(self.decoder)
        self.constrain()
        with torch.no_grad():
            encoder.weight.copy_(decoder.weight.T)
            encoder.bias.zero_()
            decoder.bias.zero_()

    @property
    def dictionary(self) -> Tensor:
        """The decoder's weight, (dimensions, latent_dim): a direction in each column."""
        return _linear(self.decoder).weight

    @property
    def dead(self) -> Tensor:
        """Which latents have not been in use for `dead_after` samples of training, (latent_dim,)."""
        return self.unfired >= self.dead_after

    def pre_activation(self, x: Tensor, **given: Tensor) -> Tensor:
        """z, of which the code is made: (B, *input_shape) to (B, latent_dim), in float32 at least."""
        self.check_given(given)
        return at_least_float32(self.encoder(x - _linear(self.decoder).bias.view(self.input_shape)))

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """f, of which k values at most are not zero: (B, *input_shape) to (B, latent_dim)."""
        return self.sparsity(self.pre_activation(x, **given)).to(self.dtype)

    def active(self, code: Tensor) -> Tensor:
        """The latents that are in use."""
        return self.sparsity.active(code)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction" and "auxk" (without its weight); and what describes the code.

        That is "dead", the fraction of the latents; "l0", how many are in use; and "fvu", the squared error by that of
        predicting the mean of the batch of all ranks.
        """
        pre = self.pre_activation(x, **given)
        code = self.sparsity(pre)
        parameters = self.decoder_parameters(code, **given)
        reconstruction = -self.log_prob(parameters, target, **given).mean()
        mask = given["mask"].flatten(1) if "mask" in given else None
        target = known(at_least_float32(target).flatten(1), mask)
        error = known((target - at_least_float32(self.likelihood.mean(parameters)).flatten(1)).detach(), mask)
        used = self.active(code)
        size = error.new_tensor([float(len(error))])
        seen = size if mask is None else mask.sum(0).to(error.dtype)
        samples, values, uses, of_target, of_error = sum_over_ranks(
            size, seen, used.sum(0).to(error.dtype), target.sum(0), error.sum(0)
        )
        if self.training:
            self.unfired.copy_(torch.where(uses > 0, 0, self.unfired + samples.long()))
        # the ranks agree on which are dead, so all of them leave the second decoder out, or none
        dead = self.dead
        missed = known(error - self._revived(pre, dead), mask).square().sum() if dead.any() else error.new_zeros(())
        sums = [missed]
        for value, total in ((error, of_error), (target, of_target)):
            sums += [value.square().sum(), known(value - total / values.clamp(min=1), mask).square().sum()]
        missed, left, spread, whole, variation = sum_over_ranks(*sums)
        auxk = _ratio(missed, spread, left)
        return {
            "loss": reconstruction + self.auxk_weight * auxk,
            "reconstruction": reconstruction,
            "auxk": auxk,
            "dead": dead.to(error.dtype).mean(),
            "l0": used.sum(1).to(error.dtype).mean(),
            "fvu": _ratio(left, variation, whole),
        }

    def _revived(self, pre: Tensor, dead: Tensor) -> Tensor:
        """What the largest of the dead latents make, without b_d: (B, dimensions), in float32 at least."""
        z = pre[:, dead]
        code = TopK(min(self.auxk, z.shape[1]))(z)
        return at_least_float32(F.linear(code.to(self.dictionary.dtype), self.dictionary[:, dead]))

    @torch.no_grad()
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Takes away the gradient's part along each column of the dictionary."""
        weight, gradient = self.dictionary, self.dictionary.grad
        if gradient is not None:
            columns = at_least_float32(weight)
            along = (columns * gradient).sum(0) / columns.square().sum(0).clamp(min=_TINY)
            gradient.sub_(along * columns)

    @torch.no_grad()
    def constrain(self) -> None:
        """Brings the dictionary's columns back to unit norm, where they are off by more than 1e-4 (or rounding)."""
        weight = self.dictionary
        norms = at_least_float32(weight).square().sum(0).sqrt()
        off = (norms - 1).abs() > max(1e-4, torch.finfo(weight.dtype).eps)
        weight.div_(torch.where(off, norms.clamp(min=_TINY), 1.0))


_TINY = torch.finfo(torch.float32).tiny


def _linear(network: Any) -> nn.Linear:
    layer: nn.Linear = network.linears[0]
    return layer


def _ratio(part: Tensor, spread: Tensor, size: Tensor) -> Tensor:
    """part / spread; zero where what it is the spread of does not vary, but for the rounding of sums of its size."""
    varies = spread > (16 * torch.finfo(spread.dtype).eps) ** 2 * size
    return torch.where(varies, part / torch.where(varies, spread, 1.0), 0.0)
