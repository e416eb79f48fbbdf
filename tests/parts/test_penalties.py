"""Penalties keep the type that they are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from asking import given_of, shape_of, told

from lightning_ae import get_model, list_models
from lightning_ae.architectures import MLP
from lightning_ae.models.stacked import Contractive, Denoising, Sparse

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in list_models()),
    ("sparse", {"penalty": "l1"}),
    ("contractive", {"hessian_weight": 1.0}),
    ("contractive", {"hessian_weight": 1.0, "architecture": MLP(hidden=(9,), dropout=0.2)}),
    ("contractive", {"hessian_weight": 1.0, "method": "hutchinson"}),
    ("score_matching", {"objective": "sliced"}),
    ("score_matching", {"architecture": MLP(hidden=(), tied=True), "code_activation": "sigmoid"}),
    *(("stacked", {"objective": objective}) for objective in (Sparse(), Contractive(), Denoising())),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value)[:60])
def test_a_model_in_float64_stays_in_float64(name: str, options: dict[str, Any]) -> None:
    shape = shape_of(name, (6,))
    model = told(get_model(name)(shape, 4, **options).double())
    x = torch.rand(8, *shape, dtype=torch.float64)
    for mode in (True, False):
        with model.train(mode).at_step("train", 0):
            terms = model.loss(x, x, **given_of(model, 8))
        assert {term: value.dtype for term, value in terms.items()} == dict.fromkeys(terms, torch.float64)
