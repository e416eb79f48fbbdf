"""The autoencoder trained by score matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import jvp
from typing_extensions import Unpack

from lightning_ae.architectures import MLP, Architecture
from lightning_ae.autoencoder import Autoencoder, TrainingOptions
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise, sum_over_ranks
from lightning_ae.parts.likelihoods import Gaussian, at_least_float32, known
from lightning_ae.parts.penalties import ACTIVATIONS, INTEGRALS, CodeActivation, differentiable
from lightning_ae.scores import Per
from lightning_ae.shapes import one_size


class ScoreMatchingAutoencoder(Autoencoder):
    r"""Learns the gradient of the data's log-density, by the reconstruction's step (Vincent 2011).

    A reconstruction r(x) gives the score, the gradient of the log-density,

    .. math:: s_\sigma(x) = \frac{r(x) - x}{\sigma^2}.

    With one layer and tied weights, `MLP(hidden=(), tied=True)`, and units with the activation h, the reconstruction
    is :math:`r(x) = W^\top h(W x + b) + c`, and the score is the negative gradient of an energy: this trains an energy
    model without its normalising constant (Vincent 2011, with the sigmoid; H is the integral of h),

    .. math:: E(x) = \frac{1}{\sigma^2} \Big( \tfrac12 \|x\|^2 - c^\top x - \sum_j H(w_j^\top x + b_j) \Big).

    `has_energy` says so, and `energy` gives it. Every other architecture, the default one too, gives a free vector
    field: it can come as near to a score as the network allows, but its Jacobian is not symmetric, so it is not quite
    the gradient of anything. There are two objectives:

    - "denoising": with :math:`\tilde x = x + \sigma \epsilon` it minimises

      .. math:: \frac{\sigma^2}{2}\, \mathbb E \Big\| s_\sigma(\tilde x) + \frac{\epsilon}{\sigma} \Big\|^2
                = \frac{1}{2 \sigma^2}\, \mathbb E \|r(\tilde x) - x\|^2,

      at whose minimum s is the score of the data's density smoothed by a Gaussian of standard deviation
      :math:`\sigma` (Vincent 2011; Alain & Bengio 2014). With several noise levels, one is drawn for each sample, and
      the code is scaled and shifted by functions of it (Song & Ermon 2019);
    - "sliced": with random directions :math:`v \sim N(0, I)` it minimises

      .. math:: \mathbb E \left[ v^\top \nabla_x (v^\top s(x)) + \tfrac12 \|s(x)\|^2 \right]

      (Song et al. 2019, equation 8), at whose minimum s is the score of the data's own density. It takes one sigma,
      which only scales the energy. Its value may be negative.

    The code must not be a bottleneck: a score needs all directions, so `latent_dim` is at least the input's dimension
    for good scores. `decode(encode(x))` reconstructs at the lowest noise level.

    Args:
        latent_dim: the number of dimensions of the code.
        sigma: the noise's standard deviation in data units, or several of them.
        objective: "denoising" or "sliced".
        code_activation: h, of the code's units.
    """

    reference: ClassVar[str] = "Vincent 2011, https://doi.org/10.1162/NECO_a_00142"
    generates: ClassVar[bool] = True

    data_mean: Tensor
    data_variance: Tensor
    sigmas: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        sigma: float | Sequence[float] = 0.5,
        objective: Literal["denoising", "sliced"] = "denoising",
        architecture: Architecture = MLP(activation="softplus"),
        code_activation: CodeActivation = "identity",
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture=architecture, likelihood=Gaussian(), **options)
        levels = sorted([sigma] if isinstance(sigma, int | float) else sigma, reverse=True)
        if not levels or not all(level > 0 for level in levels):
            raise InputError(f"sigma must be positive, one number or several; got {sigma!r}")
        if objective not in ("denoising", "sliced"):
            raise InputError(f"objective must be 'denoising' or 'sliced', got {objective!r}")
        if objective == "sliced" and len(levels) > 1:
            raise InputError(f"objective='sliced' takes one sigma, got {len(levels)}", "give one, or use 'denoising'")
        if code_activation not in ACTIVATIONS:
            raise InputError(f"code_activation must be one of {list(ACTIVATIONS)}, got {code_activation!r}")
        self.objective, self.code_activation = objective, code_activation
        self.register_buffer("sigmas", torch.tensor(levels), persistent=False)
        one_size(self, type(self).__name__)
        self.register_buffer("data_mean", torch.zeros(self.input_shape))
        self.register_buffer("data_variance", torch.zeros(self.input_shape))
        # the code's scale and shift for a noise level; with one level there is nothing to tell apart
        self.level = (
            nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 2 * latent_dim)) if len(levels) > 1 else None
        )

    @property
    def has_energy(self) -> bool:
        """Whether `grad_log_density` is the negative gradient of an energy: one layer, tied weights."""
        return isinstance(self.architecture, MLP) and self.architecture.is_linear and self.architecture.tied

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The code's units: (B, *input_shape) to (B, *code_shape)."""
        self.check_given(given)
        return ACTIVATIONS[self.code_activation](self.encoder(x))

    def reconstruct(self, x: Tensor, sigma: Tensor | float | None = None, **given: Tensor) -> Tensor:
        """r(x) at a noise level.

        Args:
            x: (B, *input_shape).
            sigma: a number or (B,); by default the lowest.
            given: what else the model takes, by the names in `given`, here as below.

        Returns:
            (B, *input_shape).
        """
        code = self.encode(x, **given)
        scale, shift = self._scale_and_shift(code, sigma)
        return self.decode(code * scale + shift, **given)

    def forward(self, x: Tensor, **given: Tensor) -> Tensor:
        """The reconstruction at the lowest noise level: (B, *input_shape) to the same shape."""
        return self.reconstruct(x, **given)

    def grad_log_density(self, x: Tensor, sigma: Tensor | float | None = None, **given: Tensor) -> Tensor:
        """The score: the gradient of the log-density with respect to x.

        Args:
            x: (B, *input_shape).
            sigma: the noise level, a number or (B,), one of those trained; by default the lowest.
            given: what else the model takes.

        Returns:
            (B, *input_shape), in inverse data units.
        """
        level = self._level(x, sigma)
        return (self.reconstruct(x, level, **given) - x) / level.view(-1, *[1] * (x.ndim - 1)).square()

    def check_scores(self, per: Per = "sample", draws: int = 1) -> None:
        """Refuses all: it learns the gradient of the log-density, and never its constant.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{type(self).__name__} has no likelihood: it learns a density's gradient, not its constant",
            "energy(x) ranks samples where has_energy; or score with a VAE",
        )

    def energy(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """The energy, whose negative gradient with respect to x is `grad_log_density`, up to a constant.

        With several noise levels, each has its own: a unit's scale and shift at that level are part of it.

        Args:
            x: (B, *input_shape).
            sigma: the noise level, a number or (B,), one of those trained; by default the lowest.

        Returns:
            (B,), in nats.

        Raises:
            InputError: when the architecture has none.
        """
        if not self.has_energy:
            raise InputError(
                f"the score of {self.architecture} is not the gradient of an energy",
                "use architecture=MLP(hidden=(), tied=True) with code_activation='sigmoid', as in Vincent 2011",
            )
        level = self._level(x, sigma)
        units = at_least_float32(self.encoder(x))
        scale, shift = self._scale_and_shift(units, level)
        potential = INTEGRALS[self.code_activation](units) * scale + units * shift
        flat = at_least_float32(x).flatten(1)
        bias = self.decode(units.new_zeros(1, self.latent_dim)).flatten(1)
        energy = (flat * (flat / 2 - bias)).sum(dim=1) - potential.sum(dim=1)
        return energy / level.square()

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The objective as "loss", and for "denoising" the squared "error" of the reconstruction."""
        if self.training:
            self._track(x, given.get("mask"))
        return self._denoising(x, target, given) if self.objective == "denoising" else self._sliced(x, given)

    @property
    def untempered(self) -> str | None:
        """Its dynamics, where it has no sampler."""
        return "annealed Langevin dynamics" if self.sampler is None else super().untempered

    def sample(
        self, n: int, steps: int = 100, step_size: float = 0.1, *, temperature: float = 1.0, **given: Tensor
    ) -> Tensor:
        r"""`n` samples by annealed Langevin dynamics (Song & Ermon 2019, algorithm 1), (n, *input_shape).

        From draws of a Gaussian with the data's mean and variance, for each noise level from the highest down,

        .. math:: x \leftarrow x + \tfrac{\alpha}{2} s_\sigma(x) + \sqrt{\alpha}\, \epsilon,\quad \alpha = h \sigma^2.

        Where a `sampler` is fitted to its codes, the samples are its draws instead, decoded.

        Args:
            n: how many.
            steps: at each noise level.
            step_size: h, relative to the variance of the noise.
            temperature: of a sampler's draws; the dynamics have none.
            given: what else the model takes.
        """
        if self.sampler is not None:
            return super().sample(n, temperature=temperature, **given)
        if temperature != 1:
            self._check_temperature(temperature)
        noise = Noise()
        start = self.data_mean.expand(n, *self.input_shape)
        with torch.no_grad():
            x = start + (self.data_variance + self.sigmas[0] ** 2).sqrt() * noise.randn_like(start)
            for sigma in self.sigmas:
                alpha = step_size * sigma**2
                for _ in range(steps):
                    x = x + alpha / 2 * self.grad_log_density(x, sigma, **given) + alpha.sqrt() * noise.randn_like(x)
        return x

    def _level(self, x: Tensor, sigma: Tensor | float | None) -> Tensor:
        """The noise level of each sample of `x`, (B,)."""
        level = self.sigmas[-1] if sigma is None else sigma
        return torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x))

    def _scale_and_shift(self, code: Tensor, sigma: Tensor | float | None) -> tuple[Tensor | float, Tensor | float]:
        """What a noise level does to the code, (B, latent_dim, 1, ...) each; nothing where there is one level only."""
        if self.level is None:
            return 1.0, 0.0
        both = self.level(self._level(code, sigma).unsqueeze(1).log())
        scale, shift = both.view(len(both), -1, *[1] * (code.ndim - 2)).chunk(2, dim=1)
        return 1 + scale, shift

    def _denoising(self, x: Tensor, target: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        noise = self.noise("denoising")
        which = (noise.rand_like(x.flatten(1)[:, 0].float()) * len(self.sigmas)).long()
        sigma = self.sigmas[which].to(x.dtype)
        per_sample = sigma.view(-1, *[1] * (x.ndim - 1))
        noisy = x + per_sample * noise.randn_like(x)
        residual = at_least_float32(self.reconstruct(noisy, sigma, **given) - target) / per_sample
        residual = known(residual, given.get("mask")).flatten(1)
        loss = 0.5 * residual.square().sum(dim=1).mean()
        error = (residual * sigma.unsqueeze(1)).square().sum(dim=1).mean()
        return {"loss": loss, "error": error.detach()}

    def _sliced(self, x: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = given.get("mask")  # of the score, the derivatives by what is known
        with differentiable(x) as x, differentiable(known(self.noise("sliced").randn_like(x), mask)) as v:
            score, change = jvp(lambda x: self.grad_log_density(x, **given), (x,), (v,))[:2]
        score, change = known(at_least_float32(score), mask), at_least_float32(change)
        divergence = (v * change).flatten(1).sum(dim=1).mean()
        energy = 0.5 * score.flatten(1).square().sum(dim=1).mean()
        return {"loss": divergence + energy, "divergence": divergence, "squared_score": energy}

    @torch.no_grad()
    def _track(self, x: Tensor, mask: Tensor | None = None, rate: float = 0.01) -> None:
        """Running mean and variance of the data, of the batches of all ranks together: where sampling starts."""
        x = x.to(self.data_mean.dtype)
        seen = x.new_tensor(float(len(x))) if mask is None else mask.sum(dim=0).to(x.dtype)
        count, total, squares = sum_over_ranks(seen, x.sum(dim=0), x.square().sum(dim=0))
        mean = total / count.clamp(min=1)
        rate = rate if self.data_variance.any() else 1.0
        self.data_mean.lerp_(mean, rate)
        self.data_variance.lerp_((squares / count.clamp(min=1) - mean.square()).clamp(min=0), rate)
