"""What a kind of data is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightning_ae.config import Configurable, class_path
from lightning_ae.data.signature import Column, Signature
from lightning_ae.data.windows import Windows
from lightning_ae.exact import Noise
from lightning_ae.preprocess import Preprocess

if TYPE_CHECKING:
    from datasets import Features


class Kind(Configurable):
    """Plain data that says how samples are read."""

    @property
    def fitted(self) -> bool:
        """Whether `preprocess` learns from the training split; otherwise samples of any split tell it enough."""
        return False

    @abstractmethod
    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the model's input."""

    @property
    def decoding(self) -> dict[str, Any]:
        """The options that tell one decoding of the same rows from another."""
        return {"class_path": class_path(type(self))}

    @abstractmethod
    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """The samples of some rows as one array (N, ...), in the source's own type where that is compact.

        Args:
            rows: as the data set has them.
            columns: those that make the input.
            split: its name, for errors.
            first: the number of the first row in it, for errors.
        """

    @abstractmethod
    def preprocess(self, chunks: Callable[[], Iterable[Tensor]], columns: Sequence[str]) -> Preprocess:
        """From decoded samples to the model's input.

        Args:
            chunks: passes over the samples of a split, the training one where `fitted`.
            columns: those that make the input.
        """

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The input's columns, with what the first row of the training split tells of them."""
        return columns

    def unlike(self, rows: pa.Table, columns: list[str]) -> list[str]:
        """The columns of which the model's type cannot tell values apart that differ in these rows."""
        return []

    def of_rows(self, rows: Any, label: str | None, streaming: bool) -> Kind:
        """This kind with what the data set says of itself.

        Args:
            rows: of the training split; of data that only feed a model, of any.
            label: the column of labels, or None.
            streaming: whether rows are read as they come, and should not be passed over.
        """
        return self

    def of_split(self, rows: Any, columns: list[str], whole: bool) -> Kind:
        """This kind with what it must know of a split before the first of its rows is decoded.

        Args:
            rows: of the split.
            columns: those that make the input.
            whole: whether its samples become one array, and rows may be passed over.
        """
        return self

    @property
    def takes_arrays(self) -> bool:
        """Whether bytes of more than two dimensions are arrays to it; else they are images."""
        return True

    @property
    def padded(self) -> bool:
        """Whether samples are as wide as their split needs, and become the model's shape in its preprocessing."""
        return False

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The classes of each column of categories, once they are known."""
        return {}

    @property
    def how(self) -> str:
        """What it does to the input's columns, in words, where that may surprise."""
        return ""

    def suits(self, columns: Sequence[str]) -> dict[str, Any]:
        """The options of a model, an architecture and a likelihood, that such data ask for; none where the model's own
        will do."""
        return {}

    @property
    def steps(self) -> int | None:
        """How many rows in a line make a sample, see `windows`; None where each row is one."""
        return None

    def series(self, rows: Any, split: str) -> np.ndarray | None:
        """The number of each row's series, (rows,), of which windows are parts; None where each row is a sample."""
        return None

    def windows(self, rows: Any, numbers: np.ndarray | None, split: str, part: str) -> Windows | None:
        """The windows that are samples; None where each row is one.

        Args:
            rows: of one of the data set's own splits.
            numbers: of those that count, in order; None for all.
            split: its name, for errors.
            part: "train", "val" or "test", for which they are made.
        """
        return None

    def arranged(self, x: Tensor) -> Tensor:
        """Samples as they were gathered, with the dimensions in the model's order."""
        return x

    @property
    def masked(self) -> bool:
        """Whether samples may have missing values, which are NaN."""
        return False

    def of_signature(self, signature: Signature) -> Kind:
        """This kind as a trained model asks for its input.

        Raises:
            InputError: when it reads another kind of input than the model's, or in another way.
        """
        return self

    @property
    def frozen(self) -> str | None:
        """The name of what `freeze` does, or None where it does nothing."""
        return None

    @property
    def trains_frozen(self) -> bool:
        """Whether training, too, takes the samples as `freeze` gives them."""
        return True

    def freeze(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """The samples as evaluation sees them: any random choice is made once, from `generator`."""
        return samples

    def augment(self, x: Tensor, noise: Noise) -> Tensor:
        """What happens to a training batch (B, ...) on the device each time it is used."""
        return x
