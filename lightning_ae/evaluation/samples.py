"""Rows of a data set as a model takes them, and what needs no model: errors of classifiers on inputs and on PCA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.errors import InputError
from lightning_ae.metrics import knn_error, linear_probe_error

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

PROBED = 10_000
"""How many training samples classifiers learn from at most."""
BATCH = 1000
Errors = tuple[float | None, float | None]


class Samples:
    """Rows of splits as a model takes them, on the CPU.

    Args:
        inputs: (N, *input_shape) of each split.
        labels: classes (N,) of each, -1 where a row has none; or nothing.
        given: what else the model takes, by role, of each.
        digests: of the values of each in natural units (bytes of images), which tell two copies of a data set apart.
    """

    def __init__(
        self,
        inputs: dict[str, Tensor],
        labels: dict[str, Tensor] | None,
        given: dict[str, dict[str, Tensor]] | None = None,
        digests: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.inputs, self.labels, self.digests = inputs, labels, digests
        self.given = given or {split: {} for split in inputs}
        self._baselines: dict[int, Errors] = {}

    @classmethod
    def read(
        cls, model: Autoencoder, data: HFDataModule, splits: Sequence[str], rows: int | None = None, seed: int = 0
    ) -> Samples:
        """Reads splits of a data module, of each at most so many rows, which are drawn by seed.

        Raises:
            InputError: of a stream, whose rows cannot be drawn; where the data cannot be read.
        """
        if data.streaming:
            raise InputError(
                f"{data.path!r} is streamed, and its rows cannot be drawn", "make the data module with streaming=False"
            )
        inputs: dict[str, Tensor] = {}
        labels: dict[str, Tensor] = {}
        given: dict[str, dict[str, Tensor]] = {}
        digests: dict[str, str] = {}
        for split in splits:
            size = len(data.dataset(split))
            order = torch.arange(size)
            if rows is not None and rows < size:
                order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:rows].sort().values
            batches = tqdm(order.split(BATCH), f"reading {split}", delay=2, leave=False)
            digest, found = xxhash.xxh3_128(), []
            for positions in batches:
                batch = data.rows(split, positions)
                values = batch[data.input_key].cpu()
                digest.update((values.to_dense() if values.layout != torch.strided else values).numpy().tobytes())
                found.append(model.read(batch))
            digests[split] = digest.hexdigest()
            inputs[split] = torch.cat([x for x, _, _ in found])
            given[split] = {role: torch.cat([each[role] for _, _, each in found]) for role in found[0][2]}
            if data.has_classes:
                labels[split] = data.labels(split)[order]
        return cls(inputs, labels or None, given, digests)

    def held_out_as_test(self, split: str) -> Samples:
        """The same, with a split of this name called "test"."""
        if split == "test":
            return self

        def renamed(of: Mapping[str, Any]) -> dict[str, Any]:
            return {"test" if name == split else name: value for name, value in of.items()}

        labels = None if self.labels is None else renamed(self.labels)
        return Samples(renamed(self.inputs), labels, renamed(self.given), renamed(self.digests))

    def parts(self, split: str, size: int = BATCH, what: str = "") -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The rows of a split a batch at a time, and what the model takes besides; `what` names a bar."""
        x = self.inputs[split]
        for start in tqdm(range(0, len(x), size), what, delay=2, leave=False, disable=not what):
            part = slice(start, start + size)
            yield x[part], rows_of(self.given[split], part)

    def errors(self, features: Mapping[str, Tensor]) -> Errors:
        """The errors of logistic regression and of 5 nearest neighbours on features (N, D) of the training and the
        test split, of the rows that have a label."""
        if self.labels is None:
            return None, None
        known = {split: (features[split][labels >= 0], labels[labels >= 0]) for split, labels in self.labels.items()}
        (x, y), (test, truth) = known["train"], known["test"]
        kept = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:PROBED]
        arguments = x[kept], y[kept], test, truth
        return linear_probe_error(*arguments), knn_error(*arguments)

    def baseline(self, components: int) -> Errors:
        """The errors on principal components; with 0 components, on the raw inputs."""
        if components not in self._baselines:
            flat = {split: x.flatten(1) for split, x in self.inputs.items()}
            if components:
                from sklearn.decomposition import PCA

                wide = flat["train"].shape[1] > len(flat["train"])  # a covariance would be the larger
                solver = "full" if wide else "covariance_eigh"
                pca = PCA(components, svd_solver=solver).fit(flat["train"].double().numpy())
                flat = {s: torch.from_numpy(pca.transform(x.double().numpy())).float() for s, x in flat.items()}
            self._baselines[components] = self.errors(flat)
        return self._baselines[components]


def components(inputs: int, features: int) -> int:
    """How many principal components to compare features with: as many, but at most 50 and half of the inputs."""
    return max(1, min(features, 50, inputs // 2))
