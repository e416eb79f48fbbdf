"""features, reconstruct, sample and the like: what the command line does with a trained model.

Each is a plain function; the command line takes its arguments and docstring as they stand.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from tqdm.auto import tqdm

from lightning_ae.errors import InputError
from lightning_ae.files import whole_file

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.data import HFDataModule


def features(
    checkpoint: str,
    path: str | None = None,
    splits: Sequence[str] = ("train", "test"),
    output: str | None = None,
    batch_size: int = 1024,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write the codes of a data set to parquet files, one for each split, beside the data set's other columns.

    The column "code" holds lists of feature_dim float32 values: the code as a vector, of a map or of tokens the mean
    over positions, of a hierarchy the codes beside each other. Where labels are known and both "train" and "test" are
    written, it also prints the error of a 5-nearest-neighbour classifier on the codes.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or "digits" (default: what the model was trained on).
        splits: any of train, val and test.
        output: the folder to write to (default: "features" beside the folder of the checkpoint).
        batch_size: how many samples to encode at a time.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist.

    Returns:
        The file of each split.

    Raises:
        InputError: when a file exists, or the data cannot be read.
    """
    model = _load(checkpoint, device)
    data = _data(model, checkpoint, path)
    folder = Path(output) if output else _beside(checkpoint) / "features"
    files = {split: folder / f"{split}.parquet" for split in splits}
    _check_free(files.values(), overwrite)
    data.prepare_data()
    codes: dict[str, torch.Tensor] = {}
    for split, file in files.items():
        codes[split] = _encode(model, data, split, batch_size)
        rows = data.dataset(split)
        rows = rows.remove_columns([name for name in data.input_columns if name in rows.column_names])
        _write_parquet(rows, codes[split], file, overwrite)
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]Written[/]")
    for split, file in files.items():
        console.print(f"  {file}  ({len(codes[split])} rows, code[{codes[split].shape[1]}])")
    if data.label is not None and {"train", "test"} <= set(splits):
        from lightning_ae.metrics import knn_error

        labels = [
            data.dataset(split).select_columns(data.label).with_format("torch")[:][data.label]
            for split in ("train", "test")
        ]
        try:
            error = knn_error(codes["train"], labels[0], codes["test"], labels[1], k=5)
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
    output: str | None = None,
    show: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write a picture of inputs above their reconstructions.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or "digits" (default: what the model was trained on).
        split: train, val or test.
        n: how many images, the first ones of the split.
        output: the PNG to write (default: "reconstructions.png" beside the folder of the checkpoint).
        show: print small images in the terminal, too.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace a file that exists.

    Returns:
        The picture's file.

    Raises:
        InputError: when the file exists, the model takes no images, or the data cannot be read.
    """
    from lightning_ae.callbacks.measures import read_input
    from lightning_ae.callbacks.pictures import reconstruction_figure

    model = _load(checkpoint, device)
    file = Path(output) if output else _beside(checkpoint) / "reconstructions.png"
    _check_images(model)
    _check_free([file], overwrite)
    data = _data(model, checkpoint, path)
    data.prepare_data()
    x, given = read_input(model, next(data.batches(split, n)))
    if show:
        with torch.no_grad():
            _print_images(model, {"input": x, "reconstruction": model(x, **given)})
    return _save_figure(reconstruction_figure(model, x, "", **given), file, overwrite)


def sample(
    checkpoint: str,
    n: int = 64,
    seed: int = 0,
    label: int | None = None,
    output: str | None = None,
    show: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write a picture of samples from a generative model.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        n: how many samples.
        seed: of the random draws.
        label: the class of all samples, of a model that takes labels (default: a row for each class).
        output: the PNG to write (default: "samples.png" beside the folder of the checkpoint).
        show: print small images in the terminal, too.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace a file that exists.

    Returns:
        The picture's file.

    Raises:
        InputError: when the file exists, or the model cannot sample images, or none of that label.
    """
    from lightning_ae.callbacks.pictures import drawn, sample_figure

    model = _load(checkpoint, device)
    file = Path(output) if output else _beside(checkpoint) / "samples.png"
    _check_images(model)
    _check_free([file], overwrite)
    if show:
        with torch.no_grad():
            _print_images(model, {"samples": torch.cat(drawn(model, min(n, 10), seed, label)[0])})
    return _save_figure(sample_figure(model, n, seed, label=label), file, overwrite)


def rate_distortion(
    checkpoint: str,
    path: str | None = None,
    samples: int = 2000,
    output: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Write the rate-distortion curve of a model's codes on training and test data, as CSV and PNG.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or "digits" (default: what the model was trained on).
        samples: how many samples of each split, the first ones.
        output: the folder to write to (default: beside the folder of the checkpoint).
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist.

    Returns:
        The table's and the picture's file.

    Raises:
        InputError: when a file exists, or the data cannot be read.
    """
    from lightning_ae.callbacks.measures import read_input
    from lightning_ae.metrics import rate_distortion as curve

    model = _load(checkpoint, device)
    folder = Path(output) if output else _beside(checkpoint)
    _check_free([folder / "rate_distortion.csv", folder / "rate_distortion.png"], overwrite)
    data = _data(model, checkpoint, path)
    data.prepare_data()
    read = {split: read_input(model, next(data.batches(split, samples))) for split in ("train", "test")}
    reference, of_reference = read["train"]
    points = [
        point
        for split, (x, given) in read.items()
        for point in curve.rate_distortion(model, x, split, reference, given, of_reference)
    ]
    files = list(curve.write_rate_distortion(points, folder))
    console = Console(highlight=False, soft_wrap=True)
    for point in points:
        console.print(f"  {point.split:<6} {point.rate:10.1f} bits  {point.distortion:10.3f}")
    console.print("[bold]Written[/]")
    for file in files:
        console.print(f"  {file}")
    return files


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


def _load(checkpoint: str, device: str) -> Autoencoder:
    from lightning_ae.zoo.artefact import load_trained

    return load_trained(checkpoint).to(_device(device))


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _data(model: Autoencoder, checkpoint: str, path: str | None) -> HFDataModule:
    """The data module that the model was trained with, over another data set where a path is given."""
    from lightning_ae.data import HFDataModule

    config = model.data_config
    if config is None and path is None:
        raise InputError(f"{checkpoint!r} does not say what it was trained on", "give path, the data set to use")
    config = config or {"class_path": "lightning_ae.data.HFDataModule", "init_args": {}}
    data = HFDataModule.from_config(config, **({"path": path} if path else {}))
    if model.preprocess is not None:
        data.preprocess = model.preprocess  # the statistics of another data set are not what the model learned
    model.use_columns_of(data)
    return data


def _read(model: Autoencoder, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A batch's input and what else the model takes, where the model is."""
    x, _, given = model.read(model.transfer_batch_to_device(batch, model.device, 0))
    return x, given


def _encode(model: Autoencoder, data: HFDataModule, split: str, batch_size: int) -> torch.Tensor:
    """The codes of a split as vectors, (N, feature_dim)."""
    from lightning_ae.callbacks.measures import read_input

    codes = []
    total = -(-len(data.dataset(split)) // batch_size)
    with torch.no_grad():
        # a bar appears where this takes more than two seconds
        for batch in tqdm(data.batches(split, batch_size), f"encoding {split}", total, delay=2, leave=False):
            x, given = read_input(model, batch)
            codes.append(model.pool(model.encode(x, **given)).float().cpu())
    return torch.cat(codes)


def _write_parquet(rows: Any, codes: torch.Tensor, file: Path, overwrite: bool) -> None:
    """Writes the rows of a Dataset with a column "code"."""
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    flat = pa.array(codes.flatten().numpy())
    code = pa.FixedSizeListArray.from_arrays(flat, codes[0].numel())
    table = Dataset(pa.table({"code": code}))
    if rows.column_names:
        table = concatenate_datasets([table, rows], axis=1)
    with whole_file(file, overwrite) as part:
        table.to_parquet(part)


def _beside(checkpoint: str) -> Path:
    """The run folder of runs/<recipe>/fit-1/checkpoints/best.ckpt; of any other checkpoint, its folder."""
    folder = Path(checkpoint).parent
    return folder.parent if folder.name == "checkpoints" else folder


def _check_free(files: Any, overwrite: bool) -> None:
    for file in files:
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists already", "give another output, or set overwrite")


def _check_images(model: Autoencoder) -> None:
    if len(model.input_shape) != 3:
        raise InputError(f"the model takes inputs of shape {model.input_shape}, which make no picture")


def _print_images(model: Autoencoder, rows: dict[str, torch.Tensor]) -> None:
    """Prints rows of small images in grey, two pixels to a character, where the terminal has colours."""
    from rich.style import Style
    from rich.text import Text

    from lightning_ae.callbacks.measures import to_unit_interval

    console = Console(highlight=False)
    if console.color_system is None:  # nothing but the picture's colours would tell its parts apart
        return
    for name, images in rows.items():
        grey = (255 * to_unit_interval(model, images).mean(dim=1)).round().to(torch.int).cpu()
        grey = torch.nn.functional.pad(grey, (0, 1, 0, grey.shape[1] % 2))  # a gap between images, an even height
        grey = grey[: max(1, console.width // grey.shape[2])]
        console.print(f"\n[bold]{name}[/]")
        for upper, lower in grey.permute(1, 0, 2).flatten(1).unflatten(0, (-1, 2)).tolist():
            line = Text()
            for top, bottom in zip(upper, lower, strict=True):
                line.append("▀", Style(color=f"rgb({top},{top},{top})", bgcolor=f"rgb({bottom},{bottom},{bottom})"))
            console.print(line, end="\n")


def _save_figure(figure: Any, file: Path, overwrite: bool) -> Path:
    with whole_file(file, overwrite) as part:
        figure.savefig(part)
    Console(highlight=False, soft_wrap=True).print(f"[bold]Written[/]\n  {file}")
    return file


def certify(
    model: str,
    init_args: dict[str, Any] | None = None,
    worlds: Sequence[int] = (2, 3),
    strategy: Literal["ddp", "fsdp"] = "ddp",
    trainer: dict[str, Any] | None = None,
    sgd: bool = False,
) -> None:
    """Train a model in one process and in several, and print how far apart the runs are.

    47 random samples, 3 epochs, on the CPU, in float64. The relative errors are those of the losses of all steps, of
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
