"""Each weight of the variational family follows its schedule: of a fit's loss, beside what its terms say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import CIWAE, DIPVAE, VAE, BetaTCVAE, BetaVAE, FactorVAE, InfoVAE, InputError, load_model
from lightning_ae.architectures import MLP
from lightning_ae.parts import CosineDecay, FreeBits, LinearDecay, Schedule, StructuralSimilarity, Warmup

Terms = dict[str, float]
FACTORS = [0.25, 0.5, 0.75, 1.0, 1.0]
SIMILAR = StructuralSimilarity(30.0, 1.0, Warmup(4))
CASES: dict[str, tuple[type[VAE], dict[str, Any], Callable[[Terms, float], float]]] = {
    "beta": (VAE, {"beta": 3.0, "beta_schedule": Warmup(4)}, lambda t, f: t["reconstruction"] + 3 * f * t["kl"]),
    "beta of the total correlation": (
        BetaTCVAE, {"beta_schedule": Warmup(4)}, lambda t, f: t["reconstruction"] + t["mutual_information"]
        + 6 * f * t["total_correlation"] + t["dimension_wise_kl"],
    ),
    "alpha": (
        BetaTCVAE, {"alpha": 5.0, "alpha_schedule": Warmup(4)}, lambda t, f: t["reconstruction"]
        + 5 * f * t["mutual_information"] + 6 * t["total_correlation"] + t["dimension_wise_kl"],
    ),
    "gamma": (
        BetaTCVAE, {"gamma": 5.0, "gamma_schedule": Warmup(4)}, lambda t, f: t["reconstruction"]
        + t["mutual_information"] + 6 * t["total_correlation"] + 5 * f * t["dimension_wise_kl"],
    ),
    "gamma of a critic": (
        FactorVAE, {"gamma": 8.0, "gamma_schedule": Warmup(4)},
        lambda t, f: t["reconstruction"] + t["kl"] + 8 * f * t["total_correlation"] + t["critic"],
    ),
    "capacity": (
        BetaVAE, {"beta": 2.0, "capacity": 1e4, "capacity_schedule": Warmup(4)},
        lambda t, f: t["reconstruction"] + 2 * (1e4 * f - t["kl"]),
    ),
    "covariance": (
        DIPVAE, {"penalty_schedule": Warmup(4)}, lambda t, f: t["reconstruction"] + t["kl"] + f * t["covariance"]
    ),
    "distance": (
        InfoVAE, {"alpha": 0.4, "marginal_weight": 50.0, "marginal_schedule": Warmup(4)},
        lambda t, f: t["reconstruction"] + 0.6 * t["kl"] + 49.4 * f * t["mmd"],
    ),
    "free bits": (
        VAE, {"objective": FreeBits(1e3, "batch_mean", Warmup(4))}, lambda t, f: t["reconstruction"] + 3 * 1e3 * f
    ),
    "free bits of a sample": (
        VAE, {"objective": FreeBits(1e3, "per_sample", Warmup(4))}, lambda t, f: t["reconstruction"] + 3 * 1e3 * f
    ),
    "similarity": (
        VAE, {"objective": SIMILAR}, lambda t, f: t["reconstruction"] + t["kl"] + 30 * f * t["dissimilarity"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_weight_follows_its_schedule(name: str, digits: Tensor, fit: Any, tmp_path: Path) -> None:
    cls, options, expected = CASES[name]
    seen: list[Terms] = []

    def keep(model: VAE, found: dict[str, Tensor]) -> dict[str, Tensor]:
        if model.training:
            seen.append({key: float(value.detach()) for key, value in found.items()})
        return found

    torch.manual_seed(0)
    model = cls((1, 8, 8), 3, architecture=MLP((8,)), **options)
    own = model.loss
    model.loss = lambda *args, **given: keep(model, own(*args, **given))  # type: ignore[method-assign]
    trainer = fit(model, digits, max_steps=5, max_epochs=-1)
    losses = [terms["loss"] for terms in seen[:5]]
    assert losses == pytest.approx([expected(terms, f) for terms, f in zip(seen, FACTORS, strict=False)], rel=1e-4)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    loaded: Any = load_model(tmp_path / "m.ckpt")
    assert loaded.objective == model.objective
    assert loaded.hparams == model.hparams
    assert loaded.scheduled(Warmup(4)) == 1


@pytest.mark.parametrize("schedule", [CosineDecay(warmup=10), LinearDecay(warmup=10, decay=0.5)], ids=str)
@pytest.mark.parametrize("weight", ["lr_schedule", "beta_schedule", "gamma_schedule"])
def test_a_schedule_that_ends_before_it_begins_is_refused(
    schedule: Schedule, weight: str, digits: Tensor, fit: Any
) -> None:
    def model() -> VAE:
        return BetaTCVAE((1, 8, 8), 3, architecture=MLP((8,)), **{weight: schedule})

    words = r"Decay\(warmup=10, .*ends before it begins: it warms up for 10 steps .*the fit has 9\n.*shorter warmup"
    with pytest.raises(InputError, match=words):
        fit(model(), digits, max_steps=9, max_epochs=-1)
    fit(model(), digits, max_steps=10, max_epochs=-1)
    fit(model(), digits, fast_dev_run=True)  # a trial of one step


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="alpha_schedule of TotalCorrelation must be a Schedule"):
        BetaTCVAE((6,), alpha_schedule=0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="schedule of CIWAEObjective must be a Schedule"):
        CIWAE((6,), weight_schedule=0.5)  # type: ignore[arg-type]
