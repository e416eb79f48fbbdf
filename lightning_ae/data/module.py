"""The data module over Hugging Face data sets."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ae.config import arguments, class_path, from_plain, import_class, to_plain
from lightning_ae.data.decoding import CHUNK_BYTES, OnTheFly
from lightning_ae.data.identity import Identity, check_identity, identity
from lightning_ae.data.kinds import Kind
from lightning_ae.data.kinds.conditions import Conditions
from lightning_ae.data.loader import Batch, BatchLoader, Columns, Order
from lightning_ae.data.samples import Samples
from lightning_ae.data.streaming import Stream, StreamLoader
from lightning_ae.descriptions import Described, brief, short
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import GLOBAL_BATCH_SIZE, Noise


class HFDataModule(Described, Samples, pl.LightningDataModule):
    """Batches from a Hugging Face data set of images or tables.

    A split is decoded once, into one array of its own type from which whole batches are gathered. By default the array
    lies in a file that later runs, and all processes of a machine, map into memory. Scaling, normalisation and
    binarisation happen on the device. A batch is a dict: the input under its column's name ("x" where several columns
    make it, "x_" where another column is called so), and every other column of numbers or classes under its own. Which
    columns make the input, and what was left out, is said in one line (see `Tabular`).

    A label that names classes is their number in a batch, int64, -1 where a row has none: the names are `class_names`,
    those of the training split in every split, or the model's where the data feed a trained one; see
    `lightning_ae.data.labels` for what counts as classes.

    A batch is that of all ranks together, of which each takes its share: the batches, their order (shuffled by torch's
    seed and the epoch) and what is drawn for them are the same on any number of ranks, and each sample comes once in an
    epoch. Where the last batch would be less than half full, the last two share their samples. A run that stopped in
    the middle of an epoch goes on there, on the same data: checkpoints carry their `identity`, and what differs is
    refused by name (see `lightning_ae.data.identity`).

    Args:
        path: a data set's id on the hub; a local folder of images, parquet, CSV, JSON lines or Arrow files, or what
            `save_to_disk` wrote; a single file of those tables, of numpy's arrays (.npy, .npz: columns by name), an
            .h5ad file, or a zip file of images or tables; "digits" or "fashion" (embedded), "sprites" (drawn when asked
            for, see `draw_sprites`); a `datasets.Dataset` or `DatasetDict`; or what else lies in memory: a pandas or
            polars frame, a dict of columns, an array or a tensor, a pair (x, labels), a sparse matrix, an AnnData, or a
            dict of splits of these (see `lightning_ae.data.memory`). Folders of images name their classes. A folder
            that would be read in part only is refused, and at once what cannot be used of what lies in memory.
        name: the configuration, of a data set on the hub that has several; the layer, or "raw", of an AnnData; the size
            of "sprites" in pixels, "32" by default.
        revision: the revision on the hub.
        kind: how samples are read, `Image(...)`, `Tabular(...)`, `Counts(...)` or `Sequence(...)`; by default as the
            data set's features suggest, never as sequences.
        label: the column of labels; by default the only column of classes, or one named label, labels, target, class
            or y, in any case.
        condition: the columns that a model is given besides, such as the batch of a measurement and an age; or a
            `Tabular(columns=[...])` that says how they are read. Texts, booleans and declared classes are classes,
            whole numbers only if named so (`categories`); numbers are standardised by the training split. They make no
            input, and are the entry "condition" of a batch, NaN where a value is missing.
        factors: the columns that hold the factors a sample was made of, `data.factors(split)`, by which disentanglement
            is measured; by default those of dSprites, 3D Shapes and MPI3D, where images have all of them. They make no
            input.
        train_split: the split to train on.
        val_split: the split to validate on; by default a part of the training split.
        test_split: the split to test on.
        val_fraction: the part of the training split that validates, where val_split is not given; in [0, 1).
        test_fraction: the part of the training split that tests, of a data set that has no test split.
        split_seed: of the permutation that chooses those parts. It does not depend on the run's seed.
        split_by: the column of groups (patients, say) of which none is in two parts: the fractions are of the groups.
        split_time: the column of times (dates, or numbers in their order): the last part by time tests, the one before
            it validates. By default rows are drawn.
        batch_size: samples in a batch, over all ranks together.
        drop_last: leave out the last batch of a training epoch where it is not full.
        cache: where decoded samples are kept: "disk", in the user's cache folder or `$LIGHTNING_AE_CACHE`; "memory", of
            each process; or "none", which decodes a batch each time it is used.
        on_device: keep the whole split on the GPU, where it fits into half of the free memory; else there is a
            warning, and batches are copied there.
        streaming: read samples as they come, for data sets that fit no disk; with cache, val_fraction and the other
            options that need the whole set left alone.
        shuffle_buffer: how many samples are held to draw from when training from a stream.
        num_workers: processes that decode, where batches are decoded each time (cache "none", or streaming).
        prefetch: how many batches are prepared ahead, by a thread or by each worker.

    Raises:
        InputError: when the data set, a split or a column is missing, a split is empty, options exclude each other, or
            values cannot be used.
    """

    def __init__(
        self,
        path: Any,
        name: str | None = None,
        revision: str | None = None,
        kind: Kind | None = None,
        label: str | None = None,
        condition: list[str] | Kind | None = None,
        factors: list[str] | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str = "test",
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        split_seed: int = 0,
        split_by: str | None = None,
        split_time: str | None = None,
        batch_size: int = 128,
        drop_last: bool = False,
        cache: Literal["disk", "memory", "none"] = "disk",
        on_device: bool = False,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
        num_workers: int = 0,
        prefetch: int = 0,
    ) -> None:
        super().__init__()
        self.path, self.name, self.revision = path, name, revision
        self.kind = None if kind is None else from_plain(Kind, kind, "kind")
        self._given_label, self._given_factors = label, None if factors is None else list(factors)
        self.condition = condition
        if condition is not None:
            Conditions.of(condition)  # refuses what is none
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.split_seed, self.split_by, self.split_time = split_seed, split_by, split_time
        self.batch_size, self.drop_last = batch_size, drop_last
        self.cache, self.on_device = cache, on_device
        self.streaming, self.shuffle_buffer = streaming, shuffle_buffer
        self.num_workers, self.prefetch = num_workers, prefetch
        _check_arguments(self)
        self._orders: dict[str, Order] = {}  # of the batches that a trainer takes
        self._seed: int | None = None
        self._identity: Identity | None = None
        self._stream: Stream | None = None  # that trains
        self._counted: int | None = None  # its samples, as a checkpoint has them
        if not isinstance(path, str | os.PathLike) and not streaming:  # what lies in memory shows at once
            _ = self.input_columns, self.factor_names

    # ---- what the data are --------------------------------------------------------------------------------------

    def described(self) -> dict[str, str]:
        """What `repr` says, and a notebook's table, of what is known by now: nothing is loaded for it."""
        named = isinstance(self.path, str | os.PathLike)
        facts = {"set": short(os.fspath(self.path)) if named else f"{type(self.path).__name__} in memory"}
        if self.kind is not None:
            facts["kind"] = brief(self.kind)
        if self._splits is not None and not self.streaming:
            facts["rows"] = self._sizes()
        if self.shape_seen is not None:
            facts["shape"] = f"{self.shape_seen}"
        if "_label" in vars(self) and self.label is not None:
            names = self.class_names
            facts["label"] = self.label + (f" ({len(names)} classes)" if names else "")
        return facts | {"batches": f"batches of {self.batch_size}"}

    def __str__(self) -> str:
        return repr(self)  # Lightning's own makes loaders to say what there is

    def _sizes(self) -> str:
        """train 1293, val 144, test 360: of splits that are divided already, or of the data set's own."""
        if self._parts is None:
            return ", ".join(f"{name} {len(rows)}" for name, rows in self._splits.items())
        return ", ".join(f"{split} {len(self.dataset(split))}" for split in ("train", "val", "test") if self.has(split))

    @property
    def config(self) -> dict[str, Any] | None:
        """The plain data that make this data module again, or None where the data set lives in memory only."""
        if not isinstance(self.path, str) or type(self) is not HFDataModule:
            return None
        names = set(inspect.signature(HFDataModule.__init__).parameters) - {"self", "label", "factors"}
        init_args = {name: to_plain(getattr(self, name), name) for name in sorted(names)}
        init_args |= {"label": self._given_label, "factors": self._given_factors}
        return {"class_path": class_path(type(self)), "init_args": init_args}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changed: Any) -> HFDataModule:
        """The data module that plain data of a checkpoint describe.

        Args:
            config: `{"class_path": ..., "init_args": {...}}` of this class, or of an imported subclass.
            changed: arguments to change.

        Raises:
            InputError: for another class, or an argument that it does not take.
        """
        found: Any = import_class(config["class_path"], cls, "the data of the checkpoint")
        known, init_args = arguments(found), {**config["init_args"], **changed}
        for name in init_args:
            if name not in known:
                raise unknown(f"argument of {found.__name__}", name, known)
        try:
            data: HFDataModule = found(**init_args)
        except TypeError as error:
            raise InputError(f"the data of the checkpoint are not what {found.__name__} takes: {error}") from error
        return data

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | os.PathLike[str], **changed: Any) -> HFDataModule:  # type: ignore[override]
        """The data module that a model was trained with, from the model's checkpoint.

        Args:
            checkpoint_path: the file.
            changed: arguments to change.

        Raises:
            InputError: when the file is missing, damaged, or does not say.
        """
        from lightning_ae.training.checkpoint_file import METADATA_KEY, read_checkpoint

        config = read_checkpoint(checkpoint_path)[METADATA_KEY].get("data")
        if config is None:
            raise InputError(f"{os.fspath(checkpoint_path)!r} does not say what data it was trained on")
        return cls.from_config(config, **changed)

    def row_of(self, split: str, batch: int, row: int) -> str | None:
        """Which row of the data set is `row` of the trainer's batch of "train", "val" or "test"; None of a stream's."""
        if split not in self._orders:
            return None
        name, rows = self._part(split)
        position = self._orders[split].position(batch, row)
        if (windows := self.windows(split)) is not None:
            first, last = int(windows.first[position]), int(windows.last[position])
            return f"window {position}, from row {first} to row {last} of split {name!r},"
        return f"row {position if rows is None else int(rows[position])} of split {name!r}"

    def batches(
        self, split: str, batch_size: int | None = None, first: int = 0, last: int | None = None
    ) -> Iterator[Batch]:
        """A pass over a split in order, as evaluation sees it, ready for a model, on the CPU.

        Args:
            split: train, val or test.
            batch_size: by default that of training.
            first: the position to begin at; not of a stream.
            last: the position to end before; not of a stream.
        """
        size = batch_size or self.batch_size
        loader = self._loader(split, batch_size=size)
        if first == 0 and last is None:
            for batch in loader:
                yield self._ready(batch)
            return
        assert isinstance(loader, BatchLoader)
        last, together = loader.batch_sampler.samples if last is None else last, 1
        while first < last:  # what several small batches cost to read is little more than what one does
            read = loader.read(torch.arange(first, min(last, first + together * size)))
            first += together * size
            together = max(1, CHUNK_BYTES // max(1, read[self._key][:size].nbytes))
            for values in zip(*(column.split(size) for column in read.values()), strict=True):
                yield self._ready(dict(zip(read, values, strict=True)))

    def rows(self, split: str, positions: Tensor) -> Batch:
        """The samples at these positions, int64 (B,), in the order of evaluation, ready for a model, on the CPU."""
        loader = self._loader(split)
        assert isinstance(loader, BatchLoader)
        return self._ready(loader.read(positions))

    def natural_rows(self, split: str, positions: Tensor) -> Tensor:
        """The input of the samples at these positions in natural units, (B, ...), NaN where it is missing; a stream's
        first ones."""
        loader = self._loader(split, batch_size=len(positions))
        batch = loader.read(positions) if isinstance(loader, BatchLoader) else next(iter(loader))
        return self._kind().arranged(batch[self._key])

    def some_rows(self, split: str, n: int, seed: int = 0) -> Batch:
        """A batch of `n` rows of a split, drawn by seed, in turn from each class where labels are known; a stream's
        first ones."""
        if self.streaming:
            return next(self.batches(split, n))
        return self.rows(split, self.some_numbers(split, n, seed))

    def some_numbers(self, split: str, n: int, seed: int = 0) -> Tensor:
        """Which rows `some_rows` draws, (n,), in the order of evaluation."""
        order = torch.randperm(len(self.dataset(split)), generator=torch.Generator().manual_seed(seed))
        if self.has_classes:
            labels = self.labels(split)[order]
            turn = torch.zeros_like(labels)
            for label in labels.unique():
                of_it = labels == label
                turn[of_it] = torch.arange(int(of_it.sum()))
            order = order[turn.argsort(stable=True)]
        return order[:n]

    @property
    def identity(self) -> Identity:
        """By what a fit that goes on knows its data again; see `lightning_ae.data.identity`."""
        if self._identity is None:
            rows = self._rows_of(self.train_split)
            self._identity = identity(self, self._declared(self.train_split) if self.streaming else len(rows))
        counted = None if self._stream is None else self._stream.counted
        content = ({} if counted is None else {"rows": counted}) | self._identity["content"]
        return self._identity | {"content": content}

    # ---- what Lightning calls -----------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Downloads and decodes into the caches; Lightning calls it in one process of each node."""
        _ = self.splits
        self._meet_model()
        self._say_choice()
        if self.cache == "disk":
            self._prepare(self.trainer.state.fn if self.trainer is not None else None)

    def setup(self, stage: str) -> None:
        """Opens what the stage needs; agrees with the other ranks on the seed of the run's order."""
        if self.trainer is not None:
            self._seed = None
            self._run_seed()
        self._meet_model()
        self._say_choice()
        self._prepare(stage)
        _ = self.preprocess
        if stage == "fit":
            self._identity = self._stream = self._counted = None
            _ = self.identity  # of the data as the run begins

    def state_dict(self) -> dict[str, Any]:
        """The seed of the run's order and the identity of its data, for checkpoints."""
        state: dict[str, Any] = {"seed": self._run_seed()}
        if self._identity is not None:  # of a run that trains
            state |= {"identity": self.identity, "middle": self._position()[1] > 0}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the order of the run that a fit goes on with; other uses of a checkpoint leave the data alone.

        Raises:
            InputError: when these are other data than a run can go on with; see `check_identity`.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        self._seed = state_dict["seed"]
        if (was := state_dict.get("identity")) is not None:  # older checkpoints have none
            check_identity(was, self.identity, state_dict["middle"])
            now = self.identity["content"]
            if all(now.get(name, value) == value for name, value in was["content"].items()):
                self._counted = was["content"].get("rows")

    def train_dataloader(self) -> BatchLoader | StreamLoader:
        """Batches of the training split, shuffled.

        Raises:
            InputError: when the batch size cannot be shared among the ranks.
        """
        if self.trainer is None:
            return self._loader("train", training=True)
        world, rank = _share(self.trainer)
        if self.batch_size % world:
            raise InputError(
                f"batch_size counts the samples of all ranks together: {self.batch_size} cannot be shared evenly by "
                f"{world}",
                f"use {self.batch_size // world * world or world} or {(self.batch_size // world + 1) * world}",
            )
        loader = self._loader("train", training=True, seed=self._run_seed() % 2**31, world=world, rank=rank)
        return self._counted_by(loader, "train")

    def val_dataloader(self) -> Any:  # noqa: D102
        if not self._validates:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return self._evaluation_loader("val")

    def test_dataloader(self) -> BatchLoader | StreamLoader:  # noqa: D102
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> BatchLoader | StreamLoader:  # noqa: D102
        return self._evaluation_loader("test")

    def on_exception(self, exception: BaseException) -> None:
        """Leaves loaders as they were, where one could not be made."""
        from lightning_ae.training.private import restore_loaders

        restore_loaders()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes the batch what the model takes, on the device."""
        batch = self._ready(batch)
        if self.trainer is None:  # a loop of one's own
            return batch | {self._key: self._kind().augment(batch[self._key], Noise())}
        if self.trainer.training:
            position = self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx
            noise = Noise(self._run_seed(), "data", *position, samples=batch.get(GLOBAL_BATCH_SIZE))
            batch[self._key] = self._kind().augment(batch[self._key], noise)
        # Lightning casts to a "true" precision before the transfer, when images are still bytes
        return self.trainer.precision_plugin.convert_input(batch)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _meet_model(self) -> None:
        """Takes over what the trainer's model knows of its input, where it was trained before."""
        model = None if self.trainer is None else self.trainer.lightning_module
        if (signature := getattr(model, "signature", None)) is not None:
            self.use_signature(signature)

    def _run_seed(self) -> int:
        """Of the training order, of all ranks; from a checkpoint where a fit goes on."""
        if self._seed is None:
            # without seed_everything each process has a seed of its own, and shards of different orders overlap
            assert self.trainer is not None
            self._seed = int(self.trainer.strategy.broadcast(torch.initial_seed()))
        return self._seed

    @property
    def _validates(self) -> bool:
        return self.val_split is not None or self.val_fraction > 0

    def _prepare(self, stage: str | None) -> None:
        decoded = not self.streaming and self.cache != "none"
        needed = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}
        stage = getattr(stage, "value", stage)  # Lightning's own are of an enum, whose str() is another
        splits = [split for split in needed.get(str(stage), []) if split != "val" or self._validates]
        for split in splits:
            _ = self._part(split)
        self._say_parts()
        for split in splits if decoded else []:
            self.windows(split)
            self._array(self._part(split)[0], frozen=split != "train" or self._kind().trains_frozen)

    def _evaluation_loader(self, split: str) -> BatchLoader | StreamLoader:
        if self.trainer is None:
            return self._loader(split)
        world, rank = _share(self.trainer)
        return self._counted_by(self._loader(split, world=world, rank=rank), split)

    def _counted_by(self, loader: BatchLoader | StreamLoader, split: str) -> BatchLoader | StreamLoader:
        """The loader, by whose batches `row_of` counts: what callbacks read besides has batches of its own."""
        if isinstance(loader, BatchLoader):
            self._orders[split] = loader.batch_sampler
        return loader

    def _loader(
        self,
        split: str,
        training: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
        world: int = 1,
        rank: int = 0,
    ) -> BatchLoader | StreamLoader:
        """The batches of a split: of this rank in a trainer's run, else of all."""
        batch_size = batch_size or self.batch_size
        seed = torch.initial_seed() % 2**31 if seed is None else seed
        shuffle = training and not getattr(self.trainer, "overfit_batches", 0)
        position = self._position if training and self.trainer is not None else None
        options: dict[str, Any] = {
            "prefetch": self.prefetch,
            "pin_memory": torch.cuda.is_available() and not self.on_device,
            "identity": (lambda: self.identity) if training else None,
            "natural": True,
        }
        name, rows = self._part(split)
        windows = None if self.streaming else self.windows(split)
        if windows is not None:
            rows = windows.rows
        frozen = self._kind().frozen is not None and (not training or self._kind().trains_frozen)
        data = self._rows_of(name)
        model = getattr(self.trainer, "lightning_module", None)
        beside = replace(self._beside(self._others(data.features), name), condition=self._given(name))
        if getattr(model, "needs_label", "label" in getattr(model, "given", ())):
            beside = replace(beside, labelled=True)
        seeds = self.split_seed if frozen else None
        if training:
            _check_draws(self, self._kind())  # a model's, too
        if self.streaming:
            decoded = OnTheFly(self._kind(), data, name, self.input_columns, self._key, beside, seed=seeds)
            buffer = self.shuffle_buffer if shuffle else 0
            stream = Stream(decoded.rows, decoded.share, batch_size, buffer, seed, world, rank, self._declared(name))
            if training:
                stream.counted, self._counted, self._stream = self._counted, None, stream
            return StreamLoader(stream, self.num_workers, position=position, **options)
        order = Order(
            len(windows.starts) if windows is not None else len(data) if rows is None else len(rows),
            batch_size,
            shuffle,
            seed,
            world,
            rank,
            training and self.drop_last,
        )
        if self.cache == "none":
            made = split, name, self.division, beside.labelled, seeds
            if made not in self._opened:
                self._opened[made] = OnTheFly(
                    self._kind(), data, name, self.input_columns, self._key, beside, rows, seeds
                )
            return BatchLoader(self._opened[made], order, self.num_workers, position=position, **options)
        samples = {self._key: self._array(name, frozen)}
        if beside.columns:
            samples |= beside(data.select_columns(beside.columns).with_format("arrow")[:], range(len(data)))
        starts = None if windows is None else (windows.length, torch.from_numpy(windows.starts))
        columns = Columns(samples, None if rows is None else torch.from_numpy(rows), starts, self._key)
        return BatchLoader(self._on_device(columns, name), order, position=position, **options)

    def _position(self) -> tuple[int, int]:
        """The epoch of training, and how many of its batches have been used."""
        assert self.trainer is not None
        epoch: Any = self.trainer.fit_loop.epoch_progress.current
        batch = self.trainer.fit_loop.epoch_loop.batch_progress
        return (epoch.started, 0) if batch.is_last_batch else (epoch.processed, batch.current.ready)

    def _on_device(self, columns: Columns, name: str) -> Columns:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if not self.on_device or device.type == "cpu":
            return columns
        free = free_memory(device)
        if free is not None and columns.nbytes > free / 2:
            rank_zero_warn(
                f"on_device: split {name!r} takes {columns.nbytes / 2**20:.0f} MiB, more than half of the "
                f"{free / 2**20:.0f} MiB free on {device}; its batches are copied there one by one"
            )
            return columns
        return columns.to(device)

    def _ready(self, batch: Batch) -> Batch:
        x = self.preprocess(self._kind().arranged(batch[self._key]))
        if self.mask is None:
            return dict(batch) | {self._key: x}
        return dict(batch) | {self._key: x.nan_to_num(nan=0.0), self.mask: ~x.isnan()}


def _share(trainer: Any) -> tuple[int, int]:
    """How many ranks share a batch, and which of them this is."""
    ranks = getattr(trainer.strategy, "distributed_sampler_kwargs", None)  # of several processes only
    return (1, 0) if ranks is None else (ranks["num_replicas"], ranks["rank"])


def free_memory(device: torch.device) -> int | None:
    """The bytes free on an accelerator, or None where it does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _check_draws(data: HFDataModule, kind: Kind | None) -> None:
    if getattr(kind, "binarize", None) == "static" and (data.streaming or data.cache == "none"):
        raise InputError(
            "binarize='static' draws once for the whole data set, which is never held here",
            "use binarize='dynamic' or 'threshold', or cache='disk' without streaming",
        )


def _check_arguments(data: HFDataModule) -> None:
    if not 0 <= data.val_fraction < 1:
        raise InputError(f"val_fraction must lie in [0, 1), got {data.val_fraction}")
    if not 0 <= data.test_fraction < 1 or data.val_split is None and data.val_fraction + data.test_fraction >= 1:
        raise InputError(
            f"test_fraction must lie in [0, 1) and leave rows to train on, got {data.test_fraction} beside "
            f"val_fraction {data.val_fraction}"
        )
    _check_division(data)
    for name, least in {"batch_size": 1, "shuffle_buffer": 0, "num_workers": 0, "prefetch": 0}.items():
        value = getattr(data, name)
        if not isinstance(value, int) or value < least:
            what = "a positive integer" if least else "an integer of 0 or more"
            raise InputError(f"{name} must be {what}, got {value!r}")
    if data.cache not in ("disk", "memory", "none"):
        raise InputError(f"cache must be 'disk', 'memory' or 'none', got {data.cache!r}")
    if data.num_workers and data.cache != "none" and not data.streaming:
        raise InputError(
            f"num_workers {data.num_workers} has nothing to do: batches are gathered from decoded samples",
            "leave it out, or decode each time, with cache='none' or streaming=True",
        )
    if data.on_device and (data.streaming or data.cache == "none"):
        raise InputError("on_device needs decoded samples", "leave it out, or use cache='disk' without streaming")
    if data.streaming and data.val_split is None and data.val_fraction > 0:
        raise InputError(
            f"streaming=True cannot set val_fraction {data.val_fraction} of the training split aside",
            "give val_split, or val_fraction=0 for a run without validation",
        )
    if data.kind is not None and data.kind.steps is not None and (data.streaming or data.cache == "none"):
        raise InputError(
            f"windows of {data.kind.steps} rows need decoded rows to be cut from",
            "use cache='disk' or 'memory' without streaming",
        )
    if data.streaming and data.test_fraction:
        raise InputError(
            f"streaming=True cannot set test_fraction {data.test_fraction} of the training split aside",
            "give test_split, or leave test_fraction out",
        )
    if data.streaming and data.drop_last:
        raise InputError("streaming=True has no drop_last", "leave it out: every batch is at least half full")
    _check_draws(data, data.kind)
    if data.streaming and data.kind is not None and data.kind.fitted:
        raise InputError(
            "scaling needs the whole training split before the first batch, which a stream has not",
            "leave it out and scale the data beforehand, or use streaming=False",
        )


def _check_division(data: HFDataModule) -> None:
    given = {name: getattr(data, name) for name in ("split_by", "split_time") if getattr(data, name) is not None}
    if len(given) == 2:
        raise InputError("split_by and split_time each divide the training split in a way of their own", "give one")
    for name, column in given.items():
        if data.streaming:
            raise InputError(
                f"streaming=True cannot divide the training split, {name}={column!r}",
                "give val_split and test_split, or use streaming=False",
            )
        if (data.val_split is not None or not data.val_fraction) and not data.test_fraction:
            raise InputError(
                f"{name}={column!r} has nothing to do: no part of the training split is set aside",
                "leave it out, or give val_fraction without val_split, or test_fraction",
            )
