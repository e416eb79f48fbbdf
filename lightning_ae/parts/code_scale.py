"""The scale of a model's codes, for what is trained on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_ae.exact import sum_over_ranks
from lightning_ae.parts.likelihoods import at_least_float32, float64


class CodeScale(nn.Module):
    r"""Mean and scale of the codes of the training data, by which they become numbers of mean 0 and variance 1.

    .. math:: u = f\, (z - m), \qquad m = \operatorname{mean} z, \quad f = 1 / \operatorname{std} z

    One mean and one scale for all values of all codes (Rombach et al. 2022, appendix G, of the first batch alone);
    the buffers have one of each channel, since published weights may have them so. They are of all batches, of all
    ranks, of the last epoch of training, replaced at its end: before any checkpoint that its validation writes. Until
    the first epoch's end, and in a loop without a trainer, they are of the batches so far. A batch that was begun, and
    is begun again by a resumed run, counts once.

    Args:
        channels: of the code.
    """

    shift: Tensor
    """m, (channels,)."""
    factor: Tensor
    """f, (channels,)."""
    sums: Tensor
    """Number, sum and sum of squares: of this epoch's earlier batches and of the last, (2, 3)."""
    batch: Tensor
    """The number of the last one, ()."""
    settled: Tensor
    """Whether mean and scale are of an epoch, or were given, ()."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("factor", torch.ones(channels))
        self.register_buffer("sums", torch.zeros(2, 3, dtype=torch.float64))
        self.register_buffer("batch", torch.tensor(-1))
        self.register_buffer("settled", torch.tensor(False))

    def scaled(self, code: Tensor) -> Tensor:
        """u of z, (B, channels, ...), in the code's type."""
        shift, factor = (self._beside(code, value) for value in (self.shift, self.factor))
        return ((at_least_float32(code) - shift) * factor).to(code.dtype)

    def unscaled(self, code: Tensor) -> Tensor:
        """z of u, (B, channels, ...), in the code's type."""
        shift, factor = (self._beside(code, value) for value in (self.shift, self.factor))
        return (at_least_float32(code) / factor + shift).to(code.dtype)

    @torch.no_grad()
    def begin(self, batch: int) -> None:
        """Begins the batch of that number in an epoch, or begins it again; the first forgets earlier epochs."""
        if batch == 0:
            self.sums.zero_()
        earlier, last = self.sums
        earlier.add_(last * (self.batch != batch))
        last.zero_()
        self.batch.fill_(batch)

    @torch.no_grad()
    def observe(self, code: Tensor) -> None:
        """Counts the codes (B, channels, ...) of a training batch of which this rank has these."""
        values = float64(code)
        own = torch.stack([values.new_tensor(float(values.numel())), values.sum(), values.square().sum()])
        (sums,) = sum_over_ranks(own.to(self.sums.dtype))
        self.sums[1].add_(sums)
        self._replace(~self.settled)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """From now on mean and scale are of the batches since the epoch began."""
        self._replace(torch.ones_like(self.settled))
        self.settled.fill_(True)

    def _replace(self, replaces: Tensor) -> None:
        count, total, squares = self.sums.sum(dim=0)
        mean = total / count
        variance = squares / count - mean.square()
        usable = replaces & (count > 0) & (variance > 0)  # codes that are all the same have no scale
        self.shift.copy_(torch.where(usable, mean.to(self.shift.dtype), self.shift))
        self.factor.copy_(torch.where(usable, variance.rsqrt().to(self.factor.dtype), self.factor))

    @staticmethod
    def _beside(code: Tensor, value: Tensor) -> Tensor:
        return at_least_float32(value).view(-1, *[1] * (code.ndim - 2))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Leaves mean and scale in float32 at least, and sums in float64 where the device has it."""
        before = dict(self._buffers)
        self._buffers["sums"] = self.sums.float()
        super()._apply(fn, recurse)
        for name in ("shift", "factor", "sums"):
            kept, value = before[name], self._buffers[name]
            assert kept is not None
            assert value is not None
            dtype = (float64(value) if name == "sums" else at_least_float32(value)).dtype
            as_it_is = value.dtype == dtype or kept.is_meta or value.is_meta
            self._buffers[name] = value.to(dtype) if as_it_is else kept.to(value.device, dtype)
        return self
