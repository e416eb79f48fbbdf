"""Counts: sparse rows from what lies in memory to the batch, and the names of their dimensions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import scipy.sparse
import torch
from datasets import load_from_disk
from inputs_memory import DENSE, FLOATS, GENES, SHUFFLED, anndata

from lightning_ae import VAE, ConditionalVAE
from lightning_ae.architectures import MLP
from lightning_ae.counts import CountPreprocess
from lightning_ae.data import HFDataModule
from lightning_ae.data.signature import Column, Signature
from lightning_ae.errors import InputError

MATRIX = scipy.sparse.random(300, 50, density=0.2, random_state=0, format="csr")
MATRIX.data = np.ceil(MATRIX.data * 9)
OPTIONS: dict[str, Any] = {"cache": "memory", "batch_size": 64}


def trained(model: Any, data: HFDataModule) -> Any:
    trainer = pl.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", limit_val_batches=1,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return trainer


def test_batches_are_those_of_the_dense_matrix() -> None:
    data = HFDataModule(MATRIX, **OPTIONS)
    data.setup("fit")
    _, rows = data._part("train")
    found = torch.cat([batch["x"] for batch in data.batches("train")])
    assert torch.equal(found, torch.tensor(MATRIX.toarray()[rows], dtype=torch.float32))
    assert data.input_shape == (50,)


@pytest.mark.parametrize(("largest", "width", "type_"), [(9, 50, "int16"), (2**15, 50, "int32"), (9, 2**15, "int32")])
def test_what_is_cached_is_the_entries_of_the_fullest_row(largest: int, width: int, type_: str) -> None:
    matrix = MATRIX.copy()
    matrix.data[0] = largest
    matrix.resize(300, width)
    array = HFDataModule(matrix, **OPTIONS)._array("train", False)
    assert tuple(array.shape) == (300, 2, np.diff(matrix.indptr).max())
    assert array.dtype == getattr(torch, type_)
    assert torch.equal(CountPreprocess(width)(array), torch.tensor(matrix.toarray(), dtype=torch.float32))


def test_the_users_matrix_stays_as_it_is() -> None:
    matrix = scipy.sparse.csr_array(([1.0, 2.0], [1, 1], [0, 2]), (1, 3))
    HFDataModule(matrix, val_fraction=0, **OPTIONS).setup("fit")
    assert matrix.data.tolist() == [1, 2]
    assert not matrix.has_canonical_format


def test_a_model_of_cells_finds_its_genes_again(tmp_path: Path) -> None:
    data = HFDataModule(anndata(scipy.sparse.csr_array(DENSE)), label="cell_type", val_fraction=0, **OPTIONS)
    model = VAE(data.input_shape, latent_dim=2, architecture=MLP((8,)))
    trained(model, data).save_checkpoint(tmp_path / "model.ckpt")
    loaded = VAE.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    assert loaded.signature.columns[0].names == tuple(GENES)
    assert loaded.signature.hash == model.signature.hash
    codes = loaded.features(FLOATS)
    for cells in (SHUFFLED, pd.DataFrame(DENSE[:, ::-1], columns=GENES[::-1]), scipy.sparse.csc_array(DENSE)):
        assert torch.equal(loaded.features(cells), codes)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_frame_of_genes_feeds_a_model_of_cells(order: list[int]) -> None:
    frame = pd.DataFrame(DENSE[:, order], columns=[GENES[i] for i in order]).assign(depth=0.5)
    data = HFDataModule(frame, val_fraction=0, **OPTIONS)
    data.use_signature(HFDataModule(anndata(), val_fraction=0, **OPTIONS).signature)
    batch = next(data.batches("train"))
    assert torch.equal(batch["X"], FLOATS)
    assert batch["depth"].tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame(DENSE[:, :2], columns=GENES[:2]), "lacks 1 of the 3 dimensions .*: ACTB"),
        (pd.DataFrame(DENSE / 2, columns=GENES), "row 0, column 'CD8' holds 1.5"),
        (pd.DataFrame(DENSE, columns=GENES).where(DENSE != 2), "column 'ACTB' of split 'train' holds missing .*row 1"),
    ],
)
def test_a_frame_of_genes_that_does_not(frame: pd.DataFrame, message: str) -> None:
    data = HFDataModule(frame, val_fraction=0, **OPTIONS)
    with pytest.raises(InputError, match=message):
        data.use_signature(HFDataModule(anndata(), val_fraction=0, **OPTIONS).signature)


def test_a_streamed_frame_of_genes_is_refused() -> None:
    data = HFDataModule(pd.DataFrame(DENSE, columns=GENES), val_fraction=0, streaming=True)
    with pytest.raises(InputError, match="split 'train' is streamed and has a column for each dimension"):
        data.use_signature(HFDataModule(anndata(), val_fraction=0, **OPTIONS).signature)


def test_cells_that_a_file_backs() -> None:
    backed = SimpleNamespace(to_memory=lambda: scipy.sparse.csr_array(DENSE), shape=DENSE.shape)  # has no tocsr
    assert torch.equal(next(HFDataModule(anndata(backed), val_fraction=0, **OPTIONS).batches("train"))["X"], FLOATS)


def test_a_column_of_obs_is_a_condition() -> None:
    cells = anndata(scipy.sparse.csr_array(np.tile(DENSE[:3], (20, 1))))
    cells.obs = pd.DataFrame({"batch": pd.Categorical(["a", "b"] * 30), "donor": pd.Categorical(["x"] * 60)})
    data = HFDataModule(cells, label="batch", **OPTIONS)
    model = ConditionalVAE(data.input_shape, latent_dim=2, num_classes=2, architecture=MLP((8,)))
    before = [p.clone() for p in model.parameters()]
    trained(model, data)
    assert any(not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_sparse_rows_keep_their_names_on_disk(tmp_path: Path) -> None:
    data = HFDataModule(anndata(), val_fraction=0, **OPTIONS)
    data.splits.save_to_disk(tmp_path / "cells")
    other = HFDataModule(tmp_path / "cells", val_fraction=0, **OPTIONS)
    assert other.signature == data.signature
    assert torch.equal(next(other.batches("train"))["X"], FLOATS)
    assert str(load_from_disk(tmp_path / "cells")["train"].features["X"]["indices"].feature.names) == str(GENES)


def test_names_of_dimensions_change_no_signature_without_them() -> None:
    plain = Signature(CountPreprocess(3), (Column("x", "vector", "list<item: float>", (3,)),)).plain()
    assert "names" not in plain["columns"][0]
    assert Signature.from_plain(plain).plain() == plain


def test_a_file_of_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = SimpleNamespace(read_h5ad=lambda path: anndata(DENSE / 2, layers={"counts": DENSE}))
    monkeypatch.setitem(sys.modules, "anndata", read)
    data = HFDataModule(str(tmp_path / "cells.h5ad"), name="counts", val_fraction=0, **OPTIONS)
    assert torch.equal(next(data.batches("train"))["X"], FLOATS)
    assert data.class_names == ["T", "NK", "B"]
    again = HFDataModule.from_config(data.config or {})
    assert again.signature == data.signature


def test_a_file_that_anndata_wrote(tmp_path: Path) -> None:
    module = pytest.importorskip("anndata")
    cells = anndata()
    made = module.AnnData(scipy.sparse.csr_matrix(DENSE.astype(np.float32)), cells.obs, pd.DataFrame(index=GENES))
    made.write_h5ad(tmp_path / "cells.h5ad")
    data = HFDataModule(str(tmp_path / "cells.h5ad"), val_fraction=0, **OPTIONS)
    assert torch.equal(next(data.batches("train"))["X"], FLOATS)


def test_a_frame_of_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.0, 2.0], "kind": ["x", "y"]}, schema_overrides={"kind": polars.Categorical})
    data = HFDataModule(frame, val_fraction=0, **OPTIONS)
    assert data.input_columns == ["a"]
    assert data.class_names == ["x", "y"]
