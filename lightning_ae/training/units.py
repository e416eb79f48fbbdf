"""What is said once of a fit: units of a code that ended up without use, data far from the scale of the likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_ae.shapes import is_any

SAMPLES, VALUES = 1024, 2**26
"""How many samples a code is judged by at most, and how many values they have together."""
LEAST_USES = 10
"""How often a sparse unit would be active among them if all were alike; with fewer, silence says nothing."""
LEAST_STEPS = 200
"""Of a fit, before which units may yet come into use."""
THRESHOLD = 0.01
"""On a unit's variance (Burda et al. 2016)."""


def warn_of_idle_units(model: Any, trainer: Any) -> None:
    """Says where most units of a model's code are of no use at the end of a fit, and what would help.

    A unit with a posterior is where its mean has a variance of .01 or less over data (Burda et al. 2016,
    https://arxiv.org/abs/1509.00519), one of a sparse code where no sample makes it active. Other codes have no scale
    to judge by. The data are rows of the training split, drawn by a fixed seed, or the first ones of a DataLoader;
    streams are left alone, and so are fits of fewer than 200 steps. Random states stay as they are; one rank looks, all
    where weights are sharded.

    Args:
        model: an Autoencoder.
        trainer: its trainer, as the fit ends.
    """
    looks = trainer.is_global_zero or model.device_mesh is not None
    if not looks or trainer.fast_dev_run or trainer.barebones or trainer.global_step < LEAST_STEPS:
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), isolate_rng(include_cuda=model.device.type == "cuda"):
            found = _idle(model, trainer)
    finally:
        for module, mode in modes:
            module.training = mode
    if found is None:
        return
    idle, units, seen = found
    if 2 * idle <= units:
        return
    if seen:
        rank_zero_warn(
            f"{idle} of the code's {units} units were active in none of {seen} training samples: they are of no "
            "use. More epochs, a weaker sparsity or a smaller latent_dim would help, or TopKDictionary's auxk, which "
            "revives such units"
        )
    else:
        rank_zero_warn(
            f"{idle} of the code's {units} units hardly depend on the data (their mean's variance is at most "
            f"{THRESHOLD:g}): the divergence has silenced them. More epochs, a smaller beta, one that rises "
            "(beta_schedule=Warmup(steps)), or a likelihood whose scale is not fixed too large, such as "
            "Gaussian(scale='optimal'), would help; else a latent_dim of "
            f"{max(1, units - idle)} does as well"
        )


def warn_of_scale(model: Any, x: Tensor) -> None:
    """Says where a first batch of training is far from unit scale, under a likelihood of the real line.

    Whole numbers of 0 and more that exceed 20 look like counts; others are far beyond 100. What a data module has
    scaled is left alone, and so are likelihoods of values in an interval, or of counts.

    Args:
        model: an Autoencoder.
        x: the targets (B, *input_shape), in the model's units.
    """
    likelihood = model.likelihood
    if not hasattr(likelihood, "scale") or likelihood.support != (-math.inf, math.inf):
        return
    if getattr(getattr(model.signature, "preprocess", None), "scales", False):
        return
    least, most = (bound.item() for bound in torch.aminmax(x.detach()))
    name = type(likelihood).__name__
    by = "Tabular(scaling='standard') of HFDataModule, or subtract each column's mean and divide by its deviation"
    if least >= 0 and most > 20 and bool((x == x.round()).all()):
        rank_zero_warn(
            f"the training data are whole numbers from {least:g} to {most:g}, as counts are, where {name} takes values "
            "of about unit scale: for counts use kind=Counts() of HFDataModule and likelihood=NegativeBinomial(); for "
            f"other numbers {by}; for images divide by 255"
        )
    elif max(-least, most) > 100:
        rank_zero_warn(
            f"the training data reach from {least:g} to {most:g}, where {name} and the networks' initial weights suit "
            f"values of about unit scale, so that large columns drown the others: use {by}"
        )


def _idle(model: Any, trainer: Any) -> tuple[int, int, int] | None:
    """How many units are idle, of how many, and of a sparse code among how many samples; None where nobody can say."""
    codes, used = [], []
    if is_any(model.input_shape):
        return None
    for batch in _batches(model, trainer):
        x, _, given = model.read(batch)
        code = model.encode(x, **given)
        if (active := model.active(code)) is not None:
            used.append(model.units(active))
        elif "sample" in model.latents:
            codes.append(model.units(code).double())
        else:
            return None
    if used:
        uses = torch.cat(used).sum(dim=0)
        enough = uses.sum() >= LEAST_USES * len(uses)
        return (int((uses == 0).sum()), len(uses), sum(map(len, used))) if enough else None
    if sum(len(each) for each in codes) < 2:
        return None
    variance = torch.cat(codes).var(dim=0, correction=0)
    return int((variance <= THRESHOLD).sum()), len(variance), 0


def _batches(model: Any, trainer: Any) -> Iterator[Any]:
    """Batches of training data where the model is, no larger than those that it was trained on."""
    samples = min(SAMPLES, max(2, VALUES // math.prod(model.input_shape)))
    data, loader = trainer.datamodule, trainer.train_dataloader
    if hasattr(data, "some_rows"):
        if not data.streaming:
            whole = data.some_rows("train", samples)
            size = max(1, data.batch_size // trainer.world_size)
            for start in range(0, samples, size):
                part = {k: v[start : start + size] for k, v in whole.items() if isinstance(v, Tensor)}
                if len(next(iter(part.values()))):
                    yield {name: value.to(model.device) for name, value in part.items()}
        return
    if type(loader) is DataLoader and loader.batch_size and not isinstance(loader.dataset, IterableDataset):
        rows: Any = loader.dataset
        samples, size = min(samples, len(rows)), loader.batch_size
        for start in range(0, samples, size):
            batch = loader.collate_fn([rows[row] for row in range(start, min(start + size, samples))])
            yield trainer.strategy.batch_to_device(batch, model.device)
