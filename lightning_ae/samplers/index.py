"""The sampler of codes that are indices: a small causal transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.sampling import Density, Sampler, Space
from lightning_ae.samplers.flow import check_training
from lightning_ae.samplers.training import train

AT_ONCE = 512
"""How many draws are made at a time, so that many fit into memory."""


class Block(nn.Module):
    """Attention to what is not after, and two layers at each place; both are added to what comes in, normalised first.

    Args:
        width: of what comes in.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asks = nn.Linear(width, 3 * width)
        self.answers = nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, places, width) to the same shape."""
        q, k, v = self.asks(self.before(x)).unflatten(2, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.answers(seen.transpose(1, 2).flatten(2))
        added: Tensor = x + self.each(self.between(x))
        return added


class IndexDensity(Density):
    """Indices one after the other, each given those before.

    Args:
        config: the sampler that fits it.
        space: where the codes lie.
    """

    def __init__(self, config: IndexSampler, space: Space) -> None:
        super().__init__(config, space)
        width = config.width
        self.vectors = nn.Embedding(space.classes + 1, width)  # the last stands before the first index
        self.places = nn.Parameter(0.02 * torch.randn(space.units, width))
        self.blocks = nn.Sequential(*(Block(width, config.heads) for _ in range(config.layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, space.classes))

    def logits(self, indices: Tensor) -> Tensor:
        """Of each index given those before it, (B, places, classes); the last of the (B, places) is not looked at."""
        start = indices.new_full((len(indices), 1), self.space.classes)
        before = torch.cat([start, indices[:, :-1]], dim=1)
        found: Tensor = self.head(self.blocks(self.vectors(before) + self.places[: before.shape[1]]))
        return found

    def log_prob(self, values: Tensor) -> Tensor:
        """log p in nats of indices, (..., units) to (...)."""
        rows = values.reshape(-1, values.shape[-1])
        each = self.logits(rows).log_softmax(dim=2).gather(2, rows.unsqueeze(2)).squeeze(2)
        return each.sum(dim=1).view(values.shape[:-1])

    @torch.no_grad()
    def sample(self, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, units), int64: place after place, by the inverse of the distribution function."""
        uniform = noise.rand_like(torch.zeros(n, self.space.units, device=self.places.device))
        return torch.cat([self._sampled(part) for part in uniform.split(AT_ONCE)])

    def _sampled(self, uniform: Tensor) -> Tensor:
        found = torch.zeros(uniform.shape, dtype=torch.long, device=uniform.device)
        for place in range(self.space.units):
            function = self.logits(found[:, : place + 1])[:, -1].softmax(dim=1).cumsum(dim=1)
            edges = function[:, :-1] / function[:, -1:]
            found[:, place] = torch.searchsorted(edges, uniform[:, place : place + 1].contiguous(), right=True).squeeze(
                1
            )
        return found


@dataclass(frozen=True)
class IndexSampler(Sampler):
    r"""A causal transformer over the indices of a code, row by row, as the prior of van den Oord et al. (2017).

    .. math:: \log p(k) = \sum_i \log p(k_i \mid k_1, \ldots, k_{i-1})

    Their prior is a PixelCNN; here it is a transformer of the kind of Vaswani et al. (2017), normalised before each
    layer, with learned places. It is for models whose codes are indices: of codebooks (`VQVAE` and those of its kind,
    of several indices a position and of two levels too, the coarsest first), or of categories
    (`CategoricalVAE`). It is trained as `lightning_ae.samplers.training` says, and computes in float32. A draw takes as
    many passes as a code has indices.

    Args:
        width: of the vectors of indices, a multiple of heads.
        layers: how many.
        heads: of each layer's attention.
        updates: steps of training.
        batch_size: codes in each.
        lr: the learning rate at first.
    """

    discrete: ClassVar[bool] = True

    width: int = 64
    layers: int = 2
    heads: int = 4
    updates: int = 2000
    batch_size: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_training(self, "width", "layers", "heads")
        if self.width % self.heads:
            raise InputError(f"width of IndexSampler must be a multiple of heads, got {self.width} and {self.heads}")

    def build(self, space: Space) -> IndexDensity:
        """The transformer, untrained."""
        self.check(space)
        return IndexDensity(self, space)

    def estimate(self, density: Density, codes: Tensor, seed: int) -> None:
        """Maximum likelihood."""
        assert isinstance(density, IndexDensity)

        def loss(indices: Tensor, draws: torch.Generator) -> Tensor:
            return -density.log_prob(indices)

        train(density, codes, loss, updates=self.updates, batch_size=self.batch_size, lr=self.lr, seed=seed)
