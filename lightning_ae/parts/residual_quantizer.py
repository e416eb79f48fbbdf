"""A quantizer of several codebooks, each of what those before it leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.quantizers import Codebook, Quantizer, VectorCodebook, check_number
from lightning_ae.parts.vector_quantizers import VectorQuantizer


@dataclass(frozen=True)
class ResidualQuantizer(Quantizer):
    r"""Codebooks one after the other, each of what the sum of those before leaves (Zeghidour et al. 2021).

    .. math:: r_1 = h, \qquad e_l = \text{the nearest of codebook } l \text{ to } r_l, \qquad
        r_{l+1} = r_l - \mathrm{sg}(e_l), \qquad z = \sum_l e_l .

    Each layer has the terms of its quantizer, summed: the commitments of all layers draw the encoder, while the
    decoder's gradient goes through once, from z to h. So a commitment of each layer that is the smaller, the more of
    them there are, leaves the decoder its part: by default they are 0.25 together. A vector has an index for each
    layer, the coarsest first: of a code (B, latent_dim, ...) the indices are (B, layers, ...), and cost layers times
    log2(codes) bits.

    Args:
        layers: how many codebooks.
        quantizer: of each layer: a `VectorQuantizer`, `GradientVectorQuantizer` or `SimVectorQuantizer` with the
            Euclidean distance.
    """

    layers: int = 4
    quantizer: Quantizer = VectorQuantizer(codes=256, commitment=0.0625)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "layers", 1)
        object.__setattr__(self, "quantizer", from_plain(Quantizer, self.quantizer, "quantizer of ResidualQuantizer"))
        if getattr(self.quantizer, "distance", None) != "euclidean":
            raise InputError(
                f"quantizer of ResidualQuantizer must take the nearest vector by the Euclidean distance, so that there "
                f"is something left to quantise, got {self.quantizer}",
                "give VectorQuantizer(), GradientVectorQuantizer() or SimVectorQuantizer()",
            )

    def build(self, latent_dim: int) -> Codebook:
        """Its codebooks are `layers`."""
        return _Residual(self, latent_dim)


class _Residual(Codebook):
    def __init__(self, options: ResidualQuantizer, latent_dim: int) -> None:
        books = [options.quantizer.build(latent_dim) for _ in range(options.layers)]
        super().__init__(books[0].codes, latent_dim, options.layers)
        self.layers = nn.ModuleList(books)

    @property
    def books(self) -> list[VectorCodebook]:
        return list(self.layers)  # type: ignore[arg-type]

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        left, found = self.prepared(h), []
        for book in self.books:
            found.append(book.nearest(left))
            left = left - book.lookup(found[-1])
        return self._joined(found)

    def lookup(self, indices: Tensor) -> Tensor:
        return torch.stack([book.lookup(i) for book, i in zip(self.books, self._split(indices), strict=True)]).sum(0)

    def through(self, h: Tensor, e: Tensor) -> Tensor:
        return self.books[0].through(h, e)

    def forward(
        self, h: Tensor, noise: Noise | None = None, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        left = h = self.prepared(h)
        parts: list[Tensor] = []
        found: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for book in self.books:
            if noise is not None:
                book.begin(left, noise)
            found.append(book.nearest(left))
            parts.append(book.lookup(found[-1]))
            for name, value in book.terms(left, parts[-1]).items():
                terms[name] = terms[name] + value if name in terms else value
            left = left - parts[-1].detach()
        return self.through(h, torch.stack(parts).sum(0)), self._joined(found), terms

    @torch.no_grad()
    def update(self, h: Tensor, indices: Tensor, noise: Noise) -> None:
        left = self.prepared(h)
        for book, chosen in zip(self.books, self._split(indices), strict=True):
            begins = getattr(book, "begins", False)
            before = book.lookup(chosen)
            book.update(left, chosen, noise)
            # what a codebook leaves that has just begun is what the next one is to begin with
            left = left - (book.lookup(book.nearest(left)) if begins else before)

    def _joined(self, indices: list[Tensor]) -> Tensor:
        return torch.stack(indices, dim=1) if self.depth > 1 else indices[0]

    def _split(self, indices: Tensor) -> tuple[Tensor, ...]:
        return indices.unbind(dim=1) if self.depth > 1 else (indices,)
