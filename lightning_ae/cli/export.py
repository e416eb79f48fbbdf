"""lightning-ae export: a trained model as a graph, checked on rows of its training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.data.module import HFDataModule

LOOKED_AT = 2**22  # values, to find rows with gaps and of each class among; and 1000 images for the largest


def export(
    checkpoint: str,
    what: Literal["encode", "decode", "score"] = "encode",
    to: Literal["onnx", "torch"] = "onnx",
    output: str | None = None,
    path: str | None = None,
    resize: bool | None = None,
    threshold: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a model as a graph that takes raw rows or pixels, and runs without this package.

    Preprocessing, statistics and threshold are part of the graph. Before the file is there, the graph is run on 100
    rows of the training data, with rows that have missing values, rows of all categories and the largest image among
    them, and has to give what the model gives, within 1e-5.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        what: encode (from rows to codes), decode (from codes to rows) or score (how strange rows are).
        to: onnx, or torch for a file that torch.export.load reads.
        output: the file to write, *.onnx or *.pt2 (default: named by `what`, beside the folder of the checkpoint).
        path: the data set that rows of the check come from (default: what the model was trained on).
        resize: bring images of any size to the model's in the graph (default: where the data have another size).
        threshold: of scores, above which the output "exceeds" is true (default: the checkpoint's, where it has one; see
            `lightning-ae score --store true`).
        seed: of the draws in a score.
        overwrite: replace a file that exists.

    Returns:
        The file.

    Raises:
        InputError: for what cannot be in a graph; when the graph gives something else than the model; when the file
            exists, or the data cannot be read.
    """
    from rich.console import Console

    from lightning_ae.cli import tools, trained, written
    from lightning_ae.export import export as write
    from lightning_ae.export import graphs

    tools.check_model(checkpoint)
    graphs.check_to(to)
    file = Path(output) if output else written.beside(checkpoint) / f"{what}{graphs.SUFFIX[to]}"
    graphs.check_file(file, to, overwrite)
    written.check_free([file], overwrite)
    model = trained.load(checkpoint, "cpu")
    rows = None
    if model.data_config is not None or path is not None:
        data = trained.data_of(model, checkpoint, path)
        data.prepare_data()
        rows = telling_rows(model, data, trained.split_of(data, "train"))
    write(model, file, what, to, rows=rows, resize=resize, threshold=threshold, seed=seed, overwrite=overwrite)
    console = Console(highlight=False, soft_wrap=True)
    by = "made-up rows" if rows is None else f"{len(rows)} rows of the data"
    console.print(f"[bold]Written[/]\n  {file}  (checked on {by})")
    return file


def telling_rows(
    model: Autoencoder, data: HFDataModule, split: str, n: int = 100, seed: int = 0
) -> Tensor | list[Tensor]:
    """Rows of a split in natural units: some with missing values, some of each class, the largest image; others drawn.

    Args:
        model: which says what its input is.
        data: its data.
        split: train, val or test.
        n: how many; more only where the classes are more.
        seed: of the draw.

    Returns:
        (B, ...); of images, a list of (C, H, W).
    """
    import torch

    from lightning_ae.preprocess import ImagePreprocess

    if data.streaming:
        return data.natural_rows(split, torch.arange(n))
    windows = data.windows(split)
    count = len(data.dataset(split)) if windows is None else len(windows.starts)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if model.signature is None:
        return data.rows(split, drawn[:n])[data._key]
    if isinstance(model.signature.preprocess, ImagePreprocess):
        return _images(model, data, split, drawn[:1000].tolist(), n)
    one = data.natural_rows(split, drawn[:1])
    looked = drawn[: max(n, LOOKED_AT // max(1, one.numel()))]
    x = data.natural_rows(split, looked)
    gaps = x.isnan().flatten(1).any(dim=1).nonzero().flatten().tolist() if x.is_floating_point() else []
    chosen = dict.fromkeys(gaps[: n // 4])
    for i, column in enumerate(model.signature.columns if x.ndim == 2 else ()):
        for label in range(len(column.classes or ())):
            chosen |= dict.fromkeys((x[:, i] == label).nonzero().flatten()[:1].tolist())
    chosen |= dict.fromkeys(range(max(0, min(len(x), n) - len(chosen))))
    return x[list(chosen)]


def _images(model: Autoencoder, data: HFDataModule, split: str, places: list[int], n: int) -> list[Tensor]:
    import numpy as np
    from PIL.Image import Image

    from lightning_ae.natural import image_of, image_units
    from lightning_ae.preprocess import ImagePreprocess

    (column,) = data.input_columns
    rows = data.dataset(split).select_columns([column])
    read = model.signature.columns[0].shape if model.signature is not None and model.signature.columns else ()
    bring = ImagePreprocess(channels=read[0] if len(read) == 3 else model.input_shape[0]).resize
    found: list[Tensor] = []
    for row, place in enumerate(places):
        item = rows[place][column]
        image = image_of(item if isinstance(item, Image) else np.asarray(item), row)
        found.append(bring(image_units(image[None], row))[0])
    largest = max(range(len(found)), key=lambda i: found[i][0].numel())
    return [found[largest], *(image for i, image in enumerate(found[:n]) if i != largest)][:n]
