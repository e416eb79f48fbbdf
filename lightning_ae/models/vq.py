"""Autoencoders whose codes are those of a codebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_ae.architectures import MLP, Architecture, ConvNet
from lightning_ae.autoencoder import Autoencoder, LikelihoodOptions
from lightning_ae.config import from_plain, to_plain
from lightning_ae.errors import InputError
from lightning_ae.parts.corruptions import Corruption
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.moves import Geometry
from lightning_ae.parts.quantizers import Quantizer, VectorQuantizer
from lightning_ae.parts.sampling import Space
from lightning_ae.scores import Coded
from lightning_ae.shapes import fits, is_any


class VQOptions(LikelihoodOptions, total=False):
    """What it passes on to `Autoencoder`."""

    corruption: Corruption | None


class VQVAE(Autoencoder):
    r"""The vector-quantised autoencoder (van den Oord, Vinyals & Kavukcuoglu 2017).

    Each vector :math:`h` of the encoder's output, one at each position of a map, becomes the nearest of a codebook's,
    :math:`e`: a code is a field of indices. With :math:`\mathrm{sg}` for no gradient, it minimises

    .. math:: -\log p(x \mid z) + \beta\, |h - \mathrm{sg}(e)|^2, \qquad z = h + \mathrm{sg}(e - h),

    summed over positions (the paper takes their mean) and averaged over samples: the decoder's gradient goes straight
    through to the encoder, and the second term, the commitment, keeps the encoder near the codebook. The codebook is
    the quantizer's; by default the running means of what was quantised to each of its vectors.

    `encode` gives the quantised vectors, `encode_indices` their indices. There is no distribution over indices to
    sample from until one is fitted: `lightning_ae.samplers.fit_sampler(model, data, IndexSampler())`.

    Args:
        latent_dim: the values of each vector.
        architecture: builds the encoder and the decoder; by default ConvNet(code="map") for images (channels, height,
            width), and MLP(tokens=8) for anything else.
        quantizer: the codebook, a quantizer of `lightning_ae.parts`.
    """

    reference: ClassVar[str] = "van den Oord, Vinyals & Kavukcuoglu 2017, https://arxiv.org/abs/1711.00937"
    latents: ClassVar[tuple[str, ...]] = ("mean", "indices")

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        architecture: Architecture | None = None,
        quantizer: Quantizer = VectorQuantizer(),
        **options: Unpack[VQOptions],
    ) -> None:
        if architecture is None:
            architecture = ConvNet(code="map") if len(input_shape) == 3 else MLP(tokens=8)
        super().__init__(input_shape, latent_dim, architecture=architecture, **options)
        self.save_hyperparameters({"architecture": to_plain(self.architecture, "architecture")})
        self.quantizer = from_plain(Quantizer, quantizer, "quantizer")
        self.codebook = self.quantizer.build(self.latent_dim)

    @classmethod
    def of_earlier(cls, init_args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in a file; an earlier version wrote null for the architecture that it chose."""
        chosen = dict(init_args)
        if "architecture" in chosen and chosen["architecture"] is None:
            of_image = len(chosen["input_shape"]) == 3
            old = ConvNet(code="map", **ConvNet.earlier) if of_image else MLP(tokens=8)
            chosen["architecture"] = to_plain(old, "architecture")
        return chosen

    def hidden(self, x: Tensor, **given: Tensor) -> Tensor:
        """What is quantised: (B, *input_shape) to (B, *code_shape), in float32 at least."""
        self.check_given(given)
        return at_least_float32(self.encoder(x))

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The quantised code: (B, *input_shape) to (B, *code_shape)."""
        z: Tensor = self.codebook(self.hidden(x, **given))[0]
        return z.to(self.dtype)

    def encode_indices(self, x: Tensor, **given: Tensor) -> Tensor:
        """The index of the codebook's vector at each position: (B, *input_shape) to (B, *code_shape[1:]), int64."""
        return self.codebook.nearest(self.hidden(x, **given))

    def decode_indices(self, indices: Tensor, **given: Tensor) -> Tensor:
        """What `decode` makes of the vectors that indices stand for: (B, *code_shape[1:]) to (B, *input_shape).

        Raises:
            InputError: when they are no integers, are not so many, or not all in 0, ..., codes - 1.
        """
        codes = self.quantizer.codes
        positions = self.input_shape[1:] if is_any(self.input_shape) else self.code_shape[1:]  # any, or these
        if indices.is_floating_point() or indices.dtype == torch.bool or not fits(indices.shape[1:], positions):
            raise InputError(
                f"indices must be integers (B, {', '.join(map(str, positions))}), got {indices.dtype} of the shape "
                f"{tuple(indices.shape)}",
                "encode_indices gives such",
            )
        if ((indices < 0) | (indices >= codes)).any():
            lowest, highest = int(indices.min()), int(indices.max())
            raise InputError(f"indices must lie in 0, ..., {codes - 1}, got some from {lowest} to {highest}")
        return self.decode(self.codebook.lookup(indices.long()).to(self.dtype), **given)

    @property
    def code_space(self) -> Space:
        """An index at each position."""
        return Space(math.prod(self.code_shape[1:]), self.quantizer.codes)

    @property
    def geometry(self) -> Geometry:
        """Vectors of a codebook are of a finite number."""
        return "discrete"

    def between(self, a: Any, b: Any, t: Tensor) -> Tensor:
        """Refused: codes are vectors of a codebook, and nothing lies between them.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"codes of {type(self).__name__} are indices of a codebook, between which nothing lies",
            "take a model whose codes are numbers, such as Autoencoder or VAE",
        )

    def coordinates(self, code: Any) -> Tensor:
        """The indices of quantised codes (B, *code_shape), row by row, (B, positions), int64."""
        return self.codebook.nearest(code).reshape(code.shape[0], -1)

    def from_coordinates(self, values: Tensor) -> Tensor:
        """The vectors that indices (B, positions) stand for, (B, *code_shape)."""
        return self.codebook.lookup(values.view(-1, *self.code_shape[1:]))

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss", and its terms "reconstruction" and those of the quantizer, in nats per sample.

        Also "perplexity", how many codes the batch of all ranks uses, so to speak. In training mode the quantizer is
        updated, after the batch was quantised.
        """
        return self.loss_of(self.hidden(x, **given), target, **given)

    def loss_of(self, h: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The same, of what is quantised, (B, *code_shape)."""
        z, indices, terms = self.codebook(h)
        decoded = self.judged(z, target, **given)
        if self.training:
            self.codebook.update(h, indices, self.noise("codebook"))
        loss = sum(terms.values(), decoded["loss"])
        return {**decoded, "loss": loss, **terms, "perplexity": self.codebook.perplexity(indices)}

    def judged(self, z: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms of what codes (B, *code_shape) decode to, and their total "loss"; a variant may have more."""
        reconstruction = self.reconstruction_loss(z, target, **given)
        return {"loss": reconstruction, "reconstruction": reconstruction}

    def coded(self, x: Tensor, draws: int = 1, **given: Tensor) -> Iterator[Coded]:
        """The quantised code; its indices cost what `rate` says, which makes the score a bound."""
        yield Coded(self.encode(x, **given), self.rate(x, **given) * math.log(2))

    def rate(self, x: Tensor, **given: Tensor) -> Tensor:
        """The bits of each sample's indices, all as likely as each other: positions * log2(codes), (B,)."""
        self.check_given(given)
        bits = math.prod(self.code_shape_of(x.shape[1:])[1:]) * math.log2(self.quantizer.codes)
        return torch.full((x.shape[0],), bits, dtype=self.dtype, device=self.device)
