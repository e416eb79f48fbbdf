"""A trained model on its data, as the command line's tools take it."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from pytorch_lightning.utilities import rank_zero_info
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import read_input
from lightning_ae.data.columns import image_columns, label_columns
from lightning_ae.data.kinds import Image
from lightning_ae.data.labels import label_column
from lightning_ae.data.module import HFDataModule
from lightning_ae.data.signature import Signature
from lightning_ae.errors import InputError, unknown
from lightning_ae.zoo.artefact import load_trained


def load(checkpoint: str, device: str) -> Autoencoder:
    """The model of a checkpoint, or of an entry of the zoo, on a device."""
    return load_trained(checkpoint).to(device_of(device))


def device_of(name: str) -> torch.device:
    """The device of that name; of "auto", the fastest there is.

    Raises:
        InputError: for one that is not here.
    """
    if name != "auto":
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        known += ["cuda"] if len(known) > 1 else []
        known += ["mps"] if torch.backends.mps.is_available() else []
        if name not in known:
            raise unknown("device here", name, ["auto", *known])
        return torch.device(name)
    if torch.cuda.is_available():
        local = os.environ.get("LOCAL_RANK")  # of torchrun's processes each takes its own
        return torch.device("cuda") if local is None else torch.device("cuda", int(local) % torch.cuda.device_count())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def data_of(
    model: Autoencoder, checkpoint: str, path: str | None, all_classes: bool = False, beside: str | None = None
) -> HFDataModule:
    """The data module that the model was trained with, over another data set where a path is given.

    Args:
        model: which says how the data are read.
        checkpoint: what it is called.
        path: the other data set.
        all_classes: whether the label may name classes that the training data did not have, as anomalies are.
        beside: a column of images that is not the input, as masks are.
    """
    config = model.data_config
    if config is None and path is None:
        raise InputError(f"{checkpoint!r} does not say what it was trained on", "give path, the data set to use")
    config = config or {"class_path": "lightning_ae.data.HFDataModule", "init_args": {}}
    data = HFDataModule.from_config(config, **({"path": path} if path else {}))
    if path:
        _take_splits(data)
    if not any(data.has(split) for split in ("train", "val", "test")) and len(data.splits) == 1:
        (data.test_split,) = data.splits
        rank_zero_info(f"the data have one split, {data.test_split!r}, which is taken for test")
    kind = data.kind or Image()
    if beside is not None and isinstance(kind, Image) and kind.column is None:  # nobody named the model's own
        images = image_columns(next(iter(data.splits.values())).features)
        if len(others := [name for name in images if name != beside]) == 1:
            data.kind = replace(kind, column=others[0])
    if model.signature is not None:
        told = all_classes and "label" not in model.given
        data.use_signature(_with_classes_of(data, model.signature) if told else model.signature)
    model.use_columns_of(data)
    return data


def _with_classes_of(data: HFDataModule, signature: Signature) -> Signature:
    """The signature, whose label has the classes of all splits of the data."""
    features = next(iter(data.splits.values())).features
    own = None if signature.label is None or signature.label.name not in label_columns(features) else signature.label
    name = data.label if own is None else own.name
    if name is None or data.streaming:
        return replace(signature, label=None)
    parts = [label_column(rows, name, False) for rows in data.splits.values() if name in rows.column_names]
    names = {each for part in parts for each in part.classes or ()}
    if any(part.classes is None for part in parts) or not names:
        return replace(signature, label=None)
    known = list((own.classes if own is not None else None) or parts[0].classes or ())
    further = names - set(known)
    whole = all(each.lstrip("-").isdecimal() for each in names)
    ordered = sorted(names, key=int) if whole and further else [*known, *sorted(further)]
    return replace(signature, label=replace(parts[0], classes=tuple(ordered)))


def _take_splits(data: HFDataModule) -> None:
    """Leaves other data than the model's as they are where they have a test split, or cannot be divided as its were."""
    if data.test_fraction and data.test_split in data.splits:
        data.test_fraction = 0.0
        rank_zero_info(f"the data have a split {data.test_split!r}: none of {data.train_split!r} is set aside to test")
    columns = data.splits[data.train_split].column_names if data.train_split in data.splits else []
    for name in ("split_by", "split_time"):
        column = getattr(data, name)
        if column is not None and column not in columns:
            setattr(data, name, None)
            rank_zero_info(f"the data have no column {column!r}, by which the model's were divided: rows are drawn")


def encode(
    model: Autoencoder, data: HFDataModule, split: str, batch_size: int, first: int = 0, last: int | None = None
) -> torch.Tensor:
    """The codes of a split, or of its rows from `first` up to `last`, exclusive, as vectors, (N, feature_dim)."""
    codes = []
    if data.streaming:
        raise InputError(
            f"{data.path!r} is streamed, where each code is written beside its row",
            "in Python, load_model(checkpoint).features(rows) gives the codes of any rows",
        )
    total = -(-((len(data.dataset(split)) if last is None else last) - first) // batch_size)
    with torch.no_grad():
        # a bar appears where this takes more than two seconds
        batches = data.batches(split, batch_size, first, last)
        for batch in tqdm(batches, f"encoding {split}", total, delay=2, leave=False):
            x, given = read_input(model, batch)
            codes.append(model.pool(model.encode(x, **given)).float().cpu())
    return torch.cat(codes)


def split_of(data: HFDataModule, wanted: str) -> str:
    """The split of that name or, where the data have none, another one, which is said."""
    found = next((split for split in (wanted, "test", "val", "train") if data.has(split)), wanted)
    if found != wanted:
        rank_zero_info(f"the data have no {wanted} split: {found} is taken")
    return found


def check_images(model: Autoencoder) -> None:
    """Raises InputError where the model takes no images."""
    if len(model.input_shape) != 3:
        raise InputError(f"the model takes inputs of shape {model.input_shape}, which make no picture")
