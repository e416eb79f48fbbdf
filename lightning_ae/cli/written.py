"""What the command line's tools write, and show in the terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.data.module import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.files import whole_file

ROW_GROUP = 65_536  # rows of a parquet file that are written, and read, together


def beside(checkpoint: str) -> Path:
    """The run folder of runs/<recipe>/fit-1/checkpoints/best.ckpt; of any other checkpoint, its folder."""
    folder = Path(checkpoint).parent
    return folder.parent if folder.name == "checkpoints" else folder


def check_free(files: Iterable[Path], overwrite: bool) -> None:
    """Raises InputError where a file cannot be written, or is there already and may not be replaced."""
    for file in files:
        if os.path.lexists(file) and not overwrite:
            raise InputError(f"{file} exists already", "give another output, or set overwrite")
        made = [folder for folder in file.parents if not folder.exists()]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=file.parent):
                pass
            if file.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            reason = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror or error
            raise InputError(f"output {str(file)!r} cannot be written: {reason}", "give another output") from error
        finally:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def write_parquet(rows: Any, made: dict[str, Any], about: dict[str, str], file: Path, overwrite: bool) -> str:
    """Writes the rows of a Dataset beside columns that were made of them; the name of the first of these.

    Args:
        rows: what stands beside them.
        made: columns by name, the keys by which rows are found again among them; see `HFDataModule.keys`. Where the
            rows have a column of a name, an underscore follows it.
        about: words for the file's own metadata, under names that begin with "lightning_ae.".
        file: to write.
        overwrite: replace it where it exists.
    """
    import pyarrow as pa
    from datasets import Features, Image

    columns: dict[str, Any] = {}
    for name, values in made.items():
        while name in rows.column_names:
            name += "_"
        columns[name] = values
    table = pa.table(columns)
    images = {field.name: Image() for field in table.schema if field.type == Image().pa_type}
    features = Features({**Features.from_arrow_schema(table.schema), **images, **rows.features})
    said = {f"lightning_ae.{name}": value for name, value in about.items()}
    schema = features.arrow_schema.with_metadata({**(features.arrow_schema.metadata or {}), **said})
    beside = rows.with_format("arrow")
    # the place's name is no parquet file's, as who reads the folder's meanwhile may take hidden ones, too
    with whole_file(file, overwrite, suffix=".tmp") as part, writer_of(part, schema) as writer:
        for first in range(0, len(table), ROW_GROUP):
            group = table.slice(first, ROW_GROUP)
            own = beside[first : first + ROW_GROUP].columns if rows.column_names else []
            writer.write_table(pa.table([*group.columns, *own], names=schema.names).cast(schema))
    return next(iter(columns))


def writer_of(file: Path, schema: Any) -> Any:
    """Writes parquet without dictionaries of floats, which no two rows share: a third of the time."""
    import pyarrow as pa
    from pyarrow import parquet

    def leaves(type_: Any, path: str) -> Iterator[str]:
        if isinstance(type_, pa.BaseExtensionType):
            yield from leaves(type_.storage_type, path)
        elif pa.types.is_struct(type_):
            for field in type_:
                yield from leaves(field.type, f"{path}.{field.name}")
        elif pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
            yield from leaves(type_.value_type, f"{path}.list.element")
        elif not pa.types.is_floating(type_):
            yield path

    shared = [leaf for field in schema for leaf in leaves(field.type, field.name)]
    return parquet.ParquetWriter(file, schema, use_dictionary=shared)


def without_input(data: HFDataModule, rows: Any) -> Any:
    """The rows without the columns that make the input."""
    return rows.remove_columns([name for name in data.input_columns if name in rows.column_names])


def vectors(codes: torch.Tensor) -> Any:
    """A column of vectors (N, values)."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(codes.flatten().numpy()), codes[0].numel())


def name_of(checkpoint: str) -> str:
    """What a picture calls a model: the name of a zoo entry, or the run's folder and the file."""
    path = Path(checkpoint)
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return "/".join(filter(None, (run.name, path.name))) if path.is_file() else checkpoint


def save_figure(figure: Any, file: Path, overwrite: bool) -> Path:
    """Writes a figure, says where, and gives the file back."""
    with whole_file(file, overwrite) as part:
        figure.savefig(part)
    Console(highlight=False, soft_wrap=True).print(f"[bold]Written[/]\n  {file}")
    return file


def log_beside(checkpoint: str, values: dict[str, float], figures: dict[str, Any]) -> Path | None:
    """Adds values and pictures by name to the TensorBoard log of the run that a checkpoint is of, at its step.

    The run's other loggers take nothing once it has ended.

    Returns:
        The log's folder, or None where the checkpoint is in no run's folder, the run has no such log, or it cannot be
        written, which is said.
    """
    file, folder = Path(checkpoint), beside(checkpoint) / "tensorboard"
    if not file.is_file() or file.parent.name != "checkpoints" or not folder.is_dir():
        return None
    from pytorch_lightning.loggers import TensorBoardLogger

    from lightning_ae.callbacks.pictures import figure_pixels
    from lightning_ae.training.checkpoint_file import read_checkpoint

    step = read_checkpoint(checkpoint)["global_step"]
    try:
        writer = TensorBoardLogger(str(folder.parent), name="", version="tensorboard").experiment
    except (ModuleNotFoundError, OSError) as reason:  # an extra, and a log of somebody else's
        rank_zero_warn(f"nothing is added to {folder}: {reason}")
        return None
    for name, value in values.items():
        writer.add_scalar(name, value, step)
    for name, figure in figures.items():
        writer.add_image(f"pictures/{name}", figure_pixels(figure), step, dataformats="HWC")
    writer.close()
    return folder


def print_images(model: Autoencoder, rows: dict[str, torch.Tensor]) -> None:
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
