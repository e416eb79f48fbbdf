"""The top-down variational autoencoder: levels on a residual path from the top to the data."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.architectures import MLP
from lightning_ae.models.hierarchical import Hierarchy
from lightning_ae.parts.posteriors import DiagonalNormal


class TopDownVAE(Hierarchy):
    r"""Codes on several levels, each added to a path down to the data, from which those below it are inferred.

    A small one of the kind of NVAE (Vahdat & Kautz 2020) and of the very deep VAE (Child 2021), on vectors. The levels
    generate the data from the top down, all of them through a state h that each adds to,

    .. math:: p(x, z) = p(x \mid h_1) \prod_{i < L} p(z_i \mid h_{i+1}) \, p(z_L), \quad p(z_L) = N(0, I),

    .. math:: h'_i = h_{i+1} + R_i z_i, \quad h_i = h'_i + f_i(h'_i), \quad h_{L+1} = 0,

    so that each level sees all levels above it, and the data all levels. A deterministic pass upwards gives
    :math:`b_1 = e(x)`, :math:`b_{i+1} = b_i + g_i(b_i)`; on the way down, the posterior of a level sees both what the
    data say of it and the state,

    .. math:: q(z_i \mid z_{>i}, x) = N(\mu_i(h_{i+1}, b_i), \sigma_i^2(h_{i+1}, b_i)), \quad
        q(z_L \mid x) = N(\mu_L(b_L), \sigma_L^2(b_L)).

    It minimises, by one draw of all levels,

    .. math:: -\mathbb E_q [\log p(x \mid h_1)]
        + \beta \sum_i \mathbb E_q\, KL(q(z_i \mid z_{>i}, x) \,\|\, p(z_i \mid z_{>i})).

    With two levels it is the two-level model whose data see both codes, :math:`p(x \mid z_1, z_2)`, of Tomczak &
    Welling (2018). In the papers levels are maps of several sizes, the top's prior is learned, and there are
    tens of levels; here they are vectors, whatever the architecture makes them of. `LadderVAE` is the model whose data
    see the first level alone.

    The architecture builds e, from x to `width` values, and the decoder, from h_1; its code must be a vector. All else
    is fully connected with one hidden layer of `width` leaky rectified units, but for R, which is linear.

    `encode` gives a tuple (z_1, ..., z_L) of means, each given the means above it; `decode` takes such a tuple.

    Args:
        width: of the state, and of the fully connected networks between levels.
        likelihood: p(x | h_1), the distribution whose parameters the decoder gives; by default a Gaussian that has the
            scale of its errors (Rybkin et al. 2021).
    """

    reference: ClassVar[str] = "Child 2021, https://arxiv.org/abs/2011.10650"

    def build_levels(self) -> None:
        """A posterior and a place on the path of each level; a stage upwards and a prior of each but the top."""
        mlp = MLP(hidden=(self.width,), activation="leaky_relu")
        lower, every = self.dims[:-1], range(len(self.dims))
        self.stages = nn.ModuleList(mlp.encoder((self.width,), self.width) for _ in lower)
        self.priors = nn.ModuleList(mlp.encoder((self.width,), 2 * dim) for dim in lower)
        self.posteriors = nn.ModuleList(mlp.encoder((2 * self.width,), 2 * dim) for dim in lower)
        self.posteriors.append(mlp.encoder((self.width,), 2 * self.dims[-1]))
        self.reads = nn.ModuleList(nn.Linear(dim, self.width) for dim in self.dims)
        self.paths = nn.ModuleList(mlp.encoder((self.width,), self.width) for _ in every)

    @property
    def encoder_features(self) -> int:
        """The width of the pass upwards."""
        return self.width

    @property
    def code_features(self) -> int:
        """What the decoder takes: the width of the state."""
        return self.width

    def evidence(self, x: Tensor, **given: Tensor) -> list[Tensor]:
        """The pass upwards: (B, *input_shape) to (B, width) for each level, the lowest first."""
        self.check_given(given)
        found = [self.encoder(x)]
        for stage in self.stages:
            found.append(found[-1] + stage(F.leaky_relu(found[-1])))
        return found

    def prior(self, i: int, state: Tensor) -> DiagonalNormal:
        """p(z_i | h_{i+1}), of levels counted from 0."""
        return self.posterior(self.priors[i](F.leaky_relu(state)))

    def inferred(self, i: int, evidence: Tensor, p: DiagonalNormal | None, state: Tensor | None) -> DiagonalNormal:
        """From what the pass upwards says of the level, beside the state."""
        seen = evidence if state is None else torch.cat([evidence, state], dim=1)
        return self.posterior(self.posteriors[i](F.leaky_relu(seen)))

    def below(self, i: int, state: Tensor | None, code: Tensor) -> Tensor:
        """h_i, (B, width)."""
        read = self.reads[i](code.to(self.dtype))
        added: Tensor = read if state is None else state + read
        return added + self.paths[i](F.leaky_relu(added))
