"""The scikit-learn estimator that fits."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from lightning_ae import VAE, Autoencoder, AutoencoderEstimator, InputError
from lightning_ae.data.loader import Order
from lightning_ae.estimator import OF_VAE, _Passes
from lightning_ae.parts import Gaussian


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows (400, 8) on a plane of three dimensions, with noise; in units of very different sizes."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(400, 8))
    return plane * np.logspace(-2, 3, 8) + 1000


@pytest.fixture(scope="module")
def fitted(rows: np.ndarray) -> AutoencoderEstimator:
    return AutoencoderEstimator(latent_dim=3, max_epochs=40, random_state=0, contamination=0.1).fit(rows)


CHECKS = list(estimator_checks_generator(AutoencoderEstimator(max_epochs=2, contamination=0.1)))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[getattr(c, "func", c).__name__ for _, c in CHECKS])
def test_scikit_learns_checks(estimator: AutoencoderEstimator, check: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)  # type: ignore[operator]


def test_the_same_seed_gives_the_same_and_no_global_draws(rows: np.ndarray) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found = [AutoencoderEstimator(max_epochs=2, random_state=seed).fit(rows).score_samples(rows) for seed in (0, 0, 1)]
    assert torch.rand(1) == expected
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


def test_codes_hold_the_plane(rows: np.ndarray, fitted: AutoencoderEstimator) -> None:
    scaled = (rows - rows.mean(0)) / rows.std(0)
    back = (fitted.inverse_transform(fitted.transform(rows)) - rows.mean(0)) / rows.std(0)
    pca = PCA(3).fit(scaled)
    best = ((pca.inverse_transform(pca.transform(scaled)) - scaled) ** 2).mean()
    lost = ((back - scaled) ** 2).mean()
    assert fitted.transform(rows).shape == (400, 3)
    assert best < lost < 0.35  # of a variance of 1: most of it, and no more than is possible


def test_what_is_strange(rows: np.ndarray, fitted: AutoencoderEstimator) -> None:
    rng = np.random.default_rng(1)
    off = np.stack([rng.permutation(column) for column in rows.T], axis=1)  # each column as ordinary as before
    both, strange = np.concatenate([rows, off]), np.repeat([0, 1], 400)
    found = roc_auc_score(strange, -fitted.score_samples(both))
    forest = IsolationForest(random_state=0).fit(rows)
    assert found > roc_auc_score(strange, -forest.score_samples(both))
    decision = fitted.decision_function(both)
    assert (decision == fitted.score_samples(both) - fitted.offset_).all()
    assert set(fitted.predict(both)) == {-1, 1}
    assert ((fitted.predict(both) == -1) == (decision < 0)).all()
    assert (fitted.predict(rows) == -1).mean() == pytest.approx(0.1, abs=0.005)


def test_scores_are_the_models(rows: np.ndarray, fitted: AutoencoderEstimator) -> None:
    assert (fitted.score_samples(rows) == -fitted.model_.score(rows).double().numpy()).all()


def test_without_contamination_held_out_rows_decide() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1500, 4))
    found = AutoencoderEstimator(max_epochs=3, random_state=0).fit(rows)
    assert found.model_.threshold is not None
    assert found.model_.threshold.rows == 150
    assert found.offset_ == -found.model_.threshold.value


def test_training_ends_early_with_the_best_weights(rows: np.ndarray) -> None:
    # a step so large that the loss goes up
    found = AutoencoderEstimator(max_epochs=40, patience=2, model_params={"lr": 0.3}, random_state=0).fit(rows)
    best = int(np.argmin(found.history_))
    assert len(found.history_) < 20
    assert len(found.history_) - 1 - best == 2


@pytest.mark.parametrize(("samples", "start"), [(10, 0), (7, 0), (10, 4)])
def test_passes_are_epochs_one_after_another(samples: int, start: int) -> None:
    order = Order(samples, 4, shuffle=True, seed=3)
    passes = _Passes(Order(samples, 4, shuffle=True, seed=3), 3)
    passes.set_epoch(2)
    expected = []
    for epoch in (6, 7, 8):
        order.set_epoch(epoch)
        expected += [share.tolist() for share, _ in order.batches()]
    assert [share.tolist() for share, _ in passes.batches(start)] == expected[start:]
    assert len(passes) == len(expected) == 3 * len(order)
    assert passes.position(start, 1) == expected[start][1]
    passes.left_out[:2] = True
    found = [share.tolist() for share, _ in passes.batches(start)]
    for new, old in zip(sum(found, []), sum(expected[start:], []), strict=True):
        assert new == old if old > 1 else new > 1


class Recorded(VAE):
    """Keeps what it is trained on."""

    seen: list[torch.Tensor]

    def loss(self, x: torch.Tensor, target: torch.Tensor, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training:
            Recorded.seen.append(x)
        return super().loss(x, target, **given)


@pytest.mark.parametrize(("samples", "options", "epochs"), [(2000, {}, 34), (20, {"max_epochs": 45}, 44)])
def test_how_often_rows_are_seen(samples: int, options: dict[str, int], epochs: int) -> None:
    Recorded.seen = []
    rng = np.random.default_rng(0)
    AutoencoderEstimator(Recorded, patience=100, random_state=0, **options).fit(rng.normal(size=(samples, 2)))
    assert sum(map(len, Recorded.seen)) == epochs * 0.9 * samples


@pytest.mark.parametrize(("fence", "stays"), [(3.0, False), (None, True)])
def test_what_is_far_out_is_left_out(rows: np.ndarray, fence: float | None, stays: bool) -> None:
    Recorded.seen = []
    mixed = np.concatenate([rows, rows[:20] + 8 * rows.std(0)])
    AutoencoderEstimator(Recorded, latent_dim=3, max_epochs=20, patience=100, fence=fence, random_state=0).fit(mixed)
    far = [bool((x.mean(dim=1) > 2.5).any()) for x in Recorded.seen]
    assert any(far[: len(far) // 20])
    assert any(far[-len(far) // 4 :]) == stays


def test_the_vae_is_one_for_tables_and_can_be_another(rows: np.ndarray) -> None:
    found = AutoencoderEstimator(max_epochs=1, random_state=0).fit(rows).model_
    assert (found.likelihood, found.lr, found.architecture) == (OF_VAE["likelihood"], 1e-2, OF_VAE["architecture"])
    assert AutoencoderEstimator("VAE", max_epochs=1, random_state=0).fit(rows).model_.hparams == found.hparams
    params = {"likelihood": Gaussian(scale="optimal"), "lr": 1e-3}
    found = AutoencoderEstimator(max_epochs=1, model_params=params, random_state=0).fit(rows).model_
    assert (found.likelihood, found.lr, found.architecture) == (Gaussian(scale="optimal"), 1e-3, OF_VAE["architecture"])
    found = AutoencoderEstimator(VAE, max_epochs=1, random_state=0).fit(rows).model_
    assert found.architecture == VAE((8,)).architecture


def test_pipeline_search_and_pickle() -> None:
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    pipe = make_pipeline(AutoencoderEstimator(max_epochs=3, random_state=0), LogisticRegression())
    search = GridSearchCV(pipe, {"autoencoderestimator__latent_dim": [1, 8]}, cv=2).fit(x, y)
    assert search.best_params_["autoencoderestimator__latent_dim"] == 8
    estimator = search.best_estimator_[0]
    assert list(estimator.feature_names_in_) == list(x.columns)
    assert (pickle.loads(pickle.dumps(estimator)).transform(x) == estimator.transform(x)).all()
    assert list(estimator.get_feature_names_out()) == [f"code{i}" for i in range(8)]
    with pytest.raises(ValueError, match="feature names"):
        estimator.transform(x[x.columns[::-1]])
    assert not hasattr(clone(estimator), "model_")


def test_missing_values(rows: np.ndarray) -> None:
    gaps = np.where(np.random.default_rng(0).random(rows.shape) < 0.1, np.nan, rows)
    found = AutoencoderEstimator(max_epochs=10, random_state=0).fit(gaps)
    assert np.isfinite(found.transform(gaps)).all()
    assert np.isfinite(found.score_samples(gaps)).all()
    whole = AutoencoderEstimator(max_epochs=1, random_state=0).fit(rows)
    broken = rows.copy()
    broken[1, 2] = np.nan
    with pytest.raises(InputError, match="row 1, column 2 of X is NaN"):
        whole.transform(broken)


@pytest.mark.parametrize("model", ["ae", "vq_vae", "ladder_vae", Autoencoder])
def test_any_variant(rows: np.ndarray, model: object) -> None:
    found = AutoencoderEstimator(model, max_epochs=1, random_state=0).fit(rows)  # type: ignore[arg-type]
    assert np.isfinite(found.score_samples(rows)).all()
    assert len(found.transform(pd.DataFrame(rows).to_numpy())) == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contamination": 0.6}, "contamination must be 'auto'"),
        ({"contamination": "some"}, "contamination must be 'auto'"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"fence": -1}, "fence must be a number"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"max_epochs": 1.5}, "max_epochs must be a positive integer"),
        ({"model": "vea"}, "vea"),
        ({"model": dict}, "model must be a variant's name or its class"),
        ({"model": "conditional_vae", "model_params": {"num_classes": 3}}, "takes label beside the rows"),
        ({"model_params": [1]}, "model_params must be a dict"),
        ({"model_params": {"latent_dmi": 3}}, "latent_dmi"),
        ({"model": "ae", "draws": 2}, "draws"),
        ({"scaling": "log"}, "scaling"),
    ],
)
def test_bad_arguments(rows: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, TypeError), match=message):
        AutoencoderEstimator(**options).fit(rows)  # type: ignore[arg-type]
