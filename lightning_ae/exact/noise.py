"""Noise that does not depend on how many ranks draw it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.exact.collectives import rank, world_size

EXACT_NOISE_RANKS = 64
"""With more ranks than this, each draws its own part of the noise only, from a stream of its own."""

Rows = Literal["by_sample", "by_draw", "shared"]

_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def rows(order: Rows) -> Iterator[None]:
    """Inside, says what the rows are for which noise and the masks of dropout are drawn, where they are not the batch.

    Left unsaid, as many rows as this rank has samples, B, are the samples. k times as many are taken as k for each
    sample, "by_sample", and any other number as "shared"; both guesses are told once. So say it where the number of
    rows that are no samples may be a multiple of B, and where the draws come first. On one process all are the same.

    Args:
        order: one of

            - "by_sample": (B * k, ...), the k rows of a sample beside each other, as `repeat_interleave(k, dim=0)` or
              `flatten(0, 1)` of (B, k, ...) puts them: draws of a posterior, tokens, patches;
            - "by_draw": (k * B, ...), the batch k times over, as `flatten(0, 1)` of (k, B, ...) puts it;
            - "shared": rows that all ranks have and that are the same on each, such as pseudo-inputs.

    Raises:
        InputError: when it is none of these.
    """
    if order not in get_args(Rows):
        raise InputError(f"rows must be one of {list(get_args(Rows))}, got {order!r}")
    token = _rows.set(order)
    try:
        yield
    finally:
        _rows.reset(token)


class Noise:
    """A stream of random draws for one step and one purpose.

    With a key, the draws are those of the whole batch, of which each rank takes its own rows: under strided sharding
    (rank r holds rows r, r + W, ... of the batch) the same key gives the same noise on any number of ranks; `rows`
    says how, where the rows are not the batch's. With more than 64 ranks, where that would cost more than it is worth,
    each rank has a stream of its own instead, but for what all ranks share. Without a key, the draws come from torch's
    global generator.

    Args:
        key: what identifies the stream, such as `(seed, "train", epoch, batch, "posterior")`; every rank must give
            the same one.
        samples: the size of the whole batch, over all ranks; by default the rows asked for are this rank's samples, of
            which each rank has as many.
        temperature: what normal draws are multiplied by: of a Gaussian that they make, the standard deviation.
    """

    def __init__(self, *key: Any, samples: int | None = None, temperature: float = 1.0) -> None:
        self._key, self._samples, self._temperature = key, samples, temperature
        self._generators: dict[tuple[str, bool], torch.Generator] = {}

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal draws in the shape of `x`, whose first dimension is the batch, or what `rows` says."""
        drawn = self._draw(torch.randn, x)
        return drawn if self._temperature == 1 else self._temperature * drawn

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform draws from [0, 1) in the shape of `x`, whose first dimension is the batch, or what `rows` says."""
        return self._draw(torch.rand, x)

    def choice(self, n: int, size: int, device: torch.device | str = "cpu") -> Tensor:
        """`size` numbers drawn from 0, ..., n - 1 with replacement, (size,), the same on all ranks."""
        return torch.randint(n, (size,), device=device, **self._shared(device))

    def permutation(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """The numbers 0, ..., n - 1 in random order, (n,), the same on all ranks."""
        return torch.randperm(n, device=device, **self._shared(device))

    def _draw(self, draw: Any, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        world = world_size()
        if not self._key or world == 1:
            generator = self._generator(x.device) if self._key else None
            alone: Tensor = draw(x.shape, generator=generator, **options)
            return alone
        order, k, samples = _places(len(x), self._samples)
        apart = world > EXACT_NOISE_RANKS and order != "shared"
        options["generator"] = self._generator(x.device, apart)
        if apart or order == "shared":
            whole: Tensor = draw(x.shape, **options)
        elif order == "by_sample":
            whole = draw((samples, k, *x.shape[1:]), **options)[rank() :: world]
        else:
            whole = draw((k, samples, *x.shape[1:]), **options)[:, rank() :: world]
        return whole.reshape(x.shape)

    def _shared(self, device: torch.device | str) -> dict[str, Any]:
        if self._key:
            return {"generator": self._generator(device)}
        if world_size() > 1:
            raise InputError(
                "a draw that is the same on all ranks needs a key, which only a step has",
                "draw in a step, or inside of the model's at_step()",
            )
        return {}

    def _generator(self, device: torch.device | str, apart: bool = False) -> torch.Generator:
        """The stream on a device, the same on all ranks or, `apart`, this rank's own."""
        place = (str(device), apart)
        if place not in self._generators:
            text = repr((*self._key, rank()) if apart else self._key)
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            seed = int.from_bytes(digest, "big") >> 1  # torch takes signed 64-bit seeds
            self._generators[place] = torch.Generator(device).manual_seed(seed)
        return self._generators[place]


def _places(count: int, samples: int | None) -> tuple[Rows, int, int]:
    """What so many rows of this rank are, how many a sample has, and how many samples all ranks have of the batch."""
    said, world = _rows.get(), world_size()
    if samples is None and said in ("by_sample", "by_draw"):
        raise InputError(
            f"rows({said!r}) needs to know how many samples the batch has", "give samples, or at_step() the batch"
        )
    samples = count * world if samples is None else samples
    own = len(range(rank(), samples, world))
    if said == "shared" or count == own:
        return said or "by_sample", 1, samples
    fits = own > 0 and count % own == 0
    # with unequal shares it may be a multiple of another rank's: the ranks would take the rows for different things
    doubtful = not fits and any(n and count % n == 0 for n in (samples // world, -(-samples // world)))
    if doubtful or (said is not None and not fits):
        what = "is no multiple of that" if said else "does not tell what they are"
        raise InputError(
            f"noise for {count} rows, in a batch of which this rank has {own} of {samples} samples: the number {what}",
            "draw for the batch's own rows; or say what the rows are, around the draw or the network that drops out: "
            f"`with lightning_ae.exact.rows(...)`, one of {list(get_args(Rows))}",
        )
    if said is None:
        _tell(count // own if fits else None)
    return said or ("by_sample" if fits else "shared"), count // own if fits else 1, samples


class NoiseAlike(Noise):
    """A stream of which all samples get the same: what is computed of one then depends on nothing but itself.

    It is drawn on the CPU, so that devices agree.

    Args:
        key: what identifies the stream, as of `Noise`.
        samples: the size of the batch.
    """

    def __init__(self, *key: Any, samples: int) -> None:
        super().__init__(*key, samples=samples)

    def _draw(self, draw: Any, x: Tensor) -> Tensor:
        order, size = _rows.get(), self._samples or 0
        options = {"generator": self._generator("cpu"), "dtype": x.dtype}
        if order == "shared" or size == 0 or len(x) % size:
            shared: Tensor = draw(x.shape, **options)
            return shared.to(x.device)
        drawn: Tensor = draw((len(x) // size, *x.shape[1:]), **options).to(x.device)
        every = (slice(None), None) if order == "by_draw" else (None, slice(None))
        shape = (len(drawn), size) if order == "by_draw" else (size, len(drawn))
        return drawn[every].expand(*shape, *x.shape[1:]).reshape(x.shape)


@cache
def _tell(k: int | None) -> None:
    """Says once what was taken for granted."""
    guess = "rows that all ranks share" if k is None else f"{k} rows for each sample, one sample's after the other's"
    rank_zero_info(f"noise for rows that are not the batch's: taken as {guess}; lightning_ae.exact.rows says it")


@dataclass
class _Step:
    key: tuple[Any, ...]
    samples: int | None
    alike: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    dropped: int = 0


_step: ContextVar[_Step | None] = ContextVar("step", default=None)


@contextmanager
def keyed(*key: Any, samples: int | None = None, alike: bool = False) -> Iterator[None]:
    """Inside, `noise_of_step` is keyed by this, by its purpose, and by how often it was asked for that purpose before.

    Args:
        key: of the step; every rank must give the same one.
        samples: the size of the whole batch, over all ranks; see `Noise`. Where they are alike, of this process alone.
        alike: whether all samples get the same draws; see `NoiseAlike`.
    """
    token = _step.set(_Step(key, samples, alike))
    try:
        yield
    finally:
        _step.reset(token)


def noise_of_step(purpose: str) -> Noise:
    """The noise of the step at hand for a purpose, another each time; outside of a step, of torch's global generator.

    Every rank must ask as often, in the same order.
    """
    step = _step.get()
    if step is None:
        return Noise()
    again = step.asked[purpose]
    step.asked[purpose] += 1
    # the first has the plain key, as it was before there were others
    key = (*step.key, purpose, *([again] if again else []))
    if step.alike:
        return NoiseAlike(*key, samples=step.samples or 0)
    return Noise(*key, samples=step.samples)


def dropout_noise() -> Noise | None:
    """The noise of the step's next mask, none outside of a step: masks are numbered, whichever layer draws one."""
    step = _step.get()
    if step is None:
        return None
    step.dropped += 1
    return noise_of_step(f"dropout {step.dropped}")
