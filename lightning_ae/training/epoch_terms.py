"""The terms of an epoch's batches, and their means over the samples of all ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_ae.exact import rank, sum_over_ranks, world_size
from lightning_ae.parts.likelihoods import at_least_float32


@dataclass(frozen=True)
class _Waiting:
    """The terms of a batch, on its device until they are added up."""

    batch: int
    size: int
    names: tuple[str, ...]
    values: list[Tensor]


class EpochTerms:
    """The mean of each term over an epoch's samples, kept on the device and rarely added up."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begins an epoch."""
        self.waiting: list[_Waiting] = []
        self.sums: dict[str, Tensor] = {}
        self.samples: dict[str, int] = {}
        self._broken: dict[tuple[str, ...], Tensor] = {}

    def add(self, terms: Mapping[str, Tensor], batch: int, size: int) -> None:
        """Takes the terms of a batch: named scalars, its number in the epoch, and how many samples this rank has."""
        if len(self.waiting) * len(terms) > 256:
            self._add_up(before=batch)  # a checkpoint may have to leave out the batch at hand
        self.waiting.append(_Waiting(batch, size, tuple(terms), [value.detach() for value in terms.values()]))

    def means(self) -> dict[str, Tensor]:
        """Over the samples of all ranks."""
        self._add_up()
        if not self.sums:
            return {}
        sums = torch.stack(list(self.sums.values()))
        sums, samples = sum_over_ranks(sums, sums.new_tensor([float(n) for n in self.samples.values()]))
        return dict(zip(self.sums, sums / samples, strict=True))

    def broken(self) -> tuple[int, dict[str, float]] | None:
        """The first batch whose loss is not finite, and its terms."""
        self._add_up()
        found = [(names, *value.tolist()) for names, value in self._broken.items()]
        first = min((row for row in found if row[1] >= 0), key=lambda row: row[1], default=None)
        return None if first is None else (int(first[1]), dict(zip(first[0], first[2:], strict=True)))

    def state(self, batches: int) -> dict[str, Any]:
        """Plain data of the epoch's first batches, for a checkpoint: one of a step that is not done counts later."""
        # what waits is kept as it is: added up earlier or later, the sums would differ by rounding
        waiting = [
            {"batch": w.batch, "size": w.size, "terms": dict(zip(w.names, torch.stack(w.values).tolist(), strict=True))}
            for w in self.waiting
            if w.batch < batches
        ]
        return {
            "sums": {name: value.item() for name, value in self.sums.items()},
            "samples": dict(self.samples),
            "waiting": waiting,
        }

    def restore(self, saved: Any) -> None:
        """Takes up this rank's own; on another number of ranks, the first takes up the sums of all."""
        if not isinstance(saved, list) or len(saved) == world_size():
            self._take_up(saved[rank()] if isinstance(saved, list) else saved)
            return
        self.clear()
        for state in saved:
            part = EpochTerms()
            part._take_up(state)
            part._add_up()
            for name, value in part.sums.items():
                mine = rank() == 0
                self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value * mine
                self.samples[name] = self.samples.get(name, 0) + part.samples[name] * mine

    def _take_up(self, state: dict[str, Any]) -> None:
        self.clear()
        sums, samples = state["sums"] or {}, state["samples"]
        if isinstance(samples, int):  # a checkpoint of an earlier version: names apart, and all over the same samples
            sums = dict(zip(state["names"], sums, strict=False))
            samples = dict.fromkeys(sums, samples)
        self.sums = {name: _exactly(value) for name, value in sums.items()}
        self.samples = dict(samples)
        self.waiting = [
            _Waiting(w["batch"], w["size"], tuple(w["terms"]), [_exactly(value) for value in w["terms"].values()])
            for w in state.get("waiting", [])
        ]

    def _add_up(self, before: int | None = None) -> None:
        groups: dict[tuple[str, ...], list[_Waiting]] = {}
        left = []
        for waiting in self.waiting:
            if before is None or waiting.batch < before:
                groups.setdefault(waiting.names, []).append(waiting)
            else:
                left.append(waiting)
        self.waiting = left
        for names, group in groups.items():
            device = group[-1].values[0].device  # those of a checkpoint lie on the CPU
            flat = torch.stack([value.to(device) for waiting in group for value in waiting.values])
            values = at_least_float32(flat).view(-1, len(names))
            about = [(waiting.size, waiting.batch) for waiting in group]
            sizes, numbers = torch.tensor(about, dtype=values.dtype, device=device).unbind(1)
            samples = sum(waiting.size for waiting in group)
            for name, value in zip(names, sizes @ values, strict=True):
                self.sums[name] = value if name not in self.sums else self.sums[name].to(device) + value
                self.samples[name] = self.samples.get(name, 0) + samples
            unsound = ~values[:, names.index("loss")].isfinite()
            row = unsound.int().argmax()
            found = torch.cat([torch.where(unsound[row], numbers[row], -1).view(1), values[row]])
            earlier = self._broken.get(names)
            self._broken[names] = found if earlier is None else torch.where(earlier[0] >= 0, earlier, found)


def _exactly(value: float) -> Tensor:
    """A number of a checkpoint in the type that it had: float32 where that holds it."""
    exact = torch.tensor(value, dtype=torch.float64)
    return exact.float() if exact.float().double() == exact or not math.isfinite(value) else exact


def means_of(terms: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Over the samples of all ranks."""
    values = at_least_float32(torch.stack([value.detach() for value in terms.values()]))
    sums, samples = sum_over_ranks(values * size, values.new_tensor(float(size)))
    return dict(zip(terms, sums / samples, strict=True))
