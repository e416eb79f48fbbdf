"""The command line: `lightning-ae`, or `python -m lightning_ae.cli`."""

from lightning_ae.cli.app import main

__all__ = ["main"]
