"""The gradient on W ranks, each with its strided share of a batch, is that of one process with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from lightning_ae import Autoencoder, get_model, list_models
from lightning_ae.distributed import Noise, rank, sum_over_ranks, world_size

SHAPE = (1, 8, 8)


def gradients(name: str, x: Tensor, **options: Any) -> dict[str, Tensor]:
    """The gradients of a step on x (B, *SHAPE), averaged over ranks as DistributedDataParallel does; and buffers."""
    torch.manual_seed(0)
    model: Autoencoder = get_model(name)(SHAPE, latent_dim=12, **options)
    with model.at_step("train", 3):
        model.loss(model.corrupt(x), x)["loss"].backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if world_size() > 1:
        for gradient in found.values():
            dist.all_reduce(gradient)
            gradient /= world_size()
    return found | {n: b.clone() for n, b in model.named_buffers()}


def batch() -> Tensor:
    return torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1))


def work(index: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=world)
    found = {name: gradients(name, batch()[index::world]) for name in list_models()}
    # a negative control: the mean activation of each rank alone
    import lightning_ae.models.sparse

    lightning_ae.models.sparse.sum_over_ranks = lambda *values: values  # type: ignore[attr-defined]
    found["sparse, each rank alone"] = gradients("sparse", batch()[index::world], sparsity_weight=100.0)
    if rank() == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (request.param, str(folder)), nprocs=request.param)
    result: dict[str, dict[str, Tensor]] = torch.load(Path(folder) / "found.pt", weights_only=True)
    return result


def difference(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert ours.keys() == expected.keys()
    gap = torch.cat([(ours[n] - expected[n]).flatten() for n in expected]).norm()
    return float(gap / torch.cat([value.flatten() for value in expected.values()]).norm())


def test_every_variant(found: dict[str, dict[str, Tensor]]) -> None:
    for name in list_models():
        assert difference(found[name], gradients(name, batch())) < 1e-5, name


def test_the_check_can_fail(found: dict[str, dict[str, Tensor]]) -> None:
    expected = gradients("sparse", batch(), sparsity_weight=100.0)
    assert difference(found["sparse, each rank alone"], expected) > 1e-3


def test_without_a_process_group() -> None:
    x = torch.rand(4, 3)
    assert (world_size(), rank()) == (1, 0)
    assert sum_over_ranks(x)[0] is x
    assert torch.equal(Noise(1, "a").randn_like(x), Noise(1, "a").randn_like(x))
    assert not torch.equal(Noise(1, "a").randn_like(x), Noise(1, "b").randn_like(x))
    stream = Noise(1, "a")
    assert not torch.equal(stream.randn_like(x), stream.randn_like(x))
