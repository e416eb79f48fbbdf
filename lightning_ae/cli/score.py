"""score: how strange the rows of a data set are to a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lightning_ae.cli.tools import check_model, check_positive, check_splits
from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.thresholds import check_quantile

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.data.module import HFDataModule
    from lightning_ae.figures import Figure
    from lightning_ae.scores import Scored
    from lightning_ae.thresholds import Threshold


def score(
    checkpoint: str,
    path: str | None = None,
    splits: Sequence[str] | None = None,
    output: str | None = None,
    draws: int = 1,
    seed: int = 0,
    quantile: float | None = None,
    store: bool = False,
    anomaly: Sequence[str | int] | None = None,
    mask: str | None = None,
    top: int = 3,
    n: int = 10,
    batch_size: int = 1024,
    shard_rows: int | None = None,
    actors: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write how strange the rows of a data set are to parquet files, one for each split, beside its other columns.

    The column "score" holds -log p(x) or a bound on it in nats (of a model without a distribution over codes,
    -log p(x | z)): higher is stranger. "rank" is 1 for the strangest row of the split. "exceeds" says whether the score
    lies above a threshold, a quantile of the scores of the model's own validation split: the one in the checkpoint, or
    found anew. "features" holds the columns that have the largest shares in a row's score, of tables and sequences,
    from one draw. "row", the number in the data set's own split, and "path", where images are files, say which sample
    it is. A column that the data have of such a name is left as it is, and an underscore follows the new one's. Where
    labels are known, AUROC and average precision are printed. Of a checkpoint in a run's folder and the run's own data
    they are added to its TensorBoard log, where it has one (the callback ScoreMetrics logs while a run goes on, to any
    logger). Of images, "strangest.png" shows the strangest and the
    plainest of the last split, with where they are.

    Large data are scored in shards, as by `features`: with shard_rows or actors, or by several processes of torchrun or
    SLURM. A shard's file has no column "rank", since that needs the scores of all: who ends last writes the ranks of a
    split, the strangest first with score and "row", to a file beside its folder (test-ranks.parquet), and adds to
    the run's log. Masks are not looked at there.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what the model
            was trained on).
        splits: any of train, val and test (default: all that the data have, which together are all rows).
        output: the folder to write to (default: "scores" beside the folder of the checkpoint).
        draws: of each row's code, of a model that draws; more make a tighter bound, and no "features".
        seed: of the draws.
        quantile: of the validation split's scores, in (0, 1), that is the threshold (default: the checkpoint's, or
            0.99).
        store: write the threshold into the checkpoint.
        anomaly: the classes of the label that are to be found, by name or number (default: of two the second).
        mask: the column of masks, images whose pixels are not 0 where those of the image are to be found; the AUROC of
            the pixels' scores is printed. Masks are resized and cut as their images are.
        top: how many features of each row.
        n: how many images of each kind in the picture; 0 for none.
        batch_size: how many samples to score at a time.
        shard_rows: how many rows make a shard (default: 65536 where several processes share the work; else each split
            is one file).
        actors: how many Ray actors share the shards, of the extra "ray" (default: none).
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist; of shards those that are of another model, other data or other options.

    Returns:
        The file of each split, of shards their folder.

    Raises:
        InputError: when a file exists, the model has no likelihood, or the data cannot be read.
    """
    check_model(checkpoint)
    check_splits(["train"] if splits is None else splits)
    optional = {name: n for name, n in {"shard_rows": shard_rows, "actors": actors}.items() if n is not None}
    check_positive(batch_size=batch_size, draws=draws, top=top, **optional)
    if n < 0:
        raise InputError(f"n must not be negative, got {n}", "0 draws no picture")
    if quantile is not None:
        check_quantile(quantile)
    if mask is not None and draws > 1:
        raise InputError(f"mask takes one draw, got draws={draws}: a bound of several is no sum over pixels")
    if store and not Path(checkpoint).is_file():
        raise InputError(f"store writes into a checkpoint, and {checkpoint!r} is none", "leave it out")
    from lightning_ae.cli import scored_shards, sharded, trained, written
    from lightning_ae.data.masks import check_masks

    rank, world = sharded.place_of(actors)
    shares = bool(optional) or world > 1
    if mask is not None and shares:
        raise InputError("mask is not looked at in shards", "leave shard_rows and actors out, in one process")
    if store and shares:
        raise InputError(
            "store writes into the checkpoint that others read meanwhile",
            "store the threshold first, without shards: --splits [val] --store true",
        )
    model = trained.load(checkpoint, device)
    model.check_scores(draws=draws)
    if ((model.data_config or {}).get("init_args") or {}).get("streaming"):
        raise InputError(
            "score passes over rows more than once, and the model's data are a stream",
            "score them in a loop of your own: model.score_rows(data, split) passes over them once",
        )
    data = trained.data_of(model, checkpoint, path, all_classes=True, beside=mask)
    splits = [split for split in ("train", "val", "test") if data.has(split)] if splits is None else list(splits)
    folder = Path(output) if output else written.beside(checkpoint) / "scores"
    if shares:
        options = scored_shards.Options(draws, seed, quantile, anomaly, top, n, batch_size, shard_rows, overwrite)
        if actors is not None:
            scored_shards.score_by_actors(checkpoint, path, splits, folder, options, device, actors)
        # what is left after them, as where all died, is made here
        return scored_shards.score(model, data, checkpoint, path is None, splits, folder, options, rank, world)
    files = {split: folder / f"{split}.parquet" for split in splits}
    pictures = len(model.input_shape) == 3 and n > 0
    written.check_free([*files.values(), *([folder / "strangest.png"] if pictures else [])], overwrite)
    data.prepare_data()
    if mask is not None:
        for split in splits:
            check_masks(data, split, mask)
    wanted = wanted_classes(data, splits, anomaly)
    console = Console(highlight=False, soft_wrap=True)
    if store and quantile is None and model.threshold is None:
        quantile = 0.99  # asked for
    threshold = threshold_for(model, checkpoint, None if path else data, quantile, draws, seed, batch_size, console)
    names = feature_names(model) if draws == 1 else None
    # all of them before the first file, so that a row that has no score leaves nothing behind
    all_found = {split: score_split(model, data, split, names, top, draws, seed, batch_size, mask) for split in splits}
    if store and threshold is not None:
        _store(checkpoint, threshold)
    results = Table("split", "rows", "median", *([] if threshold is None else ["exceed"]), *label_titles(data, wanted))
    if mask is not None:
        results.add_column("AUROC of pixels")
    logged: dict[str, float] = {}
    for split, file in files.items():
        found = all_found[split]
        columns = {**found.columns(threshold), **data.keys(split)}
        about = about_scores(model, checkpoint, draws, seed, threshold)
        written.write_parquet(written.without_input(data, data.dataset(split)), columns, about, file, overwrite)
        exceed = [] if threshold is None else [str(int((found.scores > threshold.value).sum()))]
        logged |= {f"{split}/score_{name}": value for name, value in found.measured(threshold).items()}
        parted, measured = measured_by_labels(data, split, found.scores, wanted)
        logged |= {f"{split}/score_{name}": value for name, value in parted.items()}
        measured += [] if found.pixels is None else [str(found.pixels)]
        results.add_row(split, str(len(found.scores)), f"{logged[f'{split}/score_median']:.2f}", *exceed, *measured)
    figures = {}
    if pictures:
        figures["strangest"] = extremes(model, data, splits[-1], all_found[splits[-1]].scores, n, seed)
        with whole_file(folder / "strangest.png", overwrite) as part:
            figures["strangest"].savefig(part)
    log = None if path else written.log_beside(checkpoint, logged, figures)
    console.print("[bold]Written[/]")
    for file in [*files.values(), *([folder / "strangest.png"] if pictures else [])]:
        console.print(f"  {file}")
    if log is not None:
        console.print(f"  {log}  (added to what is there)")
    console.print(results)
    return files


@dataclass(frozen=True)
class Found:
    """The scores of a split, (N,), in float64 on the CPU, and of each row the features that have the largest shares."""

    scores: Tensor
    names: list[str] | None
    chosen: Tensor
    shares: Tensor
    pixels: Pixels | None = None

    def measured(self, threshold: Threshold | None) -> dict[str, float]:
        """What is logged of them, by the names that `ScoreMetrics` gives it."""
        found = measured_scores(self.scores, threshold)
        if self.pixels is not None and (value := self.pixels.auroc) is not None:
            found["pixel_auroc"] = value
        return found

    def columns(self, threshold: Threshold | None) -> dict[str, Any]:
        """The columns of the file."""
        import pyarrow as pa
        import torch

        rank = torch.empty(len(self.scores), dtype=torch.int64)
        rank[self.scores.argsort(descending=True, stable=True)] = torch.arange(1, len(self.scores) + 1)
        columns: dict[str, Any] = {"score": self.scores.numpy(), "rank": rank.numpy()}
        if threshold is not None:
            columns["exceeds"] = (self.scores > threshold.value).numpy()
        if self.names is not None:
            each = self.chosen.shape[1]
            named = pa.DictionaryArray.from_arrays(pa.array(self.chosen.flatten().numpy()), pa.array(self.names))
            pairs = pa.StructArray.from_arrays(
                [named.cast(pa.string()), pa.array(self.shares.flatten().numpy())], ["name", "share"]
            )
            columns["features"] = pa.FixedSizeListArray.from_arrays(pairs, each).cast(pa.list_(pairs.type))
        return columns


def score_split(
    model: Autoencoder,
    data: HFDataModule,
    split: str,
    names: list[str] | None,
    top: int,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 1024,
    mask: str | None = None,
    first: int = 0,
    last: int | None = None,
) -> Found:
    """The scores of a split, or of its rows from `first` up to `last`, exclusive, and the `top` features of each row by
    their shares, where features have names."""
    import torch
    from tqdm.auto import tqdm

    scores, chosen, shares = [], [], []
    pixels = None if mask is None else Pixels(model, data, split, mask, seed, batch_size)
    asked = names is not None or pixels is not None
    batches = model.score_rows(
        data, split, asked, draws=draws, seed=seed, batch_size=batch_size, first=first, last=last
    )
    total = -(-((len(data.dataset(split)) if last is None else last) - first) // batch_size)
    for found in tqdm(batches, f"scoring {split}", total, delay=2, leave=False):
        scores.append(found.score.double().cpu())
        if pixels is not None:
            pixels.add(found)
        if names is not None:
            assert found.shares is not None
            each = found.shares.flatten(2).sum(dim=2) if found.shares.ndim > 2 else found.shares
            largest = each.double().cpu().topk(min(top, each.shape[1]), dim=1)
            chosen.append(largest.indices)
            shares.append(largest.values)
    empty = torch.empty(0, 0)
    of_rows = [torch.cat(each) if each else empty for each in (chosen, shares)]
    return Found(torch.cat(scores), names, of_rows[0], of_rows[1], pixels)


class Pixels:
    """How well the pixels' scores of a split find what its masks mark; `add` takes the batches in their order.

    The rows with marks are scored once more, beforehand, so that the scores of marked pixels alone need be held.
    """

    def __init__(
        self, model: Autoencoder, data: HFDataModule, split: str, column: str, seed: int, batch_size: int
    ) -> None:
        import torch

        from lightning_ae.data.masks import read_masks
        from lightning_ae.metrics.anomalies import PixelAUROC

        self._read = partial(read_masks, data, split, column)
        self._seen, self._known, rows, strange = 0, 0, len(data.dataset(split)), [torch.empty(0)]
        for first in range(0, rows, batch_size):
            masks, _ = self._read(first, min(first + batch_size, rows))
            marked = masks.flatten(1).any(dim=1).nonzero().flatten()
            if len(marked):
                x, target, given = model.read(data.rows(split, first + marked))
                roles: dict[str, Any] = {role: value.to(model.device) for role, value in given.items()}
                found = model.score_batch(x.to(model.device), target.to(model.device), True, seed=seed, **roles)
                strange.append(_by_pixel(found)[masks[marked]])
        self._auroc = PixelAUROC(torch.cat(strange))

    def add(self, found: Scored) -> None:
        """Adds a batch."""
        last = self._seen + len(found.score)
        masks, known = self._read(self._seen, last)
        self._seen, self._known = last, self._known + int(known.sum())
        self._auroc.update(_by_pixel(found)[known][~masks[known]])

    @property
    def auroc(self) -> float | None:
        """None where all pixels are of one kind."""
        return self._auroc.compute() if self._auroc.strange and self._auroc.normal else None

    def __str__(self) -> str:
        """The AUROC, or why there is none; and of how many rows, where some have no mask."""
        some = "" if self._known == self._seen else f", {self._known} rows with a mask"
        if self.auroc is None:
            return f"{'all' if self._auroc.strange else 'no'} pixels are marked{some}"
        return f"{self.auroc:.3f}{some}"


def _by_pixel(found: Scored) -> Tensor:
    """The scores of pixels, (B, height, width), float32 on the CPU."""
    assert found.shares is not None
    return found.shares.sum(dim=1).float().cpu()


def measured_scores(scores: Tensor, threshold: Threshold | None) -> dict[str, float]:
    """The scores' median, and the share of them that exceeds a threshold."""
    import numpy as np

    found = {"median": float(np.median(scores.numpy()))}
    if threshold is not None:
        found["exceeds"] = float((scores > threshold.value).double().mean())
    return found


def feature_names(model: Autoencoder) -> list[str] | None:
    """Of the values of vectors and the channels of sequences; images have none."""
    if len(model.input_shape) > 2:
        return None
    count = model.input_shape[0]
    return [str(i) for i in range(count)] if model.signature is None else model.signature.value_names(count)


def threshold_for(
    model: Autoencoder,
    checkpoint: str,
    data: HFDataModule | None,
    quantile: float | None,
    draws: int,
    seed: int,
    batch_size: int,
    console: Console,
) -> Threshold | None:
    """The checkpoint's, where it is the one that is asked for; else that of the model's own validation split.

    Raises:
        InputError: where there is none, and a quantile is asked for.
    """
    from lightning_ae.cli import trained

    known = model.threshold
    if known is None or known.draws != draws or quantile not in (None, known.quantile):
        try:
            own = trained.data_of(model, checkpoint, None) if data is None else data
            own.prepare_data()
            wanted = 0.99 if quantile is None else quantile
            known = model.fit_threshold(own, wanted, draws=draws, seed=seed, batch_size=batch_size)
        except InputError as reason:
            if quantile is not None:
                raise
            console.print(f"No threshold: {reason.message}")
            return None
    console.print(
        f"Threshold {known.value:.4g}: the {known.quantile:g} quantile of the scores of {known.rows} validation rows"
    )
    return known


def _store(checkpoint: str, threshold: Threshold) -> None:
    from lightning_ae.training.checkpoint_file import METADATA_KEY, AtomicCheckpointIO, read_checkpoint

    content = read_checkpoint(checkpoint, mmap=False)
    content[METADATA_KEY]["threshold"] = threshold.plain()
    AtomicCheckpointIO().save_checkpoint(content, checkpoint)


def wanted_classes(data: HFDataModule, splits: Sequence[str], anomaly: Sequence[str | int] | None) -> list[int] | str:
    """As `anomalous_classes`; that what is scored has both kinds, where they are asked for, is looked at, too."""
    from lightning_ae.metrics.anomalies import anomalous_classes

    wanted = anomalous_classes(data, anomaly)
    if anomaly is not None and not any(_strange(data, split, wanted)[1] for split in splits):
        raise InputError(
            f"the label {data.label!r} has one class only in what is scored, as far as anomaly tells classes apart",
            "leave anomaly out, or score splits with both",
        )
    return wanted


def about_scores(
    model: Autoencoder, checkpoint: str, draws: int, seed: int, threshold: Threshold | None
) -> dict[str, str]:
    """What a file says of its scores."""
    return {
        "model": checkpoint,
        "signature": "" if model.signature is None else model.signature.hash,
        "draws": str(draws),
        "seed": str(seed),
        "threshold": "" if threshold is None else repr(threshold.value),
    }


def label_titles(data: HFDataModule, wanted: list[int] | str) -> Iterator[str]:
    """Of the columns that `measured_by_labels` gives the values of."""
    if isinstance(wanted, str):
        return iter(())
    named = ", ".join(repr((data.class_names or [])[i]) for i in wanted)
    return iter((f"AUROC of {named}", "average precision"))


def _strange(data: HFDataModule, split: str, wanted: list[int] | str) -> tuple[Tensor, bool]:
    """Which rows are to be found, as `strangeness` says; and whether there are rows of both kinds."""
    from lightning_ae.metrics.anomalies import strangeness

    strange = strangeness(data.labels(split), [] if isinstance(wanted, str) else wanted)
    return strange, bool((strange == 0).any() and (strange == 1).any())


def measured_by_labels(
    data: HFDataModule, split: str, scores: Tensor, wanted: list[int] | str
) -> tuple[dict[str, float], list[str]]:
    """AUROC and average precision, of the rows that have a label; and the same as the table says them, or why there are
    none, where all have the same."""
    if isinstance(wanted, str):
        return {}, []
    from lightning_ae.metrics.anomalies import separation

    strange, _ = _strange(data, split, wanted)
    found = separation(strange, scores)
    if found is None:
        return {}, ["all rows are of it" if (strange == 1).any() else "no rows of it", ""]
    return {"auroc": found[0], "average_precision": found[1]}, [f"{value:.3f}" for value in found]


def extremes(model: Autoencoder, data: HFDataModule, split: str, scores: Tensor, n: int, seed: int) -> Figure:
    """The strangest images and the plainest, and below each how much its pixels have in its score."""
    import torch

    from lightning_ae.callbacks.measures import to_unit_interval
    from lightning_ae.callbacks.scores import extremes_figure

    order = scores.argsort(descending=True, stable=True)
    rows, maps = [], []
    for chosen in (order[:n], order.flip(0)[:n]):
        seen, where = [], []
        for position in chosen.tolist():  # each with the draws that its score has
            x, target, given = model.read(data.rows(split, torch.tensor([position])))
            roles: dict[str, Any] = {role: value.to(model.device) for role, value in given.items()}
            found = model.score_batch(x.to(model.device), target.to(model.device), True, seed=seed, **roles)
            assert found.shares is not None
            seen.append(to_unit_interval(model, target).cpu())
            where.append(found.shares.sum(dim=1, keepdim=True).float().cpu())
        rows.append(torch.cat(seen))
        maps.append(torch.cat(where))
    return extremes_figure(rows[0], rows[1], maps[0], maps[1], f"{split}: scores by pixel")
