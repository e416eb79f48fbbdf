"""lightning-ae sample and fit-sampler: what a model generates, from its own distribution or one that is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning_ae.errors import InputError, unknown

Kind = Literal["gaussian", "mixture", "maf", "iaf", "two_stage", "index"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("GaussianSampler", {}),
    "mixture": ("MixtureSampler", {}),
    "maf": ("FlowSampler", {"kind": "maf"}),
    "iaf": ("FlowSampler", {"kind": "iaf"}),
    "two_stage": ("TwoStageSampler", {}),
    "index": ("IndexSampler", {}),
}
"""The samplers by their names here: the class, and what it is given."""


def sample(
    checkpoint: str,
    n: int = 64,
    seed: int = 0,
    label: int | None = None,
    temperature: float = 1.0,
    sampler: Kind | None = None,
    path: str | None = None,
    output: str | None = None,
    show: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write a picture of samples from a generative model, or from any model whose codes a sampler is fitted to.

    A sampler that the checkpoint holds comes first, then the model's own distribution over codes.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        n: how many samples.
        seed: of the random draws.
        label: the class of all samples, of a model that takes labels (default: a row for each class).
        temperature: what the standard deviations of the Gaussians that codes are drawn from are multiplied by.
        sampler: fit one to the codes of the training split first, for this picture; `fit-sampler` keeps it.
        path: the data set that it is fitted to (default: what the model was trained on).
        output: the picture to write, PNG, SVG or PDF (default: "samples.png" beside the folder of the checkpoint).
        show: print small images in the terminal, too.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace a file that exists.

    Returns:
        The picture's file.

    Raises:
        InputError: when the file exists, or the model cannot sample images, or none of that label, or at that
            temperature.
    """
    from lightning_ae.cli import tools

    tools.check_model(checkpoint)
    tools.check_positive(n=n)
    tools.check_picture(output)
    if path is not None and sampler is None:
        raise InputError("path is what a sampler is fitted to, and none is named", "give sampler, mixture say")
    import torch

    from lightning_ae.callbacks.pictures import drawn, sample_figure
    from lightning_ae.cli import trained, written

    model = trained.load(checkpoint, device)
    file = Path(output) if output else written.beside(checkpoint) / "samples.png"
    trained.check_images(model)
    written.check_free([file], overwrite)
    if sampler is not None:
        _fit(model, checkpoint, sampler_of(sampler), path, "train", seed)
    if show:
        with torch.no_grad():
            rows, _ = drawn(model, min(n, 10), seed, label, temperature)
            written.print_images(model, {"samples": torch.cat(rows)})
    source = "its own distribution" if model.sampler is None else f"{type(model.sampler.config).__name__}"
    tempered = "" if temperature == 1 else f", temperature {temperature:g}"
    title = f"{written.name_of(checkpoint)}: codes of {source}{tempered}, seed {seed}"
    return written.save_figure(sample_figure(model, n, seed, title, label, temperature), file, overwrite)


def fit_sampler(
    checkpoint: str,
    sampler: Kind = "mixture",
    options: dict[str, Any] | None = None,
    path: str | None = None,
    split: str = "train",
    seed: int = 0,
    output: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Fit a density to the codes of a model, and keep it in its checkpoint: so any autoencoder generates.

    `sample` draws from it afterwards, also where the model has a distribution of its own. A model whose codes are
    indices takes the sampler index; sparse codes and codes of several kinds have none.

    Args:
        checkpoint: the model's checkpoint.
        sampler: gaussian, mixture, maf or iaf (flows), two_stage (a second VAE), or index.
        options: its arguments, as JSON, such as {"components": 20}.
        path: the data set (default: what the model was trained on).
        split: whose codes: train, val or test.
        seed: of the fit.
        output: the checkpoint to write (default: the one that is read, whose weights stay as they are).
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace an output that exists.

    Returns:
        The checkpoint that holds it.

    Raises:
        InputError: when a file exists, the codes have no such density, or the data cannot be read.
    """
    from lightning_ae.cli import tools

    tools.check_model(checkpoint)
    tools.check_splits([split])
    if not Path(checkpoint).is_file():
        raise InputError(
            f"a sampler is kept in a checkpoint, and {checkpoint!r} is none",
            "in Python, lightning_ae.samplers.fit_sampler(model, data) fits one to an entry of the zoo",
        )
    from rich.console import Console

    from lightning_ae.cli import trained, written
    from lightning_ae.samplers import store_sampler

    chosen = sampler_of(sampler, options)
    file = Path(checkpoint if output is None else output)
    if output is not None:
        written.check_free([file], overwrite)
    model = trained.load(checkpoint, device)
    _fit(model, checkpoint, chosen, path, split, seed)
    store_sampler(model, checkpoint, file)
    Console(highlight=False, soft_wrap=True).print(f"[bold]Written[/]\n  {file}  (with a {type(chosen).__name__})")
    return file


def sampler_of(name: str, options: dict[str, Any] | None = None) -> Any:
    """The sampler of that name.

    Raises:
        InputError: for one that there is not, or an argument that it does not take.
    """
    from lightning_ae.config import from_plain
    from lightning_ae.samplers import Sampler

    if name not in KINDS:
        raise unknown("sampler", name, KINDS)
    cls, own = KINDS[name]
    return from_plain(Sampler, {"class_path": cls, "init_args": {**own, **(options or {})}}, "sampler")


def _fit(model: Any, checkpoint: str, sampler: Any, path: str | None, split: str, seed: int) -> None:
    from lightning_ae.cli import trained
    from lightning_ae.samplers import fit_sampler as fit

    sampler.check(model.code_space, f"the codes of {type(model).__name__}")  # before any data are read
    data = trained.data_of(model, checkpoint, path)
    data.prepare_data()
    fit(model, data, sampler, seed, split)
