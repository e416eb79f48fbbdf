"""An overcomplete code without a constraint degenerates to the identity, and each constraint forbids it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import pytorch_lightning as pl

from lightning_ae import HFDataModule

pytestmark = pytest.mark.slow
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "overcomplete.py"))


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    data = HFDataModule("digits", val_fraction=0.0, batch_size=64)
    results = {}
    for name in SCRIPT["cases"]():
        pl.seed_everything(0, verbose=False)
        results[name] = SCRIPT["measure"](SCRIPT["cases"]()[name], data, epochs=100 if name == "none" else 30)
    return results


def test_without_a_constraint_it_is_the_identity(found: dict[str, dict[str, float]]) -> None:
    free = found["none"]
    assert free["error"] < 0.01  # of some 24 that the digits' pixels hold, about 19 of it variance
    assert free["noise"] < 0.5 * 64 / 12  # half of what reconstructing noise by grey would cost
    data = HFDataModule("digits", val_fraction=0.0)
    (train, labels), (test, truth) = SCRIPT["both_splits"](data)
    pixels = 100 * SCRIPT["linear_probe_error"](train.flatten(1), labels, test.flatten(1), truth)
    assert free["probe"] > pixels - 1


def test_each_constraint_forbids_it(found: dict[str, dict[str, float]]) -> None:
    for name, figures in found.items():
        if name != "none":
            assert figures["error"] > 10 * found["none"]["error"], name
            assert figures["noise"] > 1.5 * found["none"]["noise"], name
