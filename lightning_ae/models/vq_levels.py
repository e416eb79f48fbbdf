"""The quantised autoencoder of two levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures import Architecture, ConvNet, SequenceNet
from lightning_ae.config import to_plain
from lightning_ae.errors import InputError
from lightning_ae.models.vq import VQVAE, Level, Quantise, VQOptions
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.quantizers import Codebook, Quantizer
from lightning_ae.parts.spectral import MultiScaleSpectral
from lightning_ae.parts.vector_quantizers import VectorQuantizer
from lightning_ae.scores import asked
from lightning_ae.shapes import is_any
from lightning_ae.training.weights import weights_type


class TwoLevelOptions(VQOptions, total=False):
    """What it passes on to `VQVAE`."""

    architecture: Architecture | None
    spectral: MultiScaleSpectral | None


class VQVAE2(VQVAE):
    r"""A quantised code on each of two levels, of which the upper one has half as many positions each way.

    Of Razavi, van den Oord & Vinyals (2019). The encoder gives a map f; a further stage makes the upper level of it,
    which is quantised first, and the lower one is of f and of what a stage downwards makes of the upper one:

    .. math:: z_2 = Q_2(\mathrm{up}(f(x))), \quad d = \mathrm{down}(z_2), \quad z_1 = Q_1(A\,[f(x), d]), \quad
        -\log p(x \mid z_1, d) + \beta \sum_l |h_l - \mathrm{sg}(z_l)|^2 .

    The decoder sees z_1 and d beside each other; in the paper it enlarges z_2 by a layer of its own. Sizes that are odd
    are rounded up, and restored; images of any size come in multiples of twice what the architecture takes.

    `encode` gives a tuple (z_1, z_2), the level next to the data first, `encode_indices` their indices; `decode` and
    `decode_indices` take such tuples. A sampler sees the upper level's indices first.

    Args:
        latent_dim: the values of each vector, on both levels.
        width: the channels of f and d.
        architecture: builds the encoder and the decoder; its code must be a map or tokens.
        quantizer: of each level, which have codebooks of their own.
    """

    reference: ClassVar[str] = "Razavi, van den Oord & Vinyals 2019, https://arxiv.org/abs/1906.00446"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        width: int = 64,
        quantizer: Quantizer = VectorQuantizer(),
        **options: Unpack[TwoLevelOptions],
    ) -> None:
        self.width = to_plain(width, "width")
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise InputError(f"width must be a positive integer, got {width!r}")
        super().__init__(input_shape, latent_dim, quantizer=quantizer, **options)
        with asked(self):
            shape: tuple[Any, ...] = tuple(self.encoder(self.new_inputs(1)).shape[1:])
        stage = self._stage(shape)
        if is_any(self.input_shape):
            shape = (shape[0], None, None)
        self.up, self.down = stage.encoder(shape, self.latent_dim), stage.decoder(self.latent_dim, shape)
        self.both = nn.Linear(2 * self.width, self.latent_dim)
        self.upper_codebook = self.quantizer.build(self.latent_dim)

    def _stage(self, shape: tuple[int, ...]) -> Architecture:
        """The network between the levels: it halves a map (width, h, w) or tokens (width, n)."""
        if len(shape) not in (2, 3) or max(shape[1:]) < 2:
            raise InputError(
                f"{type(self).__name__} cannot serve input_shape {self.input_shape} with {self.architecture}, whose "
                f"code of shape {shape} has no positions to halve for an upper level",
                "use ConvNet(code='map') with fewer channels, SequenceNet(code='map') or MLP(tokens=8)",
            )
        if len(shape) == 2:
            return SequenceNet(channels=(self.width,), dilations=(1,), norm="none", code="map")
        return ConvNet(channels=(self.width,), code="map")

    @property
    def multiple(self) -> int | None:
        """Twice the architecture's: the upper level halves the lower one's height and width."""
        own = super().multiple
        return None if own is None else 2 * own

    @property
    def encoder_features(self) -> int:
        """Those of the map of which both levels are made."""
        return self.width

    @property
    def code_features(self) -> int:
        """Those of the lower level, and of what is made of the upper one."""
        return self.latent_dim + self.width

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """Those of both levels, the lower one's first."""
        return (self.codebook, self.upper_codebook)

    def levels(self, x: Tensor, quantise: Quantise) -> tuple[Level, ...]:
        """Both levels, the lower one first: of (B, *input_shape)."""
        f = self.encoder(x)
        upper = quantise(self.upper_codebook, at_least_float32(self.up(F.relu(f))))
        beside = torch.cat([f, self._below(upper.code).to(f.dtype)], dim=1)
        h = self.both(beside.movedim(1, -1)).movedim(-1, 1)
        return quantise(self.codebook, at_least_float32(h)), upper

    def joined(self, parts: Sequence[Tensor]) -> Any:
        """A tuple."""
        return tuple(parts)

    def decoder_parameters(self, z: Any, **given: Tensor) -> Tensor:
        """The parameters of p(x | z): of a tuple of codes, (B, likelihood.num_parameters, *input_shape).

        Raises:
            InputError: when it is no tuple of two.
        """
        if not isinstance(z, tuple) or len(z) != 2:
            raise InputError(
                f"{type(self).__name__} decodes a tuple of 2 codes, one for each level, got {type(z).__name__}"
                f"{f' of {len(z)}' if isinstance(z, tuple) else ''}",
                "encode(x) gives one",
            )
        lower = z[0].to(weights_type(self.decoder, self))
        return super().decoder_parameters(torch.cat([lower, self._below(z[1]).to(lower.dtype)], dim=1), **given)

    def _below(self, upper: Tensor) -> Tensor:
        return self.down(upper.to(weights_type(self.down, self)))
