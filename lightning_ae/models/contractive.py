"""The contractive autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_ae.architectures import MLP, Architecture
from lightning_ae.autoencoder import Autoencoder, LikelihoodOptions
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.penalties import (
    ACTIVATIONS,
    DERIVATIVES,
    CodeActivation,
    check_differentiable,
    differentiable,
    exact_jacobian,
    hutchinson_jacobian,
    layer_jacobian,
    slopes_norm,
)

Method = Literal["auto", "closed_form", "exact", "hutchinson"]


class ContractiveAutoencoder(Autoencoder):
    r"""Penalises how strongly the code reacts to the input (Rifai et al. 2011, "Contractive Auto-Encoders").

    It minimises

    .. math:: \mathbb E \left[ -\log p(x \mid \psi(\phi(x))) + \lambda\, \|J_\phi(x)\|_F^2 \right],

    where :math:`J_\phi(x)` is the Jacobian of the encoder with respect to its *input*. Reconstruction keeps the code
    sensitive along the manifold on which the data lie, and the penalty flattens it in all other directions. For one
    layer :math:`h = s(W x + b)` the norm is

    .. math:: \|J\|_F^2 = \sum_j s'(a_j)^2 \sum_i W_{ji}^2,

    for the sigmoid with :math:`s' = h (1 - h)`. With `hessian_weight` :math:`\gamma > 0` it adds the higher-order
    term of CAE+H (Rifai et al. 2011, "Higher Order Contractive Auto-Encoder"),
    :math:`\gamma\, \mathbb E_\epsilon \|J(x) - J(x + \epsilon)\|_F^2,\ \epsilon \sim N(0, \sigma^2 I)`.

    How the norm is computed, `method`:

    - "closed_form": the formula above, without any Jacobian; for an encoder of one layer, `MLP(hidden=())`;
    - "exact": the Jacobian itself, by reverse- or forward-mode differentiation, whichever takes fewer passes;
    - "hutchinson": an unbiased estimate from `draws` random vectors, for encoders too wide for that;
    - "auto": the cheapest exact one: the closed form where it holds, else "exact". `jacobian_method` says which.

    Args:
        latent_dim: the number of units of the code.
        contraction: lambda.
        method: how the norm is computed.
        code_activation: s, of the code's units.
        draws: the number of random vectors of "hutchinson".
        hessian_weight: gamma, of the higher-order term.
        hessian_scale: sigma, the standard deviation of its noise, in data units.
    """

    reference: ClassVar[str] = "Rifai et al. 2011, https://icml.cc/2011/papers/455_icmlpaper.pdf"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        contraction: float = 0.1,
        method: Method = "auto",
        code_activation: CodeActivation = "sigmoid",
        draws: int = 1,
        hessian_weight: float = 0.0,
        hessian_scale: float = 0.1,
        architecture: Architecture = MLP(hidden=()),
        **options: Unpack[LikelihoodOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture=architecture, **options)
        for name, value in {"contraction": contraction, "hessian_weight": hessian_weight}.items():
            if not value >= 0:
                raise InputError(f"{name} must not be negative, got {value}")
        if not hessian_scale > 0:
            raise InputError(f"hessian_scale must be positive, got {hessian_scale}")
        if not isinstance(draws, int) or draws < 1:
            raise InputError(f"draws must be a positive integer, got {draws!r}")
        if code_activation not in ACTIVATIONS:
            raise InputError(f"code_activation must be one of {list(ACTIVATIONS)}, got {code_activation!r}")
        if getattr(self.architecture, "norm", "none") == "batch":
            raise InputError(
                "norm='batch' makes a sample's code depend on the whole batch, so it has no Jacobian of its own",
                "use norm='layer' or 'group'",
            )
        one_layer = isinstance(self.architecture, MLP) and self.architecture.is_linear
        if method not in ("auto", "closed_form", "exact", "hutchinson"):
            raise InputError(f"method must be auto, closed_form, exact or hutchinson, got {method!r}")
        if method == "closed_form" and not one_layer:
            raise InputError(
                f"method='closed_form' holds for an encoder of one layer, not for {self.architecture}",
                "use architecture=MLP(hidden=()), or method='exact'",
            )
        self.jacobian_method = ("closed_form" if one_layer else "exact") if method == "auto" else method
        self.code_activation, self.draws, self.contraction = code_activation, draws, contraction
        self.hessian_weight, self.hessian_scale = hessian_weight, hessian_scale

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The activations of the code: (B, *input_shape) to (B, *code_shape)."""
        self.check_given(given)
        return ACTIVATIONS[self.code_activation](at_least_float32(self.encoder(x))).to(self.dtype)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms "reconstruction", "contraction" and "hessian" (without their weights), and the total "loss"."""
        code = self.encode(x, **given)
        terms = {"reconstruction": self.reconstruction_loss(code, target, **given)}
        terms["contraction"] = self._norm(code, x, given).mean()
        loss = terms["reconstruction"] + self.contraction * terms["contraction"]
        if self.hessian_weight > 0:
            terms["hessian"] = self._change(code, x, given).mean()
            loss = loss + self.hessian_weight * terms["hessian"]
        return {"loss": loss, **terms}

    def on_fit_start(self) -> None:
        """Says which way to the Jacobian's norm was chosen."""
        rank_zero_info(f"{type(self).__name__}: the Jacobian's norm by {self.jacobian_method}")

    def jacobian_norm(self, x: Tensor, **given: Tensor) -> Tensor:
        """The squared Frobenius norm of each sample's Jacobian, (B, *input_shape) to (B,), by `jacobian_method`."""
        return self._norm(self.encode(x, **given), x, given)

    def _norm(self, code: Tensor, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        if self.jacobian_method == "closed_form":
            return layer_jacobian(code, self._layer.weight, self.code_activation)
        encode = self.encoding(given)
        with differentiable(x) as x:
            check_differentiable(encode, x)
            if self.jacobian_method == "exact":
                return exact_jacobian(encode, x).square().sum(dim=(1, 2))
            return hutchinson_jacobian(encode, x, self.noise("jacobian"), self.draws)

    def _change(self, code: Tensor, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        """The squared norm of the change of the Jacobian over a small random step, (B,)."""
        moved = x + self.hessian_scale * self.noise("hessian").randn_like(x)
        encode = self.encoding(given)
        if self.jacobian_method == "closed_form":
            slope = DERIVATIVES[self.code_activation]
            return slopes_norm(slope(code) - slope(encode(moved)), self._layer.weight)
        with differentiable(x) as x, differentiable(moved) as moved:
            if self.jacobian_method == "exact":
                return (exact_jacobian(encode, x) - exact_jacobian(encode, moved)).square().sum(dim=(1, 2))
            step = moved - x
            # the Jacobian of the difference of the two codes with respect to a common shift
            return hutchinson_jacobian(
                lambda y: encode(y) - encode(y + step), x, self.noise("jacobian of the change"), self.draws
            )

    @property
    def _layer(self) -> nn.Linear:
        return next(module for module in self.encoder.modules() if isinstance(module, nn.Linear))


def jacobian_spectrum(model: Autoencoder, x: Tensor, **given: Tensor) -> Tensor:
    """The singular values of each sample's Jacobian of `encode`, by falling size.

    Args:
        model: any variant with a differentiable encoder.
        x: (B, *input_shape).
        given: what else the model takes, by the names in `given`.

    Returns:
        (B, min(units, dimensions)), where all values of a code are its units.
    """
    encode = model.encoding(given)

    def units(x: Tensor) -> Tensor:
        return model.units(encode(x))

    with differentiable(x) as x:
        check_differentiable(units, x)
        return torch.linalg.svdvals(exact_jacobian(units, x).detach())
