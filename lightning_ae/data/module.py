"""The data module over Hugging Face data sets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.data import Dataset as TorchDataset

from lightning_ae.config import class_path, from_plain, to_plain
from lightning_ae.data.kinds import Kind, check_columns, kind_of, scalar_columns
from lightning_ae.data.source import load_splits
from lightning_ae.distributed import Noise
from lightning_ae.errors import InputError
from lightning_ae.preprocess import Preprocess

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

LABELS = ("label", "labels", "target", "class", "y")
Batch = dict[str, Tensor]


class HFDataModule(pl.LightningDataModule):
    """Batches from a Hugging Face data set of images or tables.

    A split is decoded once into one array of its own type, from which whole batches are gathered; scaling,
    normalisation and binarisation happen on the device. A batch is a dict: the input under its column's name ("x" where
    several columns make it), and every other column of numbers or classes under its own.

    Training order is shuffled by torch's seed and the epoch, and sharded so that the ranks' batches together are the
    batch of a single process.

    Args:
        path: a data set's id on the hub, a local folder (parquet files, or written by `save_to_disk`), "digits" (the
            embedded data set), or a `datasets.Dataset` or `DatasetDict`.
        name: the configuration, of a data set on the hub that has several.
        revision: the revision on the hub.
        kind: how samples are read, `Image(...)` or `Tabular(...)`; by default as the data set's features suggest.
        label: the column of labels; by default the only column of classes, or one named label, labels, target, class
            or y.
        train_split: the split to train on.
        val_split: the split to validate on; by default a part of the training split.
        test_split: the split to test on.
        val_fraction: the part of the training split that validates, where val_split is not given; in [0, 1).
        split_seed: of the permutation that chooses that part. It does not depend on the run's seed.
        batch_size: samples in a batch, on each device.

    Raises:
        InputError: when the data set, a split or a column is missing, a split is empty, or values cannot be used.
    """

    def __init__(
        self,
        path: Any,
        name: str | None = None,
        revision: str | None = None,
        kind: Kind | None = None,
        label: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str = "test",
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise InputError(f"val_fraction must lie in [0, 1), got {val_fraction}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, got {batch_size!r}")
        self.path, self.name, self.revision = path, name, revision
        self.kind = None if kind is None else from_plain(Kind, kind, "kind")
        self._given_label = label
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.batch_size = batch_size
        self._splits: DatasetDict | None = None
        self._samples: dict[str, Tensor] = {}
        self._frozen: dict[str, Tensor] = {}
        self._preprocess: Preprocess | None = None

    # ---- what the data are --------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any] | None:
        """The plain data that make this data module again, or None where the data set lives in memory only."""
        if not isinstance(self.path, str) or type(self) is not HFDataModule:
            return None
        names = ("path", "name", "revision", "kind", "train_split", "val_split", "test_split", "val_fraction")
        init_args = {name: to_plain(getattr(self, name), name) for name in (*names, "split_seed", "batch_size")}
        return {"class_path": class_path(type(self)), "init_args": init_args | {"label": self._given_label}}

    @property
    def splits(self) -> DatasetDict:
        """The data set's own splits, by name."""
        if self._splits is None:
            self._splits = load_splits(self.path, self.name, self.revision)
        return self._splits

    @cached_property  # every batch asks for it
    def input_columns(self) -> list[str]:
        """The columns that make the model's input."""
        return self._kind().input_columns(self.splits[self.train_split].features, self.label)

    @property
    def label(self) -> str | None:
        """The column of labels, or None."""
        features = self._rows_of(self.train_split).features
        if self._given_label is not None:
            check_columns([self._given_label], features)
            if self._given_label not in scalar_columns(features):
                raise InputError(
                    f"label {self._given_label!r} holds {features[self._given_label]}, not numbers or classes",
                    f"columns of numbers or classes: {scalar_columns(features)}",
                )
            return self._given_label
        classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
        if len(classes) == 1:
            return classes[0]
        return next((name for name in LABELS if name in scalar_columns(features)), None)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the label's classes, or None."""
        feature = self.splits[self.train_split].features.get(self.label)
        names: list[str] | None = getattr(feature, "names", None)
        return names

    @property
    def preprocess(self) -> Preprocess:
        """From natural units to the model's input."""
        if self._preprocess is None:
            self._preprocess = self._kind().preprocess(self._some_samples())
        return self._preprocess

    @preprocess.setter
    def preprocess(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as the model sees it."""
        return tuple(self.preprocess(self._some_samples()[:1]).shape[1:])

    def dataset(self, split: str) -> Dataset:
        """The rows of "train", "val" or "test", in the order in which evaluation passes over them.

        Raises:
            InputError: when there is no such split, or it is empty.
        """
        if split == "test":
            return self._rows_of(self.test_split, "test_split")
        if split == "val" and self.val_split is not None:
            return self._rows_of(self.val_split, "val_split")
        if split not in ("train", "val"):
            raise InputError(f"split must be 'train', 'val' or 'test', got {split!r}")
        rows = self._rows_of(self.train_split, "train_split")
        if self.val_split is not None:
            return rows
        order = np.random.default_rng(self.split_seed).permutation(len(rows))
        held_out = round(self.val_fraction * len(rows))
        if split == "val" and held_out == 0:
            raise InputError(f"val_fraction {self.val_fraction} of {len(rows)} rows leaves no validation data")
        if held_out == len(rows):
            raise InputError(f"val_fraction {self.val_fraction} of {len(rows)} rows leaves no training data")
        return rows.select(np.sort(order[:held_out] if split == "val" else order[held_out:]))

    def batches(self, split: str, batch_size: int | None = None) -> Iterator[Batch]:
        """A pass over a split in order, as evaluation sees it, ready for a model, on the CPU."""
        samples = self._samples_of(split, training=False)
        for batch in DataLoader(samples, batch_size or self.batch_size, collate_fn=_as_is):
            yield self._ready(batch)

    # ---- what Lightning calls -----------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Downloads into the cache of `datasets`; Lightning calls it in one process of each node."""
        load_splits(self.path, self.name, self.revision)

    def setup(self, stage: str) -> None:
        """Decodes what the stage needs."""
        # this loader gathers whole batches from memory: workers would only copy them about
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        needed = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}
        for split in needed[stage]:
            if split != "val" or self._validates:
                self._decoded(split)
        _ = self.preprocess

    def train_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        samples = self._samples_of("train", training=True)
        world, rank, seed = 1, 0, torch.initial_seed()
        if self.trainer is not None:
            world, rank = self.trainer.world_size, self.trainer.global_rank
            # without seed_everything each process has a seed of its own, and shards of different orders overlap
            seed = self.trainer.strategy.broadcast(seed)
        # the same order on any number of ranks, of which rank r takes positions r, r + W, ...
        sampler: DistributedSampler[Any] = DistributedSampler(samples, world, rank, shuffle=True, seed=seed % 2**31)
        return self._loader(samples, sampler=sampler)

    def val_dataloader(self) -> Any:  # noqa: D102
        if not self._validates:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return self._loader(self._samples_of("val", training=False))

    def test_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return self._loader(self._samples_of("test", training=False))

    def predict_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes the batch what the model takes, on the device."""
        batch = self._ready(batch)
        if self.trainer is None:  # a loop of one's own
            return batch | {self._key: self._kind().augment(batch[self._key], Noise())}
        if self.trainer.training:
            position = self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx
            noise = Noise(torch.initial_seed(), "data", *position)
            batch[self._key] = self._kind().augment(batch[self._key], noise)
        # Lightning casts to a "true" precision before the transfer, when images are still bytes
        return self.trainer.precision_plugin.convert_input(batch)

    # ---- inside -------------------------------------------------------------------------------------------------

    @property
    def _validates(self) -> bool:
        return self.val_split is not None or self.val_fraction > 0

    @property
    def _key(self) -> str:
        columns = self.input_columns
        return columns[0] if len(columns) == 1 else "x"

    def _kind(self) -> Kind:
        if self.kind is None:
            self.kind = kind_of(self._rows_of(self.train_split, "train_split").features)
        return self.kind

    def _rows_of(self, name: str, argument: str = "train_split") -> Dataset:
        if name not in self.splits:
            raise InputError(f"the data set has no split {name!r} ({argument})", f"it has {list(self.splits)}")
        rows = self.splits[name]
        if len(rows) == 0:
            raise InputError(f"split {name!r} of the data set is empty")
        return rows

    def _decoded(self, split: str) -> Tensor:
        if split not in self._samples:
            rows = self.dataset(split)
            check_columns(self.input_columns, rows.features)
            samples = self._kind().decode(rows, self.input_columns, split)
            for other, known in self._samples.items():
                if known.shape[1:] != samples.shape[1:]:
                    raise InputError(
                        f"samples of split {split!r} have the shape {tuple(samples.shape[1:])}, those of split "
                        f"{other!r} {tuple(known.shape[1:])}",
                        "images can be brought to one: kind=Image(size=(height, width), channels=1 or 3)",
                    )
            self._samples[split] = samples
        return self._samples[split]

    def _some_samples(self) -> Tensor:
        if self._kind().fitted or not self._samples:
            return self._decoded("train")
        return next(iter(self._samples.values()))

    def _samples_of(self, split: str, training: bool) -> _Samples:
        inputs = self._decoded(split)
        if not training or getattr(self._kind(), "binarize", None) != "dynamic":
            if split not in self._frozen:
                self._frozen[split] = self._kind().freeze(inputs, seed=self.split_seed)
            inputs = self._frozen[split]
        rows = self.dataset(split)
        others = [name for name in scalar_columns(rows.features) if name not in self.input_columns]
        if self._key in others:
            raise InputError(
                f"several columns make the input, named {self._key!r} in a batch, but there is a column of that name",
                "rename it (Dataset.rename_column) or make it part of the input",
            )
        table = rows.select_columns(others).with_format("torch")[:] if others else {}
        return _Samples({self._key: inputs, **{name: torch.as_tensor(table[name]) for name in others}})

    def _loader(self, samples: _Samples, sampler: DistributedSampler[Any] | None = None) -> DataLoader[Any]:
        return DataLoader(
            samples,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
        )

    def _ready(self, batch: Batch) -> Batch:
        return batch | {self._key: self.preprocess(batch[self._key])}


class _Samples(TorchDataset[Batch]):
    """Columns in memory, from which a batch is gathered at once."""

    def __init__(self, columns: Batch) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Batch:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        # a tenth of the time of column[rows]
        return {name: column.index_select(0, rows) for name, column in self.columns.items()}


def _as_is(batch: Any) -> Any:
    return batch
