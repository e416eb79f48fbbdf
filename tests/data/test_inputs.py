"""Hostile and odd inputs, as a table: what goes in, and what comes out. The rows lie in the modules inputs_*.py."""

from __future__ import annotations

import logging
import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs import Case, Refused, Said

from lightning_ae.errors import InputError

TABLES = sorted(file.stem for file in Path(__file__).parent.glob("inputs_*.py"))
CASES: list[tuple[str, Case]] = [(table, case) for table in TABLES for case in import_module(table).CASES]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{table[7:]}: {case.goes_in}") for table, case in CASES])
def test_input(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    expected = case.comes_out
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        if isinstance(expected, Refused):
            with pytest.raises(InputError) as refused:
                case.run(tmp_path)
            assert re.search(expected.because, str(refused.value)), str(refused.value)
            assert len(str(refused.value)) < 1000, "an error is short"
            return
        found = case.run(tmp_path)
    if isinstance(expected, Said):
        said = [str(each.message) for each in warned] + [record.getMessage() for record in caplog.records]
        hits = [text for text in said if re.search(expected.what, text)]
        assert len(hits) == 1, f"said {len(hits)} times: {said}"
        expected = expected.value
    _equal(found, expected)


def _equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor | np.ndarray | float):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=0)
    else:
        assert found == expected
