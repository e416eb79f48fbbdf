"""The files of a codec: codes of an image in whole numbers, packed, with a checksum."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np

from lightning_ae.errors import InputError

MAGIC, LEVEL, DIGEST = b"LAEC", 19, 16
NUMBERS, INDICES = 1, 2
"""What a file holds, its fifth byte."""
HEAD = struct.Struct("<5sBBHIIII16sB")  # magic, bits, grey, channels, code's and image's height and width, model, name
INDEX_HEAD = struct.Struct("<5sBBII16sB")  # magic, grey, how many levels, the image's height and width, model, name
LEVEL_HEAD = struct.Struct("<QHII")  # codes, depth, height and width
LENGTH = struct.Struct("<I")
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
        name = self.name.encode()[:255]
        channels, h, w = self.levels.shape
        head = HEAD.pack(_magic(NUMBERS), self.bits, self.grey, channels, h, w, *self.size, self.model, len(name))
        moments = np.stack([self.low, self.step]).astype("<f4").tobytes()
        return _signed(head + name + moments + _packed(self.levels.tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Compressed:
        """What a file holds.

        Args:
            data: the file's.
            where: its name, for errors.

        Raises:
            InputError: when it is no such file, is of a later version, or was damaged.
        """
        body, damaged = _checked(data, where, NUMBERS), _damaged(where)
        if len(body) < HEAD.size:
            raise damaged
        _, bits, grey, channels, h, w, height, width, model, length = HEAD.unpack_from(body)
        start = HEAD.size + length
        end = start + 8 * channels
        values = channels * h * w
        if not (1 <= bits <= 8 and 0 < values <= MOST_VALUES and height and width and end <= len(body)):
            raise damaged
        name = _text(body[HEAD.size : start], where)
        low, step = np.frombuffer(body[start:end], "<f4").reshape(2, channels)
        levels = np.frombuffer(_unpacked(body[end:], values, where), np.uint8).reshape(channels, h, w)
        return cls(levels, low, step, bits, (height, width), bool(grey), model, name)


@dataclass(frozen=True)
class CompressedIndices:
    """The indices of an image in a codebook, as a file holds them.

    The file is a header (`INDEX_HEAD`, the model's name, and `LEVEL_HEAD` for each level of the code); of each level
    the bytes of its indices, as many as the largest needs: the lowest byte of all of them, row by row, then the next
    one, each as Zstandard packs it (https://www.rfc-editor.org/rfc/rfc8878), after its length (`LENGTH`); and a
    checksum of all that: the first 16 bytes of BLAKE2b.

    Args:
        indices: of each level, (depth, h, w), int64.
        codes: of each level, how many values an index has.
        size: height and width of the image.
        grey: whether it was grey, and the model takes colour.
        model: 16 bytes that tell the model from every other.
        name: what the model was called.
    """

    indices: tuple[np.ndarray, ...]
    codes: tuple[int, ...]
    size: tuple[int, int]
    grey: bool
    model: bytes
    name: str = ""

    @property
    def bits(self) -> int:
        """Of the largest index."""
        return max(k - 1 for k in self.codes).bit_length()

    def to_bytes(self) -> bytes:
        """The file: the same bytes for the same indices, by one version of Zstandard."""
        name = self.name.encode()[:255]
        head = INDEX_HEAD.pack(_magic(INDICES), self.grey, len(self.indices), *self.size, self.model, len(name))
        shapes = [LEVEL_HEAD.pack(k, *part.shape) for k, part in zip(self.codes, self.indices, strict=True)]
        planes = []
        for k, part in zip(self.codes, self.indices, strict=True):
            each = part.astype("<u8").reshape(-1, 1).view(np.uint8)
            planes += [_packed(each[:, i].tobytes()) for i in range(_bytes_of(k))]
        return _signed(b"".join([head, name, *shapes, *(LENGTH.pack(len(plane)) + plane for plane in planes)]))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> CompressedIndices:
        """What a file holds.

        Args:
            data: the file's.
            where: its name, for errors.

        Raises:
            InputError: when it is no such file, is of a later version, was damaged, or holds an index that is none.
        """
        body, damaged = _checked(data, where, INDICES), _damaged(where)
        try:
            _, grey, levels, height, width, model, length = INDEX_HEAD.unpack_from(body)
            place = INDEX_HEAD.size + length
            name = _text(body[INDEX_HEAD.size : place], where)
            shapes = [LEVEL_HEAD.unpack_from(body, place + i * LEVEL_HEAD.size) for i in range(levels)]
            place += levels * LEVEL_HEAD.size
            if not (levels and height and width and all(0 < d * h * w <= MOST_VALUES and k for k, d, h, w in shapes)):
                raise damaged
            found = []
            for k, *shape in shapes:
                whole = np.zeros((math.prod(shape), 8), np.uint8)
                for i in range(_bytes_of(k)):
                    (length,) = LENGTH.unpack_from(body, place)
                    start, place = place + LENGTH.size, place + LENGTH.size + length
                    if place > len(body):
                        raise damaged
                    whole[:, i] = np.frombuffer(_unpacked(body[start:place], len(whole), where), np.uint8)
                found.append(whole.view("<u8").reshape(shape))
        except struct.error as error:  # it ends too soon
            raise damaged from error
        if place != len(body):
            raise damaged
        for (k, *_), part in zip(shapes, found, strict=True):
            if (largest := int(part.max())) >= k:
                raise InputError(f"{where} holds the index {largest}, where there are {k} codes", DAMAGE)
        indices = tuple(part.astype(np.int64) for part in found)
        return cls(indices, tuple(k for k, *_ in shapes), (height, width), bool(grey), model, name)


Code = Compressed | CompressedIndices


def read_code(data: bytes, where: str) -> Code:
    """What the file of a codec holds, numbers or indices.

    Raises:
        InputError: when it is no such file, is of a later version, or was damaged.
    """
    holds = CompressedIndices if data[: len(MAGIC) + 1] == _magic(INDICES) else Compressed
    return holds.from_bytes(data, where)


DAMAGE = "take a copy, or encode the image again"


def _magic(holds: int) -> bytes:
    return MAGIC + bytes([holds])


def _checked(data: bytes, where: str, holds: int) -> bytes:
    """A file without its checksum, which is right."""
    if data[: len(MAGIC)] != MAGIC:
        raise InputError(f"{where} holds no code of an image", "`lightning-ae encode` writes such files")
    if len(data) > len(MAGIC) and data[: len(MAGIC) + 1] != _magic(holds):
        raise InputError(f"{where} is of another format", "pip install --upgrade lightning_ae")
    if len(data) < DIGEST + len(MAGIC) + 1 or _digest(data[:-DIGEST]) != data[-DIGEST:]:
        raise _damaged(where)
    return data[:-DIGEST]


def _damaged(where: str) -> InputError:
    return InputError(f"{where} is damaged: its checksum is another", DAMAGE)


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _damaged(where) from error


def _packed(data: bytes) -> bytes:
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=LEVEL, write_content_size=False).compress(data)


def _unpacked(data: bytes, values: int, where: str) -> bytes:
    """So many bytes, no fewer and no more."""
    from zstandard import ZstdDecompressor, ZstdError

    try:
        found = ZstdDecompressor().decompress(data, max_output_size=values)
    except ZstdError as error:
        raise _damaged(where) from error
    if len(found) != values:
        raise _damaged(where)
    return found


def _bytes_of(codes: int) -> int:
    """Those of the largest index."""
    return max(1, -(-(codes - 1).bit_length() // 8))


def _signed(data: bytes) -> bytes:
    return data + _digest(data)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()
