"""Lossy compression: codes of images of any size as small files, and images of those again."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval
from lightning_ae.config import to_plain
from lightning_ae.errors import InputError
from lightning_ae.natural import image_of, image_units
from lightning_ae.preprocess import LUMA
from lightning_ae.shapes import is_any
from lightning_ae.shards import hash_of, identity_of

MAGIC, LEVEL, DIGEST = b"LAEC\x01", 19, 16
HEAD = struct.Struct("<5sBBHIIII16sB")  # magic, bits, grey, channels, code's and image's height and width, model, name
MOST_VALUES = 1 << 31


@dataclass(frozen=True)
class Compressed:
    """The code of an image in whole numbers, as a file holds it.

    A value of channel c is `low[c] + levels * step[c]`. The file is a header (`HEAD`, the model's name, low and step in
    float32), the levels channel by channel and row by row, a byte each, as Zstandard packs them
    (https://www.rfc-editor.org/rfc/rfc8878), and a checksum of all that: the first 16 bytes of BLAKE2b.

    Args:
        levels: (channels, h, w), uint8.
        low: of each channel, (channels,), float32.
        step: likewise.
        bits: of each level.
        size: height and width of the image.
        grey: whether it was grey, and the model takes colour.
        model: 16 bytes that tell the model from every other.
        name: what the model was called.
    """

    levels: np.ndarray
    low: np.ndarray
    step: np.ndarray
    bits: int
    size: tuple[int, int]
    grey: bool
    model: bytes
    name: str = ""

    def to_bytes(self) -> bytes:
        """The file: the same bytes for the same code, by one version of Zstandard."""
        from zstandard import ZstdCompressor

        name = self.name.encode()[:255]
        channels, h, w = self.levels.shape
        head = HEAD.pack(MAGIC, self.bits, self.grey, channels, h, w, *self.size, self.model, len(name))
        moments = np.stack([self.low, self.step]).astype("<f4").tobytes()
        packed = ZstdCompressor(level=LEVEL, write_content_size=False).compress(self.levels.tobytes())
        whole = head + name + moments + packed
        return whole + _digest(whole)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Compressed:
        """What a file holds.

        Args:
            data: the file's.
            where: its name, for errors.

        Raises:
            InputError: when it is no such file, is of a later version, or was damaged.
        """
        from zstandard import ZstdDecompressor, ZstdError

        if data[: len(MAGIC) - 1] != MAGIC[:-1]:
            raise InputError(f"{where} holds no code of an image", "`lightning-ae encode` writes such files")
        if len(data) > len(MAGIC) and data[len(MAGIC) - 1] != MAGIC[-1]:
            raise InputError(f"{where} is of another format", "pip install --upgrade lightning_ae")
        damaged = InputError(f"{where} is damaged: its checksum is another", "take a copy, or encode the image again")
        if len(data) < HEAD.size + DIGEST or _digest(data[:-DIGEST]) != data[-DIGEST:]:
            raise damaged
        _, bits, grey, channels, h, w, height, width, model, length = HEAD.unpack_from(data)
        start = HEAD.size + length
        end = start + 8 * channels
        values = channels * h * w
        if not (1 <= bits <= 8 and 0 < values <= MOST_VALUES and height and width and end <= len(data) - DIGEST):
            raise damaged
        try:
            name = data[HEAD.size : start].decode()
            low, step = np.frombuffer(data[start:end], "<f4").reshape(2, channels)
            unpacked = ZstdDecompressor().decompress(data[end:-DIGEST], max_output_size=values)
        except (ZstdError, UnicodeDecodeError) as error:
            raise damaged from error
        if len(unpacked) != values:
            raise damaged
        levels = np.frombuffer(unpacked, np.uint8).reshape(channels, h, w)
        return cls(levels, low, step, bits, (height, width), bool(grey), model, name)


class Codec:
    """A model as a codec of images of any size.

    - Images are padded below and to the right, by their last row and column, to multiples of the model's stride, and
      cut to their size again.
    - Each channel of a code is quantised between its smallest and largest value in the image to 2^bits equally spaced
      levels.
    - A grey image goes through a model of colour as three equal channels, and comes back as their luma.

    Args:
        model: of images of any size, whose codes are maps of numbers.
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
        if "indices" in model.latents or isinstance(model.code_shape_of(model.new_inputs(1).shape[1:])[0], tuple):
            raise InputError(
                f"the codes of {cls} are indices, or several, where a codec quantises a map of numbers",
                "take a model such as Autoencoder or VAE",
            )
        if model.signature is None:
            raise InputError(f"{cls} does not say what images it takes", "set model.preprocess, or fit a data module")
        self.model, self.name = model.eval(), name
        architecture = hash_of({"architecture": to_plain(model.architecture, "architecture")})
        self.identity = bytes.fromhex(hash_of({**identity_of(model), "architecture": architecture}))[:DIGEST]
        """16 bytes that tell the model from every other."""

    def compress(self, image: Any, bits: int = 8) -> Compressed:
        """The code of one image, a PIL image or an array as `Autoencoder.features` takes it.

        Args:
            image: grey or colour, without transparency, of which a code knows nothing.
            bits: of each number of the code, 1 to 8.

        Raises:
            InputError: for an image that cannot be had again.
        """
        return self.compress_each(image, [bits])[0]

    @torch.no_grad()
    def compress_each(self, image: Any, bits: Sequence[int]) -> list[Compressed]:
        """The same in each number of bits, by one pass of the encoder."""
        for each in bits:
            if isinstance(each, bool) or not isinstance(each, int) or not 1 <= each <= 8:
                raise InputError(f"bits must be a number from 1 to 8, got {each!r}")
        if _is_transparent(image):
            raise InputError("the image is transparent in parts, which no code keeps", "give image.convert('RGB')")
        x = image_units(image_of(image, 0)[None])
        size = (x.shape[2], x.shape[3])
        grey = x.shape[1] == 1 and self.model.input_shape[0] == 3
        for dim, whole in enumerate(self._padded(size), start=2):
            x = x.index_select(dim, torch.arange(whole, device=x.device).clamp(max=x.shape[dim] - 1))
        code = self.model.features(x.expand(-1, 3, -1, -1) if grey else x, pooled=False)[0].float().cpu()
        if not code.isfinite().all():
            raise InputError("the code of the image is not finite", "the model's weights, or their type, are of no use")
        low, high = code.amin((1, 2)), code.amax((1, 2))
        found = []
        for each in bits:
            step = (high - low) / (2**each - 1)
            levels = (code - low[:, None, None]) / step.where(step > 0, 1.0)[:, None, None]
            whole_numbers = levels.round().to(torch.uint8).numpy()
            about = (low.numpy(), step.numpy(), each, size, grey, self.identity, self.name)
            found.append(Compressed(whole_numbers, *about))
        return found

    def check(self, code: Compressed) -> None:
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
        if self.model.code_shape_of((self.model.input_shape[0], *self._padded(code.size))) != code.levels.shape:
            raise InputError(f"a code of {code.levels.shape} is none of an image of {code.size[0]} x {code.size[1]}")

    @torch.no_grad()
    def decompress(self, code: Compressed) -> np.ndarray:
        """The image again, uint8: (H, W, 3), or (H, W) in grey.

        Raises:
            InputError: for a code of another model.
        """
        self.check(code)
        low, step, levels = (torch.from_numpy(each.copy()) for each in (code.low, code.step, code.levels))
        z = (low[:, None, None] + levels * step[:, None, None])[None].to(self.model.device, self.model.dtype)
        made = to_unit_interval(self.model, self.model.decode(z)).float().cpu()
        image: Tensor = made[0, :, : code.size[0], : code.size[1]]
        if code.grey:
            image = (image * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
        found: np.ndarray = (255 * image).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return found[:, :, 0] if found.shape[2] == 1 else found

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width to which an image is padded."""
        assert (m := self.model.multiple) is not None
        return -(-size[0] // m) * m, -(-size[1] // m) * m


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


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()
