"""The samples of a data set: which columns make them, how they are read, and the arrays that hold them decoded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ae.data.cache import cached, in_memory
from lightning_ae.data.columns import check_columns, describe, scalar_columns
from lightning_ae.data.decoding import decode_chunks
from lightning_ae.data.fingerprint import fingerprint
from lightning_ae.data.kinds import Kind, kind_of
from lightning_ae.data.signature import Signature
from lightning_ae.data.source import load_splits
from lightning_ae.errors import InputError
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess

LABELS = ("label", "labels", "target", "class", "y")


class Samples:
    """Base of the data module: all of it that knows no trainer."""

    path: Any
    name: str | None
    revision: str | None
    kind: Kind | None
    train_split: str
    val_split: str | None
    test_split: str
    val_fraction: float
    split_seed: int
    cache: str
    streaming: bool
    _given_label: str | None

    def __init__(self) -> None:
        super().__init__()
        self._splits: Any = None
        self._arrays: dict[tuple[str, bool], Tensor] = {}
        self._signature: Signature | None = None
        self._of_model: Signature | None = None  # whose signature is taken over
        self._own: Preprocess | None = None
        self._reading: Kind | None = None  # the kind, as that model asks for

    # ---- what the data are -----------------------------------------------------------------------------------

    @property
    def splits(self) -> Any:
        """The data set's own splits, by name: a `DatasetDict`, or an `IterableDatasetDict` where it streams."""
        if self._splits is None:
            self._splits = load_splits(self.path, self.name, self.revision, self.streaming)
        return self._splits

    @cached_property  # every batch asks for it
    def input_columns(self) -> list[str]:
        """The columns that make the model's input, in order."""
        if self._of_model is not None and self._of_model.columns:
            return self._of_model.names
        return self._kind().input_columns(self._rows_of(self.train_split).features, self.label)

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
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as the model sees it."""
        return tuple(self.preprocess(next(iter(self._chunks()))[:1]).shape[1:])

    def dataset(self, split: str) -> Any:
        """The rows of "train", "val" or "test", in the order in which evaluation passes over them.

        Raises:
            InputError: when there is no such split, or it is empty.
        """
        name, rows = self._part(split)
        return self._rows_of(name) if rows is None else self._rows_of(name).select(rows)

    # ---- what a model takes of them ----------------------------------------------------------------------------------

    @property
    def signature(self) -> Signature:
        """What goes into a model: made of these training data, or that of the model that they feed."""
        of_model = self._of_model
        if of_model is not None and of_model.columns:
            return of_model
        if self._signature is None:
            known = describe(self._rows_of(self.train_split).features)
            columns = self._kind().described([known[name] for name in self.input_columns], self._first_row())
            preprocess = self.own_preprocess if of_model is None else of_model.preprocess
            self._signature = Signature(preprocess, tuple(columns), known.get(self.label or ""))
        return self._signature

    def use_signature(self, signature: Signature) -> None:
        """From now on reads the data as a trained model takes them: its columns, its statistics, its images' size.

        Raises:
            InputError: when the data do not have the model's columns, or are read in a way that is not the model's.
        """
        if signature == self._of_model:
            return
        kind = self._kind().of_signature(signature)
        signature.check(describe(self._rows_of(self.train_split).features))
        self._say_what_changes(signature)
        self._of_model, self._reading, self._signature = signature, kind, None
        self._arrays.clear()
        for name in ("input_columns", "_key"):
            vars(self).pop(name, None)

    @property
    def preprocess(self) -> Preprocess:
        """From natural units to the model's input."""
        return self.own_preprocess if self._of_model is None else self._of_model.preprocess

    @property
    def own_preprocess(self) -> Preprocess:
        """What `preprocess` is by these training data, whichever model they feed."""
        if self._own is None:
            _ = self._kind()
            assert self.kind is not None
            self._own = self.kind.preprocess(self._chunks)
        return self._own

    # ---- decoded -----------------------------------------------------------------------------------------------------

    def _array(self, name: str, frozen: bool) -> Tensor:
        """The decoded samples of one of the data set's own splits, as evaluation sees them where `frozen`."""
        kind, rows = self._kind(), self._rows_of(name)
        frozen = frozen and kind.frozen is not None
        if (name, frozen) in self._arrays:
            return self._arrays[name, frozen]
        about = fingerprint(kind, rows, self.input_columns) if self.cache == "disk" else {}
        if frozen:
            about |= {"frozen": kind.frozen, "seed": self.split_seed}
            chunks = self._frozen(name)
        else:
            check_columns(self.input_columns, rows.features)
            chunks = decode_chunks(kind, rows, self.input_columns, name)
        if self.cache == "disk":
            title = f"{self.path if isinstance(self.path, str) else 'a data set in memory'}, {name}"
            array = cached(title, about, len(rows), chunks)
        else:
            array = in_memory(len(rows), chunks)
        samples = torch.from_numpy(array)
        for (other, _), known in self._arrays.items():
            if known.shape[1:] != samples.shape[1:]:
                raise InputError(
                    f"samples of split {name!r} have the shape {tuple(samples.shape[1:])}, those of split "
                    f"{other!r} {tuple(known.shape[1:])}",
                    "images can be brought to one: kind=Image(size=(height, width), channels=1 or 3)",
                )
        self._arrays[name, frozen] = samples
        return samples

    def _frozen(self, name: str) -> Iterator[np.ndarray]:
        generator = torch.Generator().manual_seed(self.split_seed)
        for part in self._array(name, frozen=False).split(4096):
            yield self._kind().freeze(part, generator).numpy()

    def _chunks(self) -> Iterator[Tensor]:
        """Samples of the training split; of any that is open, where they will do."""
        if self.streaming or self.cache == "none":
            rows: Any = self._rows_of(self.train_split).select_columns(self.input_columns).with_format("arrow")
            first = 0
            for table in rows.iter(256):
                yield torch.from_numpy(self._kind().decode(table, self.input_columns, self.train_split, first))
                first += len(table)
            if first == 0:
                raise InputError(f"split {self.train_split!r} of the data set is empty")
        elif self._arrays and not self._kind().fitted:
            yield next(iter(self._arrays.values()))
        else:
            name, rows = self._part("train")
            samples = self._array(name, frozen=False)
            parts = (
                samples.split(65536)
                if rows is None
                else (samples[part] for part in torch.from_numpy(rows).split(65536))
            )
            yield from parts

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _say_what_changes(self, signature: Signature) -> None:
        """Once, what the model's way of reading makes of data that would be read otherwise by themselves."""
        wanted = signature.preprocess
        if isinstance(wanted, TabularPreprocess):
            if wanted.mean is not None:
                rank_zero_info("the data are standardised by the statistics of the model's training data")
            return
        assert isinstance(wanted, ImagePreprocess)
        columns = [describe(self._rows_of(self.train_split).features)[name] for name in self.input_columns]
        native = self._kind().described(columns, self._first_row())[0].shape
        if native not in [column.shape for column in signature.columns] and (lost := wanted.lost(native)):
            rank_zero_warn(lost)

    def _first_row(self) -> pa.Table:
        rows: Any = self._rows_of(self.train_split).select_columns(self.input_columns).with_format("arrow")
        return next(rows.iter(1)) if self.streaming else rows[:1]

    @cached_property  # every batch asks for it
    def _key(self) -> str:
        columns = self.input_columns
        return columns[0] if len(columns) == 1 else "x"

    def _kind(self) -> Kind:
        if self.kind is None:
            self.kind = kind_of(self._rows_of(self.train_split).features)
        return self._reading or self.kind

    def _rows_of(self, name: str) -> Any:
        if name not in self.splits:
            argument = next(a for a in ("train_split", "val_split", "test_split") if getattr(self, a) == name)
            raise InputError(f"the data set has no split {name!r} ({argument})", f"it has {list(self.splits)}")
        rows = self.splits[name]
        if not self.streaming and len(rows) == 0:
            raise InputError(f"split {name!r} of the data set is empty")
        if rows.features is None:
            raise InputError(
                f"the stream of {self.path!r} does not say what its columns hold",
                "give data with declared features (parquet files have them), or streaming=False",
            )
        return rows

    def _part(self, split: str) -> tuple[str, np.ndarray | None]:
        """The data set's own split of which "train", "val" or "test" is made, and the rows taken of it (None: all)."""
        if split not in ("train", "val", "test"):
            raise InputError(f"split must be 'train', 'val' or 'test', got {split!r}")
        if split == "test":
            return self.test_split, None
        if self.val_split is not None or self.streaming or self.val_fraction == 0:
            if split == "val" and self.val_split is None:
                raise InputError("val_fraction 0 leaves no validation data", "set val_fraction or val_split")
            return (self.val_split or "" if split == "val" else self.train_split), None
        rows = len(self._rows_of(self.train_split))
        order = np.random.default_rng(self.split_seed).permutation(rows)
        held_out = round(self.val_fraction * rows)
        if split == "val" and held_out == 0:
            raise InputError(f"val_fraction {self.val_fraction} of {rows} rows leaves no validation data")
        if held_out == rows:
            raise InputError(f"val_fraction {self.val_fraction} of {rows} rows leaves no training data")
        return self.train_split, np.sort(order[:held_out] if split == "val" else order[held_out:])

    def _declared(self, name: str) -> int | None:
        """How many samples a stream says it has; of an object of the user's, which may be filtered, None."""
        from datasets import IterableDataset, IterableDatasetDict

        own = isinstance(self.path, IterableDataset | IterableDatasetDict)
        splits = None if own else self.splits[name].info.splits
        samples: int | None = splits[name].num_examples if splits and name in splits else None
        return samples or None
