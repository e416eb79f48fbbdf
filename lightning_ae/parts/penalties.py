"""Penalties on codes and encoders: pure functions of tensors.

They are computed in float32 (float64 where they are given that), also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise, gather, rows, sum_over_ranks
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast

CodeActivation = Literal["identity", "sigmoid", "tanh", "relu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda a: a,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
# the integral of each, from any constant on
INTEGRALS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda a: a.square() / 2,
    "sigmoid": F.softplus,
    "tanh": lambda a: F.softplus(2 * a) - a,  # log cosh and a constant
    "relu": lambda a: a.relu().square() / 2,
}
# the derivative of each, as a function of its value
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "sigmoid": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h.square(),
    "relu": lambda h: (h > 0).to(h.dtype),
}


def kl_sparsity(pre_activation: Tensor, rho: float) -> Tensor:
    r"""The divergence of sigmoid units' mean activations from a target, summed over units (Ng 2011, CS294A notes).

    With the mean activation of unit j over the batch of all ranks, :math:`\hat\rho_j = \tfrac1N \sum_i s(a_{ij})`,

    .. math:: \sum_j \rho \log \frac{\rho}{\hat\rho_j} + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho_j}.

    Both logarithms are computed as such, from the pre-activations: :math:`1 - s(a) = s(-a)`, so
    :math:`\log \hat\rho_j = \mathrm{logsumexp}_i \log s(a_{ij}) - \log N`, and likewise with :math:`-a` for the other.
    A unit that is dead or saturated, whose activation rounds to 0 or 1, still has its gradient.

    Args:
        pre_activation: a, of this rank's samples, of shape (B, units), or (B, ...), of which each value is a unit.
        rho: the target, in (0, 1).
    """
    a = at_least_float32(pre_activation)
    (count,) = sum_over_ranks(a.new_tensor(float(len(a))))
    # a logsumexp of the ranks' own is that of all samples
    own = torch.stack([F.logsigmoid(a), F.logsigmoid(-a)]).logsumexp(dim=1)
    log_on, log_off = gather(own).logsumexp(dim=0) - count.log()
    p = torch.as_tensor(rho, dtype=a.dtype, device=a.device)
    return (p * (p.log() - log_on) + (1 - p) * ((-p).log1p() - log_off)).sum()


def layer_jacobian(code: Tensor, weight: Tensor, activation: CodeActivation) -> Tensor:
    r"""The squared Frobenius norm of the Jacobian of h = s(W x + b), in closed form (Rifai et al. 2011, eq. 5).

    .. math:: \|J\|_F^2 = \sum_j s'(a_j)^2 \sum_i W_{ji}^2

    Args:
        code: h, of shape (B, units).
        weight: W, of shape (units, dimensions).
        activation: s.

    Returns:
        (B,).
    """
    return slopes_norm(DERIVATIVES[activation](at_least_float32(code)), weight)


def slopes_norm(slopes: Tensor, weight: Tensor) -> Tensor:
    """The squared Frobenius norm of diag(d) W for each sample's d (B, units) and W (units, dimensions): (B,)."""
    with without_autocast(slopes.device):
        return slopes.square() @ at_least_float32(weight).square().sum(dim=1)


@contextmanager
def differentiable(x: Tensor) -> Iterator[Tensor]:
    """`x` where it can be differentiated by: Lightning evaluates in inference mode, which forbids that."""
    if not torch.is_inference_mode_enabled():
        yield x
        return
    with torch.inference_mode(False), torch.no_grad():
        yield x.clone()


def check_differentiable(encode: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raises InputError unless the code of `x` (B, ...) has a gradient with respect to it."""
    with torch.enable_grad(), rows("shared"):
        code = encode(x[:1].detach().requires_grad_())
    if not code.is_floating_point() or not code.requires_grad:
        raise InputError(
            f"the encoder gives a code of type {code.dtype} without a gradient, so it has no Jacobian",
            "a contraction or a Jacobian needs a differentiable encoder, with a continuous code",
        )


def exact_jacobian(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian of each sample's code, all values of it, with respect to the sample, by automatic differentiation.

    The mode is the one that takes fewer passes: reverse where the code is no wider than the input, else forward. Every
    pass is of the whole batch, whose samples do not depend on each other, so dropout has one mask for all passes.

    Args:
        encode: from (B, ...) to (B, *code_shape), without statistics over the batch.
        x: (B, *input_shape).

    Returns:
        (B, units, dimensions), in float32 at least.
    """
    with rows("shared"):
        units = encode(x[:1])[0].numel()
    dimensions = x[0].numel()
    if units <= dimensions:
        code, pull = vjp(encode, x)[:2]
        each = torch.eye(units, dtype=code.dtype, device=x.device).unsqueeze(1).expand(-1, len(x), -1)
        gradients = vmap(lambda v: pull(v.view_as(code))[0])(each)
        return at_least_float32(gradients.flatten(2).movedim(0, 1))
    inputs = torch.eye(dimensions, dtype=x.dtype, device=x.device).unsqueeze(1).expand(-1, len(x), -1)
    columns = vmap(lambda v: jvp(encode, (x,), (v.view_as(x),))[1], randomness="same")(inputs)
    return at_least_float32(columns.flatten(2).movedim(0, 2))


def hutchinson_jacobian(
    encode: Callable[[Tensor], Tensor], x: Tensor, noise: Noise | None = None, draws: int = 1
) -> Tensor:
    r"""An unbiased estimate of the squared Frobenius norm of each sample's Jacobian (Hutchinson 1989).

    .. math:: \|J\|_F^2 = E_v \|J v\|^2 = E_u \|J^\top u\|^2,\quad v, u \sim N(0, I)

    Of the two forms it takes the one of smaller variance, the one whose vectors are on the narrower side.

    Args:
        encode: from (B, ...) to (B, *code_shape), without statistics over the batch.
        x: (B, *input_shape).
        noise: where the draws come from.
        draws: how many vectors to average over.

    Returns:
        (B,).
    """
    noise = noise or Noise()
    code = encode(x)
    total = at_least_float32(x.new_zeros(len(x)))
    for _ in range(draws):
        if code[0].numel() <= x[0].numel():
            product = vjp(encode, x)[1](noise.randn_like(code))[0]
        else:
            product = jvp(encode, (x,), (noise.randn_like(x),))[1]
        total = total + at_least_float32(product).flatten(1).square().sum(dim=1)
    return total / draws
