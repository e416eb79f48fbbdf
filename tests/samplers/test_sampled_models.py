"""Models whose codes a sampler is fitted to: what it is fitted to, what they draw, where draws lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, ConditionalVAE, HFDataModule, InputError, get_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.callbacks import SampleGrid
from lightning_ae.callbacks.pictures import sample_figure
from lightning_ae.parts import VectorQuantizer
from lightning_ae.samplers import FlowSampler, GaussianSampler, IndexSampler, MixtureSampler, Space, fit_sampler

SHAPE = (1, 8, 8)
INDEX = IndexSampler(width=16, layers=1, heads=2, updates=40)


@pytest.fixture(scope="module")
def data() -> HFDataModule:
    return HFDataModule("digits", val_fraction=0)


def made(name: str, **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    model: Autoencoder = get_model(name)(SHAPE, 4, **options)
    return model


def inputs(data: HFDataModule, split: str = "train") -> Tensor:
    return torch.cat([batch["image"] for batch in data.batches(split, 1024)])


def test_an_autoencoder_generates(data: HFDataModule) -> None:
    model = made("ae").train()
    assert not model.generates
    assert not Autoencoder.generates
    with pytest.raises(InputError, match="no distribution over codes") as error:
        model.sample(3)
    assert "fit_sampler(model, data)" in error.value.hint
    assert "--sampler mixture" in error.value.hint
    density = fit_sampler(model, data, GaussianSampler())
    assert model.training  # left as it was
    assert model.sampler is density
    assert model.generates
    assert not Autoencoder.generates
    # by hand: the mean of the codes, and draws that are decoded
    with torch.no_grad():
        codes = model.encode(inputs(data)).double()
        torch.testing.assert_close(density.means[0], codes.mean(0), rtol=1e-9, atol=1e-9)
        torch.manual_seed(1)
        expected = model.decode((density.means[0] + torch.randn(3, 4).double() @ density.factors[0].T).float())
    torch.manual_seed(1)
    drawn = model.sample(3)
    assert drawn.shape == (3, *SHAPE)
    assert drawn.dtype == torch.float32
    assert not drawn.requires_grad or model.decoder is not None
    # the draws are of float64 inside: to rounding only, since the noise there has that type
    assert not torch.equal(drawn, expected)
    torch.manual_seed(1)
    noise = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(drawn, model.decode((density.means[0] + noise @ density.factors[0].T).float()))
    model.sampler = None
    assert not model.generates
    with pytest.raises(InputError, match="no distribution"):
        model.sample(3)


def test_of_a_variational_one_draws_of_the_aggregated_posterior_are_taken(data: HFDataModule) -> None:
    model = made("vae")
    with torch.no_grad():
        q = model.infer(inputs(data))
    density: Any = fit_sampler(model, data, GaussianSampler())
    # the law of total variance, by the posterior's parameters
    total = torch.cov(q.mean.double().T, correction=0) + torch.diag(q.log_variance.double().exp().mean(0))
    found = density.factors[0] @ density.factors[0].T
    white = torch.linalg.inv(torch.linalg.cholesky(total))
    torch.testing.assert_close(white @ found @ white.T, torch.eye(4).double(), rtol=0, atol=0.12)
    assert float((q.log_variance.exp().mean(0)).min()) > 0.5  # else the draws would not show
    # it comes before the prior, and None gives that back
    torch.manual_seed(2)
    own = model.sample(400)
    model.sampler = None
    torch.manual_seed(2)
    assert not torch.equal(own, model.sample(400))
    assert model.generates


@pytest.mark.parametrize("name", ["ladder_vae", "top_down_vae"])
def test_all_levels_of_a_hierarchy_are_fitted_together(name: str, data: HFDataModule) -> None:
    model = made(name, upper_dims=(3,))
    density: Any = fit_sampler(model, data, MixtureSampler(2))
    assert density.space == Space(7)
    code = model.draw_codes(5)
    assert [part.shape for part in code] == [(5, 4), (5, 3)]
    assert model.sample(5).shape == (5, *SHAPE)
    units = torch.arange(14.0).view(2, 7)
    assert torch.equal(model.units(model.from_units(units)), units)


def test_all_values_of_a_map_are_fitted_together(data: HFDataModule) -> None:
    model = made("ae", architecture=ConvNet(channels=(8, 8), code="map"))
    density: Any = fit_sampler(model, data, GaussianSampler())
    assert density.space.units == torch.Size(model.code_shape).numel() > 4
    assert model.draw_codes(5).shape == (5, *model.code_shape)
    units = torch.randn(3, density.space.units)
    assert torch.equal(model.units(model.from_units(units)), units)
    assert model.sample(2).shape == (2, *SHAPE)


def test_codes_on_the_sphere_and_in_the_ball_stay_there(data: HFDataModule) -> None:
    sphere = made("hyperspherical_vae")
    fit_sampler(sphere, data, MixtureSampler(2))
    norms = sphere.draw_codes(200).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(200), rtol=0, atol=1e-5)
    assert sphere.sample(2).shape == (2, *SHAPE)

    ball = made("poincare_vae", curvature=0.7)
    fit_sampler(ball, data, GaussianSampler())
    code = ball.draw_codes(200)
    assert (0.7**0.5 * code.norm(dim=1) < 1).all()
    torch.testing.assert_close(ball.from_coordinates(ball.coordinates(code)).float(), code, rtol=1e-4, atol=1e-5)
    # what is fitted to is what the decoder sees
    torch.testing.assert_close(ball.coordinates(code).float(), ball.posterior.unfold(code), rtol=1e-5, atol=1e-6)


def test_categories_are_indices(data: HFDataModule) -> None:
    model = made("categorical_vae", classes=5)
    assert model.code_space == Space(4, 5)
    fit_sampler(model, data, INDEX)
    code = model.draw_codes(50).view(50, 4, 5)
    assert set(code.unique().tolist()) == {0.0, 1.0}
    assert (code.sum(dim=2) == 1).all()
    values = model.coordinates(code.flatten(1))
    assert torch.equal(model.from_coordinates(values).view(50, 4, 5).float(), code)
    assert model.sample(3).shape == (3, *SHAPE)


@pytest.mark.parametrize("architecture", [MLP(tokens=3), ConvNet(channels=(8, 8), code="map"), MLP()])
def test_indices_of_a_codebook(architecture: Any, data: HFDataModule) -> None:
    model: Any = made("vq_vae", quantizer=VectorQuantizer(codes=6), architecture=architecture)
    density: Any = fit_sampler(model, data, INDEX)
    positions = model.code_shape[1:]
    assert density.space == Space(int(torch.Size(positions).numel()), 6)
    code = model.draw_codes(30)
    assert code.shape == (30, *model.code_shape)
    # each vector is one of the codebook, and indices lead there and back
    rows = code.movedim(1, -1).reshape(-1, 1, 4)
    assert (rows == model.codebook.vectors).all(dim=2).any(dim=1).all()
    indices = model.encode_indices(inputs(data)[:9])
    assert torch.equal(model.coordinates(model.encode(inputs(data)[:9])), indices.reshape(9, -1))
    assert torch.equal(model.from_coordinates(indices.reshape(9, -1)), model.encode(inputs(data)[:9]))
    torch.testing.assert_close(
        model.decode(model.from_coordinates(indices.reshape(9, -1))), model.decode_indices(indices)
    )
    assert model.sample(2).shape == (2, *SHAPE)


def test_a_condition_is_passed_on_to_the_decoder(data: HFDataModule) -> None:
    model = made("conditional_vae", num_classes=10)
    fit_sampler(model, data, GaussianSampler())
    torch.manual_seed(3)
    code = model.draw_codes(6)
    for label in (2, 7):
        torch.manual_seed(3)
        drawn = model.sample(6, label=label)
        torch.testing.assert_close(drawn, model.decode(code, label=torch.full((6,), label)))
    with pytest.raises(InputError, match="label"):
        model.sample(6)


def test_score_matching_draws_from_it(data: HFDataModule) -> None:
    model = made("score_matching")
    torch.manual_seed(0)
    before = model.sample(2, steps=2)
    fit_sampler(model, data, GaussianSampler())
    torch.manual_seed(0)
    code = model.draw_codes(2)
    torch.manual_seed(0)
    assert torch.equal(model.sample(2, steps=2), model.decode(code))
    model.sampler = None
    torch.manual_seed(0)
    assert torch.equal(model.sample(2, steps=2), before)


@pytest.mark.parametrize(
    ("name", "sampler", "said"),
    [
        ("k_sparse", MixtureSampler(), "codes of KSparseAutoencoder are sparse"),
        ("sparse", MixtureSampler(), "codes of SparseAutoencoder are sparse"),
        ("topk_dictionary", GaussianSampler(), "codes of TopKDictionary are sparse"),
        ("joint_vae", MixtureSampler(), "DiagonalGaussian and Concrete, of which no sampler is a density"),
        ("vq_vae", MixtureSampler(), r"MixtureSampler is of numbers, and the codes of VQVAE are indices"),
        ("categorical_vae", FlowSampler(), r"the codes of CategoricalVAE are indices, of 10 each"),
        ("ae", IndexSampler(), "IndexSampler is of indices, and the codes of Autoencoder are numbers"),
    ],
)
def test_codes_that_no_such_sampler_is_a_density_of(name: str, sampler: Any, said: str, data: HFDataModule) -> None:
    model = made(name)
    with pytest.raises(InputError, match=said):
        fit_sampler(model, data, sampler)
    assert model.sampler is None


def test_data_that_cannot_be_used(data: HFDataModule) -> None:
    model = made("ae")
    with pytest.raises(InputError, match="data must be a data module, got Tensor"):
        fit_sampler(model, inputs(data))
    with pytest.raises(InputError, match="have no val split"):
        fit_sampler(model, data, split="val")
    with pytest.raises(InputError, match="takes 9999 codes or more, got 1437"):
        fit_sampler(model, data, MixtureSampler(9999))
    torch.nn.init.constant_(model.encoder.linears[-1].bias, torch.nan)  # type: ignore[union-attr,index]
    with pytest.raises(InputError, match="value 0 of code 0 is nan"):
        fit_sampler(model, data)


def test_the_splits_and_the_seed_count(data: HFDataModule) -> None:
    model = made("vae")

    def means(**options: Any) -> Tensor:
        density: Any = fit_sampler(model, data, GaussianSampler(), **options)
        return density.means

    torch.manual_seed(0)
    first = means()
    torch.manual_seed(1)
    assert torch.equal(means(), first)
    assert not torch.equal(means(seed=1), first)
    assert not torch.equal(means(split="test"), first)


def test_a_class_of_ones_own_passes_it_on(data: HFDataModule) -> None:
    class Louder(VAE):
        def sample(self, n: int, **given: Any) -> Tensor:
            return 2 * super().sample(n, **given)

    torch.manual_seed(0)
    model = Louder(SHAPE, 4)
    fit_sampler(model, data, GaussianSampler())
    torch.manual_seed(3)
    code = model.draw_codes(2)
    torch.manual_seed(3)
    assert torch.equal(model.sample(2), 2 * model.decode(code))


def test_pictures_of_samples(data: HFDataModule) -> None:
    model: Any = made("ae")
    grid = SampleGrid(n=4)
    with pytest.raises(InputError, match="cannot sample"):
        grid.setup(None, model, "test")  # type: ignore[arg-type]
    fit_sampler(model, data, GaussianSampler())
    grid.setup(None, model, "test")  # type: ignore[arg-type]
    assert len(sample_figure(model, 4, 0).axes) == 4
    with pytest.raises(InputError, match="cannot sample"):  # the fit will move its codes
        grid.setup(None, model, "fit")  # type: ignore[arg-type]
    fit_sampler(labelled := made("conditional_vae", num_classes=3), _of_three(data), GaussianSampler())
    assert isinstance(labelled, ConditionalVAE)
    assert len(sample_figure(labelled, 6, 0).axes) == 6


def _of_three(data: HFDataModule) -> HFDataModule:
    rows = data.splits["train"]
    kept = rows.select([i for i, label in enumerate(rows["label"]) if label < 3])
    return HFDataModule(kept, val_fraction=0)
