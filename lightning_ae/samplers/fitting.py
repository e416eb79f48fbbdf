"""From a trained model and data to a sampler of its codes."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import keyed, rows
from lightning_ae.parts.sampling import PREFIX, Density, Sampler
from lightning_ae.samplers.gaussians import MixtureSampler
from lightning_ae.scores import asked
from lightning_ae.training.checkpoint_file import METADATA_KEY, AtomicCheckpointIO, check_class, read_checkpoint

BATCH = 1024


def fit_sampler(
    model: Autoencoder, data: Any, sampler: Sampler = MixtureSampler(), seed: int = 0, split: str = "train"
) -> Density:
    """Fits a density to a trained model's codes of data, from which `model.sample` then draws (Ghosh et al. 2020).

    So a deterministic autoencoder generates. Of a variational one, whose codes of data are often not distributed as
    its prior, the density takes the prior's place. `model.sampler = None` takes it away again, and so does another fit
    of the model, whose codes it moves. Checkpoints that are saved afterwards hold it, and entries of the zoo.

    What is fitted to: codes as the decoder gets them, all values of a map or of a hierarchy beside each other; of a
    model that draws its codes a draw of each, together the aggregated posterior, and else `encode`'s. Nothing is
    corrupted. Codes in a ball are taken as vectors at its origin, those on a sphere as they are, and draws are brought
    back onto it. Of a model that is given something besides, a label say, codes are taken of all samples, whatever
    that is: the density does not depend on it, and `model.sample(n, label=...)` passes it on to the decoder.

    In several processes each takes all rows and the same seed, so each has the same sampler, without exchanging
    anything.

    Args:
        model: a trained one.
        data: a data module whose splits are read as the model's training data were, `HFDataModule`; or another with
            `batches(split, batch_size)`.
        sampler: of `lightning_ae.samplers`; for codes that are indices IndexSampler().
        seed: of draws of codes, and of what is random in the fit.
        split: whose codes.

    Returns:
        The density, which is `model.sampler` from now on.

    Raises:
        InputError: for codes that the sampler is no density of: sparse ones, of several kinds, indices where it is of
            numbers; for codes that are NaN or too few; for data that the model was not trained on.
    """
    sampler = from_plain(Sampler, sampler, "sampler")
    space = model.code_space
    sampler.check(space, f"the codes of {type(model).__name__}")
    if not hasattr(data, "batches"):
        raise InputError(
            f"data must be a data module, got {type(data).__name__}",
            "HFDataModule(data) makes one of arrays, tensors, frames and data sets; a density of codes of your own is "
            "fitted by sampler.fit(codes), and set as model.sampler",
        )
    if hasattr(data, "has") and not data.has(split):
        raise InputError(f"the data have no {split} split", "name another, split=...")
    if model.signature is not None and hasattr(data, "use_signature"):
        data.use_signature(model.signature)
    model.use_columns_of(data)
    density = sampler.fit(_coordinates(model, data, split, seed), seed, space)
    model.sampler = density
    return density


def _coordinates(model: Autoencoder, data: Any, split: str, seed: int) -> Tensor:
    """The codes of a split as the sampler sees them, (N, units), on the model's device."""
    found = []
    with asked(model):
        # a bar appears where this takes more than two seconds
        for i, batch in enumerate(tqdm(data.batches(split, BATCH), f"encoding {split}", delay=2, leave=False)):
            x, _, given = model.read(move_data_to_device(batch, model.device))
            with keyed(seed, "sampler", i), rows("shared"):  # all processes have all rows, and draw the same
                found.append(model.coordinates_of(x, **given))
    return torch.cat(found)


def store_sampler(
    model: Autoencoder, checkpoint: str | os.PathLike[str], output: str | os.PathLike[str] | None = None
) -> None:
    """Writes a model's sampler into the checkpoint that the model is of, or takes away one that is there.

    All else in the checkpoint stays as it is. A fit that goes on from it leaves the sampler out.

    Args:
        model: as it was loaded, with a sampler or with None.
        checkpoint: the file that it was loaded from.
        output: the file to write; by default the same.

    Raises:
        InputError: when the checkpoint holds other weights, or the file cannot be written.
    """
    content = read_checkpoint(checkpoint, mmap=False)
    check_class(content, type(model))
    kept = {name: value for name, value in content["state_dict"].items() if not name.startswith(PREFIX)}
    own = {name: value.cpu() for name, value in model.state_dict().items()}
    if any(name not in own or not _same(own[name], value.cpu()) for name, value in kept.items()):
        raise InputError(
            f"{os.fspath(checkpoint)!r} holds other weights than the model, to whose codes the sampler is fitted",
            "load the model from that checkpoint, and fit the sampler again",
        )
    content["state_dict"] = kept | {name: value for name, value in own.items() if name.startswith(PREFIX)}
    content[METADATA_KEY].pop("sampler", None)
    if model.sampler_plain is not None:
        content[METADATA_KEY]["sampler"] = model.sampler_plain
    AtomicCheckpointIO().save_checkpoint(content, checkpoint if output is None else output)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same, NaN in the same places."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
