"""What a run trains on, as plain data in its checkpoints: a fit that goes on knows its data again by it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ae.config import to_plain
from lightning_ae.data.columns import image_columns, scalar_columns
from lightning_ae.data.kinds.image import open_image
from lightning_ae.errors import InputError
from lightning_ae.preprocess import TabularPreprocess

if TYPE_CHECKING:
    from lightning_ae.data.module import HFDataModule

Identity = dict[str, dict[str, Any]]
FIRST, SPREAD = 32, 256  # rows that are looked at
ADDED = {"test_fraction": 0.0, "split_by": None, "split_time": None}  # options that older checkpoints do not have


def identity(data: HFDataModule, samples: int | None) -> Identity:
    """What decides which samples train, and in which order; equal wherever the data lie and however they are cached.

    - content: how many rows the training split has, and digests of what the columns of a batch hold in its first 32
      rows and in 256 spread over it from the first to the last: pixels of images before any resizing, so that a
      lossless copy in another encoding is equal, and numbers in their own type.
    - reading: which columns make the input, which come besides, the label, the kind's options, and the statistics of
      standardisation, which every training row moves.
    - held_out: which rows of the training split validate and test.
    - order: what else makes the batches.

    So more, fewer, reordered or exchanged rows are noticed; a change of a single row among more than 256 only by the
    chance that it is one of those, or by the statistics. Of a stream the first rows of the first and of the last file
    are looked at, and the number of rows where it is declared, or counted in an epoch.

    Args:
        data: whose training split can be read.
        samples: how many rows it has; None of a stream that does not say.

    Raises:
        InputError: when one of these rows cannot be read.
    """
    rows, columns, kind = data.splits[data.train_split], data.input_columns, data.kind
    assert kind is not None  # settled by the columns
    features = rows.features  # a copy each time
    images = set(image_columns(features))
    besides = {*scalar_columns(features), *([] if data.label is None else [data.label])}  # a label may be text
    condition = data.conditioned
    besides |= set() if condition is None else set(condition.names)
    others = sorted(besides - set(columns))
    schema = features.arrow_schema
    content: dict[str, Any] = {} if samples is None else {"rows": samples}
    for place, table in _looked_at(rows, columns + others, data.streaming):
        for column in table.column_names:
            digest = _digest(table[column], column in images, data.train_split)
            content[f"{place} of column {column!r}"] = digest
    reading = {
        "input columns": [f"{column}: {schema.field(column).type}" for column in columns],
        "further columns": [f"{column}: {schema.field(column).type}" for column in others],
        "label": data.label,
        "classes": getattr(features.get(data.label), "names", None),  # as declared: others are in the content
        **{f"kind.{name}": value for name, value in _options(kind).items()},
    }
    if condition is not None:
        reading["condition"] = condition.hash
    if isinstance(data.own_preprocess, TabularPreprocess) and kind.fitted:
        reading["statistics"] = _statistics(data.own_preprocess)
    if (windows := None if data.streaming else data.windows("train")) is not None:  # other columns' values cut them
        reading["rows of the windows"] = xxhash.xxh3_64(windows.first.astype(np.int64).tobytes()).hexdigest()
    if kind.frozen is not None and kind.trains_frozen:
        reading["split_seed of what is drawn once"] = int(data.split_seed)
    order = {"batch_size": data.batch_size, "drop_last": bool(data.drop_last), "streaming": bool(data.streaming)}
    order["shuffled"] = not getattr(data.trainer, "overfit_batches", 0)
    if data.streaming:
        order |= {"shuffle_buffer": data.shuffle_buffer, "files": rows.num_shards}
    return {
        "content": content,
        "reading": reading,
        "held_out": _held_out(data),
        "order": order,
    }


def check_identity(was: Identity, now: Identity, middle: bool) -> None:
    """Whether a fit may go on with these data.

    In the middle of an epoch nothing may differ. At the end of one, other data are a use of their own and said in a
    warning, and so is another reading of them; batches may be made in another way. What may not change there is which
    rows of the same data validate: rows that have trained would, and the measure would be worth nothing.

    Args:
        was: of the data that the checkpoint was written with; what it does not tell is not compared.
        now: of the data at hand.
        middle: whether the checkpoint was written in the middle of an epoch.

    Raises:
        InputError: naming each thing that differs.
    """
    was = was | {"held_out": ADDED | was["held_out"]} if "held_out" in was else was
    differ = {group: _differences(was[group], now[group]) for group in now if group in was}
    said = "; ".join(difference for group in differ.values() for difference in group)
    weights = "to train the model on other data, start a new fit with its weights (load_model)"
    if middle and said:
        raise InputError(
            "the run stopped in the middle of an epoch and cannot go on there with other samples or another order: "
            f"{said}",
            f"use the data and options it began with, or a checkpoint written at the end of an epoch; {weights}",
        )
    if differ.get("held_out") and not differ.get("content"):
        raise InputError(
            f"the run cannot go on where other rows of the same data validate, of which some have trained: {said}",
            f"use the val_fraction, test_fraction, split_... and val_split it began with; {weights}",
        )
    if differ.get("content") or differ.get("reading"):
        rank_zero_warn(
            f"the fit goes on with other data than the checkpoint was written with: {said}. Where they share rows, "
            "some that have trained may validate."
        )


def _held_out(data: HFDataModule) -> dict[str, Any]:
    """Which rows of the training split do not train; by groups or times those themselves, as another column's values
    choose them."""
    how = data.division
    found: dict[str, Any] = {"val_fraction": how.val, "test_fraction": how.test}
    found |= {"split_by": how.by, "split_time": how.time}
    found["split_seed"] = how.seed if (how.val or how.test) and how.drawn else None
    if (how.val or how.test) and (how.by is not None or not how.drawn):
        digest = xxhash.xxh3_64()
        for numbers in data.parts.values():
            digest.update(numbers.astype(np.int64).tobytes() + b"|")
        found["rows of the parts"] = digest.hexdigest()
    return found


def _differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    differ = [name for name in was if name in now and was[name] != now[name]]
    return [
        f"{name} differs" if "rows of" in name or name == "statistics"  # of digests
        else f"{name} was {reprlib.repr(was[name])} and is {reprlib.repr(now[name])}"
        for name in differ
    ]  # fmt: skip


def _looked_at(rows: Any, columns: list[str], streaming: bool) -> Iterator[tuple[str, pa.Table]]:
    rows = rows.select_columns(columns).with_format("arrow")
    if not streaming:
        yield "the first rows", rows[:FIRST]
        yield "the spread rows", rows[np.unique(np.arange(SPREAD) * (len(rows) - 1) // (SPREAD - 1))]
        return
    files = {"the first rows": 0, "the last file's first rows": rows.num_shards - 1}
    for place, file in files.items() if rows.num_shards > 1 else [("the first rows", None)]:
        some = rows if file is None else rows.shard(rows.num_shards, file)
        yield from ((place, table) for table in some.take(FIRST).iter(FIRST))


def _digest(column: pa.ChunkedArray, images: bool, split: str) -> str:
    digest = xxhash.xxh3_64()
    if images:
        for row, item in enumerate(column.to_pylist()):
            if item is None:  # the kind says what it makes of that
                digest.update(b"none")
                continue
            with open_image(item, split, row) as opened:
                image = opened.convert("RGBA") if opened.mode == "P" else opened  # numbers of a palette's colours
                digest.update(f"{image.mode} {image.size}".encode())
                digest.update(image.tobytes())
        return digest.hexdigest()
    array = column.combine_chunks()
    while isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        digest.update(pc.list_value_length(array).cast(pa.int64()).fill_null(-1).to_numpy().tobytes())
        array = array.flatten()
    if pa.types.is_primitive(array.type) and not array.null_count:
        values = array.to_numpy(zero_copy_only=False)
        digest.update(values.dtype.str.encode())
        digest.update(values.tobytes())
    else:
        digest.update(repr(array.to_pylist()).encode())
    return digest.hexdigest()


def _options(kind: Any) -> dict[str, Any]:
    plain = to_plain(kind, "kind")
    named = {name: value for name, value in plain["init_args"].items() if name not in ("column", "columns")}
    return {"class": plain["class_path"], **named}


def _statistics(preprocess: TabularPreprocess) -> str:
    """A digest in few enough digits that the order of summation does not show."""
    mean, std = np.asarray(preprocess.mean), np.asarray(preprocess.std)
    digits = [f"{m:.3f} {s:.4g}" for m, s in zip((mean / std).round(3) + 0.0, std, strict=True)]
    return xxhash.xxh3_64(" ".join(digits).encode()).hexdigest()
