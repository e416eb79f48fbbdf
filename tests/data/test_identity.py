"""A fit that goes on knows its data again: what differs is named, wherever the data lie and however they are kept."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from datasets import Image as ImageFeature

from lightning_ae import InputError
from lightning_ae.data import HFDataModule, Image, Tabular
from lightning_ae.data.identity import check_identity
from lightning_ae.preprocess import TabularPreprocess

ROWS = 600
VALUES = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


def table(values: np.ndarray = VALUES, dtype: str = "float32", names: str = "ab", **more: Any) -> Dataset:
    columns = {
        names[0]: values[:, 0].tolist(),
        names[1]: values[:, 1].tolist(),
        "y": [i % 3 for i in range(len(values))],
    }
    features = Features({names[0]: Value(dtype), names[1]: Value(dtype), "y": Value("int64")})
    return Dataset.from_dict(columns, features)


def data(rows: Any = None, **options: Any) -> HFDataModule:
    options = {"kind": Tabular(columns=("a", "b"), scaling="none"), "batch_size": 64, "cache": "memory"} | options
    return HFDataModule(table() if rows is None else rows, **options)


def moved(values: np.ndarray, at: int, by: float = 1.0) -> np.ndarray:
    values = values.copy()
    values[at] += by
    return values


def encoded(how: str) -> Dataset:
    """600 images, the same pixels in every lossless encoding."""
    rows = []
    for pixels in np.random.default_rng(1).integers(0, 255, (ROWS, 4, 4, 3), dtype=np.uint8):
        file = io.BytesIO()
        options = {"lossless": True} if how == "webp" else {}
        PIL.Image.fromarray(pixels).save(file, how, **options)
        rows.append({"bytes": file.getvalue(), "path": None})
    return Dataset.from_dict({"image": rows}, Features({"image": ImageFeature()}))


def streamed(rows: Any = None, **options: Any) -> HFDataModule:
    return data(rows, **{"streaming": True, "val_fraction": 0, "shuffle_buffer": 100} | options)


def from_list(values: np.ndarray) -> IterableDataset:
    """A stream that does not say how many samples it has."""
    return IterableDataset.from_generator(
        lambda: ({"a": float(a), "b": float(b)} for a, b in values),
        features=Features({"a": Value("float32"), "b": Value("float32")}),
    )


# ---- what is equal and what is not ----------------------------------------------------------------------------------


def test_it_does_not_depend_on_where_the_data_lie_and_how_they_are_kept(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    table().to_parquet(tmp_path / "one" / "train-0.parquet")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    table().save_to_disk(str(tmp_path / "saved"))
    expected = data().identity
    for place in ("one", "moved", "saved"):
        for cache in ("disk", "memory", "none"):
            workers = {"num_workers": 2, "prefetch": 2} if cache == "none" else {}
            assert data(str(tmp_path / place), cache=cache, **workers).identity == expected
    shuffled = data(table(VALUES[::-1]).select(range(ROWS - 1, -1, -1)).select_columns(["a", "b"]), label=None)
    assert shuffled.identity["content"].items() < expected["content"].items()  # but without the labels
    torch.manual_seed(0)
    assert data().identity == expected


@pytest.mark.parametrize(("how", "same"), [("png", True), ("webp", True), ("bmp", True), ("jpeg", False)])
def test_pixels_count_and_not_their_encoding(how: str, same: bool) -> None:
    png, other = (HFDataModule(encoded(each), kind=Image(), cache="none").identity for each in ("png", how))
    assert (png == other) is same


def test_it_is_plain_data(tmp_path: Path) -> None:
    for each in (
        data(),
        data(kind=Tabular(columns=("a", "b"), scaling="standard")),
        streamed(),
        HFDataModule("digits"),
    ):
        torch.save(each.identity, tmp_path / "identity.pt")
        assert torch.load(tmp_path / "identity.pt", weights_only=True) == each.identity
    assert (tmp_path / "identity.pt").stat().st_size < 10_000


order = np.random.default_rng(2).permutation(ROWS)
OTHER_DATA: dict[str, tuple[Callable[[], HFDataModule], str]] = {
    "fewer rows": (lambda: data(table(VALUES[:-1])), "rows was 600 and is 599"),
    "more rows": (lambda: data(table(np.concatenate([VALUES, VALUES[:1]]))), "rows was 600 and is 601"),
    "reordered rows": (lambda: data(table(VALUES[order])), "rows of column 'a' differs"),
    "a row moved to the end": (lambda: data(table(np.roll(VALUES, -1, 0))), "rows of column 'a' differs"),
    "a row left out and one added": (
        lambda: data(table(np.concatenate([np.delete(VALUES, 450, 0), VALUES[:1]]))),
        "spread rows of column 'a' differs",
    ),
    "other labels": (lambda: data(table().map(lambda row: {"y": 2 - row["y"]})), "rows of column 'y' differs"),
    "another type": (lambda: data(table(dtype="float64")), "input columns was .*float.* and is .*double"),
    "other values of another type": (lambda: data(table(VALUES * 2)), "the first rows of column 'b' differs"),
    "renamed columns": (
        lambda: data(table(names="cd"), kind=Tabular(columns=("c", "d"), scaling="none")),
        r"input columns was \['a: float', 'b: float'\] and is \['c: float', 'd: float'\]",
    ),
    "columns in another order": (
        lambda: data(kind=Tabular(columns=("b", "a"), scaling="none")),
        r"is \['b: float', 'a: float'\]",
    ),
    "another label": (lambda: data(label="a"), "label was 'y' and is 'a'"),
    "a further column": (lambda: data(table().add_column("z", [0] * ROWS)), "further columns was"),
    "standardised": (
        lambda: data(kind=Tabular(columns=("a", "b"), scaling="standard")),
        "kind.scaling was.*none.*standard",
    ),
    "another split": (
        lambda: data(DatasetDict(train=table(), other=table(VALUES + 1)), train_split="other"),
        "first rows of column 'a' differs",
    ),
}  # fmt: skip
OTHER_ORDER: dict[str, tuple[Callable[[], HFDataModule], str]] = {
    "another batch size": (lambda: data(batch_size=32), "batch_size was 64 and is 32"),
    "no last batch": (lambda: data(drop_last=True), "drop_last was False and is True"),
}
OTHER_PARTS: dict[str, tuple[Callable[[], HFDataModule], str]] = {
    "another seed of the split": (lambda: data(split_seed=1), "split_seed was 0 and is 1"),
    "another fraction": (lambda: data(val_fraction=0.2), "val_fraction was 0.1 and is 0.2"),
    "all rows train": (lambda: data(val_fraction=0), "val_fraction was 0.1 and is 0.0"),
    "a split of its own": (
        lambda: data(DatasetDict(train=table(), dev=table()), val_split="dev"),
        "val_fraction was 0.1 and is 0.0",
    ),
    "a stream": (streamed, "val_fraction was 0.1 and is 0.0.*streaming was False and is True"),
}
CHANGES = OTHER_DATA | OTHER_ORDER | OTHER_PARTS


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_is_named(change: str) -> None:
    make, words = CHANGES[change]
    was, now = data().identity, make().identity
    with pytest.raises(InputError, match=f"(?s)in the middle of an epoch.*{words}.*end of an epoch.*load_model"):
        check_identity(was, now, middle=True)
    if change in OTHER_DATA:
        with pytest.warns(UserWarning, match=f"goes on with other data.*{words}"):
            check_identity(was, now, middle=False)
    elif change in OTHER_PARTS:
        with pytest.raises(InputError, match=f"(?s)other rows of the same data validate.*{words}"):
            check_identity(was, now, middle=False)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_identity(was, now, middle=False)


def test_other_data_may_validate_otherwise() -> None:
    with pytest.warns(UserWarning, match="goes on with other data.*split_seed was 0 and is 1"):
        check_identity(data().identity, data(table(VALUES + 1), split_seed=1).identity, middle=False)


def test_what_does_not_choose_the_training_rows_is_no_difference() -> None:
    splits = DatasetDict(train=table(), dev=table(), test=table(VALUES + 1))
    expected = data(splits, val_split="dev").identity
    assert data(splits, val_split="test", split_seed=3, val_fraction=0.5, test_split="dev").identity == expected


def test_a_draw_made_once_is_part_of_the_data() -> None:
    def drawn(binarize: Any, seed: int) -> Any:
        return HFDataModule("digits", kind=Image(binarize=binarize), val_split="test", split_seed=seed).identity

    assert drawn("static", 0) != drawn("static", 1)
    assert drawn("dynamic", 0) == drawn("dynamic", 1)


def test_one_changed_row_among_many_shows_in_the_statistics_only() -> None:
    """What the docstring says of it."""
    at = 299  # not looked at
    assert at not in np.arange(256) * (ROWS - 1) // 255
    other = table(moved(VALUES, at))
    assert data(other).identity == data().identity
    kind = Tabular(columns=("a", "b"), scaling="standard")
    was, now = (data(rows, kind=kind, val_fraction=0).identity for rows in (table(), other))
    with pytest.raises(InputError, match="epoch.*: statistics differs"):
        check_identity(was, now, middle=True)
    few = data(table(VALUES[:200]), val_fraction=0).identity
    assert all(data(table(moved(VALUES[:200], row)), val_fraction=0).identity != few for row in range(0, 200, 7))


def test_a_sum_in_another_order_is_no_difference() -> None:
    """As other machines make it."""
    kind = Tabular(columns=("a", "b"), scaling="standard")
    one, other = data(kind=kind), data(kind=kind)
    other._own = type(one.preprocess)(
        tuple(m + 1e-12 for m in one.preprocess.mean),
        tuple(s * (1 - 1e-12) for s in one.preprocess.std),  # type: ignore
    )
    assert one.identity == other.identity
    one, other = data(kind=kind), data(kind=kind)
    for each, nothing in ((one, 1e-17), (other, -1e-17)):
        each._own = TabularPreprocess((nothing, 0.3), (1.0, 2.0))
    assert one.identity == other.identity


# ---- in a Trainer ---------------------------------------------------------------------------------------------------


class Linear(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.batches = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.batches += 1
        x = batch["x"] if "x" in batch else torch.cat(list(batch.values()), 1)
        return self.layer(x).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Saves(pl.Callback):
    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not self.path.exists() and self.step == 0:
            trainer.save_checkpoint(self.path)


def fit(module: HFDataModule, ckpt_path: Path | None = None, **options: Any) -> Linear:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    model = Linear()
    options = {"max_epochs": 2, "enable_checkpointing": False} | options
    pl.Trainer(**quiet | options).fit(model, module, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.fixture
def stopped(tmp_path: Path) -> dict[str, Path]:
    """Checkpoints of one run from the middle of an epoch and from the end of one."""
    paths = {place: tmp_path / f"{place}.ckpt" for place in ("middle", "end")}
    fit(data(), callbacks=[Saves(paths["middle"], 4), Saves(paths["end"], 0)])
    return paths


@pytest.mark.parametrize(
    "change", ["reordered rows", "another batch size", "another seed of the split", "renamed columns"]
)
def test_a_fit_goes_on_with_its_own_data_only(stopped: dict[str, Path], change: str) -> None:
    make, words = CHANGES[change]
    with pytest.raises(InputError, match=words):
        fit(make(), stopped["middle"])
    if change in OTHER_PARTS:
        with pytest.raises(InputError, match=words):
            fit(make(), stopped["end"])
    elif change in OTHER_DATA:
        with pytest.warns(UserWarning, match=words):
            assert fit(make(), stopped["end"]).batches == 9
    else:
        assert fit(make(), stopped["end"], max_steps=20, max_epochs=-1).batches == 11  # where loaders are told, too


def test_a_fit_goes_on_with_the_same_data_kept_in_another_way(stopped: dict[str, Path], tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path / "elsewhere"))
    for path, batches in (("middle", 14), ("end", 9)):
        moved = data(str(tmp_path / "elsewhere"), cache="none", num_workers=1)
        assert fit(moved, stopped[path]).batches == batches


def test_evaluation_takes_any_data(stopped: dict[str, Path]) -> None:
    other = data(DatasetDict(train=table(VALUES + 1), test=table()), split_seed=3, batch_size=10)
    run = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*other data.*")
        for use in (run.validate, run.test, run.predict):
            use(Linear(), datamodule=other, ckpt_path=stopped["middle"], weights_only=True)
            use(Linear(), datamodule=other, ckpt_path=stopped["middle"], weights_only=True)


def test_a_checkpoint_without_an_identity_goes_on(stopped: dict[str, Path]) -> None:
    """As those of earlier versions."""
    checkpoint = torch.load(stopped["middle"], weights_only=True)
    state = checkpoint["HFDataModule"]
    del state["identity"], state["middle"]
    [loader] = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    del loader["identity"]
    torch.save(checkpoint, stopped["middle"])
    assert fit(data(), stopped["middle"]).batches == 14


class InRanks(Linear):
    """Writes down what each rank says of its data."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self) -> None:
        torch.save(self.trainer.datamodule.state_dict(), self.folder / f"{self.global_rank}.pt")  # type: ignore


def test_all_ranks_have_the_same_identity(tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 1, "enable_checkpointing": False}
    pl.Trainer(**quiet | options).fit(InRanks(tmp_path), data())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    assert first["identity"] == data().identity


# ---- loops of one's own and streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"streaming": True, "val_fraction": 0}])
def test_a_loader_of_its_own_knows_its_data(options: dict[str, Any]) -> None:
    loader = data(**options).train_dataloader()
    passing = iter(loader)
    next(passing)
    state = loader.state_dict()
    data(**options).train_dataloader().load_state_dict(state)
    with pytest.raises(InputError, match="first rows of column 'a' differs"):
        data(table(VALUES + 1), **options).train_dataloader().load_state_dict(state)


def test_a_stream_that_has_ended_goes_on_with_the_next_epoch() -> None:
    """Also in other batches, which an epoch's end allows."""
    loader, other = streamed().train_dataloader(), streamed(batch_size=32).train_dataloader()
    assert len(list(loader)) == 10
    other.load_state_dict(loader.state_dict())
    assert len(list(other)) == 19


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_shrinks_between_epochs_is_refused(workers: int) -> None:
    held = list(VALUES[:200])
    rows = IterableDataset.from_generator(
        lambda: ({"a": float(a), "b": float(b)} for a, b in held),
        features=Features({"a": Value("float32"), "b": Value("float32")}),
    )
    loader = streamed(rows, num_workers=workers).train_dataloader()
    assert len(list(loader)) == len(list(loader)) == 4
    for length, found in ((120, "120"), (500, "more")):
        held[:] = list(VALUES[:length])
        with pytest.raises(InputError, match=f"had 200 samples in an earlier epoch, and now holds {found}"):
            list(loader)


@pytest.mark.parametrize("step", [0, 6])  # at the end of the first epoch, and in the middle of the second
def test_a_fit_that_goes_on_notices_that_its_stream_shrank(tmp_path: Path, step: int) -> None:
    path = tmp_path / "stopped.ckpt"
    fit(streamed(from_list(VALUES[:200])), callbacks=[Saves(path, step)], max_epochs=3)
    with pytest.raises(InputError, match="had 200 samples in an earlier epoch, and now holds 120"):
        fit(streamed(from_list(VALUES[:120])), path, max_epochs=3)
    assert fit(streamed(from_list(VALUES[:200])), path, max_epochs=3).batches == 12 - (step or 4)


def test_a_stream_too_short_to_go_on_in_is_refused(tmp_path: Path) -> None:
    """In its first epoch, of which no count is known yet."""
    path = tmp_path / "stopped.ckpt"
    fit(streamed(from_list(VALUES)), callbacks=[Saves(path, 5)])
    with pytest.raises(InputError, match="stopped after batch 5 of an epoch, but the stream now ends after 2"):
        fit(streamed(from_list(VALUES[:120])), path)


def test_a_stream_that_is_told_to_change_may(tmp_path: Path) -> None:
    held = list(VALUES[:200])

    class Shrinks(pl.Callback):
        def on_train_epoch_end(self, *args: Any) -> None:
            held[:] = held[:120]

    rows = IterableDataset.from_generator(
        lambda: ({"a": float(a), "b": float(b)} for a, b in held),
        features=Features({"a": Value("float32"), "b": Value("float32")}),
    )
    path = tmp_path / "stopped.ckpt"
    options: dict[str, Any] = {"reload_dataloaders_every_n_epochs": 1}
    assert fit(streamed(rows), callbacks=[Saves(path, 0), Shrinks()], **options).batches == 6
    held[:] = list(VALUES[:200])
    assert fit(streamed(rows), path, callbacks=[Shrinks()], max_epochs=3, **options).batches == 6


def test_the_last_file_of_a_stream_is_looked_at(tmp_path: Path) -> None:
    def files(name: str, last: np.ndarray) -> HFDataModule:
        (tmp_path / name).mkdir()
        for part, values in enumerate((VALUES[:100], VALUES[100:200], last)):
            table(values).to_parquet(tmp_path / name / f"train-{part:05}-of-00003.parquet")
        return streamed(str(tmp_path / name))

    was = files("was", VALUES[200:300]).identity
    assert "rows" not in was["content"]
    assert was["order"]["files"] == 3
    assert files("same", VALUES[200:300]).identity == was
    with pytest.raises(InputError, match="the last file's first rows of column 'a' differs"):
        check_identity(was, files("other", VALUES[200:300] + 1).identity, middle=True)


def test_a_stream_and_a_whole_set_have_the_same_content() -> None:
    whole, stream = data(val_fraction=0).identity, streamed().identity
    assert stream["content"].items() < whole["content"].items()
    assert whole["reading"] == stream["reading"]
    with pytest.raises(InputError, match="epoch.*: streaming was False and is True"):
        check_identity(whole, stream, middle=True)
    check_identity(whole, stream, middle=False)
