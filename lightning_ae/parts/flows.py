"""Normalizing flows: invertible maps of vectors, with the logarithm of their Jacobian's determinant.

A flow acts on the last dimension, of D units. Its `forward(x, context)` is (..., D) and (..., C) to y, (..., D), and
log |det dy/dx|, (...); `inverse(y, context)` gives x and the same logarithm, where that can be had. All is computed in
the type of x, whatever the weights' is, also under autocast.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import without_autocast
from lightning_ae.parts.posteriors import bounded


class Flow(nn.Module):
    """An invertible map of vectors."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to y, (..., D), and log |det dy/dx|, (...)."""

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to x, (..., D), and log |det dy/dx| there, (...).

        Raises:
            InputError: when it is not to be had.
        """
        raise InputError(
            f"a {type(self).__name__} step has no inverse that can be written down, so that only its own draws have a "
            "density",
            "take that by draw_with_log_prob, or a flow that has an inverse, such as SplineFlow",
        )


class Flows(nn.Module):
    """Several flows, one after the other.

    Args:
        units: D.
        steps: the first to act first.
    """

    def __init__(self, units: int, steps: Sequence[Flow]) -> None:
        super().__init__()
        self.units = units
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, context: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """(..., D) to the last one's y, and log |det dy/dx|; or, of y, to x and the same."""
        total = x.new_zeros(x.shape[:-1])
        steps: list[Any] = list(self.steps)
        with without_autocast(x.device):
            for step in reversed(steps) if inverse else steps:
                x, log_det = step.inverse(x, context) if inverse else step(x, context)
                total = total + log_det
        return x, total


class Linear(nn.Linear):
    """A linear layer in the type of its input, of which a mask takes some weights away.

    Args:
        inputs: how many.
        outputs: how many.
        mask: (outputs, inputs), true where an output may depend on an input; by default everywhere.
        zero: whether all weights start at zero.
    """

    mask: Tensor | None

    def __init__(self, inputs: int, outputs: int, mask: Tensor | None = None, *, zero: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", mask, persistent=False)  # it follows from the sizes
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return F.linear(x, weight.to(x.dtype), self.bias.to(x.dtype))


class Planar(Flow):
    r"""One planar step (Rezende & Mohamed 2015, equations 10 to 12), whose parameters the context holds.

    .. math:: y = x + \hat u \tanh(w^T x + b), \quad
        \left| \det \frac{dy}{dx} \right| = 1 + (1 - \tanh^2(w^T x + b))\, w^T \hat u

    It is invertible where :math:`w^T \hat u > -1`. As in appendix A.1 :math:`\hat u` is u with its part along w changed
    so that :math:`w^T \hat u = m(w^T u)`; here :math:`m(a) = -1 + 10^{-3} + \log(1 + e^{a + c})` with the c of which
    m(0) = 0 (the paper's has none), so that u = 0 is the identity and the determinant at least .001.

    u is what the context holds times `gain`, a learned number, zero at first: so a fresh one is the identity.

    Args:
        units: D.
        at: where in the context its 2 D + 1 values w, u and b begin.
    """

    def __init__(self, units: int, at: int) -> None:
        super().__init__()
        self.units, self.at = units, at
        self.gain = nn.Parameter(torch.zeros(1))  # not a scalar, which FSDP does not shard

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to y, and the logarithm."""
        assert context is not None
        units = self.units
        w, u, b = context[..., self.at : self.at + 2 * units + 1].split([units, units, 1], dim=-1)
        u = self.gain.to(x.dtype) * u
        a = (w * u).sum(dim=-1, keepdim=True)
        rest = MINIMUM + F.softplus(a + _inverse_softplus(1 - MINIMUM))  # 1 + w^T u^
        tiny = torch.finfo(x.dtype).tiny
        u = u + (rest - 1 - a) * w / w.square().sum(dim=-1, keepdim=True).clamp(min=tiny)
        t = ((w * x).sum(dim=-1, keepdim=True) + b).tanh()
        # 1 + (1 - t^2) w^T u^, without the cancellation
        log_det = (t.square() + (1 - t.square()) * rest).log().squeeze(-1)
        return x + u * t, log_det


class MADE(nn.Module):
    """A network whose outputs for unit i depend on units before i alone, and on the context (Germain et al. 2015).

    Two hidden layers, of exponential linear units and of hyperbolic tangents, so that outputs stay bounded however far
    away a code is; the context enters the first. The last layer starts at zero.

    Args:
        units: D, two at least.
        hidden: the units of each hidden layer.
        context: how many values stand beside; none by default.
        outputs: how many for each unit.
        backwards: whether "before" means after.
    """

    def __init__(self, units: int, hidden: int, context: int = 0, outputs: int = 2, *, backwards: bool = False) -> None:
        super().__init__()
        self.order = list(reversed(range(units))) if backwards else list(range(units))  # from the first to the last
        place = torch.arange(units)
        place = place.flip(0) if backwards else place
        within = torch.arange(hidden) % (units - 1)  # a hidden unit sees units whose place is at most this
        self.first = Linear(units, hidden, (within.unsqueeze(1) >= place).float())
        self.second = Linear(hidden, hidden, (within.unsqueeze(1) >= within).float())
        last = (place.unsqueeze(1) > within).float()
        self.last = Linear(hidden, outputs * units, last.repeat(outputs, 1), zero=True)
        self.beside = Linear(context, hidden) if context else None
        self.outputs = outputs

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """(..., D) to `outputs` tensors (..., D)."""
        hidden = self.first(x)
        if self.beside is not None:
            assert context is not None
            hidden = hidden + self.beside(context)
        hidden = self.second(F.elu(hidden)).tanh()
        found: tuple[Tensor, ...] = self.last(hidden).chunk(self.outputs, dim=-1)
        return found


class GatedAutoregressive(Flow):
    r"""One inverse autoregressive step with a gate (Kingma et al. 2016, equations 13 and 14, algorithm 1).

    .. math:: y_i = \sigma_i x_i + (1 - \sigma_i) m_i, \quad \log \left| \det \frac{dy}{dx} \right|
        = \sum_i \log \sigma_i, \quad \sigma_i = s(g_i + 4), \quad (m_i, g_i) = f(x_1, \ldots, x_{i-1}, h)

    with s the logistic function, f a `MADE`. A fresh one has m = g = 0, and so a gate of .982 everywhere. g + 4 is kept
    in [-5, 20]; the gradient passes. The inverse takes D passes.

    Args:
        units: D, two at least.
        hidden: of the network.
        context: how many values h has.
        backwards: whether the last unit comes first.
    """

    def __init__(self, units: int, hidden: int, context: int = 0, *, backwards: bool = False) -> None:
        super().__init__()
        self.network = MADE(units, hidden, context, backwards=backwards)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to y, and the logarithm, in one pass."""
        m, gate = self._shift_and_scale(x, context)
        return torch.lerp(m, x, gate.sigmoid()), F.logsigmoid(gate).sum(dim=-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to x, and the logarithm, unit by unit."""
        x = torch.zeros_like(y)
        for unit in self.network.order:
            m, gate = self._shift_and_scale(x, context)
            found = m[..., unit] + (y - m)[..., unit] / gate[..., unit].sigmoid()
            x = _with(x, unit, found)
        return x, F.logsigmoid(self._shift_and_scale(x, context)[1]).sum(dim=-1)

    def _shift_and_scale(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        m, gate = self.network(x, context)
        gate = gate + 4
        return m, bounded(gate, -5.0, 20.0)


class MaskedAutoregressive(Flow):
    r"""One masked autoregressive step (Papamakarios et al. 2017, equations 3 to 5), whose density takes one pass.

    .. math:: y_i = m_i + e^{a_i} x_i, \quad (m_i, \tilde a_i) = f(y_1, \ldots, y_{i-1}), \quad
        a_i = 4 \tanh(\tilde a_i / 4)

    with f a `MADE`. `inverse` takes one pass, `forward` D. A fresh one is the identity.

    Args:
        units: D, two at least.
        hidden: of the network.
        backwards: whether the last unit comes first.
    """

    def __init__(self, units: int, hidden: int, *, backwards: bool = False) -> None:
        super().__init__()
        self.network = MADE(units, hidden, backwards=backwards)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to y, and the logarithm, unit by unit."""
        y = torch.zeros_like(x)
        for unit in self.network.order:
            m, a = self._shift_and_scale(y)
            y = _with(y, unit, (m + a.exp() * x)[..., unit])
        return y, self._shift_and_scale(y)[1].sum(dim=-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to x, and the logarithm, in one pass."""
        m, a = self._shift_and_scale(y)
        return (y - m) * (-a).exp(), a.sum(dim=-1)

    def _shift_and_scale(self, y: Tensor) -> tuple[Tensor, Tensor]:
        m, a = self.network(y)
        return m, 4 * (a / 4).tanh()


class SplineCoupling(Flow):
    """One coupling step by rational-quadratic splines (Durkan et al. 2019, section 3).

    Half of the units bend the others, each by a `spline` whose parameters a network makes of that half and the context.
    The network has two hidden layers of exponential linear units; its last layer starts at zero, which is the identity.

    Args:
        units: D, two at least.
        hidden: the units of each hidden layer.
        context: how many values stand beside.
        bins: of a spline.
        bound: B; beyond [-B, B] nothing bends.
        backwards: whether the second half bends the first.
    """

    def __init__(
        self, units: int, hidden: int, context: int = 0, *, bins: int, bound: float, backwards: bool = False
    ) -> None:
        super().__init__()
        self.sizes, self.backwards, self.bins, self.bound = [units // 2, units - units // 2], backwards, bins, bound
        bending, bent = reversed(self.sizes) if backwards else self.sizes
        self.network = nn.Sequential(
            Linear(bending + context, hidden), nn.ELU(), Linear(hidden, hidden), nn.ELU(),
            Linear(hidden, bent * (3 * bins - 1), zero=True),
        )  # fmt: skip

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to y, and the logarithm."""
        return self._bend(x, context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to x, and the logarithm."""
        return self._bend(y, context, inverse=True)

    def _bend(self, x: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=-1)
        bending, bent = (second, first) if self.backwards else (first, second)
        seen = bending if context is None else torch.cat([bending, context.expand(*x.shape[:-1], -1)], dim=-1)
        parameters = self.network(seen).unflatten(-1, (bent.shape[-1], -1))
        bent, log_derivative = spline(bent, parameters, self.bound, inverse=inverse)
        whole = [bent, bending] if self.backwards else [bending, bent]
        return torch.cat(whole, dim=-1), log_derivative.sum(dim=-1)


MINIMUM = 1e-3
"""The least width and height of a bin, as a share of all, and the least derivative (Durkan et al. 2019)."""


def spline(x: Tensor, parameters: Tensor, bound: float, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Monotone rational-quadratic splines on [-bound, bound], the identity beyond (Durkan et al. 2019, 3.1).

    With all parameters zero it is the identity everywhere.

    Args:
        x: (...), what they are taken of.
        parameters: (..., 3 K - 1), of K bins: widths, heights, and derivatives at the knots between them, free numbers.
        bound: B.
        inverse: whether x is a value y of the spline, whose argument is asked for.

    Returns:
        y, or its argument, (...), and the logarithm of the derivative dy/dx, (...).
    """
    bins = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = parameters.split([bins, bins, bins - 1], dim=-1)
    left, width = _knots(widths, bound)
    low, height = _knots(heights, bound)
    slopes = F.pad(MINIMUM + F.softplus(slopes + _inverse_softplus(1 - MINIMUM)), (1, 1), value=1.0)

    inside = x.abs() <= bound
    within = x.clamp(-bound, bound)
    edges = (low if inverse else left)[..., 1:]
    bin_ = (within.unsqueeze(-1) >= edges).sum(dim=-1, keepdim=True)

    def here(values: Tensor) -> Tensor:
        return values.gather(-1, bin_).squeeze(-1)

    x0, w, y0, h = here(left), here(width), here(low), here(height)
    d0, d1 = here(slopes[..., :-1]), here(slopes[..., 1:])
    s = h / w
    if inverse:
        # the root of equations 6 to 8 that stays sound where the quadratic term vanishes
        away = within - y0
        bend = away * (d0 + d1 - 2 * s)
        a, b, c = h * (s - d0) + bend, h * d0 - bend, -s * away
        root = (b.square() - 4 * a * c).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        t = (-2 * c / (b + root)).clamp(0, 1)
        found = x0 + t * w
    else:
        t = ((within - x0) / w).clamp(0, 1)
        found = y0 + h * (s * t.square() + d0 * t * (1 - t)) / (s + (d0 + d1 - 2 * s) * t * (1 - t))
    below = s + (d0 + d1 - 2 * s) * t * (1 - t)
    above = d1 * t.square() + 2 * s * t * (1 - t) + d0 * (1 - t).square()
    log_derivative = 2 * s.log() + above.log() - 2 * below.log()
    return torch.where(inside, found, x), torch.where(inside, log_derivative, torch.zeros_like(x))


def _knots(free: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Where bins begin on [-bound, bound], and how wide they are, (..., K) each."""
    bins = free.shape[-1]
    share = MINIMUM + (1 - MINIMUM * bins) * free.softmax(dim=-1)
    inner = 2 * bound * share.cumsum(dim=-1)[..., :-1] - bound
    knots = F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)
    return knots[..., :-1], knots.diff(dim=-1)


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def _with(x: Tensor, unit: int, value: Tensor) -> Tensor:
    """x, with another value for one of its units, (..., D); not in place, for the gradient's sake."""
    return torch.cat([x[..., :unit], value.unsqueeze(-1), x[..., unit + 1 :]], dim=-1)


def check_sizes(part: Any, *arguments: str) -> None:
    """Raises InputError where one is no positive integer."""
    for argument in arguments:
        value = getattr(part, argument)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{argument} of {type(part).__name__} must be a positive integer, got {value!r}")


def check_units(part: Any, units: int) -> None:
    """Raises InputError of a single unit, which cannot depend on another."""
    if units < 2:
        raise InputError(
            f"{type(part).__name__} lets some units of a code depend on others, and there is one",
            "take latent_dim=2 or more, or a part that needs no other unit: the posterior PlanarFlow() or "
            "DiagonalGaussian(), the prior MixturePrior() or StandardNormal()",
        )
