"""A quantizer that draws its codes, by Gumbel-softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast
from lightning_ae.parts.quantizers import (
    Codebook,
    Quantizer,
    check_number,
    check_weights,
    nearest_rows,
    rows_of,
    straight_through,
    uniform,
)
from lightning_ae.parts.schedules import Schedule, read_schedules

CONTRAST = 8.0
"""How much larger than a linear layer's the weights of logits start."""


@dataclass(frozen=True)
class GumbelQuantizer(Quantizer):
    r"""Codes are drawn, and relaxed in training: the discrete VAE of Ramesh et al. (2021, section 2.1).

    A linear layer makes of each vector of the encoder a logit for each code, :math:`q(k \mid h)`; its weights start 8
    times as large as usual, so that outputs that start small tell codes apart. In training a vector becomes, with
    Gumbel noise g,

    .. math:: z = \sum_k y_k e_k, \qquad y = \mathrm{softmax}((\log q + g) / \tau),

    in evaluation the vector of the most probable code. The loss has the divergence from a uniform prior,
    "kl", :math:`\beta \sum_k q_k \log K q_k`, summed over vectors.

    Args:
        codes: K, how many vectors the codebook has.
        temperature: tau > 0.
        schedule: what tau is multiplied with at each step of a fit; it must stay above 0.
        kl_weight: beta; 1 is the bound's. Under a likelihood of a fixed, large scale so much leaves codes unused.
        straight_through: whether training decodes the largest y_k's vector, with the gradient of the relaxed one.
    """

    codes: int = 512
    temperature: float = 1.0
    schedule: Schedule | None = None
    kl_weight: float = 0.1
    straight_through: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "codes", 2)
        check_weights(self, "kl_weight")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature of GumbelQuantizer must be positive and finite, got {self.temperature}")
        read_schedules(self, "schedule")
        if self.schedule is not None and not self.schedule(1_000_000, 1e6) > 0:
            raise InputError(
                f"schedule of GumbelQuantizer ends at a temperature of 0, got {self.schedule}",
                "give it a positive end, CosineDecay(last=0.0625) say",
            )

    def build(self, latent_dim: int) -> Codebook:
        """Its `vectors` and the layer of logits are parameters."""
        return _Drawn(self, latent_dim)


class _Drawn(Codebook):
    def __init__(self, options: GumbelQuantizer, latent_dim: int) -> None:
        super().__init__(options.codes, latent_dim)
        self.options = options
        self.vectors = nn.Parameter(uniform(options.codes, latent_dim))
        self.logits = nn.Linear(latent_dim, options.codes)
        with torch.no_grad():
            self.logits.weight *= CONTRAST

    def forward(
        self, h: Tensor, noise: Noise | None = None, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        h = self.prepared(h)
        log_q = self.log_probabilities(h)
        kl = (log_q.exp() * (log_q + math.log(self.codes))).flatten(1).sum(dim=1).mean()
        terms = {"kl": self.options.kl_weight * kl}
        indices = log_q.argmax(dim=1)
        if noise is None:
            return self.through(h, self.lookup(indices)), indices, terms
        draws = noise.rand_like(log_q).clamp(min=torch.finfo(log_q.dtype).tiny)
        y = ((log_q - (-draws.log()).log()) / (self.options.temperature * scale)).softmax(dim=1)
        z = self.mixed(y)
        if self.options.straight_through:
            z = straight_through(z, self.lookup(y.argmax(dim=1)))
        return z, indices, terms

    def log_probabilities(self, h: Tensor) -> Tensor:
        """log q of each code: (B, latent_dim, ...) to (B, codes, ...)."""
        weight, bias = at_least_float32(self.logits.weight), at_least_float32(self.logits.bias)
        with without_autocast(h.device):
            return F.linear(h.movedim(1, -1), weight, bias).log_softmax(dim=-1).movedim(-1, 1)

    def mixed(self, y: Tensor) -> Tensor:
        """The vectors' sum by weights, (B, codes, ...) to (B, latent_dim, ...)."""
        with without_autocast(y.device):
            return (y.movedim(1, -1) @ at_least_float32(self.vectors)).movedim(-1, 1)

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        """The most probable codes."""
        return self.log_probabilities(self.prepared(h)).argmax(dim=1)

    def lookup(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, at_least_float32(self.vectors)).movedim(-1, 1)

    @torch.no_grad()
    def indices_of(self, code: Tensor) -> Tensor:
        code = self.prepared(code)
        found = nearest_rows(rows_of(code), at_least_float32(self.vectors))
        return found.view(code.shape[0], *code.shape[2:])

    def through(self, h: Tensor, e: Tensor) -> Tensor:
        """`e`, with the gradient of the vectors' sum by their probabilities."""
        return straight_through(self.mixed(self.log_probabilities(h).exp()), e)
