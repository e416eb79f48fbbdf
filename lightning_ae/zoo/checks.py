"""That entries are what they say: hashes, weights, golden values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import build, parse_weights
from lightning_ae.zoo.fetch import fetch
from lightning_ae.zoo.schema import Config, Entry, Golden, golden_input


@dataclass(frozen=True)
class Check:
    """A number that was stated beside the one that was measured."""

    name: str
    stated: float
    measured: float
    atol: float

    @property
    def passed(self) -> bool:
        """Whether they agree."""
        return math.isfinite(self.measured) and abs(self.measured - self.stated) <= self.atol


@dataclass(frozen=True)
class Reproduction:
    """Every number of an entry, measured again, and on what."""

    checks: list[Check]
    stated: str | None
    """The digest of the test samples that the entry's numbers were measured on, where it says so."""
    measured: str
    """That of the test samples at hand."""

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return all(check.passed for check in self.checks)

    @property
    def copy(self) -> str:
        """Which copy of the data was measured, in words."""
        if self.stated is None:
            return f"the entry does not say what its test samples were; these have the digest {self.measured}"
        if self.stated == self.measured:
            return "the same test samples as the entry's, value for value"
        return (
            f"another copy of the data: its test samples have the digest {self.measured}, where the entry's have "
            f"{self.stated}, so the numbers may differ"
        )


def verify(names: Sequence[str] | None = None) -> list[str]:
    """Hashes every file of the entries again, loads them strictly, and compares their golden values.

    Args:
        names: of entries; by default all.

    Returns:
        The names that were verified.

    Raises:
        InputError: for the first that fails.
    """
    verified = []
    for name in index.names() if names is None else names:
        entry = index.info(name)
        files = {file.name: fetch(entry, file) for file in entry.files}
        model = build(entry, parse_weights(files["model.safetensors"], name), name)
        written = Config.model_validate_json(files["config.json"])
        if written != entry.as_config():
            raise InputError(f"config.json of {name} is not what the entry says")
        for check in golden_checks(entry, model):
            if not check.passed:
                raise InputError(
                    f"{name} gives {check.measured:.6g} where {check.name} is {check.stated:.6g} (within {check.atol})"
                )
        verified.append(name)
    return verified


def golden_checks(entry: Entry, model: Autoencoder) -> list[Check]:
    """The golden values of an entry beside those of the model."""
    found = golden(model, entry)
    return [
        Check(f"golden {what} {i}", stated, measured, entry.golden.atol)
        for what in ("code", "reconstruction")
        for i, (stated, measured) in enumerate(zip(getattr(entry.golden, what), getattr(found, what), strict=True))
    ]


@torch.no_grad()
def golden(model: Autoencoder, config: Config) -> Golden:
    """The first values for the fixed input; what else the model takes is fixed, too, as its `stand_ins` say."""
    assert model.preprocess is not None
    x = model.preprocess(golden_input(config))
    given = model.stand_ins(len(x))
    code = model.encode(x, **given)
    first = [part.flatten()[:8] for part in (code if isinstance(code, tuple) else (code,))]  # of each level
    values = [part.double().tolist() for part in (torch.cat(first), model(x, **given).flatten()[:8])]
    atol = 1e-4 * max(1.0, *(abs(value) for part in values for value in part))
    return Golden(
        code=[float(f"{v:.8g}") for v in values[0]],
        reconstruction=[float(f"{v:.8g}") for v in values[1]],
        atol=float(f"{atol:.2g}"),
    )
