"""Autoencoders that scikit-learn fits."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lightning_ae.architectures import MLP
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.data.kinds import Tabular
from lightning_ae.data.kinds.tabular import Scaling
from lightning_ae.data.loader import BatchLoader, Order
from lightning_ae.data.module import HFDataModule
from lightning_ae.data.streaming import StreamLoader
from lightning_ae.errors import InputError
from lightning_ae.parts import Gaussian
from lightning_ae.registry import get_model

HELD_OUT_QUANTILE = 0.99
STEPS, EPOCHS = 500, 10
OF_VAE: dict[str, Any] = {
    "architecture": MLP(hidden=(64, 32)),
    "likelihood": Gaussian(scale="optimal_per_feature"),
    "lr": 1e-2,
}
"""How the estimator's own model, the VAE, differs from the class's defaults: what tells anomalies well, see
benchmarks/anomaly.md."""
FEWEST_HELD_OUT = 100
"""Rows: of fewer, that quantile rests on the largest score alone."""


class AutoencoderEstimator(OutlierMixin, TransformerMixin, BaseEstimator):
    """An autoencoder of tables that scikit-learn fits: codes, reconstructions and how strange a row is.

    It is a transformer, rows to codes, and a detector of outliers in the manner of `sklearn.ensemble.IsolationForest`.
    Columns are scaled by the rows that `fit` gets. A part of them is held out: training ends where their mean score
    falls no more, and the weights of its smallest are taken. So that outliers among the rows are not learned, training
    leaves out those whose scores are far beyond the quartiles of all (Tukey 1977), chosen anew after each twentieth of
    training (as in the steps of least trimmed squares, Rousseeuw & Van Driessen 2006). The fitted LightningModule is
    `model_`, which `score`, `features` and `lightning_ae.zoo` know how to use.

    A grid search reaches every argument; those of the model are one, as in
    `GridSearchCV(estimator, {"latent_dim": [2, 4], "model_params": [{"beta": 1}, {"beta": 4}]})`.

    Args:
        model: a variant's name, see `lightning_ae.list_models`, or its class.
        latent_dim: how many values the code has; by default a quarter of the columns, at least 2.
        model_params: what else the variant takes, by name. Of "vae" this is beside what the estimator sets for tables,
            `lightning_ae.estimator.OF_VAE`: a small network, a scale of each column and a large step. A class keeps
            the defaults of its own.
        scaling: of each column, see `lightning_ae.data.Tabular`.
        contamination: the share of outliers in the training data, in (0, 0.5], which `predict` finds in them; or
            "auto", which calls strange what lies beyond the 0.99 quantile of the scores of held-out rows, or of all
            rows where there are fewer than 100 of those.
        max_epochs: how often each row is seen at the most; by default as often as 500 steps need, and at least ten
            times: what tells outliers best. Codes and reconstructions get better with more.
        batch_size: rows in a step.
        validation_fraction: the part of the rows that is held out, in [0, 1); with 0 training has no early end.
        patience: how many twentieths of the epochs training goes on without a smaller mean score of held-out rows.
        fence: beyond the upper quartile of scores, by so many interquartile ranges, training leaves a row out, and a
            held-out one does not count in the mean. None where all rows are known to be ordinary.
        draws: of each row's code in a score, see `Autoencoder.score`.
        device: cpu, cuda, mps, or auto for the fastest there is.
        random_state: a seed, a `numpy.random.RandomState`, or None for another run each time. The global generators are
            left as they were.
        verbose: whether a bar and what the data module and the trainer say are shown.

    Attributes:
        model_: the trained `Autoencoder`, on the CPU, in float64.
        history_: the mean score of held-out rows after each twentieth of training.
        offset_: `decision_function` is `score_samples` less that.
        n_features_in_: the number of columns.
        feature_names_in_: their names, of a frame whose columns have some.
    """

    def __init__(
        self,
        model: str | type[Autoencoder] = "vae",
        *,
        latent_dim: int | None = None,
        model_params: dict[str, Any] | None = None,
        scaling: Scaling = "standard",
        contamination: float | str = "auto",
        max_epochs: int | None = None,
        batch_size: int = 128,
        validation_fraction: float = 0.1,
        patience: int = 5,
        fence: float | None = 3.0,
        draws: int = 1,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.latent_dim = latent_dim
        self.model_params = model_params
        self.scaling = scaling
        self.contamination = contamination
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.fence = fence
        self.draws = draws
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ---- training -------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> AutoencoderEstimator:
        """Trains the model on rows X (n, columns), an array or a frame of numbers; y is ignored.

        NaN is a value that is missing, where the variant takes a mask.

        Raises:
            InputError: for an argument that cannot work, a column that is no number, infinite values.
        """
        self._check()
        rows = self._rows(X, fitting=True)
        self._missing = bool(np.isnan(rows).any())
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _quiet(not self.verbose), _own_draws(seed):
            data = self._data(rows)
            self.model_ = self._build(data)
            epochs = self._epochs(len(data.dataset("train")))
            data.passes = max(1, epochs // 20)
            parts = _Parts(data, self.patience, self.fence)
            trainer = pl.Trainer(
                max_epochs=epochs // data.passes,
                log_every_n_steps=int(self.verbose),  # for the bar alone
                num_sanity_val_steps=0,
                limit_val_batches=0,
                callbacks=[parts],
                accelerator=self.device,
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=self.verbose,
            )
            trainer.fit(self.model_, data)
            if trainer.interrupted:
                raise KeyboardInterrupt
            # in float64 the score of a row does not show, by rounding, which rows stand beside it
            self.model_ = self.model_.cpu().double().eval()
            self.model_.trainer = None
            self.history_ = parts.history
            self.offset_ = self._offset(rows, data)
        return self

    def _check(self) -> None:
        contamination, fraction = self.contamination, self.validation_fraction
        if contamination != "auto" and (isinstance(contamination, str) or not 0 < contamination <= 0.5):
            raise InputError(f"contamination must be 'auto' or lie in (0, 0.5], got {contamination!r}")
        if not 0 <= fraction < 1:
            raise InputError(f"validation_fraction must lie in [0, 1), got {fraction!r}")
        if self.fence is not None and (isinstance(self.fence, str) or not self.fence >= 0):
            raise InputError(f"fence must be a number of interquartile ranges, or None, got {self.fence!r}")
        for name in ("batch_size", "patience", "draws", "max_epochs", "latent_dim"):
            value = getattr(self, name)
            if value is None and name in ("max_epochs", "latent_dim"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(self.model, str) and not (
            isinstance(self.model, type) and issubclass(self.model, Autoencoder)
        ):
            raise InputError(f"model must be a variant's name or its class, got {self.model!r}")
        if (params := self.model_params) is not None and not isinstance(params, dict):
            raise InputError(f"model_params must be a dict of the model's arguments, got {params!r}")

    def _data(self, rows: np.ndarray) -> _Rows:
        held_out = self.validation_fraction if round(self.validation_fraction * len(rows)) >= 1 else 0.0
        kind = Tabular(scaling=self.scaling, missing="masked" if self._missing else "refused")
        return _Rows(rows, kind=kind, val_fraction=held_out, batch_size=self.batch_size, cache="memory")

    def _build(self, data: HFDataModule) -> Autoencoder:
        cls = get_model(self.model) if isinstance(self.model, str) else self.model
        columns = data.input_shape[0]
        own = OF_VAE if isinstance(self.model, str) and cls is get_model("vae") else {}  # by any of its names
        options = {"latent_dim": self.latent_dim or max(2, columns // 4), **own, **data.suits}
        options |= self.model_params or {}
        model: Autoencoder = cls(**options)
        if lacking := [role for role in model.given if role not in ("mask", *model.implied)]:
            raise InputError(
                f"{cls.__name__} takes {', '.join(lacking)} beside the rows, which scikit-learn's X does not have",
                "choose a variant that takes rows alone, or train it by a Trainer",
            )
        return model

    def _epochs(self, rows: int) -> int:
        if self.max_epochs is not None:
            return int(self.max_epochs)
        return max(EPOCHS, math.ceil(STEPS / math.ceil(rows / self.batch_size)))

    def _offset(self, rows: np.ndarray, data: HFDataModule) -> float:
        if self.contamination != "auto":
            return float(np.quantile(self._scores(rows), float(self.contamination)))
        if data.has("val") and len(data.dataset("val")) >= FEWEST_HELD_OUT:
            return -self.model_.fit_threshold(data, HELD_OUT_QUANTILE, draws=self.draws).value
        return float(np.quantile(self._scores(rows), 1 - HELD_OUT_QUANTILE))

    # ---- what a fitted one does -------------------------------------------------------------------------------------

    def transform(self, X: Any) -> np.ndarray:
        """The codes of rows X (n, columns), (n, feature_dim) in float32."""
        check_is_fitted(self)
        found: np.ndarray = self.model_.features(self._rows(X)).float().numpy()
        return found

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows in natural units that the decoder makes of codes X (n, feature_dim), (n, columns) in float32.

        Raises:
            InputError: of a model whose codes are no vectors, or on another number of columns.
        """
        check_is_fitted(self)
        codes = np.asarray(X, dtype=np.float32)
        if self.model_.code_shape != (self.model_.feature_dim,):
            raise InputError(f"the codes of {type(self.model_).__name__} are no vectors, but {self.model_.code_shape}")
        if codes.ndim != 2 or codes.shape[1] != self.model_.feature_dim:
            raise InputError(f"codes must be (n, {self.model_.feature_dim}), got {codes.shape}")
        with torch.no_grad():
            rows = self.model_.decode(torch.from_numpy(codes).to(self.model_.dtype))
        signature: Any = self.model_.signature
        found: np.ndarray = signature.preprocess.inverse(rows).float().numpy()
        return found

    def score_samples(self, X: Any) -> np.ndarray:
        """How ordinary rows X (n, columns) are, (n,): log p(x), or the model's bound on it, in nats.

        It is `model_.score` with scikit-learn's sign: larger is more ordinary.
        """
        check_is_fitted(self)
        return self._scores(self._rows(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less `offset_`, (n,): negative for outliers."""
        scores = self.score_samples(X)
        found: np.ndarray = scores - self.offset_
        return found

    def predict(self, X: Any) -> np.ndarray:
        """1 for ordinary rows of X (n, columns) and -1 for outliers, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the codes' values: code0, code1 and so on."""
        check_is_fitted(self)
        return np.array([f"code{i}" for i in range(self.model_.feature_dim)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        found = self.model_.score(rows, draws=self.draws)
        return -found.double().numpy()

    def _rows(self, X: Any, fitting: bool = False) -> np.ndarray:
        """X in float64, checked as scikit-learn checks."""
        rows: np.ndarray = validate_data(
            self,
            X,
            reset=fitting,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if fitting else 1,
        )
        if not fitting and not self._missing and np.isnan(rows).any():
            row, column = np.argwhere(np.isnan(rows))[0]
            raise InputError(
                f"row {row}, column {column} of X is NaN, where the rows that fit got had no missing values",
                "fit with such rows, or fill the gaps",
            )
        return rows


class _Passes(Order):
    """Several epochs of an order as one, in which others take the places of samples that are left out."""

    def __init__(self, order: Order, times: int) -> None:
        vars(self).update(vars(order))
        self._one, self._times = copy.copy(order), times
        self.left_out = torch.zeros(order.samples, dtype=torch.bool)

    def __len__(self) -> int:
        return self._times * len(self._one)

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, int]]:
        """As of an `Order`, from batch `start` of all on."""
        kept = (~self.left_out).nonzero().squeeze(1)
        for number in range(self._times):
            self._one.set_epoch(self.epoch * self._times + number)
            generator = torch.Generator().manual_seed(self.seed + self._one.epoch)
            others = kept[torch.randint(len(kept), (self.samples,), generator=generator)]
            positions = torch.where(self.left_out, others, torch.arange(self.samples))
            for share, size in self._one.batches(max(0, start - number * len(self._one))):
                yield positions[share], size


class _Rows(HFDataModule):
    """Rows of which the trainer sees several epochs as one: between two it takes as long as for ten steps."""

    passes = 1
    order: _Passes

    def train_dataloader(self) -> BatchLoader | StreamLoader:
        loader = super().train_dataloader()
        assert isinstance(loader, BatchLoader)
        loader.batch_sampler = self.order = _Passes(loader.batch_sampler, self.passes)
        return self._counted_by(loader, "train")


class _Parts(pl.Callback):
    """After each part of training: leaves out what is far out, and ends it where held-out rows score less no more.

    The weights are those with which they scored least.
    """

    def __init__(self, data: _Rows, patience: int, fence: float | None) -> None:
        self.history: list[float] = []
        self._data, self._patience, self._fence = data, patience, fence
        self._state: dict[str, Any] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._fence is not None:
            self._data.order.left_out = self._far_out(self._scores(pl_module, "train"))
        if not self._data.has("val"):
            return
        scores = self._scores(pl_module, "val")
        score = float(scores[~self._far_out(scores)].mean())
        if not self.history or score < min(self.history):
            self._state = copy.deepcopy(pl_module.state_dict())
        self.history.append(score)
        if len(self.history) - 1 - int(np.argmin(self.history)) >= self._patience:
            trainer.should_stop = True

    def _far_out(self, scores: Tensor) -> Tensor:
        if self._fence is None:
            return torch.zeros_like(scores, dtype=torch.bool)
        low, high = np.quantile(scores.numpy(), [0.25, 0.75])
        return scores > high + self._fence * (high - low)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._state is not None:
            pl_module.load_state_dict(self._state)

    def _scores(self, model: Any, split: str) -> Tensor:
        return torch.cat([found.score.double().cpu() for found in model.score_rows(self._data, split)])


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Inside, what is said for information only is not."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_ae")]
    levels = [logger.level for logger in loggers]
    for logger in loggers if wanted else []:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """Inside, torch draws by `seed`; its global generators are left as they were."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
