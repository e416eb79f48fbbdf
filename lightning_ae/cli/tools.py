"""features, reconstruct, sample and the like: what the command line does with a trained model.

Each is a plain function; the command line takes its arguments and docstring as they stand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lightning_ae.cli import source
from lightning_ae.cli.compression import decode as decode
from lightning_ae.cli.compression import encode as encode
from lightning_ae.cli.evaluate import evaluate as evaluate
from lightning_ae.cli.explore import explore as explore
from lightning_ae.cli.export import export as export
from lightning_ae.cli.quickstart import quickstart as quickstart
from lightning_ae.cli.report import report as report
from lightning_ae.cli.sampling import fit_sampler as fit_sampler
from lightning_ae.cli.sampling import sample as sample
from lightning_ae.errors import InputError, nearest, unknown
from lightning_ae.zoo import index


def features(
    checkpoint: str,
    path: str | None = None,
    splits: Sequence[str] | None = None,
    output: str | None = None,
    batch_size: int = 1024,
    shard_rows: int | None = None,
    actors: int | None = None,
    plane: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write the codes of a data set to parquet files, one for each split, beside the data set's other columns.

    The column "code" holds lists of feature_dim float32 values: the code as a vector, of a map or of tokens the mean
    over positions, of a hierarchy the codes beside each other; it is "code_" where the data set has a column "code".
    Where labels name classes and both "train" and "test" are written, it also prints the error of a
    5-nearest-neighbour classifier on the codes of the rows that have a label. The columns "row", the number in the
    data set's own split, and "path", where images are files, say which sample it is. The file's metadata hold the hash
    of the model's signature.

    Large data are written in shards, a folder for each split (train/00000-of-00016.parquet and so on) beside
    manifest.json, in as much memory as a shard needs. Processes of torchrun and of SLURM, and further jobs on the same
    output, share the shards; a job that was killed goes on where it was when it is started again.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what the model
            was trained on).
        splits: any of train, val and test (default: all that the data have, which together are all rows).
        output: the folder to write to (default: "features" beside the folder of the checkpoint).
        batch_size: how many samples to encode at a time.
        shard_rows: how many rows make a shard (default: 65536 where a split has more, or several processes share the
            work; else each split is one file).
        actors: how many Ray actors share the shards, of the extra "ray" (default: none).
        plane: add the columns "x" and "y", codes of two features as they are and others on their first two principal
            components, and of images "thumbnail": embedding-atlas opens such files as they are. Not of shards.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist; of shards those that are of another model, other data or other options.

    Returns:
        The file of each split, of shards their folder.

    Raises:
        InputError: when a file exists, or the data cannot be read.
    """
    check_model(checkpoint)
    check_splits(["train"] if splits is None else splits)
    optional = {"shard_rows": shard_rows, "actors": actors}
    check_positive(batch_size=batch_size, **{name: n for name, n in optional.items() if n is not None})
    from lightning_ae import shards
    from lightning_ae.cli import codes as many
    from lightning_ae.cli import sharded, trained, written
    from lightning_ae.zoo.unusual import say_of_entry

    rank, world = sharded.place_of(actors)
    model = trained.load(checkpoint, device)
    data = trained.data_of(model, checkpoint, path)
    splits = [split for split in ("train", "val", "test") if data.has(split)] if splits is None else list(splits)
    folder = Path(output) if output else written.beside(checkpoint) / "features"
    if actors is not None:  # what is left after them, as where all died, is made here
        many.features_by_actors(checkpoint, path, splits, folder, batch_size, shard_rows, device, overwrite, actors)
    several = shard_rows is not None or actors is not None or world > 1
    many_rows = not data.streaming and any(len(data.dataset(split)) > shards.ROWS for split in splits)
    if plane and (several or many_rows):
        raise InputError(
            f"plane is of all codes together, and {'shards are asked for' if several else 'these data make shards'}",
            "leave it out, and let the viewer project the column code; or write fewer rows",
        )
    if several or many_rows:
        return many.features(model, data, checkpoint, splits, folder, batch_size, shard_rows, overwrite, rank, world)
    files = {split: folder / f"{split}.parquet" for split in splits}
    written.check_free(files.values(), overwrite)
    data.prepare_data()
    codes = {split: trained.encode(model, data, split, batch_size) for split in splits}
    for each in codes.values():
        if say_of_entry(each, checkpoint):  # of one split is enough
            break
    beside: dict[str, Any] = {split: {} for split in files}
    if plane:
        from lightning_ae.cli.plane import columns

        beside = columns(model, data, codes, batch_size)
    for split, file in files.items():
        about = {"model": checkpoint, "signature": "" if model.signature is None else model.signature.hash}
        made = {"code": written.vectors(codes[split]), **beside[split], **data.keys(split)}
        code = written.write_parquet(written.without_input(data, data.dataset(split)), made, about, file, overwrite)
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]Written[/]")
    for split, file in files.items():
        console.print(f"  {file}  ({len(codes[split])} rows, {code}[{codes[split].shape[1]}])")
    if data.has_classes and {"train", "test"} <= set(splits):
        from lightning_ae.metrics import knn_error

        try:
            found = [data.labels(split) for split in ("train", "test")]
            labelled = [each >= 0 for each in found]
            train, test = (labels[known] for labels, known in zip(found, labelled, strict=True))
            error = knn_error(codes["train"][labelled[0]], train, codes["test"][labelled[1]], test, k=5)
        except InputError as reason:  # the files are written all the same
            console.print(f"No 5-nearest-neighbour error of the test split's codes: {reason.message}")
        else:
            console.print(f"5-nearest-neighbour error of the test split's codes: {100 * error:.2f} %")
    return files


def reconstruct(
    checkpoint: str,
    path: str | None = None,
    split: str = "test",
    n: int = 16,
    seed: int = 0,
    output: str | None = None,
    show: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write a picture of inputs above their reconstructions.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what the model
            was trained on).
        split: train, val or test.
        n: how many images, drawn from the split, in turn from each class where labels are known.
        seed: of the draw.
        output: the picture to write, PNG, SVG or PDF (default: "reconstructions.png" beside the checkpoint's folder).
        show: print small images in the terminal, too.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace a file that exists.

    Returns:
        The picture's file.

    Raises:
        InputError: when the file exists, the model takes no images, or the data cannot be read.
    """
    check_model(checkpoint)
    check_splits([split])
    check_positive(n=n)
    check_picture(output)
    import torch

    from lightning_ae.callbacks.measures import read_input
    from lightning_ae.callbacks.pictures import named, reconstruction_figure
    from lightning_ae.cli import trained, written

    model = trained.load(checkpoint, device)
    file = Path(output) if output else written.beside(checkpoint) / "reconstructions.png"
    trained.check_images(model)
    written.check_free([file], overwrite)
    data = trained.data_of(model, checkpoint, path)
    data.prepare_data()
    part = trained.split_of(data, split)
    x, given = read_input(model, data.some_rows(part, n, seed))
    if show:
        with torch.no_grad():
            written.print_images(model, {"input": x, "reconstruction": model(x, **given)})
    names: list[str] = []
    if not data.streaming:
        numbers = data.some_numbers(part, n, seed)
        if data.has_classes:
            names = named(data.labels(part)[numbers].tolist(), data.class_names)
        elif (paths := data.keys(part).get("path")) is not None:
            names = [Path(str(paths[i])).name for i in numbers.tolist()]
    title = f"{written.name_of(checkpoint)}, {part} split"
    return written.save_figure(reconstruction_figure(model, x, title, names, **given), file, overwrite)


def neighbours(checkpoint: str, path: str | None = None, k: int = 5, device: str = "auto") -> dict[str, float]:
    """Print the error of a k-nearest-neighbour classifier on the codes, beside that of what needs no training.

    Those are as many principal components, the inputs as they are, and the codes of the same model untrained. The
    test split's rows take the class of most of their neighbours in the training split.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or "digits" (default: what the model was trained on).
        k: the number of neighbours.
        device: cpu, cuda, mps, or auto for the fastest there is.

    Returns:
        The errors, each in [0, 1].

    Raises:
        InputError: when the data have no classes, or cannot be read.
    """
    from rich.table import Table

    from lightning_ae.cli import trained
    from lightning_ae.metrics import compare_codes

    model = trained.load(checkpoint, device)
    data = trained.data_of(model, checkpoint, path)
    data.prepare_data()
    errors = compare_codes(model, data, k)
    names = {
        "codes": f"the model's codes ({model.feature_dim})",
        "pca": "as many principal components",
        "inputs": f"the inputs themselves ({' x '.join(map(str, model.input_shape))})",
        "untrained": "codes of the model untrained",
    }
    table = Table("nearest neighbours in", "error", title=f"{k}-NN error of the test split", title_justify="left")
    for name, error in errors.items():
        table.add_row(names[name], f"{100 * error:.2f} %", style="bold" if name == "codes" else "")
    Console().print(table)
    return errors


def rate_distortion(
    checkpoints: Sequence[str],
    path: str | None = None,
    samples: int = 2000,
    seed: int = 0,
    output: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Write the rate-distortion curve of a model's codes on training and test data, as CSV and PNG.

    Several models make one picture: variational ones that were trained at several beta are the points of one curve,
    any other has a curve of its own.

    Args:
        checkpoints: one or more checkpoints, or names of zoo entries: rate-distortion A B C.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what each model
            was trained on).
        samples: how many samples of train and test, as far as the data have them.
        seed: of the draw of these samples.
        output: the folder to write to (default: beside the folder of the checkpoint; of several, here).
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist.

    Returns:
        The table's and the picture's file.

    Raises:
        InputError: when a file exists, or the data cannot be read.
    """
    check_models(checkpoints)
    check_positive(samples=samples)
    from lightning_ae.callbacks.measures import read_input
    from lightning_ae.cli import trained, written
    from lightning_ae.metrics import rate_distortion as curve

    several = len(checkpoints) > 1
    folder = Path(output) if output else Path() if several else written.beside(checkpoints[0])
    written.check_free([folder / "rate_distortion.csv", folder / "rate_distortion.png"], overwrite)
    points = []
    for checkpoint in checkpoints:
        model = trained.load(checkpoint, device)
        data = trained.data_of(model, checkpoint, path)
        data.prepare_data()
        splits = [split for split in ("train", "test") if data.has(split)]
        read = {split: read_input(model, data.some_rows(split, samples, seed)) for split in splits}
        reference, of_reference = read[splits[0]]
        name = checkpoint if several else ""
        for split, (x, given) in read.items():
            points += curve.rate_distortion(model, x, split, reference, given, of_reference, name)
    files = list(curve.write_rate_distortion(points, folder))
    console = Console(highlight=False, soft_wrap=True)
    for point in points:
        console.print(f"  {point.split:<6} {point.rate:10.1f} bits  {point.distortion:10.3f}  {point.model}".rstrip())
    console.print("[bold]Written[/]")
    for file in files:
        console.print(f"  {file}")
    return files


def check_models(checkpoints: Sequence[str]) -> None:
    """`check_model` of several, each of which may be named once.

    Raises:
        InputError: naming the first that is wrong.
    """
    if isinstance(checkpoints, str) or not checkpoints:
        raise InputError(f"checkpoints must be a list of checkpoints or names, got {checkpoints!r}")
    for i, checkpoint in enumerate(checkpoints):
        if checkpoint in checkpoints[:i]:
            raise InputError(f"{checkpoint!r} is named twice", "name each model once")
        check_model(checkpoint)


def check_model(checkpoint: str) -> None:
    """Refuses what is neither a file nor an entry of the zoo, before anything else is imported.

    Raises:
        InputError: with the nearest file beside it, or the nearest entry.
    """
    if os.path.exists(checkpoint) or checkpoint in index.names():
        return
    path = Path(checkpoint)
    files = [file.name for file in path.parent.glob("*.ckpt")] if path.parent.is_dir() else []
    near = [str(path.with_name(name)) for name in nearest(path.name, files)] or nearest(checkpoint, index.names())
    raise InputError(
        f"there is no checkpoint at {checkpoint!r}, and no entry of the zoo of that name",
        (f"did you mean {' or '.join(map(repr, near))}? " if near else "")
        + "`lightning-ae zoo list` shows the entries",
    )


def check_splits(names: Sequence[str]) -> None:
    """Refuses the name of a split that no data module has.

    Raises:
        InputError: with the nearest one.
    """
    if not names:
        raise InputError("splits is empty", "name some of train, val and test, or leave it out for all")
    for name in names:
        if name not in ("train", "val", "test"):
            raise unknown("split", name, ("train", "val", "test"), elsewhere={"valid": "val", "validation": "val"})


def check_positive(**numbers: int) -> None:
    """Raises InputError for a number of rows that is not positive, naming it."""
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} must be a positive integer, got {number}")


def check_picture(output: str | None) -> None:
    """Raises InputError for a file that is no kind of picture."""
    kinds = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
    if output is not None and Path(output).suffix.lower() not in kinds:
        raise InputError(f"output {output!r} is no picture", f"end it in {', '.join(kinds)}")


def cache(clear: bool = False) -> None:
    """Show the cache of decoded samples, or clear it; what is needed again is decoded again.

    Args:
        clear: remove all of it.
    """
    from rich.table import Table

    from lightning_ae.data import cache as decoded

    console = Console(highlight=False, soft_wrap=True)
    folder = decoded.cache_folder()
    if clear:
        console.print(f"freed {decoded.clear() / 2**20:.1f} MiB in {folder}")
        return
    entries = decoded.entries()
    if not entries:
        console.print(f"nothing in {folder}")
        return
    table = Table("data set, split", "shape", "type", "size", "made", "folder")
    for entry in entries:
        about = entry.about
        size = f"{entry.size / 2**20:.1f} MiB"
        shape = " x ".join(map(str, about["shape"]))
        table.add_row(about["name"], shape, about["dtype"].lstrip("|<"), size, about["made"], entry.folder.name[:8])
    console.print(table)
    console.print(f"{sum(entry.size for entry in entries) / 2**20:.1f} MiB in {folder}")


def certify(
    model: str,
    init_args: dict[str, Any] | None = None,
    worlds: Sequence[int] = (2, 3),
    strategy: Literal["ddp", "fsdp"] = "ddp",
    trainer: dict[str, Any] | None = None,
    sgd: bool = False,
) -> None:
    """Train a model in one process and in several, and print how far apart the runs are.

    47 random samples, 2 epochs, on the CPU, in float64. The relative errors are those of the losses of all steps, of
    their averaged gradients, of the buffers at the end, of what the model then computes (codes and reconstructions of
    fixed samples), and of the metrics logged at the ends of epochs; up to 1e-5 passes. Ends with status 1 where one is
    larger. The weights' is shown beside them: they may differ where nothing depends on them.

    Args:
        model: a model's name or import path, or "all" for every variant of this package.
        init_args: its arguments, as JSON; input_shape is [1, 8, 8] unless given.
        worlds: the numbers of processes to compare with one.
        strategy: ddp, or fsdp for sharded weights.
        trainer: options of the Trainer, as JSON, such as {"accumulate_grad_batches": 2} or {"precision": "32-true"}.
        sgd: train with gradient descent, not with the model's own optimizer. In float32 Adam turns gradients that are
            zero but for rounding, such as that of a bias before batch normalisation, into steps of full size.

    Raises:
        InputError: when the model cannot be built.
    """
    there = source.options(source.place_of(source.TRAINER)) or {}
    for option in trainer or {}:
        if there and option not in there:
            raise unknown("option of Trainer", option, there, most=20)
    from rich.table import Table

    from lightning_ae.registry import list_models
    from lightning_ae.training.certify import MEASURED, Case
    from lightning_ae.training.certify import certify as run

    if model == "all" and init_args:
        raise InputError("init_args cannot suit all models", "give one model's name")
    names = list_models() if model == "all" else [model]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    with console.status("training in one process and in several"):
        found = run([Case(name, init_args or {}, trainer or {}, sgd) for name in names], worlds, strategy)
    table = Table("model", "ranks", *MEASURED, "", title=f"Relative errors against one process ({strategy})")
    for row in found:
        verdict = "[green]passed[/]" if row.passed else "[bold red]failed[/]"
        table.add_row(row.title, str(row.world), *(f"{row.errors[name]:.1e}" for name in MEASURED), verdict)
    console.print(table)
    if not all(row.passed for row in found):
        sys.exit(1)
