"""Shared fixtures: a quiet trainer, digits as tensors, the shared data sets where they are at hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from asking import given_of
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae.cli.options import OPTIONS

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of decoded samples that leaves the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_AE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def fits_without_report() -> Iterator[None]:
    """A fit of a test writes no report unless it says so, which would take seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "report", OPTIONS["report"]._replace(default=False))
        yield


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """Lightning leaves Ctrl-C ignored where it has ended a run by it, and the environment with the rank of one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environ = dict(os.environ)
    yield
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the full data sets; tests that need it are skipped elsewhere."""
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"needs the full data sets in {SHARED.relative_to(ROOT.parent)} beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """The 1797 digits as (1797, 1, 8, 8) in [0, 1], straight from scikit-learn."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16


@pytest.fixture
def fit(tmp_path: Path) -> Any:
    """fit(model, tensor, **trainer options): trains on batches of 64, and returns the trainer."""

    def run(model: pl.LightningModule, data: torch.Tensor, **options: Any) -> pl.Trainer:
        options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False} | options
        options = {"enable_model_summary": False, "default_root_dir": tmp_path} | options
        trainer = pl.Trainer(**options)
        rows = [data, *given_of(model, len(data)).values()] if hasattr(model, "given") else [data]
        trainer.fit(model, DataLoader(TensorDataset(*rows), batch_size=64, shuffle=True))
        return trainer

    return run
