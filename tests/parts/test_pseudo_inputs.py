"""Pseudo-inputs that start as training samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.preprocessing import minmax_scale
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import VAE, FactorVAE, HFDataModule, InputError, VampPriorVAE
from lightning_ae.architectures import MLP
from lightning_ae.estimator import AutoencoderEstimator
from lightning_ae.exact import Noise
from lightning_ae.parts import Bernoulli, Gaussian, VampPrior
from lightning_ae.parts.priors import MARGIN, PseudoInputs
from lightning_ae.training.certify import Case, certify

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False, "max_epochs": 1,
}  # fmt: skip


def build(count: int = 12, **options: Any) -> VampPriorVAE:
    torch.manual_seed(0)
    options = {"likelihood": Bernoulli(), "architecture": MLP((8,)), **options}
    return VampPriorVAE((1, 8, 8), 4, pseudo_inputs=count, start="data", **options)


def inputs(model: VAE) -> PseudoInputs:
    assert isinstance(model.prior_weights, PseudoInputs)
    return model.prior_weights


def fit(model: VAE, data: Tensor, batch_size: int = 8, **options: Any) -> None:
    rows: Any = DataLoader(data, batch_size=batch_size)  # type: ignore[arg-type]
    pl.Trainer(**QUIET | options).fit(model, rows)


@pytest.mark.parametrize("support", [(0.0, 1.0), (-2.0, 3.0), (0.0, math.inf), (-math.inf, 5.0), (-math.inf, math.inf)])
def test_a_sample_comes_back(support: tuple[float, float]) -> None:
    """To rounding, but at the ends of the support, from which it keeps the margin that the docstring states."""
    low, high = (bound if math.isfinite(bound) else 4.0 * sign for bound, sign in zip(support, (-1, 1), strict=True))
    width = high - low if all(map(math.isfinite, support)) else 1.0
    x = torch.linspace(low, high, 401, dtype=torch.float64).view(1, -1)
    made = PseudoInputs(1, (401,), support, "data").double()
    made.take(x)
    u = made().detach()
    inside = (x >= low + MARGIN * width) & (x <= high - MARGIN * width)
    torch.testing.assert_close(u[inside], x[inside], rtol=0, atol=1e-9)
    torch.testing.assert_close(u, x, rtol=0, atol=1.001 * MARGIN * width)
    assert made.origin.isfinite().all()
    made().sum().backward()
    assert made.values.grad is not None
    assert (made.values.grad != 0).all()


def test_they_are_the_first_samples_of_the_training(digits: Tensor) -> None:
    """Collected over batches of 8; until there are all, the mixture is of those that were taken."""
    model = build(lr=1e-30)
    z = torch.randn(5, 4)
    fresh = model.prior.log_prob(model, z)
    model.train()
    for taken, start in zip((8, 12, 12), (0, 8, 16), strict=True):
        model.loss(x := digits[start : start + 8], x)
        assert int(inputs(model).taken) == taken
        u = inputs(model)()[:taken]
        assert (u - digits[:taken]).abs().max() < 1.001 * MARGIN
        q: Any = model.infer(u)
        each = q.log_prob(z.unsqueeze(0).expand(taken, -1, -1))
        expected = each.logsumexp(dim=0) - math.log(taken)
        torch.testing.assert_close(model.prior.log_prob(model, z), expected)
    assert not torch.allclose(fresh, model.prior.log_prob(model, z))


def test_what_is_not_taken_yet_is_never_drawn(digits: Tensor) -> None:
    model = build(likelihood=Gaussian()).train()
    model.loss(digits[:3], digits[:3])
    with torch.no_grad():
        inputs(model).origin[3:] = 1e6
        q: Any = model.infer(inputs(model)()[:3])
        assert model.prior.sample(model, 5000, Noise(1, "a")).abs().max() < 7 * (q.log_variance.exp().max() + 1)


def test_the_rest_is_learned(digits: Tensor) -> None:
    model = build()
    fit(model, digits[:64])
    assert inputs(model).complete
    assert (inputs(model)().detach() - digits[:12]).abs().max() > 1.1 * MARGIN
    assert torch.equal(inputs(model).origin, inputs(model).free(digits[:12]))


def test_interrupted_and_loaded_again(digits: Tensor, tmp_path: Path) -> None:
    """A run goes on where it was; what was taken stays, on other data too."""

    def run(checkpoint: Path | None = None, **options: Any) -> VampPriorVAE:
        pl.seed_everything(3, verbose=False)
        model, trainer = build(500), pl.Trainer(**QUIET | options)
        data = HFDataModule("digits", batch_size=200)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")
        return model

    whole = run()
    run(max_steps=2)
    loaded = VampPriorVAE.load_from_checkpoint(tmp_path / "2.ckpt")
    assert int(inputs(loaded).taken) == 400
    resumed = run(tmp_path / "2.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    before = inputs(resumed).origin.clone()
    fit(resumed, digits[100:164])
    assert torch.equal(inputs(resumed).origin, before)
    resumed.load_state_dict(loaded.state_dict())  # into a model that had all
    assert not inputs(resumed).complete


def test_too_few_are_refused(digits: Tensor) -> None:
    with pytest.raises(InputError, match="pseudo_inputs = 12 .* an epoch has 9"):
        fit(build(), digits[:9])
    fit(build(), digits[:9], fast_dev_run=True)
    fit(build(9), digits[:9])
    with pytest.raises(InputError, match="start of VampPrior"):
        VampPrior(start="batch")  # type: ignore[arg-type]


def test_in_other_models_and_precisions(digits: Tensor) -> None:
    for model in (
        FactorVAE((1, 8, 8), 4, prior=VampPrior(12, "data"), architecture=MLP((8,))),
        build().bfloat16(),
    ):
        fit(model, digits[:64].to(model.dtype), batch_size=16)
        assert int(inputs(model).taken) == 12
        assert all(value.isfinite().all() for value in model.state_dict().values())


def test_in_the_estimator(digits: Tensor) -> None:
    x = minmax_scale(digits[:200].flatten(1).numpy())
    found = AutoencoderEstimator(
        "vampprior_vae", max_epochs=1, model_params={"pseudo_inputs": 20, "start": "data"}
    ).fit(x)
    assert int(inputs(found.model_).taken) == 20


def test_two_ranks_take_what_one_does() -> None:
    """Batches of 12 of all ranks: over two of them, and the buffers are compared, too."""
    arguments = {"latent_dim": 4, "pseudo_inputs": 20, "start": "data"}
    (found,) = certify([Case("vampprior_vae", arguments)], worlds=[2])
    assert found.passed, found.errors
