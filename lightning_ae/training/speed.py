"""What makes training faster without changing it: fused optimizers, compiled networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from lightning_ae.parts.schedules import Schedule
from lightning_ae.training import private

FUSED_DEVICES = ("cpu", "cuda")


def adamw(module: pl.LightningModule, parameters: Iterable[Any], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW in one kernel over all parameters, where the device has it.

    Args:
        module: what is trained; under 16-mixed precision, whose gradient scaler a fused optimizer would have to unscale
            for, it takes several kernels.
        parameters: tensors, or groups of them.
        lr: the learning rate.
        weight_decay: decoupled; with 0 it is Adam.
    """
    trainer = private.trainer_of(module)
    scaled = trainer is not None and getattr(trainer.precision_plugin, "scaler", None) is not None
    fused = module.device.type in FUSED_DEVICES and not scaled
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused or None)
    private.unscales_nothing(optimizer)
    return optimizer


def scheduled(optimizer: torch.optim.Optimizer, schedule: Schedule, total: float) -> Any:
    """An optimizer with a schedule of its learning rate, step by step, as Lightning takes them.

    Args:
        optimizer: whose groups' learning rates are multiplied.
        schedule: the factor.
        total: the number of steps of the fit.
    """
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


def compile_in_place(network: nn.Module, **options: Any) -> None:
    """Compiles a network without changing its state_dict's keys.

    Where compilation fails, in the first call, there is a warning, and the network runs as it is.

    Args:
        network: any module, a plain `nn.Sequential` too, which `nn.Module.compile` leaves uncompiled without a word.
        options: of `torch.compile`.
    """

    def run(*args: Any) -> Any:  # a function of our own: torch skips frames of its own containers
        return network._call_impl(*args)

    # torch keeps graphs by code: with one for all networks, each looks through the others', and eight are the most
    run.__code__ = run.__code__.replace()
    compiled: Callable[..., Any] = torch.compile(run, **options)
    failed = False

    def call(*args: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return compiled(*args)
            except private.compiler_error() as error:
                failed = True
                rank_zero_warn(
                    f"{type(network).__name__} cannot be compiled, and runs uncompiled: "
                    f"{' '.join(str(error).split('Set TORCHDYNAMO')[0].split()) or type(error).__name__}"
                )
        return network._call_impl(*args)

    private.compiled_by(network, call)
