"""Two processes have the value of one, whichever samples each of them has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ae.metrics import (
    Alignment,
    DataCopying,
    DensityCoverage,
    FrechetDistance,
    FrechetLeNetDistance,
    LinearCKA,
    PrecisionRecall,
)
from lightning_ae.training import processes

SETS: dict[str, Callable[[], Any]] = {
    "frechet": lambda: FrechetDistance(4),
    "precision": lambda: PrecisionRecall(4, block=17),
    "density": lambda: DensityCoverage(4, block=17),
    "copying": lambda: DataCopying(4),
    "copying in cells": lambda: DataCopying(4, cells=3),
}
PAIRS: dict[str, Callable[[], Any]] = {
    "alignment": lambda: Alignment(4),
    "cka": lambda: LinearCKA(4, 4),
    "unbiased cka": lambda: LinearCKA(4, 4, unbiased=True),
}


def sets() -> list[tuple[Tensor, str]]:
    """Batches of uneven sizes on a coarse grid, where distances tie; every third is of one set."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for i in range(12):
        kind = ("real", "generated", "held_out")[i % 3]
        rows = torch.randn(20 + i, 4, generator=generator) + 0.5 * (kind == "generated")
        batches.append(((4 * rows).round() / 4, kind))
    return batches


def shares(world: int) -> dict[str, list[list[tuple[Tensor, str]]]]:
    """Batches in turn, and all generated samples on the last rank, which has no others."""
    of_all = sets()
    turns = [of_all[rank::world] for rank in range(world)]
    generated = [batch for batch in of_all if batch[1] == "generated"]
    others = [batch for batch in of_all if batch[1] != "generated"]
    return {"in turn": turns, "apart": [others, generated] if world == 2 else [others + generated]}


def measured(rank: int, world: int) -> dict[str, dict[str, float]]:
    found = {}
    for share, batches in shares(world).items():
        for name, make in SETS.items():
            metric = make()
            for rows, kind in batches[rank]:
                metric.update(rows, kind)
            found[f"{name}, {share}"] = {k: float(v) for k, v in metric.compute().items()}
    images = [(rows[:16].reshape(1, 1, 8, -1).abs().clamp(max=1), kind) for rows, kind in sets()]
    metric = FrechetLeNetDistance()
    for x, kind in images[rank::world]:
        metric.update(x, kind)
    found["lenet"] = {k: float(v) for k, v in metric.compute().items()}
    for name, make in PAIRS.items():
        metric = make()
        for rows, _ in sets()[rank::world]:
            metric.update(rows + 0.1, rows.roll(1, 1) + 0.3)
        found[name] = {"": float(metric.compute())}
    return found


def in_a_process(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(measured(rank, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_value_of_one(tmp_path: Path) -> None:
    expected = measured(0, 1)
    processes.run(in_a_process, (2, str(tmp_path)), 2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            exact = name.partition(",")[0] in ("precision", "density")
            assert found[name] == (values if exact else pytest.approx(values, rel=1e-6)), name
