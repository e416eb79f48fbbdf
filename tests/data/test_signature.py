"""The signature: what a model's input is, in its checkpoints, and how other data are read by it."""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value

from lightning_ae import VAE, Autoencoder, FineTuneClassifier, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP
from lightning_ae.counts import CountPreprocess
from lightning_ae.data import Tabular
from lightning_ae.data.signature import FORMAT, Column, Signature
from lightning_ae.parts import Bernoulli
from lightning_ae.preprocess import ImagePreprocess, Preprocess, SequencePreprocess, TabularPreprocess

LINEAR = MLP(())
STANDARD = Tabular(scaling="standard")


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        **{"max_epochs": 1, "enable_checkpointing": False, **options}, default_root_dir=folder,
    )  # fmt: skip


def table(scale: float = 1.0, names: str = "abc", n: int = 60) -> DatasetDict:
    values = np.random.default_rng(0).normal(5, scale, (n, 3))
    columns = {name: values[:, "abc".index(name) if name in "abc" else 2] for name in names}
    rows = Dataset.from_dict({**columns, "label": np.arange(n) % 2})
    return DatasetDict(train=rows, test=rows)


def data(rows: DatasetDict, **options: Any) -> HFDataModule:
    return HFDataModule(rows, **{"cache": "memory", "val_fraction": 0, **options})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of standardised columns a, b and c."""
    folder = tmp_path_factory.mktemp("model")
    fit = trainer(folder)
    fit.fit(Autoencoder((3,), 2, architecture=LINEAR), data(table(), kind=STANDARD))
    fit.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def test_what_it_says_of_a_table(checkpoint: Path) -> None:
    found = load_model(checkpoint).signature
    values = np.array(table()["train"].to_pandas()[["a", "b", "c"]])
    assert found.columns == tuple(Column(name, "number", "double") for name in "abc")
    assert found.label is not None
    assert found.label.name == "label"
    np.testing.assert_allclose(found.preprocess.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.preprocess.std, values.std(axis=0), rtol=1e-12)
    saved = torch.load(checkpoint, weights_only=True)["lightning_ae"]
    assert saved["signature"]["version"] == FORMAT == 2
    assert saved["signature_hash"] == found.hash


def test_what_it_says_of_images(tmp_path: Path) -> None:
    model = VAE((1, 8, 8), 2, likelihood=Bernoulli())
    trainer(tmp_path).fit(model, HFDataModule("digits", cache="memory", val_fraction=0))
    assert model.signature is not None
    assert model.signature.columns == (Column("image", "image", "image", (1, 8, 8), (0, 255)),)
    assert model.signature.preprocess == ImagePreprocess((8, 8), 1)
    assert model.signature.support == (0, 1)
    assert model.signature.label is not None
    assert model.signature.label.classes == tuple("0123456789")


SOME = Signature(
    TabularPreprocess((1.5e9, 0.1), (2.0, 3.0)),
    (Column("a", "number", "double"), Column("b", "number", "int64")),
    Column("y", "category", "int64", classes=("no", "yes")),
    (0.0, float("inf")),
)
OTHERS = {
    "statistics": replace(SOME, preprocess=TabularPreprocess((1.5e9, 0.1), (2.0, 3.0000000000000004))),
    "order": replace(SOME, columns=SOME.columns[::-1]),
    "a type": replace(SOME, columns=(SOME.columns[0], replace(SOME.columns[1], type="int32"))),
    "a class": replace(SOME, label=replace(SOME.label, classes=("yes", "no"))),  # type: ignore[type-var]
    "the support": replace(SOME, support=(0.0, 1.0)),
}


def test_plain_data_make_it_again() -> None:
    assert Signature.from_plain(SOME.plain()) == SOME
    assert Signature.from_plain(SOME.plain()).hash == SOME.hash


@pytest.mark.parametrize(
    ("preprocess", "version", "hash_"),
    [
        (ImagePreprocess((8, 8), 1), 1, "a7eb77682ff9e75c7ac7814a248d691c"),
        (ImagePreprocess((8, 6), 3, (0.5,) * 3, (0.25,) * 3), 2, "550f79dca578785ad696eb9fa730169b"),
        (
            ImagePreprocess((8, 6), 5, fit="crop", range=(0, 4095), layout="HWC"), 2,
            "ede9f3fe6a836e1a4fd763b7219f9b58",
        ),
        (TabularPreprocess((1.5e9, 0.1), (2.0, 3.0)), 2, "66afd921ab7ca2e4ed1aa05dd4d5156a"),
        (SequencePreprocess((0.5,), length=7), 2, "c1ca9feeaf691240cf0c565a0bb08f5c"),
        (CountPreprocess(3), 2, "534ed89b59d8e36d2ea0cf81f979864c"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Preprocess) else str(value),
)  # fmt: skip
def test_a_hash_is_the_same_in_every_version(preprocess: Preprocess, version: int, hash_: str) -> None:
    """Checkpoints and entries carry it: wherever classes move, and whatever options come later."""
    assert Signature(preprocess, version=version).hash == hash_


@pytest.mark.parametrize("name", OTHERS)
def test_its_hash_tells_all_of_it(name: str) -> None:
    assert OTHERS[name].hash != SOME.hash


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 3}, "of format 3, and this version of lightning_ae reads up to 2"),
        ({"columns": 3}, "not what it should be"),
        ({"columns": [{"name": "a"}]}, "not what it should be"),
        ({"preprocess": {"class_path": "subprocess.Popen"}}, "not imported|no subclass"),
    ],
)
def test_plain_data_that_are_none_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Signature.from_plain({**SOME.plain(), **changed})


def test_an_earlier_versions_checkpoint_loads(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    said = content["lightning_ae"]
    said["preprocess"] = said.pop("signature")["preprocess"]
    del said["signature_hash"]
    torch.save(content, tmp_path / "old.ckpt")
    model = load_model(tmp_path / "old.ckpt")
    assert model.signature == Signature(load_model(checkpoint).preprocess, version=1)
    trainer(tmp_path).fit(model, data(table(9.0), kind=STANDARD))  # says the columns, and keeps the statistics
    assert model.signature.names == ["a", "b", "c"]
    assert model.preprocess == load_model(checkpoint).preprocess


def by_hand(checkpoint: Path, rows: DatasetDict) -> float:
    """The test loss with the statistics that the model was trained with."""
    model = load_model(checkpoint)
    values = np.array(rows["test"].to_pandas()[["a", "b", "c"]])
    x = torch.tensor((values - np.array(model.preprocess.mean)) / np.array(model.preprocess.std)).float()
    with torch.no_grad():
        return float(model.loss(x, x)["loss"])


@pytest.mark.parametrize("kind", [STANDARD, None, Tabular(columns=("c", "b", "a"))], ids=["own", "plain", "reordered"])
@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "ckpt_path"])
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_other_data_are_judged_by_the_models_statistics(
    checkpoint: Path, tmp_path: Path, kind: Any, loaded: bool, cache: str
) -> None:
    rows = table(30.0, names="cab")
    model = load_model(checkpoint) if loaded else Autoencoder((3,), 2, architecture=LINEAR)
    way = {} if loaded else {"ckpt_path": checkpoint}
    found = trainer(tmp_path).test(model, data(rows, kind=kind, cache=cache), verbose=False, **way)
    assert found[0]["test/loss"] == pytest.approx(by_hand(checkpoint, rows), rel=1e-5)


def test_a_fit_that_goes_on_and_one_on_other_data_keep_them(checkpoint: Path, tmp_path: Path) -> None:
    known = load_model(checkpoint).signature
    on, again = Autoencoder((3,), 2, architecture=LINEAR), load_model(checkpoint)
    with pytest.warns(UserWarning, match="other data"):
        trainer(tmp_path, max_epochs=2).fit(on, data(table(30.0), kind=STANDARD), ckpt_path=checkpoint)
    trainer(tmp_path).fit(again, data(table(30.0), kind=STANDARD))
    assert on.signature == again.signature == known
    again.signature = None
    trainer(tmp_path).fit(again, data(table(30.0), kind=STANDARD))
    assert again.signature is not None
    assert again.signature != known


@pytest.mark.parametrize("stage", ["test", "validate", "predict", "fit"])
def test_a_renamed_column_is_refused_in_every_stage(checkpoint: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(InputError, match="trained on the columns a, b, c, of which the data lack c"):
        getattr(trainer(tmp_path), stage)(load_model(checkpoint), datamodule=data(table(names="abz")))


def test_a_retyped_column_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    rows = table()
    for split in rows:
        rows[split] = rows[split].map(lambda row: {"b": [row["b"]]})
    with pytest.raises(InputError, match="column 'b' holds a vector .*trained on a number"):
        trainer(tmp_path).test(load_model(checkpoint), data(rows), verbose=False)


def test_a_classifier_takes_the_statistics_of_its_encoder(checkpoint: Path, tmp_path: Path) -> None:
    model = FineTuneClassifier(load_model(checkpoint), num_classes=2)
    module = data(table(30.0))  # which would not standardise
    fit = trainer(tmp_path)
    fit.fit(model, module)
    assert module.preprocess == load_model(checkpoint).preprocess
    assert model.signature == load_model(checkpoint).signature
    fit.save_checkpoint(tmp_path / "classifier.ckpt")
    values = np.array(table()["test"].to_pandas()[["a", "b", "c"]])
    again = load_model(tmp_path / "classifier.ckpt").model
    torch.testing.assert_close(again.features(values), model.model.features(values), rtol=0, atol=0)


def test_a_data_module_of_ones_own_must_not_have_another_preprocessing(checkpoint: Path, tmp_path: Path) -> None:
    class Own(pl.LightningDataModule):
        preprocess = TabularPreprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4)

    with pytest.raises(InputError, match="Own preprocesses data otherwise"):
        trainer(tmp_path).fit(load_model(checkpoint), Own())
    fresh = Autoencoder((3,), 2)
    trainer(tmp_path).fit(fresh, Own())
    assert fresh.preprocess == Own.preprocess


def test_the_checkpoints_hyperparameters_hold_in_an_evaluation(tmp_path: Path) -> None:
    fit = trainer(tmp_path)
    fit.fit(VAE((3,), 2, beta=4.0), data(table()))
    fit.save_checkpoint(tmp_path / "vae.ckpt")
    for stage in ("test", "validate", "predict"):
        run = getattr(trainer(tmp_path), stage)
        with pytest.raises(InputError, match=r"trained with beta = 4\.0 \(here 1\.0\)"):
            run(VAE((3,), 2), datamodule=data(table(), val_fraction=0.5), ckpt_path=tmp_path / "vae.ckpt")
    trainer(tmp_path).test(VAE((3,), 2, beta=4.0, lr=1.0), data(table()), tmp_path / "vae.ckpt", verbose=False)


def pictures(shape: tuple[int, ...], n: int = 6) -> DatasetDict:
    pixels = np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
    features = Features({"image": Image(), "label": Value("int64")})
    rows = Dataset.from_dict({"image": [PIL.Image.fromarray(p) for p in pixels], "label": range(n)}, features)
    return DatasetDict(train=rows, test=rows)


def test_images_of_another_kind_are_read_as_the_models_and_it_is_said(tmp_path: Path) -> None:
    model = Autoencoder((1, 8, 8), 2)
    trainer(tmp_path).fit(model, data(pictures((8, 8))))
    coloured = pictures((16, 12, 3))
    module = data(coloured)
    with pytest.warns(UserWarning, match="colour 16 x 12 for a model that takes grey 8 x 8: .*resized.*colour is lost"):
        found = trainer(tmp_path).predict(model, module)
    model.eval()
    with torch.no_grad():
        codes = model.features(
            torch.from_numpy(np.stack([np.moveaxis(np.array(i), -1, 0) for i in coloured["test"]["image"]]))
        )
    assert found is not None
    assert torch.equal(torch.cat([each["code"] for each in found]), codes)  # type: ignore[index]


def test_images_that_were_resized_in_training_surprise_nobody(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    from lightning_ae.data import Image as Images

    model = Autoencoder((1, 8, 8), 2)
    trainer(tmp_path).fit(model, data(pictures((16, 12, 3)), kind=Images(size=(8, 8), channels=1)))
    trainer(tmp_path).test(model, data(pictures((16, 12, 3))), verbose=False)
    assert not [each for each in recwarn if "for a model that takes" in str(each.message)]


def test_a_kind_that_reads_otherwise_than_the_model_is_refused(tmp_path: Path) -> None:
    from lightning_ae.data import Image as Images

    model = Autoencoder((1, 8, 8), 2)
    trainer(tmp_path).fit(model, data(pictures((8, 8))))
    with pytest.raises(InputError, match=r"kind=Image\(size=\(4, 4\)\) reads images otherwise"):
        trainer(tmp_path).test(model, data(pictures((8, 8)), kind=Images(size=(4, 4))), verbose=False)
    with pytest.raises(InputError, match="no column of images"):
        trainer(tmp_path).test(model, data(table()), verbose=False)


def ramp(n: int = 12) -> DatasetDict:
    """Images of all levels of grey."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rows = Dataset.from_dict({"image": [PIL.Image.fromarray(pixels)] * n}, Features({"image": Image()}))
    return DatasetDict(train=rows, test=rows)


@pytest.fixture(scope="module")
def binarised(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """Models of binarised images, and one of grey ones."""
    from lightning_ae.data import Image as Images

    folder = tmp_path_factory.mktemp("binarised")
    for way in (None, "threshold", "static", "dynamic"):
        fit = trainer(folder)
        fit.fit(Autoencoder((1, 16, 16), 2), data(ramp(), kind=Images(binarize=way)))
        fit.save_checkpoint(folder / f"{way}.ckpt")
    return {way: folder / f"{way}.ckpt" for way in (None, "threshold", "static", "dynamic")}


@pytest.mark.parametrize("options", [{}, {"cache": "none"}, {"streaming": True}], ids=["held", "decoded", "streamed"])
@pytest.mark.parametrize("way", [None, "threshold", "static", "dynamic"])
def test_a_models_images_are_binarised_in_any_data(
    binarised: dict[Any, Path], way: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, module = load_model(binarised[way]), data(ramp(), **options)  # which says nothing of it
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Autoencoder, "corrupt", lambda self, x: seen.append(x) or x)
    trainer(tmp_path).test(model, module, verbose=False)
    x = seen[0]
    grey = torch.arange(256.0).view(16, 16) / 255
    if way is None:
        torch.testing.assert_close(x, grey.expand_as(x))
        return
    assert x.unique().tolist() == [0, 1]
    assert torch.equal(x, (grey >= 0.5).to(x).expand_as(x)) == (way == "threshold")
    size = 12 if "streaming" in options else 5
    assert torch.equal(torch.cat([batch["image"] for batch in module.batches("test", size)]), x)  # drawn once


@pytest.mark.parametrize("way", ["threshold", "static", "dynamic"])
def test_how_images_are_binarised_must_not_be_contradicted(
    binarised: dict[Any, Path], way: Any, tmp_path: Path
) -> None:
    from lightning_ae.data import Image as Images

    for model, own in ((None, way), (way, "static" if way == "threshold" else "threshold")):
        with pytest.raises(InputError, match=rf"kind=Image\(binarize='{own}'\) reads images otherwise .*, '?{model}"):
            trainer(tmp_path).test(load_model(binarised[model]), data(ramp(), kind=Images(binarize=own)))
    with pytest.raises(InputError, match="draws once for the whole data set") if way == "static" else nullcontext():
        trainer(tmp_path).fit(load_model(binarised[way]), data(ramp(), streaming=True))


def test_what_natural_data_become_for_a_model_of_binarised_images(binarised: dict[Any, Path], tmp_path: Path) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    black_and_white = (pixels >= 128).to(torch.uint8) * 255
    model = load_model(binarised["threshold"])
    assert torch.equal(model.features(pixels), model.features(black_and_white))
    assert torch.equal(model.features(pixels), model.features(pixels / 255))
    drawn = load_model(binarised["static"])
    with pytest.warns(UserWarning, match="drawn with the grey values as probabilities"):
        drawn.features(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn.features(black_and_white)


def test_a_signature_of_before_leaves_binarisation_to_the_data(binarised: dict[Any, Path], tmp_path: Path) -> None:
    from lightning_ae.data import Image as Images

    content = torch.load(binarised["threshold"], weights_only=True)
    said = content["lightning_ae"]["signature"]
    said["version"] = 1
    del said["preprocess"]["init_args"]["binarize"]
    text = json.dumps(said, sort_keys=True, allow_nan=False)  # by which format 1 made its hash
    content["lightning_ae"]["signature_hash"] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    torch.save(content, tmp_path / "old.ckpt")
    model = load_model(tmp_path / "old.ckpt")
    module = data(ramp(), kind=Images(binarize="static"))
    trainer(tmp_path).fit(model, module)
    assert next(module.batches("train"))["image"].unique().tolist() == [0, 1]
    assert model.signature.version == 1
    trainer(tmp_path).test(model, data(ramp()), verbose=False)


@pytest.mark.parametrize("rows", ["digits", "table"])
@pytest.mark.parametrize("streaming", [False, True], ids=["held", "streamed"])
def test_a_loader_without_its_data_module_is_refused(tmp_path: Path, rows: str, streaming: bool) -> None:
    """Its batches are in natural units, which only the data module makes what a model takes."""
    module = data("digits" if rows == "digits" else table(), streaming=streaming)  # type: ignore[arg-type]
    model = Autoencoder((1, 8, 8) if rows == "digits" else (3,), 2)
    with pytest.raises(InputError, match="natural units.*\n.*datamodule=data"):
        trainer(tmp_path).fit(model, module.train_dataloader())
    batch = next(iter(module.train_dataloader()))
    assert model.loss(*model.unpack(module.on_after_batch_transfer(batch, 0))[:2])["loss"].isfinite()
    assert model.loss(*model.unpack(next(module.batches("test")))[:2])["loss"].isfinite()
