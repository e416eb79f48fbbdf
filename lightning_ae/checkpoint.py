"""Checkpoints: which class one holds, and loading it as that class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_ae.config import class_path, import_class, to_plain
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.preprocess import Preprocess

METADATA_KEY = "lightning_ae"


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> Autoencoder:
    """The model in a checkpoint, as the class it was trained as, in evaluation mode.

    Args:
        path: a checkpoint that Lightning wrote.
        kwargs: passed to `load_from_checkpoint`: `map_location`, `strict`, hyper-parameters to change.

    Raises:
        InputError: when the file is missing or damaged, or its class is not imported.
    """
    from lightning_ae.autoencoder import Autoencoder

    saved = _metadata_of(read_checkpoint(path))
    cls = import_class(saved["class_path"], Autoencoder, "the checkpoint")
    model: Autoencoder = cls.load_from_checkpoint(path, **kwargs).eval()  # type: ignore[attr-defined]
    return model


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds, with the weights left on disk until they are used.

    Raises:
        InputError: when the file is missing, damaged, or no checkpoint of this package.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint at {os.fspath(path)!r}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the reader raises half a dozen kinds, none of which says what to do
        raise InputError(
            f"{os.fspath(path)!r} cannot be read as a checkpoint: it is truncated, damaged, or holds more than weights "
            f"and plain data ({type(error).__name__})",
            "use an earlier checkpoint of the run; they lie beside it",
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{os.fspath(path)!r} holds a {type(checkpoint).__name__}, not a Lightning checkpoint")
    _metadata_of(checkpoint)
    return checkpoint


def metadata(cls: type, preprocess: Preprocess | None, data: dict[str, Any] | None) -> dict[str, Any]:
    """What a model writes into its checkpoints beside Lightning's own keys: plain data."""
    from lightning_ae import __version__

    return {
        "class_path": class_path(cls),
        "version": __version__,
        "preprocess": None if preprocess is None else to_plain(preprocess, "preprocess"),
        "data": data,
    }


def check_class(checkpoint: dict[str, Any], cls: type) -> None:
    """Refuses a checkpoint of a class other than `cls`; a class of a script run as a program is known by its name.

    Raises:
        InputError: naming both classes.
    """
    saved, wanted = _metadata_of(checkpoint)["class_path"], class_path(cls)
    if saved == wanted:
        return
    modules, names = zip(*(path.rpartition(".")[::2] for path in (saved, wanted)), strict=True)
    if names[0] == names[1] and "__main__" in modules:
        return
    raise InputError(
        f"the checkpoint holds a {saved}, not a {wanted}",
        "load it with lightning_ae.load_model(path), which picks the class by itself; to start another class from its "
        "weights, use load_state_dict()",
    )


def _metadata_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    saved = checkpoint.get(METADATA_KEY)
    if not isinstance(saved, dict) or "class_path" not in saved:
        raise InputError(
            "the checkpoint does not say which autoencoder it holds",
            "only checkpoints of lightning_ae models can be loaded; on_save_checkpoint must call super()",
        )
    return saved
