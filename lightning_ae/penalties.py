"""Penalties on codes and encoders: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, jvp, vjp, vmap

from lightning_ae.distributed import Noise
from lightning_ae.errors import InputError

CodeActivation = Literal["identity", "sigmoid", "tanh", "relu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda a: a,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
# the derivative of each, as a function of its value
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "sigmoid": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h.square(),
    "relu": lambda h: (h > 0).to(h.dtype),
}


def kl_sparsity(mean_activation: Tensor, rho: float) -> Tensor:
    r"""The divergence of each unit's mean activation from the target, summed over units (Ng 2011, CS294A notes).

    .. math:: \sum_j \rho \log \frac{\rho}{\hat\rho_j} + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho_j}

    Args:
        mean_activation: the mean of each unit over the whole batch (of all ranks), in (0, 1), of shape (units,).
        rho: the target, in (0, 1).
    """
    q = mean_activation.float().clamp(1e-6, 1 - 1e-6)
    p = torch.as_tensor(rho, dtype=q.dtype, device=q.device)
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()


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
    return DERIVATIVES[activation](code).square() @ weight.square().sum(dim=1)


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
    with torch.enable_grad():
        code = encode(x[:1].detach().requires_grad_())
    if not code.is_floating_point() or not code.requires_grad:
        raise InputError(
            f"the encoder gives a code of type {code.dtype} without a gradient, so it has no Jacobian",
            "a contraction or a Jacobian needs a differentiable encoder, with a continuous code",
        )


def exact_jacobian(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian of each sample's code with respect to the sample, by automatic differentiation.

    The mode is the one that takes fewer passes: reverse where the code is no wider than the input, else forward.

    Args:
        encode: from (B, ...) to (B, latent_dim), without statistics over the batch.
        x: (B, *input_shape).

    Returns:
        (B, latent_dim, dimensions).
    """

    def one(sample: Tensor) -> Tensor:
        return encode(sample.unsqueeze(0)).squeeze(0)

    latent_dim = encode(x[:1]).shape[1]
    mode = jacrev if latent_dim <= x[0].numel() else jacfwd
    return vmap(mode(one))(x).flatten(2)


def hutchinson_jacobian(
    encode: Callable[[Tensor], Tensor], x: Tensor, noise: Noise | None = None, draws: int = 1
) -> Tensor:
    r"""An unbiased estimate of the squared Frobenius norm of each sample's Jacobian (Hutchinson 1989).

    .. math:: \|J\|_F^2 = E_v \|J v\|^2 = E_u \|J^\top u\|^2,\quad v, u \sim N(0, I)

    Of the two forms it takes the one of smaller variance, the one whose vectors are on the narrower side.

    Args:
        encode: from (B, ...) to (B, latent_dim), without statistics over the batch.
        x: (B, *input_shape).
        noise: where the draws come from.
        draws: how many vectors to average over.

    Returns:
        (B,).
    """
    noise = noise or Noise()
    code = encode(x)
    total = x.new_zeros(len(x))
    for _ in range(draws):
        if code[0].numel() <= x[0].numel():
            product = vjp(encode, x)[1](noise.randn_like(code))[0]
        else:
            product = jvp(encode, (x,), (noise.randn_like(x),))[1]
        total = total + product.flatten(1).square().sum(dim=1)
    return total / draws
