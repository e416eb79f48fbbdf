"""The help of a training command, written from the sources of the classes that it names."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from lightning_ae import recipes
from lightning_ae.cli.options import DATA, of_command, read
from lightning_ae.cli.source import Option, first_line, options, place_of

_TRAINER = {
    "max_epochs": "when to stop (or max_steps, max_time)",
    "accelerator": "cpu, gpu, mps, or auto for the fastest there is",
    "devices": "how many, or which",
    "strategy": "how devices share the work: ddp, fsdp and so on",
    "precision": "32-true, bf16-mixed, 16-mixed, 64-true and so on",
    "logger": "false writes no metrics; -c tensorboard or -c wandb add one",
    "accumulate_grad_batches": "batches for each step of the optimizer",
    "gradient_clip_val": "the largest norm of the gradient",
    "limit_train_batches": "the batches of an epoch, a number or a fraction",
    "enable_progress_bar": "false shows none",
    "fast_dev_run": "true tries one batch of everything, and writes nothing",
}

_WIDTH, _NAMES = 100, 34


def help_of(command: str, words: Sequence[str], summary: str) -> str:
    """The options of a training command: its own, the model's and the data's, and the trainer's usual ones."""
    given = read(command, [word for word in words if word not in ("-h", "--help")] if words else [])
    model = given.classes.get("model", "Autoencoder")
    data = given.classes.get("data", DATA)
    lines = [f"usage: lightning-ae {command} -c MODEL -c DATA [-c MORE ...] [options]", ""]
    lines += textwrap.wrap(f"{summary.capitalize()}. Options compose; the last wins.", _WIDTH)
    lines += ["", "recipes, for -c: a name, or a YAML file"]
    for kind in recipes.FOLDERS:
        lines += _row(kind, ", ".join(recipes.names(kind)), 12, wrap=True)
    lines += ["", "the run:"]
    lines += _row("--model CLASS", "instead of a recipe: VAE, or a class of your own, module.Class")
    lines += _row("--data.path PATH", "a hub id, a folder, a file (CSV, parquet, zip, ...), digits or fashion")
    for name, own in of_command(command).items():
        lines += _row(f"--{name}", own.help)
    lines += _row("--seed_everything", "the run's seed (0)")
    lines += _row("--print_config", "print the configuration that all this makes, and end")
    for group, cls, hint in (("model", model, "-c or --model"), ("data", data, "-c or --data")):
        named = group in given.classes
        place = place_of(cls)
        there = options(place)
        about = "" if place is None else f": {first_line(place).rstrip('.')}"
        title = f"{group} {cls.rpartition('.')[2]}" + (about if named else f" (with {hint}, those of that class)")
        lines += ["", textwrap.shorten(title, _WIDTH, placeholder=" ...")]
        if there is None:
            lines += _row(f"--{group}.help {cls}", "lists them")
        for option in (there or {}).values():
            if (group, option.name) != ("model", "input_shape"):
                lines += _row(
                    f"--{group}.{option.name}", _with_default(option, given.values.get(f"{group}.{option.name}"))
                )
    lines += ["", "trainer, the options used most"]
    for name, text in _TRAINER.items():
        value = given.values.get(f"trainer.{name}")
        lines += _row(f"--trainer.{name}", text if value is None else f"{text} ({value})")
    lines += [""]
    lines += _row("--help-all", "every option of the trainer, optimizers, schedules and callbacks")
    lines += _row(f"--model.help {model.rpartition('.')[2]}", "the options of a class, in full (likewise --data.help)")
    return "\n".join(lines) + "\n"


def _with_default(option: Option, value: Any) -> str:
    text = re.split(r"(?<=[^ .][^ .])[.;:](?: |$)", option.help.replace("``", ""))[0]
    shown = option.default if value is None or isinstance(value, list | dict) else str(value)
    return f"{text} ({shown})" if shown not in (None, "None") else text


def _row(name: str, text: str, width: int = _NAMES, wrap: bool = False) -> list[str]:
    """A line of help; what does not fit is left to the class's own help, unless it wraps."""
    room = _WIDTH - width - 2
    if wrap:
        first, *rest = textwrap.wrap(text, room) or [""]
        return [f"  {name:<{width}}{first}", *(f"  {'':<{width}}{line}" for line in rest)]
    ending = re.search(r" \([^()]*(?:\([^()]*\))?[^()]*\)$", text)
    end = ending[0] if ending and len(ending[0]) < room // 2 else ""
    start = textwrap.shorten(text.removesuffix(end), room - len(end), placeholder=" ...")
    return [f"  {name:<{width}}{start}{end}"]
