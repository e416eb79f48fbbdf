"""Masks: what is known counts, and nothing else, in every likelihood and every variant."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, Autoencoder, InputError, LinearAutoencoder, TopKDictionary, get_model, list_models
from lightning_ae.architectures import MLP
from lightning_ae.callbacks import ReconstructionMetrics, SparsityMetrics
from lightning_ae.config import to_plain
from lightning_ae.parts import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    Mixed,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from lightning_ae.training.certify import Case, certify

LIKELIHOODS: list[Likelihood] = [
    Gaussian(0.7), Gaussian("learned"), Gaussian("per_pixel"), Laplace(0.7), Laplace("per_pixel"),
    DiscretizedLogistic(), Bernoulli(), ContinuousBernoulli(), StudentT("per_pixel", 3.0), Categorical(2), Poisson(),
    NegativeBinomial(dispersion="per_value"), ZeroInflatedNegativeBinomial(), Gaussian("optimal_per_feature"),
]  # fmt: skip
OF_MODELS: list[Likelihood] = [
    *LIKELIHOODS, Gaussian("optimal"), Laplace("optimal"), StudentT(), NegativeBinomial(),
    NegativeBinomial(library=True), ZeroInflatedNegativeBinomial(library=True), Mixed((0, 2, 2, 3)),
    Mixed((0, 0, 0, 2), NegativeBinomial(library=True)),
]  # fmt: skip
SHAPE = (1, 4, 4)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def data(dtype: torch.dtype = torch.float32, n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, *SHAPE, generator=g).to(dtype)
    mask = torch.rand(n, *SHAPE, generator=g) < 0.6
    mask[0] = False  # a row of which nothing is known
    mask[1] = True
    return x, mask


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_log_prob_is_the_sum_over_what_is_known(likelihood: Likelihood) -> None:
    x, mask = data(torch.float64)
    x = x.round() if likelihood.whole else x
    params = torch.randn(6, likelihood.num_parameters, *SHAPE, dtype=torch.float64)
    if getattr(likelihood, "scale", None) == "learned":  # one for all values
        params[:, 1] = params[0, 1, 0, 0, 0]
    params.requires_grad_()
    found = likelihood.log_prob(params, torch.where(mask, x, math.nan), mask)
    for row in range(6):
        known = mask[row].flatten()
        one_by_one = [
            likelihood.log_prob(params[row : row + 1].flatten(2)[..., i : i + 1], x[row].flatten()[i].view(1, 1))
            for i in range(16)
            if known[i]
        ]
        torch.testing.assert_close(found[row], sum(one_by_one, params.new_zeros(1))[0])
    assert found[0] == 0
    (gradient,) = torch.autograd.grad(found.sum(), params)
    unknown = ~mask.unsqueeze(1).expand_as(gradient)
    assert torch.isfinite(gradient).all()
    if getattr(likelihood, "scale", None) == "learned":  # whose gradient lies wherever it is read
        gradient, unknown = gradient[:, :1], unknown[:, :1]
    assert (gradient[unknown] == 0).all()
    assert (gradient[:, 0][mask] != 0).any()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_a_mask_of_ones_changes_no_bit(likelihood: Likelihood) -> None:
    x, _ = data()
    x = x.round() if likelihood.whole else x
    params = torch.randn(6, likelihood.num_parameters, *SHAPE)
    for ones in (torch.ones_like(x, dtype=torch.bool), torch.ones_like(x, dtype=torch.uint8)):
        assert torch.equal(likelihood.log_prob(params, x, ones), likelihood.log_prob(params, x))


@pytest.mark.parametrize("mask", [torch.ones(6, *SHAPE), torch.ones(6, 4, 4, dtype=torch.bool)], ids=["float", "shape"])
def test_what_is_no_mask_is_refused(mask: Tensor) -> None:
    x, _ = data()
    with pytest.raises(InputError, match="a mask is true"):
        Gaussian().log_prob(torch.randn(6, 1, *SHAPE), x, mask)
    model: Any = masked("ae")(SHAPE)
    with pytest.raises(InputError, match="a mask is true"):
        model.read((x, mask))


class MaskedVAE(VAE):
    given = ("mask",)


class MaskedDictionary(TopKDictionary):
    given = ("mask",)


@pytest.mark.parametrize("likelihood", OF_MODELS, ids=str)
def test_what_is_hidden_changes_no_loss_and_no_gradient(likelihood: Likelihood) -> None:
    torch.manual_seed(0)
    whole = (torch.rand(6, 4) > 0.5).float()
    x, mask = whole, torch.rand(6, 4) < 0.6
    mask[0], mask[:, 2] = False, False  # a row and a column of which nothing is known
    found = []
    for unknown in (0.0, math.nan, 17.3):
        torch.manual_seed(1)
        model = MaskedVAE((4,), 2, likelihood=likelihood)
        hidden = torch.where(mask, x, unknown)
        _, _, given = model.read((hidden, mask))
        loss = model.loss(torch.where(mask, x, 0.0), hidden, **given)["loss"]  # though the target says it
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters()), *model.head.buffers()])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert all(torch.isfinite(value).all() for value in found[0])


@pytest.mark.slow
def test_masked_runs_are_the_same_on_two_ranks() -> None:
    scale = to_plain(Gaussian("optimal_per_feature"), "likelihood")
    table = {"input_shape": [4], "likelihood": to_plain(Mixed((0, 2, 0, 3)), "likelihood")}
    counts = {"likelihood": to_plain(NegativeBinomial(library=True), "likelihood")}
    cases = [Case("test_masks.MaskedVAE"), Case("test_masks.MaskedDictionary", {"k": 2, "dead_after": 12})]
    cases += [Case("test_masks.MaskedVAE", each) for each in ({"likelihood": scale}, table, counts)]
    for found in certify(cases, worlds=(2,)):
        assert found.passed, found


# ---- every variant ----------------------------------------------------------------------------------------------


def masked(name: str) -> type[Autoencoder]:
    cls = get_model(name)
    given = cls.given if "mask" in cls.given else (*cls.given, "mask")
    return type(f"Masked{cls.__name__}", (cls,), {"given": given, "__module__": __name__})


def batch_of(model: Autoencoder, x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return (x, *({"label": torch.arange(len(x)) % 3, "mask": mask}[role] for role in model.given))


CASES: list[tuple[str, dict[str, Any]]] = [
    (name, {}) for name in list_models() if name not in ("vampprior_vae", "vq_vae_2")
] + [
    ("vq_vae_2", {"architecture": MLP(tokens=8)}),  # whose default has one position of so small images
    ("contractive", {"method": "exact", "hessian_weight": 0.1}),
    ("contractive", {"method": "hutchinson", "hessian_weight": 0.1}),
    ("contractive", {"hessian_weight": 0.1}),
    ("score_matching", {"objective": "sliced"}),
    ("score_matching", {"sigma": [0.5, 0.1]}),
    ("sparse", {"penalty": "l1"}),
    ("topk_dictionary", {"dead_after": 1, "k": 1}),
]
by_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))


def build(cls: type[Autoencoder], options: dict[str, Any]) -> Autoencoder:
    torch.manual_seed(0)
    model = cls(SHAPE, latent_dim=4, **options)
    if model.needs_data_size:
        model.data_size.fill_(100)
    return model


def loss_of(model: Autoencoder, x: Tensor, target: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return model.loss(model.corrupt(x), target, **given)


@by_case
def test_a_subclass_that_names_a_mask_needs_nothing_more(name: str, options: dict[str, Any]) -> None:
    x, mask = data()
    losses = []
    for unknown in (math.nan, 0.9):
        model = build(masked(name), options)  # another each time: a codebook moves with what it sees
        seen, target, given = model.read(batch_of(model, torch.where(mask, x, unknown), mask))
        terms = loss_of(model, seen, target, given)
        terms["loss"].backward()
        losses.append(terms["loss"])
    assert losses[0] == losses[1]
    assert torch.isfinite(losses[0])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    # and what the target says where nothing is known does not count, whatever the encoder sees
    elsewhere = torch.where(mask, target, 0.7)
    assert loss_of(build(masked(name), options), seen, elsewhere, given)["loss"] == losses[0]
    other = torch.where(mask, target + 0.1, target)
    if options.get("objective") != "sliced":
        assert loss_of(build(masked(name), options), seen, other, given)["loss"] != losses[0]
    assert model.eval()(seen, **given).shape == x.shape


@by_case
def test_all_known_is_as_without_a_mask(name: str, options: dict[str, Any]) -> None:
    x, _ = data()
    found = []
    for cls in (get_model(name), masked(name)):
        model = build(cls, options)
        found.append(loss_of(model, *model.read(batch_of(model, x, torch.ones_like(x, dtype=torch.bool)))))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][term], found[1][term]) for term in found[0])


def test_where_a_mask_is_left_out_all_is_known() -> None:
    model = masked("vae")(SHAPE, latent_dim=4).eval()
    x, _ = data()
    everything = torch.ones_like(x, dtype=torch.bool)
    assert torch.equal(model(x), model(x, mask=everything))
    assert torch.equal(model.features(x), model.features(x, mask=everything))
    assert model.sample(3).shape == (3, *SHAPE)


def test_a_masked_fit_and_its_measures(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model: Any = masked("ae")(SHAPE, latent_dim=2, architecture=MLP(hidden=()))
    x, mask = data(n=64)
    loader = DataLoader(TensorDataset(torch.where(mask, x, math.nan), mask), batch_size=16)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ReconstructionMetrics(), SparsityMetrics()],
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    (logged,) = trainer.validate(model, loader, verbose=False)
    with torch.no_grad():
        filled = torch.where(mask, x, 0.0)
        error = torch.where(mask, model(filled) - x, 0.0).square().flatten(1).sum(1).mean()
    assert logged["val/mse"] == pytest.approx(float(error), rel=1e-5)
    assert not logged.keys() & {"val/psnr", "val/ssim", "val/r_squared"}


def test_a_mean_and_running_moments_are_those_of_what_is_known() -> None:
    x, mask = data(n=400)

    class Data(pl.LightningDataModule):
        def batches(self, split: str, size: int) -> Any:
            yield torch.where(mask, x, math.nan), mask

        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(*next(self.batches("train", 0))), batch_size=400)

    expected = torch.stack([x[:, 0].flatten(1)[:, i][mask.flatten(1)[:, i]].mean() for i in range(16)]).view(SHAPE)
    linear: Any = masked("linear")(SHAPE, latent_dim=2)
    score: Any = masked("score_matching")(SHAPE, latent_dim=4)
    for model in (linear, score):
        pl.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, datamodule=Data())  # fmt: skip
    torch.testing.assert_close(linear.mean, expected)
    torch.testing.assert_close(score.data_mean, expected)
    pca = masked("linear")(SHAPE, latent_dim=2, initialization="pca")
    with pytest.raises(InputError, match="takes a mask"):
        pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit(pca, datamodule=Data())


def test_bits_per_dimension_are_of_all_dimensions_only() -> None:
    x, mask = data()
    whole, part = VAE(SHAPE, likelihood=Bernoulli()).eval(), masked("vae")(SHAPE, likelihood=Bernoulli()).eval()
    assert "bits_per_dimension" in whole.loss(x.round(), x.round())
    assert "bits_per_dimension" not in part.loss(x.round(), x.round(), mask=mask)
    assert isinstance(masked("linear")(SHAPE, 2), LinearAutoencoder)
