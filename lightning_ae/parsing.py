"""The command line's parsers: what they refuse is one line with a hint."""

from __future__ import annotations

from typing import NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings
from pytorch_lightning.cli import LightningArgumentParser

from lightning_ae.errors import InputError

set_parsing_settings(docstring_parse_attribute_docstrings=False)


class _OneLineErrors:
    prog: str

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if isinstance(ex, InputError):
            raise ex
        cause = ex.__cause__ if ex is not None else None
        if isinstance(cause, InputError):
            raise cause
        raise InputError(" ".join(message.split()), f"`{self.prog} --help` lists the options") from ex


class ToolParser(_OneLineErrors, ArgumentParser):
    """Parses the options of a function."""


class TrainingParser(_OneLineErrors, LightningArgumentParser):
    """Parses the options of a model, its data and the trainer."""
