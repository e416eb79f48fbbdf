"""A sampler that several processes fit is the one that a single process fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.samplers import FlowSampler, MixtureSampler, TwoStageSampler, fit_sampler
from lightning_ae.training import processes

SAMPLERS = [MixtureSampler(2), FlowSampler(steps=1, hidden=8, updates=20), TwoStageSampler(hidden=(8,), updates=20)]


def fitted(rank: int, folder: str) -> list[dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VAE((1, 8, 8), 4, architecture=MLP(hidden=(16,)))
    data = HFDataModule("digits", val_fraction=0, cache="memory")
    torch.manual_seed(rank)  # each process has a state of its own
    found = [fit_sampler(model, data, sampler).state_dict() for sampler in SAMPLERS]
    torch.save(found, Path(folder) / f"{rank}.pt")
    return found


def _work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    fitted(rank, folder)
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_process_fits_the_same(tmp_path: Path) -> None:
    processes.run(_work, (2, str(tmp_path)), 2)
    several: list[Any] = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    (tmp_path / "one").mkdir()
    for alone, first, second in zip(fitted(0, str(tmp_path / "one")), *several, strict=True):
        for name, value in alone.items():
            assert torch.equal(value.nan_to_num(), first[name].nan_to_num()), name
            assert torch.equal(first[name].nan_to_num(), second[name].nan_to_num()), name
