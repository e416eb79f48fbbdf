"""A run on W ranks is the run of one: losses, gradients, buffers, weights and metrics, for every variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lightning_ae import InputError, SparseAutoencoder, get_model, list_models
from lightning_ae.certify import Case, Certificate, certify
from lightning_ae.cli import main
from lightning_ae.distributed import (
    Dropout,
    Noise,
    gather,
    gather_batch,
    keyed,
    rank,
    sum_over_ranks,
    synchronise_batch_norm,
    world_size,
)
from lightning_ae.penalties import kl_sparsity

DEEP = {"class_path": "MLP", "init_args": {"hidden": [24]}}
NORMED = {"class_path": "MLP", "init_args": {"hidden": [24], "norm": "batch", "dropout": 0.2}}
CONVOLUTIONS = {"class_path": "ConvNet", "init_args": {"channels": [4, 8], "norm": "batch"}}


class Careless(SparseAutoencoder):
    """A negative control: each rank takes the mean activation of its own samples."""

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        code = self.encode(x)
        sparsity = kl_sparsity(code.mean(dim=0), self.rho)
        return {"loss": self.reconstruction_loss(code, target) + 10 * sparsity, "sparsity": sparsity}


def of_registry(**options: Any) -> list[Case]:
    # a stack's phases take an epoch each, so that three epochs see two layers and the whole
    layers = {"stacked": {"hidden": [8], "epochs_per_layer": 1}}
    return [Case(get_model(name).__name__, layers.get(name, {}), title=name, **options) for name in list_models()]


def fine_tuned() -> Case:
    encoder = {"class_path": "lightning_ae.VAE", "init_args": {"input_shape": [1, 8, 8], "architecture": NORMED}}
    return Case("FineTuneClassifier", {"pretrained": encoder}, sgd=True, title="fine-tuned")


CASES = [
    *of_registry(),
    Case("SparseAutoencoder", {"penalty": "l1"}, title="sparse, l1"),
    Case("SparseAutoencoder", {"sparsity_weight": 10.0}, title="sparse, strong"),
    Case("ContractiveAutoencoder", {"architecture": DEEP, "hessian_weight": 1.0}, title="contractive, exact"),
    Case("ContractiveAutoencoder", {"architecture": DEEP, "method": "hutchinson"}, title="contractive, hutchinson"),
    Case("ScoreMatchingAutoencoder", {"sigma": [1.0, 0.5, 0.1]}, title="score matching, three levels"),
    Case("ScoreMatchingAutoencoder", {"objective": "sliced"}, title="score matching, sliced"),
    Case("VAE", {"architecture": CONVOLUTIONS}, sgd=True, title="vae, convolutions with batch norm"),
    Case("Autoencoder", {"architecture": NORMED}, sgd=True, title="ae, batch norm and dropout"),
    fine_tuned(),
]
OTHERS = [
    *of_registry(trainer={"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}),
    Case("test_distributed.Careless", title="careless"),
]


@pytest.fixture(scope="module")
def certificates() -> dict[tuple[str, int], Certificate]:
    return {(found.title, found.world): found for found in certify([*CASES, *OTHERS[-1:]])}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_same_run(certificates: dict[tuple[str, int], Certificate], case: Case, world: int) -> None:
    assert certificates[case.title, world].passed, certificates[case.title, world]


@pytest.mark.parametrize("world", [2, 3])
def test_the_certificate_can_be_refused(certificates: dict[tuple[str, int], Certificate], world: int) -> None:
    found = certificates["careless", world]
    assert not found.passed
    assert found.errors["gradients"] > 1e-3


@pytest.mark.slow
def test_accumulated_and_clipped() -> None:
    for found in certify(OTHERS[:-1], worlds=(2, 4)):
        assert found.passed, found


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_sharded(world: int) -> None:
    for found in certify([*CASES, OTHERS[-1]], worlds=(world,), strategy="fsdp"):
        assert found.passed == (found.title != "careless"), found


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["certify", "k_sparse", "--init_args", '{"k": 2}', "--worlds", "[2]"])
    assert "passed" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["certify", "test_distributed.Careless", "--worlds", "[2]"])
    assert ended.value.code == 1
    assert "failed" in capsys.readouterr().out


def test_what_cannot_be_certified() -> None:
    with pytest.raises(InputError, match=r"worlds .* got \[5\]"):
        certify([Case("VAE")], worlds=[5])
    with pytest.raises(InputError, match="did you mean 'VAE'"):
        certify([Case("VAEE")])
    with pytest.raises(InputError, match="beta"):
        certify([Case("VAE", {"beta": -1.0})])


# ---- the pieces: several ranks, each with its share, against one with all of it -----------------------------------

N = 7


def whole(shape: Sequence[int] = (N, 3)) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def statistic(x: Tensor) -> Tensor:
    """A function of sums over the batch that has second derivatives."""
    total, squares = sum_over_ranks(x.sum(dim=0), x.square().sum(dim=0))
    return (total.sin() * squares).sum()


def spread(x: Tensor) -> Tensor:
    """A function of pairs of samples."""
    samples = gather_batch(x)
    return torch.pdist(samples).square().log().sum() + (samples[0] * samples[-1]).sum()


def twice(x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(statistic(x), x, create_graph=True)
    return sum_over_ranks((slope / world_size()).square().sum())[0]


def normalised(x: Tensor) -> tuple[Tensor, nn.Module]:
    layer = nn.BatchNorm1d(3, momentum=None).double()
    synchronise_batch_norm(layer)
    for shift in (0.0, 100.0):  # far from zero, where sums of squares would cancel
        output = layer(x + shift)
    return sum_over_ranks(output.pow(3).sum())[0], layer


def pieces(x: Tensor) -> dict[str, Tensor]:
    x = x.requires_grad_()
    found = {}
    for function in (statistic, spread, twice):
        value = function(x)
        (slope,) = torch.autograd.grad(value, x)
        found[function.__name__] = value.detach()
        # each rank holds the same value, so its backward pass counts it W times
        found[f"{function.__name__}, gradient"] = gather_batch(slope / world_size())
    value, layer = normalised(x)
    (slope,) = torch.autograd.grad(value, x)
    found["batch norm"], found["batch norm, gradient"] = value.detach(), gather_batch(slope / world_size())
    found |= {f"batch norm, {name}": buffer.double() for name, buffer in layer.named_buffers()}
    with keyed(3, "train", 0, samples=N):
        dropped = Dropout(0.5)(x.detach())
        dropped = torch.cat([dropped, Dropout(0.5)(x.detach())], dim=1)
    found["dropout"] = gather_batch(dropped)
    found["noise"] = gather_batch(Noise(1, "a", samples=N).randn_like(x.detach()))
    found["order"] = gather(torch.tensor(float(rank())))[:1]
    return found


def work(index: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=world)
    found = pieces(whole()[index::world])
    if index == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_the_pieces(world: int, tmp_path: Path) -> None:
    mp.spawn(work, (world, str(tmp_path)), nprocs=world)
    found, expected = torch.load(tmp_path / "found.pt", weights_only=True), pieces(whole())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_batch_norm_is_torchs() -> None:
    """Against torch's own layer, on one rank."""
    x = whole()
    ours, theirs = normalised(x)[1], nn.BatchNorm1d(3, momentum=None).double()
    for shift in (0.0, 100.0):
        theirs(x + shift)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert type(ours).__name__ == "GlobalBatchNorm1d"


def test_without_a_process_group() -> None:
    x = torch.rand(4, 3)
    assert (world_size(), rank()) == (1, 0)
    assert sum_over_ranks(x)[0] is x
    assert gather_batch(x) is x
    assert torch.equal(Noise(1, "a").randn_like(x), Noise(1, "a").randn_like(x))
    assert not torch.equal(Noise(1, "a").randn_like(x), Noise(1, "b").randn_like(x))
    stream = Noise(1, "a")
    assert not torch.equal(stream.randn_like(x), stream.randn_like(x))


def test_dropout() -> None:
    layer, x = Dropout(0.25), torch.ones(400, 100)
    with keyed(0, "train", 0, 0):
        first, second = layer(x), layer(x)
    with keyed(0, "train", 0, 0):
        again = layer(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float((layer(x) == 0).float().mean()) == pytest.approx(0.25, abs=0.01)  # outside of a step
    assert torch.equal(layer.eval()(x), x)


def test_noise_of_something_else_than_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_ae.distributed.world_size", lambda: 2)
    monkeypatch.setattr("lightning_ae.distributed.rank", lambda: 1)
    assert Noise(1, samples=7).randn_like(torch.zeros(3, 2)).shape == (3, 2)
    with pytest.raises(InputError, match="noise for 4 rows, in a batch of which this rank has 3 of 7"):
        Noise(1, samples=7).randn_like(torch.zeros(4, 2))


def test_noise_of_very_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 64 ranks each draws for itself, from a stream of its own."""
    x = torch.zeros(2, 3)
    monkeypatch.setattr("lightning_ae.distributed.world_size", lambda: 65)
    draws = []
    for number in (0, 1):
        monkeypatch.setattr("lightning_ae.distributed.rank", lambda number=number: number)
        draws.append(Noise(1, samples=130).randn_like(x))
    assert not torch.equal(draws[0], draws[1])
