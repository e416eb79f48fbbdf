"""Whether the codes of inputs are unlike those of the data that an entry was trained on."""

from __future__ import annotations

from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ae.natural.numbers import read_back
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import is_entry
from lightning_ae.zoo.schema import Config

UNUSUAL, ENOUGH = 1.5, 8
"""The root mean square of standardised codes from which they are, and of how many inputs it says something."""


def say_if_unusual(codes: Tensor, config: Config, standardised: bool = False) -> bool:
    """Says so where codes (N, features, ...) are unlike those of the training data; whether it did.

    Args:
        codes: of at least `ENOUGH` inputs; of fewer nothing is said.
        config: what is known of the model: of each feature its mean and standard deviation, or nothing.
        standardised: whether the codes are.
    """
    known = config.features
    if known.mean is None or known.std is None or len(codes) < ENOUGH:
        return False
    codes = codes.detach()
    if not standardised:
        each = [-1, *[1] * (codes.ndim - 2)]
        codes = (codes - codes.new_tensor(known.mean).view(each)) / codes.new_tensor(known.std).view(each)
    spread = read_back(codes.float().square().mean().sqrt())
    if spread is None or spread[0] <= UNUSUAL:  # NaN is unusual
        return False
    rank_zero_warn(
        f"the inputs are far from what {config.name} was made for ({config.dataset}): the root mean square of their "
        f"standardised codes is {spread[0]:.2f}, where training data have 1"
    )
    return True


def say_of_entry(codes: Tensor, source: str) -> bool:
    """The same of codes as vectors, by the name of an entry of the zoo; of other models nothing is known."""
    return is_entry(source) and say_if_unusual(codes, index.info(source))
