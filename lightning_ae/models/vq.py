"""Autoencoders whose codes are those of a codebook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from lightning_ae.parts.quantizers import Codebook, Quantizer
from lightning_ae.parts.sampling import Space
from lightning_ae.parts.spectral import MultiScaleSpectral
from lightning_ae.parts.vector_quantizers import VectorQuantizer
from lightning_ae.scores import Coded
from lightning_ae.shapes import fits, is_any, least


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
    the quantizer's; by default the running means of what was quantised to each of its vectors. Other quantizers have
    other terms, or none, and may have several indices at each position; what follows holds of each.

    `encode` gives the quantised vectors, `encode_indices` their indices, `decode_indices` leads back. There is no
    distribution over indices to sample from until one is fitted: `lightning_ae.samplers.fit_sampler(model, data,
    IndexSampler())`.

    Args:
        latent_dim: the values of each vector.
        architecture: builds the encoder and the decoder; by default ConvNet(code="map") for images (channels, height,
            width), and MLP(tokens=8) for anything else.
        quantizer: the codebook, a quantizer of `lightning_ae.parts`.
        spectral: of sound and other sequences, how far apart spectra of input and reconstruction are, added to the
            loss as the term "spectral".
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
        spectral: MultiScaleSpectral | None = None,
        **options: Unpack[VQOptions],
    ) -> None:
        default = ConvNet(code="map") if len(input_shape) == 3 else MLP(tokens=8)
        chosen = default if architecture is None else architecture
        super().__init__(input_shape, latent_dim, architecture=chosen, **options)
        self.save_hyperparameters({"architecture": to_plain(self.architecture, "architecture")})
        self.quantizer = from_plain(Quantizer, quantizer, "quantizer")
        self.codebook = self.quantizer.build(self.latent_dim)
        self.spectral = None if spectral is None else from_plain(MultiScaleSpectral, spectral, "spectral")
        if self.spectral is not None:
            self.spectral.check(self.input_shape)

    @classmethod
    def of_earlier(cls, init_args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in a file; an earlier version wrote null for the architecture that it chose."""
        chosen = dict(init_args)
        if "architecture" in chosen and chosen["architecture"] is None:
            of_image = len(chosen["input_shape"]) == 3
            old = ConvNet(code="map", **ConvNet.earlier) if of_image else MLP(tokens=8)
            chosen["architecture"] = to_plain(old, "architecture")
        return chosen

    # ---- levels --------------------------------------------------------------------------------------------------

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """Those of all levels, the lowest first."""
        return (self.codebook,)

    def levels(self, x: Tensor, quantise: Quantise) -> tuple[Level, ...]:
        """The levels of a code, the lowest first: of (B, *input_shape).

        Args:
            x: what the encoder sees.
            quantise: what a codebook makes of the encoder's output (B, latent_dim, ...).
        """
        return (quantise(self.codebook, at_least_float32(self.encoder(x))),)

    def joined(self, parts: Sequence[Tensor]) -> Any:
        """What `encode` gives, of the levels' codes or indices: here the only one."""
        return parts[0]

    @property
    def index_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each level's indices, without the batch, where samples are of one shape."""
        return self.index_shapes_of(self.input_shape)

    def index_shapes_of(self, input_shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The shape of each level's indices, without the batch, of a sample of that shape."""
        found = self.code_shape_of(input_shape)
        shapes = found if isinstance(found[0], tuple) else (found,)
        return tuple(
            shape[1:] if book.depth == 1 else (book.depth, *shape[1:])
            for book, shape in zip(self.codebooks, shapes, strict=True)
        )

    # ---- codes and indices ---------------------------------------------------------------------------------------

    def encode(self, x: Tensor, **given: Tensor) -> Any:
        """The quantised code: (B, *input_shape) to (B, *code_shape), or a tuple of codes."""
        self.check_given(given)
        found = self.levels(x, lambda book, h: Level(h, book.quantised(h)))
        return self.joined([level.code.to(self.dtype) for level in found])

    def encode_indices(self, x: Tensor, **given: Tensor) -> Any:
        """The indices of the code, int64: (B, *input_shape) to (B, *code_shape[1:]), one at each position.

        Of a quantizer with several at each position (B, depth, *code_shape[1:]); of several levels a tuple of such.
        """
        self.check_given(given)
        found = self.levels(x, with_indices)
        return self.joined([level.indices for level in found])

    def decode_indices(self, indices: Any, **given: Tensor) -> Tensor:
        """What `decode` makes of the vectors that indices stand for: as `encode_indices` gives them to data units.

        Raises:
            InputError: when they are no integers, are not so many, or not all in 0, ..., codes - 1.
        """
        return self.decode(self.joined([part.to(self.dtype) for part in self._looked_up(indices)]), **given)

    def _looked_up(self, indices: Any) -> list[Tensor]:
        several = len(self.codebooks) > 1
        parts = indices if several else (indices,)
        if not isinstance(parts, tuple | list) or len(parts) != len(self.codebooks):
            raise InputError(
                f"indices of {type(self).__name__} must be a tuple of {len(self.codebooks)}, a tensor for each level, "
                f"got {type(indices).__name__}",
                "encode_indices gives such",
            )
        wanted: Any = self.index_shapes_of(least(self.input_shape, self.multiple))
        if is_any(self.input_shape):
            wanted = [(*shape[:-2], None, None) for shape in wanted]
        for part, shape, book in zip(parts, wanted, self.codebooks, strict=True):
            _check_indices(part, shape, book.codes)
        return [book.lookup(part.long()) for book, part in zip(self.codebooks, parts, strict=True)]

    @property
    def code_space(self) -> Space:
        """An index at each position, or several; of all levels."""
        return Space(sum(map(math.prod, self.index_shapes)), self.codebook.codes)

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
        """The indices of quantised codes (B, *code_shape), row by row, (B, units), int64; the highest level's first.

        Of a residual quantizer those that stand for the code nearest to it by its search, which may be others than it
        was made of; `coordinates_of` gives those of inputs.
        """
        parts = code if isinstance(code, tuple) else (code,)
        return self._flat([book.indices_of(part) for book, part in zip(self.codebooks, parts, strict=True)])

    def coordinates_of(self, x: Tensor, **given: Tensor) -> Tensor:
        """The indices of inputs' codes, row by row: (B, *input_shape) to (B, units), int64."""
        self.check_given(given)
        return self._flat([level.indices for level in self.levels(x, with_indices)])

    def from_coordinates(self, values: Tensor) -> Any:
        """The vectors that indices (B, units) stand for, (B, *code_shape)."""
        shapes = self.index_shapes[::-1]
        parts = values.split([math.prod(shape) for shape in shapes], dim=1)
        found = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        return self.joined([book.lookup(part) for book, part in zip(self.codebooks, found[::-1], strict=True)])

    def _flat(self, indices: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.reshape(part.shape[0], -1) for part in reversed(indices)], dim=1)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss", and its terms "reconstruction" and those of the quantizer, in nats per sample.

        Also "perplexity", how many codes the batch of all ranks uses, so to speak; of several levels the mean. In
        training mode the quantizer is updated, after the batch was quantised.
        """
        self.check_given(given)
        scale = self.scheduled(self.quantizer.schedule)

        def quantise(book: Codebook, h: Tensor) -> Level:
            code, indices, terms = book(h, self.noise("quantiser") if self.training else None, scale)
            return Level(h, code, indices, terms)

        found = self.levels(x, quantise)
        decoded = self.judged(self.joined([level.code for level in found]), target, **given)
        terms = _summed([level.terms for level in found])
        if self.training:
            self.learn(found)
        perplexities = [book.perplexity(level.indices) for book, level in zip(self.codebooks, found, strict=True)]
        loss = sum(terms.values(), decoded["loss"])
        perplexity = torch.stack(perplexities).mean().to(at_least_float32(loss).dtype)
        return {**decoded, "loss": loss, **terms, "perplexity": perplexity}

    def judged(self, z: Any, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms of what codes (B, *code_shape) decode to, and their total "loss"; a variant may have more."""
        given = self.completed(target, given)
        parameters = self.decoder_parameters(z, **given)
        reconstruction = -self.log_prob(parameters, target, **given).mean()
        terms = {"loss": reconstruction, "reconstruction": reconstruction}
        if self.spectral is not None:
            made = self.likelihood.mean(parameters)
            terms["spectral"] = self.spectral.weight * self.spectral(made, target).mean()
            terms["loss"] = terms["loss"] + terms["spectral"]
        return terms

    def learn(self, levels: Sequence[Level]) -> None:
        """What a training batch changes in the codebooks besides the optimizer's step, after it was quantised."""
        for book, level in zip(self.codebooks, levels, strict=True):
            book.update(level.hidden, level.indices, self.noise("codebook"))

    def coded(self, x: Tensor, draws: int = 1, **given: Tensor) -> Iterator[Coded]:
        """The quantised code; its indices cost what `rate` says, which makes the score a bound."""
        yield Coded(self.encode(x, **given), self.rate(x, **given) * math.log(2))

    def rate(self, x: Tensor, **given: Tensor) -> Tensor:
        """The bits of each sample's indices, all as likely as each other: how many * log2(codes), (B,)."""
        self.check_given(given)
        shapes = self.index_shapes_of(x.shape[1:])
        bits = sum(map(math.prod, shapes)) * math.log2(self.codebook.codes)
        return torch.full((x.shape[0],), bits, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Level:
    """A level of a code.

    Args:
        hidden: what the encoder gave, (B, latent_dim, ...).
        code: what it became, of the same shape.
        indices: of the code, (B, ...) or (B, depth, ...).
        terms: what the codebook adds to the loss.
    """

    hidden: Tensor
    code: Tensor
    indices: Any = None
    terms: dict[str, Tensor] = field(default_factory=dict)


Quantise = Callable[[Codebook, Tensor], Level]


def with_indices(book: Codebook, h: Tensor) -> Level:
    """A level as it is in evaluation, of the encoder's output (B, latent_dim, ...)."""
    indices = book.nearest(h)
    return Level(h, book.lookup(indices), indices)


def _summed(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sums of terms of the same name."""
    found: dict[str, Tensor] = {}
    for each in terms:
        for name, value in each.items():
            found[name] = found[name] + value if name in found else value
    return found


def _check_indices(indices: Any, shape: tuple[int | None, ...], codes: int) -> None:
    whole = isinstance(indices, Tensor) and not indices.is_floating_point() and indices.dtype != torch.bool
    if not whole or not fits(indices.shape[1:], shape):
        got = f"{indices.dtype} of the shape {tuple(indices.shape)}" if isinstance(indices, Tensor) else repr(indices)
        wanted = ", ".join("any" if n is None else str(n) for n in ("B", *shape))
        raise InputError(f"indices must be integers ({wanted}), got {got}", "encode_indices gives such")
    if ((indices < 0) | (indices >= codes)).any():
        lowest, highest = int(indices.min()), int(indices.max())
        raise InputError(f"indices must lie in 0, ..., {codes - 1}, got some from {lowest} to {highest}")
