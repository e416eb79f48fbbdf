"""The private names that we use are those of the versions installed, and stand in one place."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

import lightning_ae
from lightning_ae import VAE
from lightning_ae.training import private

PACKAGE = Path(lightning_ae.__file__).parent
OF_OTHERS = {"_fingerprint", "_plot", "_actions", "_conv_forward"}
"""Of the datasets library, of torchmetrics for metrics of one's own, of argparse, and of torch's convolutions."""


def test_lightning_has_them() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(VAE((1, 8, 8), 2))
    assert private.missing(trainer) == []
    assert private.missing_to_resume(trainer) == []
    assert private.absent(trainer, private.ELSEWHERE) == []
    importlib.import_module("pytorch_lightning.cli")
    assert private.absent(pl, private.CLI) == []
    assert private.absent(EMAWeightAveraging(), private.AVERAGING) == []
    assert private.absent(ExperimentWriter, private.CSV_WRITER) == []
    assert isinstance(DDPStrategy()._ddp_kwargs, dict)


def test_torch_has_them() -> None:
    importlib.import_module("torch._dynamo")
    assert private.absent(torch, private.TORCH) == []
    assert torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True)._step_supports_amp_scaling
    assert "_compiled_call_impl" in vars(nn.Module)
    assert private.absent(nn.Linear(1, 1), private.MODULE) == []


def test_one_that_is_missing_is_named() -> None:
    class Trainer:
        fit_loop = None

    assert private.absent(Trainer(), ("fit_loop", "fit_loop.epoch_loop.advance", "gone")) == [
        "fit_loop.epoch_loop.advance",
        "gone",
    ]


def test_the_version_is_bounded_by_what_was_tested() -> None:
    """Read as text: Python 3.10 has no parser for it."""
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if '"pytorch-lightning' in line]
    bounds = Requirement(line.split('"')[1]).specifier
    assert Version(pl.__version__) in bounds
    assert Version("3.0") not in bounds


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """The names with an underscore that a file uses, and those that it defines."""
    used: set[str] = set()
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if of_self and isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("lightning_ae"):
            used |= {alias.name for alias in node.names}
    return used, defined


def test_every_private_name_stands_there() -> None:
    used: set[str] = set()
    defined: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        if file.name != "private.py":
            more: Any = _names(ast.parse(file.read_text()))
            used, defined = used | more[0], defined | more[1]
    private_names = {name for name in used - defined if name.startswith("_") and not name.startswith("__")}
    listed = (PACKAGE / "training" / "private.py").read_text()
    assert {name for name in private_names - OF_OTHERS if name not in listed} == set()
    assert "_logger_connector" in private_names  # it finds them
