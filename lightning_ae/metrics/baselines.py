"""What codes are worth: their k-nearest-neighbour error beside that of what costs no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.metrics.codes import knn_error
from lightning_ae.parts.likelihoods import known

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule


def compare_codes(model: Autoencoder, data: HFDataModule, k: int = 5, seed: int = 0) -> dict[str, float]:
    """The k-nearest-neighbour error of the test split among the training split: the lower, the farther apart classes
    stand.

    Args:
        model: a trained one, which the data feed.
        data: with labels that are classes; rows without one are left out.
        k: the number of neighbours.
        seed: of the untrained model's weights.

    Returns:
        "codes", the model's, as `pool` makes vectors of them; "pca", as many principal components of the inputs, or as
        many as there are; "inputs" as they are; "untrained", the codes of the same model before any training.

    Raises:
        InputError: when there are no classes.

    Example:
        >>> from lightning_ae import Autoencoder, HFDataModule
        >>> from lightning_ae.metrics import compare_codes
        >>> data = HFDataModule("digits")
        >>> sorted(compare_codes(Autoencoder(data.input_shape), data))
        ['codes', 'inputs', 'pca', 'untrained']
    """
    from sklearn.decomposition import PCA

    if not data.has_classes:
        raise InputError("neighbours are judged by their classes, and the data have no label that names any")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: Any = type(model).from_init_args(model.init_args)
    fresh.signature, fresh.columns = model.signature, model.columns
    inputs, labels, codes, untrained = {}, {}, {}, {}
    for split in ("train", "test"):
        taken = data.labels(split) >= 0
        labels[split] = data.labels(split)[taken]
        inputs[split], codes[split] = (each[taken] for each in _encoded(model, data, split))
        untrained[split] = _encoded(fresh.to(model.device), data, split)[1][taken]
    components = min(model.feature_dim, *inputs["train"].shape)
    pca = PCA(components, svd_solver="full").fit(inputs["train"].numpy())
    projected = {split: torch.from_numpy(pca.transform(each.numpy())) for split, each in inputs.items()}
    found = {"codes": codes, "pca": projected, "inputs": inputs, "untrained": untrained}
    return {
        name: knn_error(each["train"], labels["train"], each["test"], labels["test"], k) for name, each in found.items()
    }


@torch.no_grad()
def _encoded(model: Autoencoder, data: HFDataModule, split: str) -> tuple[Tensor, Tensor]:
    """The inputs of a split as vectors, and their codes, on the CPU."""
    training, inputs, codes = model.training, [], []
    model.eval()
    for batch in data.batches(split, 1024):
        x, _, given = model.read(move_data_to_device(batch, model.device))
        inputs.append(known(x, given.get("mask")).flatten(1).float().cpu())
        codes.append(model.pool(model.encode(x, **given)).float().cpu())
    model.train(training)
    return torch.cat(inputs), torch.cat(codes)
