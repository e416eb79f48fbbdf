"""An objective with the structural similarity of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.parts.aggregated import Regularised
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast
from lightning_ae.parts.posteriors import Distribution
from lightning_ae.parts.schedules import Schedule, read_schedules
from lightning_ae.shapes import one_size

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents of five scales, the finest first (Wang, Simoncelli & Bovik 2003, section 3.2)."""
WINDOW, SIGMA = 11, 1.5
"""The sides and the standard deviation of the window, in pixels (Wang et al. 2004, section 3.2)."""
LEAST = 1e-4
"""What contrast and structure are kept above: a power of a negative number is none, and of zero has no gradient."""


@dataclass(frozen=True)
class StructuralSimilarity(Regularised):
    r"""The bound, and how unlike image and reconstruction are: 1 - MS-SSIM (Wang, Simoncelli & Bovik 2003, equation 7).

    .. math:: \text{MS-SSIM} = l_S^{w_S} \prod_{s=1}^S (c\,s)_s^{w_s}

    Of each channel of the means of p(x | z), and the mean over channels. The published form has five scales and a
    window of 11 pixels, and so asks for 176 pixels. Smaller images have as many scales as leave the coarsest at least
    the window, with the exponents of those scales divided by their sum; and those of fewer than 11 pixels a window of
    the largest odd number that they hold, with a standard deviation in proportion. What an image has is said when a
    model is built. Contrast and structure below 1e-4 count as that.

    Args:
        weight: what an image without any similarity costs, in nats.
        value_range: the largest value of an image less the smallest; None is that of the likelihood's support.
        schedule: what the weight is multiplied with at each step of a fit.
    """

    term: ClassVar[str] = "dissimilarity"

    weight: float = 100.0
    value_range: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        read_schedules(self, "schedule")
        if not 0 <= self.weight < math.inf:
            raise InputError(f"weight of StructuralSimilarity must not be negative, got {self.weight}")
        if self.value_range is not None and not 0 < self.value_range < math.inf:
            raise InputError(f"value_range of StructuralSimilarity must be positive, got {self.value_range}")

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "ms_ssim_vae_loss" if self.weight else super().name(model)

    def check(self, model: VAE) -> None:
        """Raises InputError unless the model takes images of a known range; says what scales they have."""
        if len(one_size(model, "StructuralSimilarity")) != 3 or min(model.input_shape[1:]) < 3:
            raise InputError(
                f"StructuralSimilarity compares images of at least 3 x 3 pixels, got input_shape {model.input_shape}",
                "use the objective ELBO(), or input_shape (channels, height, width)",
            )
        if "mask" in model.given:
            raise InputError("StructuralSimilarity compares whole images, and the model is given masks of its input")
        self._range(model)
        scales, window = scales_of(model.input_shape[1:])
        height, width = model.input_shape[1:]
        rank_zero_info(
            f"MS-SSIM of {height} x {width} pixels: {scales} of the 5 scales, a window of {window} x {window}"
        )

    def _range(self, model: VAE) -> float:
        low, high = model.likelihood.support
        if self.value_range is None and not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(
                f"StructuralSimilarity asks for the range of the values, which {type(model.likelihood).__name__} does "
                "not bound",
                "give value_range, 1.0 for images in [0, 1]",
            )
        return high - low if self.value_range is None else self.value_range

    def weighted(self, model: VAE, q: Distribution, z: Tensor, made: Tensor, target: Tensor) -> tuple[float, Tensor]:
        """The weight at this step, and the mean over this rank's images of 1 - MS-SSIM."""
        similarity = ms_ssim(made, target, self._range(model))
        return self.weight * model.scheduled(self.schedule), 1 - similarity.mean()


def scales_of(size: tuple[int, ...]) -> tuple[int, int]:
    """How many scales images (height, width) have, and the sides of the window."""
    side = min(size)
    window = min(WINDOW, side - 1 + side % 2)
    return min(len(WEIGHTS), 1 + int(math.log2(side // window))), window


def ms_ssim(x: Tensor, y: Tensor, value_range: float) -> Tensor:
    """The multi-scale structural similarity of images (B, C, H, W) with others, (B,), in float32 at least.

    Args:
        x: of which one has a gradient.
        y: of the same shape.
        value_range: the largest value less the smallest.
    """
    with without_autocast(x.device):
        x, y = at_least_float32(x), at_least_float32(y)
        scales, side = scales_of(tuple(x.shape[2:]))
        weights = torch.tensor(WEIGHTS[:scales], dtype=x.dtype, device=x.device)
        offsets = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
        window = (-0.5 * (offsets / (SIGMA * side / WINDOW)).square()).exp()
        window = window / window.sum()
        c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
        factors = []
        for scale in range(scales):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            moments = torch.stack([x, y, x * x, y * y, x * y])
            mx, my, xx, yy, xy = _blurred(moments.flatten(0, 2).unsqueeze(1), window).view(5, *x.shape[:2], -1)
            structure = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
            luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
            last = scale == scales - 1
            factors.append((luminance * structure if last else structure).mean(dim=2))
        each = torch.stack(factors).clamp(min=LEAST) ** (weights / weights.sum()).view(-1, 1, 1)
        return each.prod(dim=0).mean(dim=1)


def _blurred(images: Tensor, window: Tensor) -> Tensor:
    """(N, 1, H, W) under a separable window, where it lies within."""
    return F.conv2d(F.conv2d(images, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
