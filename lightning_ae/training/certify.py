"""The certificate: a model trains the same on one process and on several."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ae.config import import_class
from lightning_ae.data.loader import BatchLoader, Columns, Order
from lightning_ae.errors import InputError
from lightning_ae.registry import get_model, list_models
from lightning_ae.training.module import ExactModule
from lightning_ae.training.processes import run

TOLERANCE = 1e-5
SAMPLES, BATCH_SIZE, EPOCHS = 47, 12, 2
"""Four steps an epoch; the last batch, of 11, is shared unevenly by 2, 3 and 4 ranks."""
MEASURED = ("losses", "gradients", "buffers", "outputs", "metrics", "weights")
JUDGED = MEASURED[:-1]
"""Two runs are one when they compute the same. Their weights may differ where nothing depends on them: a key's bias in
an attention layer has a gradient of zero but for rounding, of which Adam makes steps of full size."""


@dataclass(frozen=True)
class Case:
    """A model to certify.

    Args:
        model: its name in the registry, the name of its class, or its import path.
        init_args: its arguments, as plain data; input_shape is (1, 8, 8) unless they say otherwise.
        trainer: options of the Trainer, as plain data.
        sgd: train with gradient descent instead of the model's own optimizer.
        title: what the table calls it; by default the model.
    """

    model: str
    init_args: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    sgd: bool = False
    title: str = ""


@dataclass(frozen=True)
class Certificate:
    """How far a case's run on several processes is from its run on one.

    Args:
        title: of the case.
        world: how many processes.
        errors: the relative errors (norm of the difference by norm) of the losses of all steps; of their gradients
            after averaging; of buffers at the end; of what the model then computes of fixed samples in evaluation mode
            (`predict_step`: codes and reconstructions); of the metrics logged at the ends of epochs; and of the
            weights at the end.
    """

    title: str
    world: int
    errors: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether no error but that of the weights exceeds 1e-5: they may differ where nothing depends on them."""
        return all(self.errors[name] <= TOLERANCE for name in JUDGED)


def certify(
    cases: Sequence[Case], worlds: Sequence[int] = (2, 3), strategy: Literal["ddp", "fsdp"] = "ddp"
) -> list[Certificate]:
    """Trains each case in one process and in several, by the trainer over gloo.

    47 random samples in batches of 12 over all processes for 2 epochs, with the model's own optimizer; the last batch
    of an epoch leaves some ranks fewer samples than others. In float64: so that what differs is the mathematics, and
    not rounding, of which Adam makes steps. The trainer's `max_epochs` and `precision` may say otherwise.

    Args:
        cases: what to train.
        worlds: the numbers of processes to compare with one.
        strategy: "ddp", DistributedDataParallel, or "fsdp", FSDP2 by ModelParallelStrategy.

    Returns:
        One for each case and number.

    Raises:
        InputError: when a model cannot be built.
    """
    if any(world < 2 or world > BATCH_SIZE or BATCH_SIZE % world for world in worlds):
        raise InputError(f"worlds must be of 2, 3, 4, 6 and 12, which share a batch of 12 evenly; got {list(worlds)}")
    for case in cases:
        _build(case)
    with tempfile.TemporaryDirectory() as folder:
        runs = {world: _launch(cases, world, strategy, folder) for world in (1, *worlds)}
    return [
        Certificate(case.title or case.model, world, {k: _error(run[k], alone[k]) for k in MEASURED})
        for world in worlds
        for case, alone, run in zip(cases, runs[1], runs[world], strict=True)
    ]


def _launch(cases: Sequence[Case], world: int, strategy: str, folder: str) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    modules = {name.rpartition(".")[0] for case in cases for name in _class_paths(case.init_args)}
    imported = sorted(modules & sys.modules.keys())  # a process of its own knows no classes of the user's
    run(_work, (world, port, tuple(cases), strategy, folder, imported), world)
    found: list[dict[str, Any]] = torch.load(Path(folder) / f"{world}.pt", weights_only=True)
    return found


def _class_paths(plain: Any) -> Iterator[str]:
    """The classes that plain data name."""
    if isinstance(plain, Mapping):
        if isinstance(plain.get("class_path"), str):
            yield plain["class_path"]
        plain = list(plain.values())
    if isinstance(plain, list | tuple):
        for value in plain:
            yield from _class_paths(value)


def _work(
    index: int, world: int, port: int, cases: Sequence[Case], strategy: str, folder: str, modules: Sequence[str]
) -> None:
    for module in modules:
        importlib.import_module(module)
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if world > 1:  # as torchrun would say it
        ranks = {"RANK": index, "LOCAL_RANK": index, "GROUP_RANK": 0}
        sizes = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "certify"}
        os.environ.update({name: str(value) for name, value in {**ranks, **sizes, **place}.items()})
    found = [_train(case, world, strategy) for case in cases]
    if index == 0:
        torch.save(found, Path(folder) / f"{world}.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def _train(case: Case, world: int, strategy: str) -> dict[str, Any]:
    pl.seed_everything(0, verbose=False)
    # by hand: under ModelParallelStrategy Lightning refuses "64-true"
    torch.set_default_dtype(torch.float32 if "precision" in case.trainer else torch.float64)
    model = _build(case).to(torch.get_default_dtype())
    if case.sgd:
        model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    seen = _Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=_strategy(strategy, world),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen],
        **{"max_epochs": EPOCHS, **case.trainer},
    )
    data = _Data(model if hasattr(model, "input_shape") else model.model)
    try:
        trainer.fit(model, datamodule=data)
    except RuntimeError as error:
        if "dtype" not in str(error) or "precision" in case.trainer:
            raise
        raise InputError(
            f"{case.model} cannot be trained in float64: {error}", 'give the trainer {"precision": "32-true"}'
        ) from error
    return {
        "losses": seen.losses,
        "gradients": seen.gradients,
        "metrics": seen.metrics,
        "outputs": _outputs(trainer, model, next(data.batches("test", SAMPLES))),
        "buffers": [_whole(value) for value in model.buffers()],
        "weights": [_whole(value) for value in model.parameters()],
    }


def _outputs(trainer: pl.Trainer, model: Any, batch: Any) -> list[Tensor]:
    """What the model computes of a batch in evaluation mode; numbers only, since a class may hang on rounding."""
    pl.seed_everything(0, verbose=False)
    model.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        found = model.predict_step(trainer.precision_plugin.convert_input(batch), 0)
    values = [part for value in found.values() for part in (value if isinstance(value, tuple) else (value,))]
    return [value for value in values if value.is_floating_point()]


def _strategy(name: str, world: int) -> Any:
    if world == 1 or name == "ddp":
        return "auto" if world == 1 else "ddp"
    from pytorch_lightning.strategies import ModelParallelStrategy

    return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)


def _whole(value: Tensor) -> Tensor:
    """A copy, put together where it is sharded."""
    value = value.detach()
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


def _build(case: Case) -> Any:
    module = case.model.rpartition(".")[0]
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"the model to certify, {case.model!r}, cannot be imported: {error}") from error
    named = case.model in list_models()
    cls: Any = get_model(case.model) if named else import_class(case.model, ExactModule, "model to certify")
    init_args = dict(case.init_args)
    if "pretrained" not in init_args:
        init_args.setdefault("input_shape", [1, 8, 8])
    described = isinstance(init_args.get("pretrained"), Mapping)  # as a checkpoint does, not by a name
    return cls.from_init_args(init_args) if described else cls(**init_args)


def _error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    if not expected:
        return 0.0
    a, b = (torch.cat([value.double().flatten() for value in values]) for values in (found, expected))
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


class _Recorder(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.metrics: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.gradients += [_whole(p.grad) for p in pl_module.parameters() if p.grad is not None]

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.losses.append(trainer.callback_metrics["train/loss"].clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.metrics += [metrics[name].clone() for name in sorted(metrics) if name != "train/loss"]


class _Data(pl.LightningDataModule):
    """Inputs that are random, of the likelihood and the network's categories; labels, a condition and a mask where the
    model takes them, some of them missing where they may be."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (SAMPLES, *model.new_inputs(1).shape[1:])
        x = torch.rand(shape, generator=generator, dtype=torch.float32).to(torch.get_default_dtype())
        likelihood = getattr(model, "likelihood", None)
        if likelihood is not None and likelihood.distance is not None:  # whole numbers, where it takes those
            x = torch.where(likelihood.distance(x) > 0, x.round(), x)
        for place, levels in enumerate(getattr(getattr(model, "architecture", None), "categories", None) or ()):
            if levels:  # of a table
                x[:, place] = torch.randint(levels, (SAMPLES,), generator=generator).to(x.dtype)
        columns = {"x": x, "label": torch.randint(len(model.classes) or 10, (SAMPLES,), generator=generator)}
        if not getattr(model, "needs_label", True):  # some rows have none
            columns["label"][::5] = -1
        if "condition" in model.given:
            columns["condition"] = _condition(model, generator)
        if "mask" in model.given:
            columns["mask"] = torch.rand(shape, generator=generator) < 0.7
        self.columns = Columns(columns)

    def batches(self, split: str, batch_size: int) -> Iterator[Any]:
        yield self.columns(torch.arange(SAMPLES))

    def train_dataloader(self) -> BatchLoader:
        return self._loader(shuffle=True)

    def val_dataloader(self) -> BatchLoader:
        return self._loader(shuffle=False)

    def _loader(self, shuffle: bool) -> BatchLoader:
        assert self.trainer is not None
        order = Order(SAMPLES, BATCH_SIZE, shuffle, world=self.trainer.world_size, rank=self.trainer.global_rank)
        return BatchLoader(self.columns, order)


def _condition(model: Any, generator: torch.Generator) -> Tensor:
    """Columns of classes and of numbers, (SAMPLES, columns)."""
    columns = [
        torch.randint(k, (SAMPLES,), generator=generator).to(torch.get_default_dtype())
        if k
        else torch.rand(SAMPLES, generator=generator)
        for k in model.conditions
    ]
    condition = torch.stack([column.to(torch.get_default_dtype()) for column in columns], dim=1)
    if model.condition_dropout is not None:
        condition[::7, 0] = torch.nan
    return condition
