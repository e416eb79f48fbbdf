"""How a codebook is used: against NumPy, over processes, drawn; and the callback that says when one collapses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import VQVAE, VQVAE2, Autoencoder, InputError
from lightning_ae.architectures import ConvNet
from lightning_ae.callbacks import CodebookMetrics
from lightning_ae.metrics import CodebookUse
from lightning_ae.parts import ResidualQuantizer, VectorQuantizer
from lightning_ae.training import processes


def indices(depth: int = 1) -> Tensor:
    """Of twelve codes some never occur, and one often."""
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.0, 0.0, 5.0, 1, 1, 2, 0.5, 0.1, 0, 3, 1, 1])
    shape = (70, depth, 3, 2) if depth > 1 else (70, 3, 2)
    return p.multinomial(int(np.prod(shape)), replacement=True, generator=generator).view(shape)


def expected(found: np.ndarray) -> dict[str, float]:
    layers = found[:, None] if found.ndim == 3 else found
    uses, perplexities, dead = [], [], 0
    for layer in np.moveaxis(layers, 1, 0):
        p = np.bincount(layer.ravel(), minlength=12) / layer.size
        uses.append((p > 0).mean())
        perplexities.append(np.exp(-sum(q * np.log(q) for q in p if q > 0)))
        dead += int((p == 0).sum())
    return {
        "codebook_use": np.mean(uses),
        "codebook_perplexity": np.mean(perplexities),
        "dead_codes": dead,
    }


def values(metric: CodebookUse) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("depth", [1, 3])
def test_in_one_pass_and_in_parts(depth: int) -> None:
    whole, metric = indices(depth), CodebookUse(12, depth)
    for part in whole.split(13):
        assert {k: float(v) for k, v in metric(part).items()} == pytest.approx(expected(part.numpy()))
    assert values(metric) == pytest.approx(expected(whole.numpy()))
    metric.half()
    assert values(metric) == pytest.approx(expected(whole.numpy()))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(np.isnan(value) for value in values(metric).values())


def work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    metric = CodebookUse(12, 3)
    metric.update(indices(3)[rank::world])
    torch.save(values(metric), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_value_of_one(tmp_path: Path) -> None:
    processes.run(work, (2, str(tmp_path)), 2)
    alone = CodebookUse(12, 3)
    alone.update(indices(3))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == values(alone)


def test_it_is_drawn() -> None:
    import matplotlib.pyplot as plt

    metric = CodebookUse(12)
    metric.update(indices())
    figure, _ = metric.plot()
    plt.close(figure)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (torch.rand(3, 2), r"indices must be integers \(B, ...\), got torch.float32"),
        (torch.tensor([[True]]), "indices must be integers"),
        (torch.tensor([[12]]), "indices must lie in 0, ..., 11, got some from 12 to 12"),
        (torch.tensor([[-1]]), "indices must lie in"),
    ],
)
def test_indices_that_are_none(wrong: Tensor, named: str) -> None:
    with pytest.raises(InputError, match=named):
        CodebookUse(12).update(wrong)


def test_what_cannot_work() -> None:
    with pytest.raises(InputError, match=r"indices must be integers \(B, 3, ...\)"):
        CodebookUse(12, 3).update(torch.zeros(5, 2).long())
    with pytest.raises(InputError, match="codes of CodebookUse"):
        CodebookUse(0)
    with pytest.raises(InputError, match="collapse of CodebookMetrics"):
        CodebookMetrics(1.0)


# ---- the callback ---------------------------------------------------------------------------------------------------


def fit(model: Any, callback: CodebookMetrics, data: Tensor, epochs: int = 3) -> tuple[Any, list[str]]:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=epochs,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    loader = DataLoader(data, batch_size=64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(model, loader, loader)
    return trainer.callback_metrics, [str(w.message) for w in said if "collapsed" in str(w.message)]


def model(quantizer: Any, cls: Any = VQVAE) -> Any:
    torch.manual_seed(0)
    return cls((1, 8, 8), architecture=ConvNet(channels=(4, 8), code="map"), quantizer=quantizer)


def test_a_collapse_is_said_once_and_for_each_fit(digits: Tensor) -> None:
    callback = CodebookMetrics()
    quantizer = VectorQuantizer(codes=64, revive=0.0)  # of a start at random few are ever the nearest
    for _ in range(2):
        metrics, said = fit(model(quantizer), callback, digits[:512])
        assert metrics["val/codebook_perplexity"] < 3.2
        assert len(said) == 1
        assert "of 64 codes" in said[0]


def test_a_codebook_in_use_is_not_spoken_of(digits: Tensor) -> None:
    own = model(VectorQuantizer(codes=16, revive=0.3))
    metrics, said = fit(own, CodebookMetrics(), digits[:512])
    assert not said
    own.eval()
    with torch.no_grad():
        found = own.encode_indices(digits[:512]).unique().numel()
    assert metrics["val/codebook_use"] == pytest.approx(found / 16)
    assert metrics["val/dead_codes"] == 16 - found


def test_too_few_indices_say_nothing(digits: Tensor) -> None:
    _, said = fit(model(VectorQuantizer(codes=512, revive=0.0)), CodebookMetrics(), digits[:512])  # 2048 of 512
    assert not said


def test_levels_have_names(digits: Tensor) -> None:
    metrics, _ = fit(model(ResidualQuantizer(2, VectorQuantizer(codes=8)), VQVAE2), CodebookMetrics(), digits[:64], 1)
    assert {"val/codebook_use", "val/codebook_use_2", "val/dead_codes_2"} <= set(metrics)


def test_a_model_without_a_codebook_is_refused(digits: Tensor) -> None:
    with pytest.raises(InputError, match="which Autoencoder has not"):
        fit(Autoencoder((1, 8, 8)), CodebookMetrics(), digits[:64], 1)
