"""What was trained on what, when and how: as pairs of words."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

import lightning_ae
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.report.runs import Run
from lightning_ae.shapes import is_any, words
from lightning_ae.training.checkpoint_file import METADATA_KEY, read_checkpoint

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

Facts = dict[str, list[tuple[str, str]]]


def versions() -> dict[str, str]:
    """Of what a run depends on."""
    import pytorch_lightning

    return {
        "lightning_ae": lightning_ae.__version__,
        "torch": str(torch.__version__),
        "pytorch-lightning": pytorch_lightning.__version__,
        "python": platform.python_version(),
    }


def checkpoint_facts(run: Run | None) -> dict[str, Any]:
    """Step, epoch and version of the run's checkpoint, where it is a file."""
    if run is None or not Path(run.checkpoint).is_file():
        return {}
    try:
        content = read_checkpoint(run.checkpoint)
    except InputError:
        return {}
    found = {name: content[name] for name in ("epoch", "global_step") if isinstance(content.get(name), int)}
    return found | {"version": content.get(METADATA_KEY, {}).get("version", "")}


def facts(model: Autoencoder, data: HFDataModule | None, run: Run | None, saved: Mapping[str, Any]) -> Facts:
    """What is known, in groups.

    Args:
        model: the model.
        data: its data, where they are at hand.
        run: its run, where there is one.
        saved: `checkpoint_facts`.
    """
    found = {"Model": _of_model(model), "Data": _of_data(data, model), "Training": _of_run(run, saved)}
    return {name: pairs for name, pairs in found.items() if pairs}


def _of_model(model: Autoencoder) -> list[tuple[str, str]]:
    cls = type(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    shape = words(model.input_shape, model.multiple) if is_any(model.input_shape) else _times(model.input_shape)
    own = cls.__module__.startswith("lightning_ae.")
    pairs = [("class", f"lightning_ae.{cls.__name__}" if own else f"{cls.__module__}.{cls.__qualname__}")]
    pairs += [("architecture", _short(model.architecture)), ("likelihood", _short(model.likelihood))]
    pairs += [("input", shape)]
    if not is_any(model.input_shape):
        shapes = model.code_shape
        several = isinstance(shapes[0], tuple)
        pairs.append(("code", ", ".join(map(_times, shapes)) if several else _times(shapes)))
    pairs.append(("parameters", f"{count:,}"))
    if model.generates:
        pairs.append(("samples from", "a fitted sampler" if model.sampler is not None else "its own distribution"))
    if cls.reference:
        pairs.append(("reference", cls.reference))
    return pairs


def _of_data(data: HFDataModule | None, model: Autoencoder) -> list[tuple[str, str]]:
    if data is None:
        config = model.data_config or {}
        path = (config.get("init_args") or {}).get("path")
        return [] if path is None else [("data set", str(path))]
    name = data.path if isinstance(data.path, str) else type(data.path).__name__
    pairs = [("data set", f"{name}{f', {data.name}' if data.name else ''}")]
    if not data.streaming:
        for split, title in (("train", "training rows"), ("val", "validation rows"), ("test", "test rows")):
            if data.has(split):
                pairs.append((title, f"{len(data.dataset(split)):,}"))
    else:
        pairs.append(("rows", "streamed"))
    columns = data.input_columns
    shown = ", ".join(columns[:6]) + (f" and {len(columns) - 6} more" if len(columns) > 6 else "")
    pairs.append(("input", shown))
    if data.label is not None:
        names = data.class_names if data.has_classes else None
        pairs.append(("label", f"{data.label}{f', {len(names)} classes' if names else ''}"))
    return pairs


def _of_run(run: Run | None, saved: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    if run is None:
        return pairs
    if command := run.facts.get("command"):
        pairs.append(("command", str(command)))
    for name in ("started", "ended"):
        if run.facts.get(name):
            pairs.append((name, _date(str(run.facts[name]))))
    if (seconds := run.duration) is not None:
        pairs.append(("took", duration(seconds)))
    pairs.append(("checkpoint", run.checkpoint if run.folder is None else Path(run.checkpoint).name))
    if "global_step" in saved:
        pairs.append(("taken at", f"step {saved['global_step']:,}, in epoch {saved['epoch'] + 1}"))
    if (seed := run.options.get("seed_everything")) is not None:
        pairs.append(("seed", str(seed)))
    trainer = run.options.get("trainer")
    if isinstance(trainer, Mapping):
        said = [f"{name} {trainer[name]}" for name in ("devices", "strategy", "precision") if trainer.get(name)]
        pairs += [("trainer", ", ".join(said))] if said else []
    versions_then = run.facts.get("versions")
    if isinstance(versions_then, Mapping):
        pairs.append(("versions", ", ".join(f"{name} {value}" for name, value in versions_then.items())))
    elif saved.get("version"):
        pairs.append(("lightning_ae", str(saved["version"])))
    return pairs


def configuration(model: Autoencoder, run: Run | None) -> str:
    """The run's configuration, or the model's arguments, as YAML."""
    if run is not None and run.config:
        return run.config
    return str(
        yaml.safe_dump({"class_path": type(model).__name__, "init_args": dict(model.init_args)}, sort_keys=False)
    )


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _date(text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found:%Y-%m-%d %H:%M} {found.tzname() or ''}".strip()


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _short(part: Any) -> str:
    """A part with the arguments that are not its defaults."""
    text = str(part)
    if is_dataclass(part) and text.startswith(f"{type(part).__name__}({fields(part)[0].name if fields(part) else ''}"):
        said = [
            f"{each.name}={getattr(part, each.name)!r}"
            for each in fields(part)
            if each.repr and getattr(part, each.name) != each.default
        ]
        text = f"{type(part).__name__}({', '.join(said)})"
    return text if len(text) <= 160 else f"{text[:157]}..."
