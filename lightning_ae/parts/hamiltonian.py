"""The posterior that Hamiltonian dynamics make of a diagonal Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.flows import check_sizes
from lightning_ae.parts.importance import DROPOUTS, log_joint
from lightning_ae.parts.posteriors import DiagonalGaussian, DiagonalNormal, Distribution, Posterior
from lightning_ae.parts.priors import BATCH_NORMS

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE


class Leapfrogged(Distribution):
    r"""What K leapfrog steps make of :math:`N(\mu, \mathrm{diag}\, \sigma^2)` and a momentum; see `HamiltonianFlow`.

    Args:
        base: the Gaussian.
        log_density: log p(x, z) of codes (B, n, *code_shape), (B, n).
        step: the size of a step for each unit, (units,).
        scale: of the momentum at the beginning, :math:`1 / \sqrt{\beta_0}`, ().
        steps: K.
    """

    def __init__(
        self, base: DiagonalNormal, log_density: Callable[[Tensor], Tensor], step: Tensor, scale: Tensor, steps: int
    ) -> None:
        self.base, self.log_density, self.steps, self.scale = base, log_density, steps, scale
        self.step = step.view(-1, *[1] * (base.mean.ndim - 2))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The Gaussian's, (B, *code_shape): where the steps begin."""
        return self.base.mean

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """Where the steps end, (B, *code_shape) or (B, n, *code_shape)."""
        return self.draw_with_log_prob(noise, n)[0]

    def draw_with_log_prob(self, noise: Noise, n: int | None = None) -> tuple[Tensor, Tensor]:
        r"""Where the steps end, and :math:`\log q(z_0 \mid x) + \log N(\gamma; 0, I) - \log N(\rho_K; 0, I)`.

        The mean of that, less log p(z), is no less than the divergence of the draw's own distribution from the prior.
        """
        start = self.base.draw(noise, n)
        gamma = noise.randn_like(start)
        codes, momentum = (start.unsqueeze(1), gamma.unsqueeze(1)) if n is None else (start, gamma)
        z, rho = self.move(codes, self.scale * momentum)
        log_q = self.base.log_prob(codes) + 0.5 * (rho.square() - momentum.square()).flatten(2).sum(dim=2)
        return (z.squeeze(1), log_q.squeeze(1)) if n is None else (z, log_q)

    def move(self, z: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """The steps of codes and momenta, (B, n, *code_shape) each. Volume shrinks by `scale` for each value."""
        before, force = self.scale, self._force(z)
        for k in range(1, self.steps + 1):
            momentum = momentum + 0.5 * self.step * force
            z = z + self.step * momentum
            force = self._force(z)
            momentum = momentum + 0.5 * self.step * force
            after = self.scale + (1 - self.scale) * (k / self.steps) ** 2
            momentum, before = after / before * momentum, after
        return z, momentum

    def log_prob(self, z: Tensor) -> Tensor:
        """There is none of any z.

        Raises:
            InputError: always.
        """
        raise InputError("HamiltonianFlow knows the density of its own draws only", "use draw_with_log_prob")

    def detach(self) -> Leapfrogged:
        """The same, without gradients to mean, variance, steps and scale."""
        step, scale = self.step.detach().flatten(), self.scale.detach()
        return Leapfrogged(self.base.detach(), self.log_density, step, scale, self.steps)

    def _force(self, z: Tensor) -> Tensor:
        """The gradient of the log-density, of the shape of z; with a graph where there are gradients."""
        if torch.compiler.is_exporting():
            raise InputError(
                "a draw of HamiltonianFlow takes gradients of the decoder, which a graph cannot hold",
                "export what='encode' or 'decode'",
            )
        kept = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():  # evaluation has neither
            place = z if kept and z.requires_grad else _normal(z).detach().requires_grad_()
            (force,) = torch.autograd.grad(self.log_density(place).sum(), place, create_graph=kept)
        return force


class Leapfrog(nn.Module):
    """The weights of a `HamiltonianFlow`.

    Args:
        units: of a code at a position.
        flow: whose.
    """

    def __init__(self, units: int, flow: HamiltonianFlow) -> None:
        super().__init__()
        self.largest = flow.largest_step
        share = flow.step_size / flow.largest_step
        self.steps = nn.Parameter(torch.full((units,), math.log(share / (1 - share))))
        above = math.sqrt(flow.temperature) - 1
        if flow.learned_temperature:
            self.above = nn.Parameter(torch.tensor([math.log(above)]))  # of a dimension, which sharding wants
        else:
            self.register_buffer("above", torch.tensor([above]), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The size of a step for each unit, (units,), and the momentum's scale at the beginning, ()."""
        above = self.above.exp() if isinstance(self.above, nn.Parameter) else self.above
        return self.largest * self.steps.sigmoid(), 1 + above.squeeze(0)


@dataclass(frozen=True)
class HamiltonianFlow(Posterior):
    r"""A diagonal Gaussian moved by the gradient of log p(x, z) (Caterini, Doucet & Sejdinovic 2018, algorithm 1).

    From :math:`z_0 \sim N(\mu(x), \mathrm{diag}\, \sigma^2(x))` and a momentum
    :math:`\rho_0 = \gamma / \sqrt{\beta_0}`, :math:`\gamma \sim N(0, I)`, each of K leapfrog steps is

    .. math:: \tilde\rho = \rho + \tfrac{\epsilon}{2} \nabla \log p(x, z), \quad z' = z + \epsilon \tilde\rho, \quad
        \rho' = \sqrt{\beta_{k-1} / \beta_k}\, (\tilde\rho + \tfrac{\epsilon}{2} \nabla \log p(x, z')),

    with the inverse temperatures of the paper's quadratic scheme,
    :math:`\beta_k^{-1/2} = (1 - \beta_0^{-1/2}) k^2 / K^2 + \beta_0^{-1/2}`. Leapfrog steps keep volume, and the
    momentum's scaling makes it :math:`\beta_0^{D/2}` times as large; so

    .. math:: \log p(x, z_K) + \log N(\rho_K; 0, I) - \log q(z_0 \mid x) - \log N(\rho_0; 0, I / \beta_0)
        + \tfrac{D}{2} \log \beta_0

    is, in the mean, a lower bound on log p(x), in which :math:`\log N(\rho_0; 0, I / \beta_0) - \tfrac D2 \log\beta_0`
    is :math:`\log N(\gamma; 0, I)`. It is the bound of `ELBO`, with all but log p(x, z) for -log q, which only draws
    have. "kl" is the divergence of codes and momenta together, no less than that of codes.

    The encoder gives the Gaussian, whose mean `encode` gives; sizes of steps (a unit of the code has its own, in
    (0, largest_step)) and temperature are learned. A draw takes K + 1 gradients of the decoder and, in training, theirs
    in turn, so it needs a decoder whose pass for a sample is the same each time and that can be differentiated twice;
    one that is compiled runs as it is in the steps. A scale that is fitted to the data's errors ("optimal") is in the
    steps that of the step of the optimizer before.

    Args:
        steps: K.
        step_size: epsilon at the start of a fit.
        largest_step: no epsilon exceeds it.
        temperature: :math:`1 / \beta_0 \ge 1`, at the start of a fit; 1 leaves the momentum as it is.
        learned_temperature: whether it is learned; it stays above 1.
    """

    evaluates: ClassVar[bool] = False

    steps: int = 3
    step_size: float = 0.05
    largest_step: float = 0.5
    temperature: float = 2.0
    learned_temperature: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, "steps")
        if not 0 < self.largest_step < math.inf:
            raise InputError(f"largest_step of HamiltonianFlow must be positive, got {self.largest_step}")
        if not 0 < self.step_size < self.largest_step:
            raise InputError(
                f"step_size of HamiltonianFlow must lie between 0 and largest_step={self.largest_step:g}, got "
                f"{self.step_size}"
            )
        if not 1 <= self.temperature < math.inf:
            raise InputError(
                f"temperature of HamiltonianFlow must be 1 or higher, got {self.temperature}",
                "it is one over the paper's inverse temperature beta_0",
            )
        if self.temperature == 1 and self.learned_temperature:
            raise InputError(
                "a learned temperature of HamiltonianFlow stays above 1, and cannot start there",
                "start above, or give learned_temperature=False",
            )

    def values(self, units: int) -> int:
        """Means and log-variances."""
        return 2 * units

    def check(self, model: VAE) -> None:
        """Raises InputError where log p(x, z) is no fixed function of a sample's code, or x is hidden."""
        for layer in model.decoder.modules():
            if isinstance(layer, (*BATCH_NORMS, *DROPOUTS)):
                raise InputError(
                    "HamiltonianFlow moves a sample's code by the gradient of its own density, which the decoder's "
                    f"{type(layer).__name__} would make another each time",
                    "give the architecture norm='layer', 'group' or 'none' and no dropout",
                )
        if model.corrupts:
            raise InputError(
                "HamiltonianFlow moves codes by the density of what the encoder sees, which a corruption makes another "
                "than the target",
                "leave out corruption, or use the posterior DiagonalGaussian()",
            )

    def build(self, model: VAE) -> nn.Module:
        """Sizes of steps, and the temperature."""
        return Leapfrog(model.latent_dim, self)

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> DiagonalNormal:
        """(B, 2 * units, ...) to the Gaussians that the steps begin from."""
        return DiagonalGaussian()(output)

    def infer(self, model: VAE, output: Tensor, x: Tensor, given: Mapping[str, Tensor]) -> Leapfrogged:
        """What the steps make of them, by the model's density of x."""
        assert isinstance(model.posterior_weights, Leapfrog)

        def log_density(z: Tensor) -> Tensor:
            # what is fitted to the errors is a constant here: or each sample's step would depend on all others
            head = model.head
            fixed = head.taking(head.fitted.clone()) if head.fits and model.training else nullcontext()
            with fixed, model.uncompiled():  # what is compiled can be differentiated once only
                return torch.add(*log_joint(model, z, _normal(x), {k: _normal(v) for k, v in given.items()}))

        step, scale = model.posterior_weights()
        return Leapfrogged(self(output), log_density, step, scale, self.steps)


def _normal(x: Tensor) -> Tensor:
    """`x`, or a copy of one that was made in inference mode, which could not be differentiated by."""
    return x.clone() if x.is_inference() else x
