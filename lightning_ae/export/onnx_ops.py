"""Functions that ONNX has not, or that onnxruntime has not in float64, by those that it has.

Of log(1 + x), exp(x) - 1 and the logarithm of the sigmoid function the exporter makes what their names say, in float32,
which loses the digits that they are for. The others are of the Cephes library (Moshier, https://netlib.org/cephes),
whose coefficients torch's own take, or Lanczos' formula. All compute in float64; the tests compare them with torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_LANCZOS = (
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
)  # fmt: skip
_ERF = (
    (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3, 7.00332514112805075473e3,
     5.55923013010394962768e4),
    (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3, 2.26290000613890934246e4,
     4.92673942608635921086e4),
)  # fmt: skip
_ERFC = (
    (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1,
     1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3,
     5.57535335369399327526e2),
    (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2,
     1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3, 5.57535340817727675546e2),
)  # fmt: skip
_MIDDLE = (
    (-5.99633501014107895267e1, 9.80010754185999661536e1, -5.66762857469070293439e1, 1.39312609387279679503e1,
     -1.23916583867381258016e0),
    (1.0, 1.95448858338141759834e0, 4.67627912898881538453e0, 8.63602421390890590575e1, -2.25462687854119370527e2,
     2.00260212380060660359e2, -8.20372256168333339912e1, 1.59056225126211695515e1, -1.18331621121330003142e0),
)  # fmt: skip
_NEAR = (
    (4.05544892305962419923e0, 3.15251094599893866154e1, 5.71628192246421288162e1, 4.40805073893200834700e1,
     1.46849561928858024014e1, 2.18663306850790267539e0, -1.40256079171354495875e-1, -3.50424626827848203418e-2,
     -8.57456785154685413611e-4),
    (1.0, 1.57799883256466749731e1, 4.53907635128879210584e1, 4.13172038254672030440e1, 1.50425385692907503408e1,
     2.50464946208309415979e0, -1.42182922854787788574e-1, -3.80806407691578277194e-2, -9.33259480895457427372e-4),
)  # fmt: skip
_FAR = (
    (3.23774891776946035970e0, 6.91522889068984211695e0, 3.93881025292474443415e0, 1.33303460815807542389e0,
     2.01485389549179081538e-1, 1.23716634817820021358e-2, 3.01581553508235416007e-4, 2.65806974686737550832e-6,
     6.23974539184983293730e-9),
    (1.0, 6.02427039364742014255e0, 3.67983563856160859403e0, 1.37702099489081330271e0, 2.16236993594496635890e-1,
     1.34204006088543189037e-2, 3.28014464682127739104e-4, 2.89247864745380683936e-6, 6.79019408009981274425e-9),
)  # fmt: skip


def _in_float64(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @wraps(function)
    def computed(x: Tensor) -> Tensor:
        return function(x.double()).to(x.dtype if x.is_floating_point() else torch.get_default_dtype())

    return computed


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for each in coefficients[1:]:
        value = value * x + each
    return value


def _ratio(x: Tensor, coefficients: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    above, below = coefficients
    return _polynomial(x, above) / _polynomial(x, below)


@_in_float64
def erf(x: Tensor) -> Tensor:
    """The error function."""
    near = x.clamp(-1, 1)
    far = x.abs().clamp(1, 6)  # from where it is 1 in float64
    inner = near * _ratio(near * near, _ERF)
    outer = (1 - (-far * far).exp() * _ratio(far, _ERFC)) * x.sign()
    return torch.where(x.abs() <= 1, inner, torch.where(x.isnan(), x, outer))


@_in_float64
def ndtr(x: Tensor) -> Tensor:
    """The distribution function of the standard normal."""
    y = x * math.sqrt(0.5)
    far = y.abs().clamp(1, 8)  # beyond it is 0 or 1 but for 1e-29
    tail = 0.5 * (-far * far).exp() * _ratio(far, _ERFC)
    near = y.clamp(-1, 1)
    inner = 0.5 + 0.5 * near * _ratio(near * near, _ERF)
    return torch.where(y.abs() <= 1, inner, torch.where(y.isnan(), y, torch.where(y > 0, 1 - tail, tail)))


@_in_float64
def ndtri(p: Tensor) -> Tensor:
    """The inverse of `ndtr` in [0, 1]; NaN elsewhere."""
    mirrored = p > 1 - math.exp(-2)
    q = torch.where(mirrored, 1 - p, p)
    middle = q - 0.5
    square = middle * middle
    inner = (middle + middle * (square * _ratio(square, _MIDDLE))) * math.sqrt(2 * math.pi)
    x = (-2 * q.clamp(min=1e-300, max=math.exp(-2)).log()).sqrt()
    z = 1 / x
    outer = x - x.log() / x - z * torch.where(x < 8, _ratio(z, _NEAR), _ratio(z, _FAR))
    value = torch.where(q > math.exp(-2), inner, torch.where(mirrored, outer, -outer))
    value = torch.where(p == 0, -math.inf, torch.where(p == 1, math.inf, value))
    return torch.where((p >= 0) & (p <= 1), value, math.nan)


@_in_float64
def lgamma(x: Tensor) -> Tensor:
    """log Gamma(x) of x > 0, by Lanczos' formula (g = 7, nine terms); NaN elsewhere."""
    y = x - 1 + (x < 0.5)  # of which a small one is one lower: Gamma(x) = Gamma(x + 1) / x
    series = torch.full_like(y, _LANCZOS[0])
    for i, each in enumerate(_LANCZOS[1:], start=1):
        series = series + each / (y + i)
    t = y + 7.5
    value = 0.5 * math.log(2 * math.pi) + (y + 0.5) * t.log() - t + series.log()
    return torch.where(x > 0, torch.where(x < 0.5, value - x.log(), value), math.nan)


@_in_float64
def log1p(x: Tensor) -> Tensor:
    """log(1 + x), with the digits of float32."""
    return torch.where(x.abs() < 1e-5, x - x * x / 2 + x * x * x / 3, (1 + x).log())


@_in_float64
def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, with the digits of float32."""
    return torch.where(x.abs() < 1e-5, x + x * x / 2 + x * x * x / 6, x.exp() - 1)


@_in_float64
def log_sigmoid(x: Tensor) -> Tensor:
    """The logarithm of the sigmoid function."""
    return x.clamp(max=0) - (1 + (-x.abs()).exp()).log()


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """`binary_cross_entropy_with_logits`."""
    if weight is not None or pos_weight is not None or reduction != 0:
        raise NotImplementedError("binary_cross_entropy_with_logits with weights, or of sums and means")
    logits = x.double()
    loss = logits.clamp(min=0) - logits * target + (1 + (-logits.abs()).exp()).log()
    return loss.to(x.dtype)


def instead() -> dict[Any, Callable[..., Any]]:
    """What stands for each operator that ONNX lacks, as a table for `ExportedProgram.run_decompositions`."""
    aten = torch.ops.aten
    return {
        aten.erf.default: erf,
        aten.special_ndtr.default: ndtr,
        aten.special_ndtri.default: ndtri,
        aten.lgamma.default: lgamma,
        aten.log1p.default: log1p,
        aten.expm1.default: expm1,
        aten.binary_cross_entropy_with_logits.default: cross_entropy,
        aten.log_sigmoid.default: log_sigmoid,
        aten.log_sigmoid_forward.default: lambda x: (log_sigmoid(x), x.new_zeros(0)),
    }
