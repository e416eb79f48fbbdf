"""Lossy compression: codes of images of any size as small files, and images of those again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval
from lightning_ae.config import Configurable, to_plain
from lightning_ae.errors import InputError
from lightning_ae.models.vq import VQVAE, with_indices
from lightning_ae.natural import image_of, image_units
from lightning_ae.preprocess import LUMA
from lightning_ae.shapes import is_any
from lightning_ae.shards import hash_of, identity_of
from lightning_ae.uses.compressed import DIGEST, Code, Compressed, CompressedIndices

BITS = 8
"""Of each number of a code, unless one says otherwise."""


class Codec:
    """A model as a codec of images of any size.

    - Images are padded below and to the right, by their last row and column, to multiples of the model's stride, and
      cut to their size again.
    - Each channel of a code is quantised between its smallest and largest value in the image to 2^bits equally spaced
      levels. Of a model with a codebook the indices are kept as they are, and the image that comes back is what
      `decode_indices` makes of them.
    - A grey image goes through a model of colour as three equal channels, and comes back as their luma.

    Args:
        model: of images of any size, whose codes are maps of numbers, or indices of codebooks.
        name: what it is called, for files.

    Raises:
        InputError: for another model.
    """

    def __init__(self, model: Autoencoder, name: str = "") -> None:
        cls = type(model).__name__
        if not is_any(model.input_shape) or model.given:
            raise InputError(
                f"{cls} takes {'more than its input' if model.given else f'images of {model.input_shape}'}, where a "
                "codec takes images of any size and nothing else",
                "take the zoo's ae_tiny.taef2_v1, or train a model with input_shape=(3, None, None)",
            )
        self._indexed = model if isinstance(model, VQVAE) else None
        if self._indexed is None and isinstance(model.code_shape_of(model.new_inputs(1).shape[1:])[0], tuple):
            raise InputError(
                f"the codes of {cls} are several, where a codec quantises a map of numbers",
                "take a model such as Autoencoder, VAE or VQVAE",
            )
        if model.signature is None:
            raise InputError(f"{cls} does not say what images it takes", "set model.preprocess, or fit a data module")
        self.model, self.name = model.eval(), name
        architecture = hash_of({"architecture": to_plain(model.architecture, "architecture")})
        about = {**identity_of(model), "architecture": architecture}
        if self._indexed is not None:
            about["quantizer"] = hash_of({"quantizer": _chosen(self._indexed.quantizer)})
        self.identity = bytes.fromhex(hash_of(about))[:DIGEST]
        """16 bytes that tell the model from every other."""

    @property
    def has_indices(self) -> bool:
        """Whether codes are indices, and not numbers."""
        return self._indexed is not None

    def compress(self, image: Any, bits: int | None = None) -> Code:
        """The code of one image, a PIL image or an array as `Autoencoder.features` takes it.

        Args:
            image: grey or colour, without transparency, of which a code knows nothing.
            bits: of each number of the code, 1 to 8, by default 8; of indices there is nothing to choose.

        Raises:
            InputError: for an image that cannot be had again, and for bits of indices.
        """
        return self.compress_each(image, [bits])[0]

    @torch.no_grad()
    def compress_each(self, image: Any, bits: Sequence[int | None]) -> list[Code]:
        """The same in each number of bits, by one pass of the encoder."""
        for each in bits:
            self._check_bits(each)
        if _is_transparent(image):
            raise InputError("the image is transparent in parts, which no code keeps", "give image.convert('RGB')")
        x = image_units(image_of(image, 0)[None])
        size = (x.shape[2], x.shape[3])
        grey = x.shape[1] == 1 and self.model.input_shape[0] == 3
        for dim, whole in enumerate(self._padded(size), start=2):
            x = x.index_select(dim, torch.arange(whole, device=x.device).clamp(max=x.shape[dim] - 1))
        x = x.expand(-1, 3, -1, -1) if grey else x
        about = (size, grey, self.identity, self.name)
        if self._indexed is not None:
            return [CompressedIndices(_indices(self._indexed, x), _codes(self._indexed), *about)] * len(bits)
        code = self.model.features(x, pooled=False)[0].float().cpu()
        _check_finite(code)
        return [Compressed(*_quantised(code, each or BITS), *about) for each in bits]

    def check(self, code: Code) -> None:
        """Refuses a code that is not of this model.

        Raises:
            InputError: saying whose it is.
        """
        if code.model != self.identity:
            raise InputError(
                f"the code is of another model, {code.name or 'one without a name'} ({code.model.hex()}), than "
                f"{self.name or 'this'} ({self.identity.hex()})",
                "decode with the model that it was encoded by",
            )
        shape = (self.model.input_shape[0], *self._padded(code.size))
        found: Any
        wanted: Any
        if isinstance(code, CompressedIndices):
            assert self._indexed is not None
            found = *(part.shape for part in code.indices), code.codes
            wanted = *((1, *each)[-3:] for each in self._indexed.index_shapes_of(shape)), _codes(self._indexed)
        else:
            found, wanted = code.levels.shape, self.model.code_shape_of(shape)
        if found != wanted:
            raise InputError(f"a code of {found} is none of an image of {code.size[0]} x {code.size[1]}")

    @torch.no_grad()
    def decompress(self, code: Code) -> np.ndarray:
        """The image again, uint8: (H, W, 3), or (H, W) in grey.

        Raises:
            InputError: for a code of another model.
        """
        self.check(code)
        made = to_unit_interval(self.model, self._decoded(code)).float().cpu()
        image: Tensor = made[0, :, : code.size[0], : code.size[1]]
        if code.grey:
            image = (image * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
        found: np.ndarray = (255 * image).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return found[:, :, 0] if found.shape[2] == 1 else found

    def _decoded(self, code: Code) -> Tensor:
        """What the model makes of it, in its data units."""
        model = self.model
        if isinstance(code, CompressedIndices):
            assert self._indexed is not None
            of_books = zip(self._indexed.codebooks, code.indices, strict=True)
            parts = [torch.from_numpy(part if book.depth > 1 else part[0])[None] for book, part in of_books]
            return self._indexed.decode_indices(self._indexed.joined([part.to(model.device) for part in parts]))
        low, step, levels = (torch.from_numpy(each.copy()) for each in (code.low, code.step, code.levels))
        z = (low[:, None, None] + levels * step[:, None, None])[None]
        return model.decode(z.to(model.device, model.dtype))

    def _check_bits(self, bits: Any) -> None:
        if bits is None:
            return
        if self.has_indices:
            raise InputError(
                f"bits are of codes that are numbers, and those of {type(self.model).__name__} are indices, which are "
                "kept as they are",
                "leave bits out",
            )
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
            raise InputError(f"bits must be a number from 1 to 8, got {bits!r}")

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width to which an image is padded."""
        assert (m := self.model.multiple) is not None
        return -(-size[0] // m) * m, -(-size[1] // m) * m


def _indices(model: VQVAE, x: Tensor) -> tuple[np.ndarray, ...]:
    """Those of an image in natural units (1, C, H, W), of each level (depth, h, w)."""
    units, _, _ = model.read_natural(x, {})
    levels = model.levels(units, with_indices)
    for level in levels:
        _check_finite(level.hidden)
    of_books = zip(model.codebooks, levels, strict=True)
    return tuple(each.indices[0].reshape(book.depth, *each.indices.shape[-2:]).cpu().numpy() for book, each in of_books)


def _codes(model: VQVAE) -> tuple[int, ...]:
    """Of each level, how many values an index has."""
    return tuple(book.codes for book in model.codebooks)


def _check_finite(code: Tensor) -> None:
    if not code.isfinite().all():
        raise InputError("the code of the image is not finite", "the model's weights, or their type, are of no use")


def _quantised(code: Tensor, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The levels of a code (channels, h, w), low and step of each channel, and the bits."""
    low, high = code.amin((1, 2)), code.amax((1, 2))
    step = (high - low) / (2**bits - 1)
    levels = (code - low[:, None, None]) / step.where(step > 0, 1.0)[:, None, None]
    return levels.round().to(torch.uint8).numpy(), low.numpy(), step.numpy(), bits


def _chosen(part: Configurable) -> dict[str, Any]:
    """What of a part's options is not as by default, so that one which is new changes nothing."""
    found = {field.name: (getattr(part, field.name), field.default) for field in dataclasses.fields(part)}  # type: ignore[arg-type]
    chosen = {name: value for name, (value, default) in found.items() if value != default}
    return {"class": type(part).__name__} | {
        name: _chosen(value) if isinstance(value, Configurable) else to_plain(value, name)
        for name, value in chosen.items()
    }


def psnr(image: Any, again: np.ndarray) -> float:
    """The peak signal-to-noise ratio of an image of bytes, in dB; 100 at most."""
    given = image_of(image, 0).double()
    other = image_of(again, 0).double()
    error = float((given - other).square().mean()) / 255**2
    return min(100.0, -10 * math.log10(error)) if error > 0 else 100.0


def _is_transparent(image: Any) -> bool:
    """Whether a PIL image has pixels that are not opaque."""
    mode = getattr(image, "mode", "")
    if not isinstance(mode, str) or not ("transparency" in getattr(image, "info", {}) or mode[-1:] in ("A", "a")):
        return False
    return bool(image.convert("RGBA").getextrema()[3][0] < 255)
