"""How a codebook is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import SampleMetric, positive


class CodebookUse(SampleMetric):
    """How much of a codebook the indices of codes use.

    - "codebook_use": the part of the codes that occur, of 1;
    - "codebook_perplexity": exp of the entropy of how often each occurs, from 1 to `codes`;
    - "dead_codes": how many do not occur.

    Where a vector has several indices, the first two are means over them, and dead codes those of all together. Counts
    are whole numbers, so several processes have exactly what one has. Before the first index values are NaN.

    Args:
        codes: how many values an index has.
        depth: how many indices a vector has, along dimension 1 of the indices.

    Raises:
        InputError: when a number is not positive.

    Example:
        >>> metric = CodebookUse(4)
        >>> metric.update(torch.tensor([[0, 1], [1, 0]]))
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'codebook_use': 0.5, 'codebook_perplexity': 2.0, 'dead_codes': 2.0}
    """

    counts: Tensor

    def __init__(self, codes: int, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, codes=codes, depth=depth)
        self.codes, self.depth = codes, depth
        self.add_sum("counts", depth, codes, dtype=torch.long)

    def update(self, indices: Tensor) -> None:
        """Adds indices (B, ...), or (B, depth, ...).

        Raises:
            InputError: when they are no integers, not so many to a vector, or not all in 0, ..., codes - 1.
        """
        wrong = indices.is_floating_point() or indices.dtype == torch.bool or indices.ndim < 1
        if wrong or (self.depth > 1 and (indices.ndim < 2 or indices.shape[1] != self.depth)):
            wanted = "(B, ...)" if self.depth == 1 else f"(B, {self.depth}, ...)"
            raise InputError(
                f"indices must be integers {wanted}, got {indices.dtype} of the shape {tuple(indices.shape)}",
                "encode_indices gives such",
            )
        if ((indices < 0) | (indices >= self.codes)).any():
            raise InputError(
                f"indices must lie in 0, ..., {self.codes - 1}, got some from {int(indices.min())} to "
                f"{int(indices.max())}"
            )
        each = indices.unsqueeze(1) if self.depth == 1 else indices
        for layer, chosen in enumerate(each.reshape(len(indices), self.depth, -1).unbind(dim=1)):
            self.counts[layer] += chosen.flatten().bincount(minlength=self.codes)
        self.samples += len(indices)

    def compute(self) -> dict[str, Tensor]:
        """ "codebook_use", "codebook_perplexity" and "dead_codes", scalars."""
        p = self.counts / self.counts.sum(dim=1, keepdim=True).double()
        used, known = (self.counts > 0).sum(), torch.where(self.samples > 0, 1.0, torch.nan)
        return {
            "codebook_use": (used / self.counts.numel() * known).float(),
            "codebook_perplexity": torch.special.entr(p).sum(dim=1).exp().mean().float(),
            "dead_codes": ((self.counts.numel() - used) * known).float(),
        }
