"""Checkpoints: which class one holds, and loading it as that class."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from lightning_ae.config import class_path, from_plain, import_class, to_plain
from lightning_ae.errors import InputError
from lightning_ae.preprocess import Preprocess

METADATA_KEY = "lightning_ae"
C = TypeVar("C", bound="Checkpointed")


class Checkpointed:
    """What a LightningModule needs so that its checkpoints say which class they hold, and reload from their path alone.

    They also carry the preprocessing of the data that the model was trained on, and how to get those data again.
    """

    preprocess: Preprocess | None = None
    """From data in natural units to what the model takes; set by the data module at the first fit."""
    data_config: dict[str, Any] | None = None
    """The data module's plain data, where it has some."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes which class this is, and its preprocessing."""
        from lightning_ae import __version__

        checkpoint[METADATA_KEY] = {
            "class_path": class_path(type(self)),
            "version": __version__,
            "preprocess": None if self.preprocess is None else to_plain(self.preprocess, "preprocess"),
            "data": self.data_config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses another class's checkpoint; reads the preprocessing.

        Raises:
            InputError: when the checkpoint is of another class.
        """
        check_class(checkpoint, type(self))
        saved = checkpoint[METADATA_KEY]
        if saved["preprocess"] is not None:
            self.preprocess = from_plain(Preprocess, saved["preprocess"], "preprocess")
        self.data_config = saved["data"]

    @classmethod
    def load_from_checkpoint(cls: type[C], checkpoint_path: str | os.PathLike[str], **kwargs: Any) -> C:
        """The model saved in a checkpoint; nothing but the path is needed.

        Args:
            checkpoint_path: the file that Lightning wrote.
            kwargs: `map_location`, `strict`, and hyper-parameters to change, as in Lightning.

        Raises:
            InputError: when the file is missing or damaged, or holds another class.
        """
        check_class(read_checkpoint(checkpoint_path), cls)
        kwargs.setdefault("weights_only", True)
        parent: Any = super()
        model: C = parent.load_from_checkpoint(Path(checkpoint_path), **kwargs)
        return model


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside a checkpoint's place and then moves it there: whatever happens, an earlier one stays whole.

    Lightning's own goes by way of the system's folder for temporary files, which may lie on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint.

        Raises:
            InputError: when it cannot be written, the disk being full, say.
        """
        if "://" in os.fspath(path):
            super().save_checkpoint(checkpoint, os.fspath(path), storage_options)
            return
        place = Path(path)
        part = place.with_name(f".{place.name}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, place)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or getattr(error.__context__, "strerror", None) or str(error)
            raise InputError(
                f"the checkpoint {os.fspath(path)!r} cannot be written: {reason}",
                "make room; earlier checkpoints are untouched, and the run goes on from the last one with ckpt_path",
            ) from error


def write_atomically(trainer: Any) -> None:
    """Makes a trainer that writes checkpoints in Lightning's way write them with `AtomicCheckpointIO`."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The model in a checkpoint, as the class it was trained as, in evaluation mode.

    Args:
        path: a checkpoint that Lightning wrote.
        kwargs: passed to `load_from_checkpoint`: `map_location`, `strict`, hyper-parameters to change.

    Raises:
        InputError: when the file is missing or damaged, or its class is not imported.
    """
    saved = _metadata_of(read_checkpoint(path))
    cls: Any = import_class(saved["class_path"], Checkpointed, "the checkpoint")
    return cls.load_from_checkpoint(path, **kwargs).eval()


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
