"""The samples of a data set: which columns make them, how they are read, and the arrays that hold them decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ae.data.archive import unpacked_root
from lightning_ae.data.cache import cached, in_memory
from lightning_ae.data.columns import (
    check_columns,
    choose,
    describe,
    find_label,
    holds,
    image_columns,
    label_columns,
    same_kind,
    scalar_columns,
)
from lightning_ae.data.decoding import OnTheFly, decode_chunks, decode_rows
from lightning_ae.data.factors import factor_columns, find_factors
from lightning_ae.data.fingerprint import fingerprint
from lightning_ae.data.kinds import Kind, Sequence, Tabular, kind_of
from lightning_ae.data.kinds.conditions import CONDITION, Conditions, Given
from lightning_ae.data.kinds.counts import gathered
from lightning_ae.data.labels import Beside, label_column
from lightning_ae.data.scaling import Scaling
from lightning_ae.data.signature import FORMAT, Column, Signature, listed
from lightning_ae.data.source import load_splits
from lightning_ae.data.splits import Division, Parts
from lightning_ae.data.windows import Windows
from lightning_ae.errors import InputError
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess

if TYPE_CHECKING:
    from datasets import Features

LOOKED_AT = 10_000  # rows in which values are compared


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
    test_fraction: float
    split_seed: int
    split_by: str | None
    split_time: str | None
    cache: str
    streaming: bool
    condition: Any
    _given_label: str | None
    _given_factors: list[str] | None

    def __init__(self) -> None:
        super().__init__()
        self._splits: Any = None
        self._arrays: dict[tuple[str, bool], Tensor] = {}
        self._signature: Signature | None = None
        self._of_model: Signature | None = None  # whose signature is taken over
        self._own: Preprocess | None = None
        self._reading: Kind | None = None  # the kind, as that model asks for
        self._parts: tuple[Division, Parts] | None = None  # of the training split
        self._how_divided: str | None = None  # in words that are not said yet
        self._cut: dict[tuple[str, str, Division], Windows | None] = {}  # by part
        self._opened: dict[Any, OnTheFly] = {}  # what decodes each time, by what it depends on
        self._settled = False  # the kind, by what the data set says of itself
        self._said = False  # which columns were chosen
        self._conditioned: Signature | None = None  # by these data
        self._shape_seen: tuple[Signature | None, tuple[int, ...]] | None = None  # of an input, and by whose signature

    # ---- what the data are -----------------------------------------------------------------------------------

    @property
    def splits(self) -> Any:
        """The data set's own splits, by name: a `DatasetDict`, or an `IterableDatasetDict` where it streams."""
        if self._splits is None:
            arrays = self.kind is not None and self.kind.takes_arrays
            self._splits = load_splits(self.path, self.name, self.revision, self.streaming, arrays)
        return self._splits

    @cached_property  # every batch asks for it
    def input_columns(self) -> list[str]:
        """The columns that make the model's input, in order."""
        if self._of_model is not None and self._of_model.columns:
            self._check_splits(self._of_model.names)
            return self._of_model.names
        columns = self._kind().input_columns(self._possible(), self.label)
        self._check_splits(columns)
        return columns

    @property
    def label(self) -> str | None:
        """The column of labels, or None."""
        return None if self._label is None else self._label.name

    @property
    def class_names(self) -> list[str] | None:
        """The names of the label's classes, in the order of their numbers, or None."""
        return None if self._label is None or self._label.classes is None else list(self._label.classes)

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, not numbers; a stream's whole numbers are taken for classes as they are."""
        return self._label is not None and self._label.kind == "category"

    @property
    def categories(self) -> tuple[int, ...] | None:
        """How many classes each column of the input has, 0 for numbers; None where all are numbers."""
        classes = self._kind().classes
        found = tuple(len(classes.get(name, ())) for name in self.input_columns)
        return found if any(found) else None

    @property
    def suits(self) -> dict[str, Any]:
        """The options of a model that suit the data, `VAE(**data.suits)`: `input_shape`, and the architecture and the
        likelihood where the model's own would not do, for categories, say. On the command line they are the defaults.
        """
        return {"input_shape": self.input_shape, **self._kind().suits(self.input_columns)}

    @cached_property  # every batch asks for it
    def condition_key(self) -> str | None:
        """The name of the entry of batches that holds the `condition`, (B, columns); None where there is none."""
        if self._condition is None:
            return None
        key, others = CONDITION, [*self._others(self._rows_of(self._typical).features), self._key]
        while key in others:
            key += "_"
        return key

    @property
    def conditions(self) -> tuple[int, ...]:
        """How many classes each column of the condition has, 0 for numbers, as `ConditionalVAE` takes it."""
        signature = self.conditioned
        if signature is None:
            return ()
        return tuple(len(signature.classes.get(name, ())) for name in signature.names)

    @property
    def conditioned(self) -> Signature | None:
        """What a model is given besides the input: the condition's columns and statistics, of these training data or
        of the model that they feed; None where there is none."""
        of_model = None if self._of_model is None else self._of_model.condition
        kind = self._condition
        if of_model is not None or kind is None:
            return of_model
        if self._conditioned is None:
            rows = self._rows_of(self._typical)
            names = list(kind.columns or ())
            known = describe(rows.features)
            columns = kind.described([known[name] for name in names], self._first_row())
            preprocess = kind.preprocess(lambda: self._condition_chunks(kind), names)
            self._conditioned = Signature(preprocess, tuple(columns))
        return self._conditioned

    @cached_property  # every batch asks for it
    def mask(self) -> str | None:
        """The name of the entry of batches, of the input's shape, that is true where a value is known; None where all
        are."""
        if not self._kind().masked:
            return None
        key, others = "mask", [*self._others(self._rows_of(self._typical).features), self._key]
        while key in others:
            key += "_"
        return key

    def labels(self, split: str) -> Tensor:
        """The labels of "train", "val" or "test" as batches have them, (N,), in the order of evaluation.

        Raises:
            InputError: when there are none, or one is no class of the training split.
        """
        name, rows = self._samples_of(split)
        labels = self._labels_of(name)
        return labels if rows is None else labels[torch.from_numpy(rows)]

    @cached_property
    def factor_names(self) -> list[str]:
        """The columns that hold the factors of a sample, as `factors` names them, or as those of a well-known data set
        are called; see `lightning_ae.data.factors`."""
        return list(find_factors(self._rows_of(self._typical).features, self._given_factors))

    @cached_property
    def factor_columns(self) -> tuple[Column, ...]:
        """The factors with their values, `classes`; of kind "number" where those are in order, else "category".

        Raises:
            InputError: when there are none, or they are those of a stream.
        """
        if not self.factor_names:
            raise InputError("the data set has no factors that are known", "name their columns: factors=[...]")
        if self.streaming:
            raise InputError("a stream does not say which values its factors have", "use streaming=False")
        return factor_columns(self.splits.values(), self.factor_names)

    def factors(self, split: str) -> Tensor:
        """The factors of "train", "val" or "test", int64 (N, F), in the order of evaluation: numbers of the values of
        each of `factor_columns`, -1 where one is missing.

        Raises:
            InputError: when there are none; see `factor_columns`.
        """
        columns = self.factor_columns
        name, rows = self._samples_of(split)
        split_rows = self._rows_of(name)
        table = split_rows.select_columns(self.factor_names).with_format("arrow")[:]
        features, numbers = dict(split_rows.features), range(len(split_rows))
        found = [Beside([each.name], each, features, name)(table, numbers)[each.name] for each in columns]
        factors = torch.stack(found, dim=1)
        return factors if rows is None else factors[torch.from_numpy(rows)]

    def refuse_unlabelled(self, splits: Iterable[str]) -> None:
        """Refuses rows without a class in those of "train", "val" and "test" that the data have, for a model that needs
        one of each; a stream's are refused when they are met.

        Raises:
            InputError: naming the first such row.
        """
        for split in splits if self.has_classes and not self.streaming else ():
            if self.has(split):
                (name, rows), labels = self._samples_of(split), self.labels(split)
                self._beside([], name).refuse_unlabelled(labels, range(len(labels)) if rows is None else rows.tolist())

    def _labels_of(self, name: str) -> Tensor:
        """The labels of one of the data set's own splits, (N,)."""
        if self.label is None:
            raise InputError("the data set has no label column", "give label=...")
        rows = self._rows_of(name)
        check_columns([self.label], rows.features)
        table = rows.select_columns([self.label]).with_format("arrow")[:]
        return self._beside([self.label], name)(table, range(len(rows)))[self.label]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as the model sees it."""
        one, kind = next(iter(self._chunks()))[:1], self._kind()
        sample = one if kind.steps is None else one.expand(kind.steps, *one.shape[1:])[None]
        self._shape_seen = self._of_model, tuple(self.preprocess(kind.arranged(sample)).shape[1:])
        return self._shape_seen[1]

    @property
    def shape_seen(self) -> tuple[int, ...] | None:
        """The `input_shape`, where it was asked for already or samples are decoded; else None."""
        if self._shape_seen is None or self._shape_seen[0] is not self._of_model:
            return self.input_shape if self._arrays else None
        return self._shape_seen[1]

    def dataset(self, split: str) -> Any:
        """The rows of "train", "val" or "test", in the order in which evaluation passes over them; of windows the last.

        Raises:
            InputError: when there is no such split, or it is empty.
        """
        name, rows = self._samples_of(split)
        return self._rows_of(name) if rows is None else self._rows_of(name).select(rows)

    def has(self, split: str) -> bool:
        """Whether there are rows of "train", "val" or "test"."""
        if split == "train":
            return self.train_split in self.splits
        if getattr(self.division, split):
            rows = self.splits.get(self.train_split)
            return rows is not None and len(rows) > 0 and len(self.parts[split]) > 0
        return (self.val_split if split == "val" else self.test_split) in self.splits

    def keys(self, split: str, first: int = 0, last: int | None = None) -> dict[str, Any]:
        """By what a row of "train", "val" or "test" is found again, in the order of evaluation; of those from `first`
        up to `last`, exclusive.

        "row" is its number in the data set's own split, "path" the file of its image, relative to a local data set's
        folder, where images are files. Of windows "window" counts them, and "row" is the first one's number.
        """
        from datasets import Image as ImageFeature

        name, rows = self._part(split)
        if (windows := self.windows(split)) is not None:
            return {"window": np.arange(len(windows.starts))[first:last], "row": windows.first[first:last]}
        table = self._rows_of(name)
        of_images = image_columns(table.features)
        images = [column for column in self.input_columns if column in of_images][:1]
        if self.streaming:  # which says how many rows it has at its end only
            parts = [_paths(part[images[0]]) if images else [None] * len(part) for part in
                     table.select_columns(images or self.input_columns[:1]).with_format("arrow").iter(256)]  # fmt: skip
            paths = [path for part in parts for path in part]
            paths = paths[first:last]
            found: dict[str, Any] = {"row": np.arange(first, first + len(paths))}
        else:
            rows = np.arange(*slice(first, last).indices(len(table))) if rows is None else rows[first:last]
            found = {"row": rows}
            paths = []
            if images:  # the file names alone: encoded images may fill the memory
                encoded = table.select_columns(images).cast_column(images[0], ImageFeature(decode=False)).flatten()
                named = encoded.select_columns([f"{images[0]}.path"]).with_format("arrow")
                paths = named.select(rows)[:].column(0).to_pylist()
        if any(path is not None for path in paths):
            folder = os.path.realpath(os.path.expanduser(os.fspath(self.path))) if self._is_local else None
            found["path"] = [_relative(path, folder) for path in paths]
        return found

    @property
    def _is_local(self) -> bool:
        return isinstance(self.path, str | os.PathLike) and os.path.isdir(os.path.expanduser(os.fspath(self.path)))

    # ---- what a model takes of them ----------------------------------------------------------------------------------

    @property
    def signature(self) -> Signature:
        """What goes into a model: made of these training data, or that of the model that they feed."""
        of_model = self._of_model
        if of_model is not None and of_model.columns:
            return of_model
        if self._signature is None:
            known = describe(self._rows_of(self._typical).features)
            columns = self._kind().described([known[name] for name in self.input_columns], self._first_row())
            preprocess = self.own_preprocess if of_model is None else of_model.preprocess
            version = FORMAT if of_model is None else of_model.version
            self._signature = Signature(
                preprocess, tuple(columns), self._label, version=version, condition=self.conditioned
            )
        return self._signature

    def use_signature(self, signature: Signature) -> None:
        """From now on reads the data as a trained model takes them: its columns, its statistics, its images' size.

        Raises:
            InputError: when the data do not have the model's columns, or are read in a way that is not the model's.
        """
        if signature == self._of_model:
            return
        self._splits = gathered(self.splits, signature)
        kind = self._kind().of_signature(signature)
        features = describe(self._rows_of(self._typical).features)
        for each in (signature, signature.condition):
            if each is not None:
                each.check(features)
        self._say_what_changes(signature)
        self._of_model, self._reading, self._signature = signature, kind, None
        self._arrays.clear()
        self._cut.clear()
        self._opened.clear()
        for name in ("input_columns", "_key", "_label", "mask", "_condition", "condition_key"):
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
            self._own = self.kind.preprocess(self._chunks, self.input_columns)
        return self._own

    # ---- decoded -----------------------------------------------------------------------------------------------------

    def _array(self, name: str, frozen: bool) -> Tensor:
        """The decoded samples of one of the data set's own splits, as evaluation sees them where `frozen`."""
        kind, rows = self._kind(), self._rows_of(name)
        frozen = frozen and kind.frozen is not None
        if (name, frozen) in self._arrays:
            return self._arrays[name, frozen]
        check_columns(self.input_columns, rows.features)
        kind = kind.of_split(rows, self.input_columns, whole=True)
        about = fingerprint(kind, rows, self.input_columns) if self.cache == "disk" else {}
        if frozen:
            about |= {"frozen": kind.frozen, "seed": self.split_seed}
            chunks = self._frozen(name)
        else:
            chunks = decode_chunks(kind, rows, self.input_columns, name)
        if self.cache == "disk":
            title = f"{self.path if isinstance(self.path, str) else 'a data set in memory'}, {name}"
            array = cached(title, about, len(rows), chunks)
        else:
            array = in_memory(len(rows), chunks)
        samples = torch.from_numpy(array)
        for (other, _), known in self._arrays.items():
            if known.shape[1:] != samples.shape[1:] and not kind.padded:
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
            rows = self._rows_of(self.train_split)
            numbers = self._part("train")[1] if self._kind().fitted and not self.streaming else None
            rows = (rows if numbers is None else rows.select(numbers)).select_columns(self.input_columns)
            kind, first = self._kind().of_split(rows, self.input_columns, whole=False), 0
            for table in rows.with_format("arrow").iter(256):
                own = (
                    range(first, first + len(table))
                    if numbers is None
                    else numbers[first : first + len(table)].tolist()
                )
                yield torch.from_numpy(decode_rows(kind, table, self.input_columns, self.train_split, own))
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

    def _possible(self) -> Features:
        """The columns that may make an input: all, but those of groups, of the condition and of factors where nobody
        names them."""
        from datasets import Features

        features = self._rows_of(self._typical).features
        if getattr(self._kind(), "columns", None) is not None:
            return features
        apart = {self.split_by, *self._condition_columns, *self.factor_names}
        return Features({name: feature for name, feature in features.items() if name not in apart})

    def _say_what_changes(self, signature: Signature) -> None:
        """Once, what the model's way of reading makes of data that would be read otherwise by themselves."""
        wanted = signature.preprocess
        if isinstance(wanted, TabularPreprocess):
            if wanted.scales:
                rank_zero_info("the data are scaled by the statistics of the model's training data")
            return
        if not isinstance(wanted, ImagePreprocess):
            return
        if getattr(self._kind(), "binarize", wanted.binarize) != wanted.binarize:
            rank_zero_info(f"images are binarised ({wanted.binarize}), as those were that the model was trained on")
        known = describe(self._rows_of(self._typical).features)
        columns = [known[name] for name in self.input_columns]
        native = self._kind().described(columns, self._first_row())[0].shape
        if lost := wanted.lost(native, signature.columns[0].shape if signature.columns else ()):
            rank_zero_warn(lost)

    def _first_row(self) -> pa.Table:
        return self._first_rows(1)

    def _first_rows(self, n: int) -> pa.Table:
        rows: Any = self._rows_of(self._typical).select_columns(self.input_columns).with_format("arrow")
        return next(rows.iter(n)) if self.streaming else rows[:n]

    def _say_choice(self) -> None:
        """Once, which columns were chosen, and what of their values is lost."""
        if self._said:
            return
        self._said, kind = True, self._kind()
        choice = choose(self._rows_of(self._typical).features, self.label, self.input_columns)
        divides = {
            self.split_by: "groups",
            getattr(kind, "group", None): "series",
            getattr(kind, "time", None): "times",
        }
        said = {
            name: divides.get(name, reason)
            for name, reason in choice.left_out.items()
            if name not in (*self._condition_columns, *self.factor_names)
        }
        choice = replace(choice, left_out=said)
        names = self.class_names
        classes = "" if names is None else f"{len(names)} classes: {listed(names)}"
        if self.has_classes and not self.streaming and (without := int((self._labels_of(self._typical) < 0).sum())):
            classes += f"; {without} rows have none"
        line = choice.said(
            kind.how, classes and f" ({classes})", hint=isinstance(kind, Tabular) and kind.columns is None
        )
        if self._condition is not None:
            own, how = self._condition, self._condition.how
            line = f"condition: {listed(list(own.columns or ()))}{f', {how}' if how else ''}; {line}"
        if self.factor_names:
            line = f"factors: {listed(self.factor_names)}; {line}"
        rank_zero_info(line)
        if isinstance(kind, Sequence | Tabular) and (
            lost := kind.unlike(self._first_rows(LOOKED_AT), self.input_columns)
        ):
            rank_zero_warn(
                f"float32 cannot tell apart some different values of {listed(lost)}: give "
                f"kind={type(kind).__name__}(scaling='standard'), which centres them in float64 first"
            )

    def _say_parts(self) -> None:
        """Once, which rows of the training split train, validate and test, where it is divided."""
        if self._how_divided is not None:
            rank_zero_info(self._how_divided)
            self._how_divided = None

    @cached_property  # every batch asks for it
    def _label(self) -> Column | None:
        """The column of labels, with its classes as batches number them."""
        rows = self._rows_of(self._typical)
        name, features = self._given_label, rows.features
        of_model = None if self._of_model is None else self._of_model.label
        if name is not None:
            check_columns([name], features)
            if name not in label_columns(features):
                raise InputError(
                    f"label {name!r} holds {features[name]}, not numbers, classes or text",
                    f"columns of those: {listed(label_columns(features))}",
                )
        elif of_model is not None and of_model.name in label_columns(features):
            name = of_model.name
        else:
            apart = {name: feature for name, feature in features.items() if name not in self._condition_columns}
            name = find_label(type(features)(apart), texts=not self.streaming)
        if name is None:
            return None
        classes = None if of_model is None else of_model.classes
        try:
            label = label_column(rows, name, self.streaming, classes)
        except InputError:  # texts that are no classes
            if self._given_label is not None:
                raise
            return None
        if classes is not None and label.classes is not None and not set(label.classes) & set(classes):
            rank_zero_warn(
                f"label {name!r} has the classes {listed(label.classes)}, none of which the model was trained with "
                f"({listed(classes)}): they are numbered by themselves"
            )
            return label
        return label if classes is None or label.classes is None else replace(label, classes=classes)

    def _beside(self, names: list[str], split: str) -> Beside:
        """Reads columns of one of the data set's own splits that a batch has besides the input."""
        return Beside(names, self._label, dict(self._rows_of(split).features), split)

    def _given(self, split: str) -> Given | None:
        """Reads the condition of rows of one of the data set's own splits."""
        kind, signature = self._condition, self.conditioned
        if kind is None or signature is None:
            return None
        rows = self._rows_of(split)
        check_columns(signature.names, rows.features)
        assert self.condition_key is not None
        return Given(self.condition_key, kind.of_split(rows, signature.names, whole=False), signature, split)

    @property
    def _condition_columns(self) -> tuple[str, ...]:
        """The names of the condition's columns, as far as they are known before any row is looked at."""
        of_model = None if self._of_model is None else self._of_model.condition
        if of_model is not None:
            return tuple(of_model.names)
        return () if self.condition is None else Conditions.of(self.condition).columns or ()

    @cached_property  # every batch asks for it
    def _condition(self) -> Conditions | None:
        """How the condition is read: by these data, or as the model asks for that they feed."""
        own = None if self.condition is None else Conditions.of(self.condition)
        of_model = None if self._of_model is None else self._of_model.condition
        rows = self._rows_of(self._typical)
        if of_model is not None:
            if own is not None and set(own.columns or ()) != set(of_model.names):
                raise InputError(
                    f"condition names {listed(own.columns or ())}, where the model was trained with "
                    f"{listed(of_model.names)}",
                    "leave condition out: the model says it",
                )
            scaling: Scaling = "standard" if getattr(of_model.preprocess, "scales", False) else "none"
            return Conditions(tuple(of_model.names), scaling, of_model.classes or None)
        if own is None:
            return None
        check_columns(own.columns or (), rows.features)
        kind = own.of_rows(rows, None, self.streaming)
        assert isinstance(kind, Conditions)
        kind.input_columns(rows.features, None)
        return kind

    def _condition_chunks(self, kind: Conditions) -> Iterator[Tensor]:
        """The condition's columns in natural units, of the rows that train."""
        name, numbers = self._part("train")
        rows, columns, first = self._rows_of(name), list(kind.columns or ()), 0
        kind_of_split: Any = kind.of_split(rows, columns, whole=False)
        rows = (rows if numbers is None else rows.select(numbers)).select_columns(columns).with_format("arrow")
        for table in rows.iter(4096):
            own = range(first, first + len(table)) if numbers is None else numbers[first : first + len(table)].tolist()
            yield torch.from_numpy(decode_rows(kind_of_split, table, columns, name, own))
            first += len(table)

    def _others(self, features: Any) -> list[str]:
        """The columns that a batch has besides the input."""
        names = scalar_columns(features)
        label = [self.label] if self.label is not None and self.label in features and self.label not in names else []
        taken = set(self.input_columns)
        return [name for name in names + label if name not in taken]

    @property
    def input_key(self) -> str:
        """Under which name a batch holds the input: the column's, or that of several together."""
        return self._key

    @cached_property  # every batch asks for it
    def _key(self) -> str:
        columns = self.input_columns
        if len(columns) == 1:
            return columns[0]
        key, others = "x", self._others(self._rows_of(self._typical).features)
        while key in others:
            key += "_"
        return key

    def _kind(self) -> Kind:
        if not self._settled:
            rows = self._rows_of(self._typical)
            self.kind = (self.kind or kind_of(rows.features)).of_rows(rows, self.label, self.streaming)
            self._settled = True
        assert self.kind is not None
        return self._reading or self.kind

    @property
    def _typical(self) -> str:
        """The split whose columns stand for all: the training one or, of data that only feed a model, the first."""
        splits = (self.train_split, self.val_split, self.test_split)
        return next((name for name in splits if name is not None and name in self.splits), self.train_split)

    def _rows_of(self, name: str) -> Any:
        if name not in self.splits:
            arguments = {each: getattr(self, each) for each in ("train_split", "val_split", "test_split")}
            argument = next(each for each, split in arguments.items() if split == name)
            free = [each for each in self.splits if each not in arguments.values()]
            raise InputError(
                f"the data set has no split {name!r} ({argument})",
                f"it has {listed([repr(each) for each in self.splits])}"
                + (f": name one, {argument}={free[0]!r}" if free else ", and no further one: give it one of that name"),
            )
        rows = self.splits[name]
        if not self.streaming and len(rows) == 0:
            raise InputError(f"split {name!r} of the data set is empty")
        if rows.info.features is None:  # rows.features would be a copy, of thousands of names too
            raise InputError(
                f"the stream of {self.path!r} does not say what its columns hold",
                "give data with declared features (parquet files have them), or streaming=False",
            )
        return rows

    def _check_splits(self, columns: list[str]) -> None:
        """Refuses splits in which a column of the input, or the label, is of another kind than where it was chosen.

        Numbers of any type are one kind, as a column without gaps has integers in one file and floats in another.
        """
        typical = self._typical
        wanted = self._rows_of(typical).features
        label = self._label
        for name in (self.train_split, self.val_split, self.test_split):
            features = self.splits[name].features if name in self.splits and name != typical else None
            if features is None:  # who needs it says so
                continue
            able = label_columns(features) if label is None or label.kind == "category" else scalar_columns(features)
            others = [each for each in columns if each not in features or not same_kind(each, features, wanted)]
            if label is not None and label.name in features and label.name not in able:
                others.append(label.name)
            for column in others[:1]:
                there = f"is not in split {name!r}"
                if column in features:
                    there = f"holds {holds(column, features)} in split {name!r}"
                raise InputError(
                    f"column {column!r} {there}, and {holds(column, wanted)} in split {typical!r}",
                    "bring the splits to the same columns first (Dataset.cast_column, Dataset.rename_column), or leave "
                    "it out: kind=Tabular(columns=[...])",
                )

    def _part(self, split: str) -> tuple[str, np.ndarray | None]:
        """The data set's own split of which "train", "val" or "test" is made, and the rows taken of it (None: all)."""
        if split not in ("train", "val", "test"):
            raise InputError(f"split must be 'train', 'val' or 'test', got {split!r}")
        how = self.division
        if split == "test" and not how.test:
            return self.test_split, None
        if split == "val" and self.val_split is not None:
            return self.val_split, None
        if split == "val" and not how.val:
            raise InputError("val_fraction 0 leaves no validation data", "set val_fraction or val_split")
        if not (how.val or how.test):
            return self.train_split, None
        parts = self.parts
        if not len(parts[split]):
            left = {"train": "training", "val": "validation", "test": "test"}[split]
            given = {"val_fraction": how.val, "test_fraction": how.test}
            named = f"{split}_fraction" if split != "train" else "val_fraction" if how.val else "test_fraction"
            rows = sum(map(len, parts.values()))
            raise InputError(
                f"{named} {given[named]} of {rows} rows leaves no {left} data"
                + (f", as rows of one {how.time!r} stay together" if how.time else "")
                + (f", as rows of one {how.by!r} stay together" if how.by else "")
            )
        return self.train_split, parts[split]

    def windows(self, split: str) -> Windows | None:
        """The windows that are samples of "train", "val" or "test"; None where each row is one."""
        name, rows = self._part(split)
        made = split, name, self.division
        if made not in self._cut:
            self._cut[made] = self._kind().windows(self._rows_of(name), rows, name, split)
        return self._cut[made]

    def _samples_of(self, split: str) -> tuple[str, np.ndarray | None]:
        """As `_part`, but of windows the last row of each, whose label it has."""
        name, rows = self._part(split)
        windows = self.windows(split)
        return name, rows if windows is None else windows.last

    @property
    def division(self) -> Division:
        """How the training split is divided, of what the data set has no split for."""
        val = 0.0 if self.val_split is not None or self.streaming else float(self.val_fraction)
        test = float(self.test_fraction) if self.test_fraction and self.train_split in self.splits else 0.0
        if test and self.test_split in self.splits:
            raise InputError(
                f"test_fraction {test} would set rows aside where the data set has a split {self.test_split!r}",
                "leave test_fraction out to test on that",
            )
        kind = self._reading or self.kind
        ends = kind is not None and kind.steps is not None
        return Division(val, test, int(self.split_seed), self.split_by, self.split_time, ends)

    @property
    def parts(self) -> Parts:
        """The rows of each part of the training split."""
        how = self.division
        if self._parts is None or self._parts[0] != how:
            rows, name = self._rows_of(self.train_split), self.train_split
            parts, said = how.of(rows, name, self._kind().series(rows, name) if how.ends else None)
            self._parts, self._how_divided = (how, parts), said
        return self._parts[1]

    def _declared(self, name: str) -> int | None:
        """How many samples a stream says it has; of an object of the user's, which may be filtered, None."""
        from datasets import IterableDataset, IterableDatasetDict

        own = isinstance(self.path, IterableDataset | IterableDatasetDict)
        splits = None if own else self.splits[name].info.splits
        samples: int | None = splits[name].num_examples if splits and name in splits else None
        return samples or None


def _paths(images: pa.ChunkedArray) -> list[str | None]:
    """The files of encoded images."""
    paths: list[str | None] = pc.struct_field(images.combine_chunks(), "path").to_pylist()
    return paths


def _relative(path: str | None, folder: str | None) -> str | None:
    unpacked = f"{unpacked_root()}{os.sep}"
    if path and path.startswith(unpacked):
        return path.removeprefix(unpacked).partition(os.sep)[2]
    return os.path.relpath(path, folder) if path and folder and path.startswith(folder + os.sep) else path
