"""The autoencoders in whose codes diffusion models work: AutoencoderKL and VQGAN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures import Architecture, LatentDiffusionNet, PatchCritic, detached
from lightning_ae.architectures.critic import groups_of
from lightning_ae.autoencoder import Autoencoder, LikelihoodOptions
from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.models.vae import VAE
from lightning_ae.models.vq import VQVAE, Level
from lightning_ae.parts.code_scale import CodeScale
from lightning_ae.parts.corruptions import Corruption
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.perceptual import Frozen, Perceptual, StructuralDistance
from lightning_ae.parts.quantizers import Quantizer
from lightning_ae.parts.schedules import Schedule
from lightning_ae.parts.vector_quantizers import VectorQuantizer
from lightning_ae.training import private

LARGEST_WEIGHT = 1e4
"""Of the critic's side, as in the published code."""


class LatentOptions(LikelihoodOptions, total=False):
    """What both pass on."""

    corruption: Corruption | None


class KLOptions(LatentOptions, total=False):
    """What `AutoencoderKL` passes on to `VAE`."""

    beta_schedule: Schedule | None


class LatentDiffusion(Autoencoder):
    r"""What both have: a perceptual distance, a critic of patches, and the scale of the codes.

    With :math:`\hat x` the mean of p(x | z), D the values of a sample, d the distance and c the critic, which scores
    patches, the autoencoder minimises

    .. math:: n - \lambda w\, \mathbb E [c(\hat x)] + \dots, \qquad
        n = -\mathbb E [\log p(x \mid z)] + \lambda_p D\, \mathbb E [d(\hat x, x)],

    and the critic, at the same time, the hinge loss

    .. math:: \tfrac12 \mathbb E [\max(0, 1 - c(x))] + \tfrac12 \mathbb E [\max(0, 1 + c(\hat x))].

    The weight w makes both sides of equal strength where the decoder ends, with gradients to the last layer's weights:

    .. math:: w = \min(10^4, |\nabla n| / (|\nabla \mathbb E[c(\hat x)]| + 10^{-4})).

    It is of the batch of all ranks, a constant to the gradient. The game begins when the optimizer has taken
    `critic_start` steps, whatever a step accumulates, and wherever a run was interrupted; the critic rests until then.
    One backward pass serves both sides; see `lightning_ae.architectures.detached`. In evaluation "loss" is without the
    game, whose terms "adversarial" and "critic" stand beside it: it is what a better model lowers. Where a mask calls
    values unknown, an image counts as what it is reconstructed as.

    Args:
        architecture: builds the encoder and the decoder.
        perceptual: d, a distance of `lightning_ae.parts`; None for none. `FeatureDistance` takes a network of yours.
        perceptual_weight: lambda_p; as in the published code, the distance counts for each value of a sample.
        critic: scores patches of images, a `PatchCritic`; None for none.
        critic_weight: lambda.
        critic_start: how many steps of the optimizer go before the game.
        critic_lr: the learning rate of the critic; by default lr.
    """

    code_scale: CodeScale

    def _equip(
        self,
        perceptual: Perceptual | None,
        perceptual_weight: float,
        critic: PatchCritic | None,
        critic_weight: float,
        critic_start: int,
        critic_lr: float | None,
    ) -> None:
        for name, value in (("perceptual_weight", perceptual_weight), ("critic_weight", critic_weight)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must not be negative, got {value}")
        if isinstance(critic_start, bool) or not isinstance(critic_start, int) or critic_start < 0:
            raise InputError(f"critic_start must be a number of the optimizer's steps, got {critic_start!r}")
        if critic_lr is not None and not critic_lr > 0:
            raise InputError(f"critic_lr must be positive, got {critic_lr}")
        self.perceptual_weight, self.critic_weight = perceptual_weight, critic_weight
        self.critic_start, self.critic_lr = critic_start, critic_lr
        self.perceptual = None if perceptual is None else from_plain(Perceptual, perceptual, "perceptual")
        self.perceptual_network: nn.Module | None = None
        if self.perceptual is not None:
            self.perceptual.check(self.input_shape)
            network = self.perceptual.build()
            self.perceptual_network = None if network is None else Frozen(network)
        self.critic: nn.Module | None = None
        if critic is not None:
            self.critic = from_plain(PatchCritic, critic, "critic").build(self.input_shape)
        self.code_scale = CodeScale(self.latent_dim)

    # ---- the scale of the codes -----------------------------------------------------------------------------------

    def scaled(self, code: Tensor) -> Tensor:
        """Codes as a diffusion model takes them, of mean 0 and variance 1 over the training data: (B, *code_shape).

        `encode` and `decode` have codes as they are. Of an AutoencoderKL take `model.scaled(model.draw(x))`, or of
        `encode`, which is without the draw; of a VQGAN `model.scaled(model.hidden(x))`.
        """
        return self.code_scale.scaled(code)

    def unscaled(self, code: Tensor) -> Tensor:
        """What a diffusion model gives, (B, *code_shape), as codes: `model.decode(model.unscaled(made))`.

        Of a VQGAN quantise it before: `model.decode(model.quantised(model.unscaled(made)))`.
        """
        return self.code_scale.unscaled(code)

    # ---- the game -------------------------------------------------------------------------------------------------

    def judged(self, z: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms of what codes (B, *code_shape) decode to, and their total "loss"."""
        given = self.completed(target, given)
        plays = self.critic is not None and self.training and self._plays()
        # its graph is asked twice for gradients, which a compiled one refuses
        with private.uncompiled(self.decoder) if plays else nullcontext():
            parameters = self.decoder_parameters(z, **given)
        reconstruction = -self.log_prob(parameters, target, **given).mean()
        made = self.likelihood.mean(parameters)
        if "mask" in given:
            target = torch.where(given["mask"], target, made.detach().to(target.dtype))
        terms = {"reconstruction": reconstruction}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(made, target, self.perceptual_network).mean()
        loss = reconstruction
        if self.perceptual is not None:
            loss = loss + self.perceptual_weight * target[0].numel() * terms["perceptual"]
        if self.critic is None:
            return {"loss": loss, **terms}
        if self.training and not plays:  # ranks wait for the gradients of all weights
            return {"loss": loss + 0.0 * sum(p.sum() for p in self.critic.parameters()), **terms}
        terms["adversarial"] = -at_least_float32(detached(self.critic, made)).mean()
        sides = ((self.critic(target.to(made.dtype)), -1), (self.critic(made.detach()), 1))
        terms["critic"] = 0.5 * torch.stack([F.relu(1 + sign * at_least_float32(c)).mean() for c, sign in sides]).sum()
        if self.training:
            weight = self._adaptive(loss, terms["adversarial"], len(target))
            loss = loss + self.critic_weight * weight * terms["adversarial"] + terms["critic"]
            terms["adaptive_weight"] = weight
        return {"loss": loss, **terms}

    def _plays(self) -> bool:
        return self._trainer is None or self.global_step >= self.critic_start

    def _adaptive(self, own: Tensor, adversarial: Tensor, samples: int) -> Tensor:
        """w, of means over this rank's samples; 1 where nobody asks for gradients."""
        if not own.requires_grad:
            return torch.ones_like(own)
        last = [p for p in self.decoder.parameters() if p.ndim > 1 and p.requires_grad][-1]
        gradients = [torch.autograd.grad(term, last, retain_graph=True)[0] for term in (own, adversarial)]
        sums = [samples * at_least_float32(gradient) for gradient in gradients]
        first, second, count = sum_over_ranks(*sums, sums[0].new_tensor(float(samples)))
        weight: Tensor = (first / count).norm() / ((second / count).norm() + 1e-4)
        return weight.clamp(max=LARGEST_WEIGHT).detach()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The critic's weights, with its learning rate, and all others."""
        return super().parameter_groups() if self.critic is None else groups_of(self, self.critic, self.critic_lr)

    # ---- what Lightning calls -------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuses a game that would begin after the end.

        Raises:
            InputError: naming both numbers.
        """
        super().on_fit_start()
        trainer: Any = self.trainer
        total = trainer.estimated_stepping_batches
        if self.critic is not None and self.critic_start >= total and not trainer.fast_dev_run:
            raise InputError(
                f"critic_start = {self.critic_start} is after the end: the fit has {total:g} steps of the optimizer, "
                "and the critic would never play",
                "give a smaller critic_start or a longer fit; critic=None leaves it out",
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leaves the critic as it is until the game begins: no decay, and no momentum of zeros."""
        super().on_before_optimizer_step(optimizer)
        if self.critic is not None and not self._plays():
            for parameter in self.critic.parameters():
                parameter.grad = None

    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        fits = self.training and self._fits()
        if fits:
            self.code_scale.begin(batch_idx)
        terms = super()._terms(batch, batch_idx)
        if fits and self.trainer.is_last_batch:
            self.code_scale.end_epoch()
        return terms

    def on_train_end(self) -> None:
        """Says what the scale of the codes is."""
        super().on_train_end()
        shift, factor = (float(value[0]) for value in (self.code_scale.shift, self.code_scale.factor))
        rank_zero_info(
            f"codes of the training data have the mean {shift:.4g} and the standard deviation {1 / factor:.4g}: "
            "scaled(code) takes both away, for what is trained on codes"
        )


class AutoencoderKL(LatentDiffusion, VAE):  # type: ignore[misc]  # as Autoencoder
    r"""The autoencoder of latent diffusion: codes that are maps, drawn towards N(0, I) a little (Rombach et al. 2022).

    It minimises the loss of a variational autoencoder with a small weight of the divergence, a perceptual distance, and
    what a critic of patches thinks of reconstructions,

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \beta\, KL(q(z \mid x) \,\|\, N(0, I))
        + \lambda_p D\, \mathbb E [d(\hat x, x)] - \lambda w\, \mathbb E [c(\hat x)];

    `LatentDiffusion` says what its terms are, and what `scaled` makes of codes. With so small a beta, codes are
    distributed otherwise than the prior: `sample` shows what the decoder makes of draws of it. For samples fit a
    density to the codes (`fit_sampler`), or train a diffusion model on them.

    Args:
        beta: the weight of the divergence.
    """

    reference: ClassVar[str] = "Rombach et al. 2022, https://arxiv.org/abs/2112.10752"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 4,
        *,
        architecture: Architecture = LatentDiffusionNet(),
        beta: float = 1e-6,
        perceptual: Perceptual | None = StructuralDistance(),
        perceptual_weight: float = 1.0,
        critic: PatchCritic | None = PatchCritic(),
        critic_weight: float = 0.5,
        critic_start: int = 0,
        critic_lr: float | None = None,
        **options: Unpack[KLOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture=architecture, beta=beta, **options)
        self._equip(perceptual, perceptual_weight, critic, critic_weight, critic_start, critic_lr)

    @property
    def drawn_objective(self) -> str:
        """The loss of evaluation, from a draw."""
        return "autoencoder_kl_loss"

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms "reconstruction" and "kl", in nats, "perceptual", "adversarial" and "critic", and "loss".

        In training also "adaptive_weight", w; before the game begins, its terms are missing.
        """
        q = self.infer(x, **given)
        z, log_q = self.prior.draw_for_kl(self.posterior, q, self.noise("posterior"))
        if self.training:
            self.code_scale.observe(z)
        terms = self.judged(z, target, **given)
        kl = self.prior.kl(self, q, z, log_q).mean()
        terms = {**terms, "loss": terms["loss"] + self.kl_weight * kl, "kl": kl}
        if self.training:
            return terms
        return terms | self.bits_per_dimension(terms["reconstruction"] + kl, target, **given)


class VQGAN(LatentDiffusion, VQVAE):  # type: ignore[misc]  # as Autoencoder
    r"""The vector-quantised autoencoder with a perceptual distance and a critic of patches (Esser et al. 2021).

    It minimises the loss of a `VQVAE`, and what reconstructions look like,

    .. math:: -\log p(x \mid z) + \beta\, |h - \mathrm{sg}(e)|^2
        + \lambda_p D\, \mathbb E [d(\hat x, x)] - \lambda w\, \mathbb E [c(\hat x)];

    `LatentDiffusion` says what the terms "perceptual", "adversarial", "critic" and, in training, "adaptive_weight" are.
    beta weighs the commitment, which keeps the encoder near the codebook; the published code of the paper has it on the
    codebook's term instead. That codebook is trained by the gradient,
    `GradientVectorQuantizer`; the default here is that of `VQVAE`, running means that revive what is not used.

    A diffusion model on its codes works before they are quantised: on `model.scaled(model.hidden(x))`, and what it
    makes decodes by `model.decode(model.quantised(model.unscaled(made)))`.

    Args:
        quantizer: the codebook, a quantizer of `lightning_ae.parts`.
    """

    reference: ClassVar[str] = "Esser, Rombach & Ommer 2021, https://arxiv.org/abs/2012.09841"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        architecture: Architecture = LatentDiffusionNet(),
        quantizer: Quantizer = VectorQuantizer(),
        perceptual: Perceptual | None = StructuralDistance(),
        perceptual_weight: float = 1.0,
        critic: PatchCritic | None = PatchCritic(),
        critic_weight: float = 0.8,
        critic_start: int = 0,
        critic_lr: float | None = None,
        **options: Unpack[LatentOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture=architecture, quantizer=quantizer, **options)
        self._equip(perceptual, perceptual_weight, critic, critic_weight, critic_start, critic_lr)

    def hidden(self, x: Tensor, **given: Tensor) -> Tensor:
        """What is quantised: (B, *input_shape) to (B, *code_shape), in float32 at least."""
        self.check_given(given)
        return at_least_float32(self.encoder(x))

    def quantised(self, h: Tensor) -> Tensor:
        """The vectors of the codebook nearest to codes, (B, *code_shape) to the same shape."""
        return self.codebook.quantised(at_least_float32(h)).to(self.dtype)

    def learn(self, levels: Sequence[Level]) -> None:
        """As `VQVAE`, and what the scale of the codes learns of a batch."""
        self.code_scale.observe(levels[0].hidden)
        super().learn(levels)
