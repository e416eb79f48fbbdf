"""The file of a checkpoint: written whole, read as plain data and weights, and refused where it holds more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from torch import Tensor

from lightning_ae.config import arguments, class_path, from_earlier, from_plain, import_class
from lightning_ae.data.signature import Signature
from lightning_ae.errors import InputError
from lightning_ae.preprocess import Preprocess
from lightning_ae.training.rebuild import DAMAGED, check_plain, check_sizes
from lightning_ae.training.versions import written_by

METADATA_KEY = "lightning_ae"

_TYPES: dict[str, type] = {
    METADATA_KEY: dict,
    "state_dict": dict,
    "current_model_state": dict,
    "averaging_state": dict,
    "hyper_parameters": dict,
    "exact": dict,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "epoch": int,
    "global_step": int,
}
CONSTRUCTING = ("hparams", "module_arguments", "hparams_type", "hparams_name")
"""What older versions of Lightning wrote, and its loading obeys."""


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

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads what a fit goes on from, or what is evaluated: weights and plain data, and nothing else.

        Raises:
            InputError: when it is missing, damaged, or no checkpoint of this package.
        """
        if "://" not in os.fspath(path):
            return read_checkpoint(path, map_location, mmap=False)
        checkpoint = super().load_checkpoint(os.fspath(path), map_location, weights_only=True)
        check_content(checkpoint)
        return checkpoint


def use_own_checkpoints(trainer: Any) -> None:
    """Makes a trainer that reads and writes checkpoints in Lightning's way do so with `AtomicCheckpointIO`."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu", mmap: bool = True) -> dict[str, Any]:
    """What a checkpoint holds.

    Args:
        path: of the file.
        map_location: the device of its tensors, as for `torch.load`.
        mmap: leave the weights on disk until they are used.

    Raises:
        InputError: when the file is missing, damaged, or no checkpoint of this package.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint at {os.fspath(path)!r}")
    try:
        with ZipFile(path) as archive:
            parts = archive.infolist()
        # torch writes its parts as they are; packed or overlapping ones could unfold to any size
        if (
            any(part.compress_type for part in parts)
            or sum(part.file_size for part in parts) > Path(path).stat().st_size
        ):
            raise BadZipFile("its parts are compressed, or overlap")
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # the reader raises half a dozen kinds, none of which says what to do
        raise InputError(
            f"{os.fspath(path)!r} cannot be read as a checkpoint: it is truncated, damaged, or holds more than weights "
            f"and plain data ({type(error).__name__})",
            "use an earlier checkpoint of the run; they lie beside it",
        ) from error
    try:
        check_content(checkpoint)
    except InputError as error:
        raise InputError(f"{os.fspath(path)!r}: {error.message}", error.hint) from error
    return checkpoint


def check_content(checkpoint: Any) -> None:
    """Refuses what no checkpoint of this package holds: other types, and what asks Lightning to construct something.

    Raises:
        InputError: naming it.
    """
    if not isinstance(checkpoint, dict):
        raise InputError(f"it holds a {type(checkpoint).__name__}, not a Lightning checkpoint")
    saved = _metadata_of(checkpoint)
    with written_by(saved.get("version")):
        _check_content(checkpoint, saved)


def _check_content(checkpoint: dict[str, Any], saved: dict[str, Any]) -> None:
    for key, kind in _TYPES.items():
        if not isinstance(checkpoint.get(key, kind()), kind):
            raise InputError(f"its {key} is a {type(checkpoint[key]).__name__}, not a {kind.__name__}", DAMAGED)
    weights = checkpoint.get("state_dict")
    if weights is None or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise InputError("its state_dict is missing, or holds more than tensors by their names", DAMAGED)
    beside = [*checkpoint.get("current_model_state", {}).items(), *checkpoint.get("averaging_state", {}).items()]
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in beside):
        raise InputError("what it holds beside an average of the weights is more than tensors by their names", DAMAGED)
    check_sizes(weights)
    constructing = [key for key in CONSTRUCTING if checkpoint.get(key) is not None]
    constructing += [key for key in checkpoint.get("hyper_parameters", {}) if str(key).startswith("_")]
    if constructing:
        raise InputError(
            f"it asks to construct something by {', '.join(map(str, constructing))}, which is never done",
            "what this package writes has none of these; the weights of a file that you trust can be loaded with "
            "torch.load(path)['state_dict'] and load_state_dict()",
        )
    names, data = saved.get("arguments", []), saved.get("data")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("its list of arguments is none", DAMAGED)
    if data is not None and not (
        isinstance(data, dict) and isinstance(data.get("class_path"), str) and isinstance(data.get("init_args"), dict)
    ):
        raise InputError("it does not say what data it was trained on in the way that it should", DAMAGED)
    check_plain(checkpoint.get("hyper_parameters", {}), "hyper_parameters")
    check_plain(saved, METADATA_KEY)


def signature_of(saved: Mapping[str, Any]) -> Signature | None:
    """What a checkpoint says of the model's input; an earlier version's says its preprocessing only.

    Raises:
        InputError: when that is not what it should be, or its hash is another.
    """
    if (plain := saved.get("signature")) is not None:
        signature = Signature.from_plain(plain)
        if saved.get("signature_hash", signature.hash) != signature.hash:
            raise InputError("its signature has another hash than it says", DAMAGED)
        return signature
    plain = saved.get("preprocess")
    return None if plain is None else Signature(from_plain(Preprocess, plain, "preprocess"), version=1)


def hyper_parameters(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a checkpoint; what an earlier version wrote as this one would write it."""
    path, kept = _metadata_of(checkpoint)["class_path"], checkpoint.get("hyper_parameters", {})
    found: dict[str, Any] = from_earlier({"class_path": path, "init_args": kept})["init_args"]
    if later := found.keys() - kept.keys():
        later -= set(arguments(import_class(path, object, "a checkpoint")))  # a subclass may settle them
    return {name: value for name, value in found.items() if name not in later}


def later_arguments(checkpoint: Mapping[str, Any]) -> set[str]:
    """The arguments that its class has since it was written, of which `hyper_parameters` knows what they were."""
    return hyper_parameters(checkpoint).keys() - checkpoint.get("hyper_parameters", {}).keys()


def init_args_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by which its class is made again.

    Raises:
        InputError: when it lacks one that it names.
    """
    kept = hyper_parameters(checkpoint)
    names = _metadata_of(checkpoint).get("arguments", list(checkpoint.get("hyper_parameters", {})))
    if lacking := [name for name in names if name not in kept]:
        raise InputError(f"its hyper-parameters lack {', '.join(lacking)}", DAMAGED)
    return {name: kept[name] for name in [*names, *later_arguments(checkpoint)]}


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


def _metadata_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    saved = checkpoint.get(METADATA_KEY)
    if not isinstance(saved, dict) or not isinstance(saved.get("class_path"), str):
        raise InputError(
            "the checkpoint does not say which autoencoder it holds",
            "only checkpoints of lightning_ae models can be loaded; on_save_checkpoint must call super()",
        )
    return saved
