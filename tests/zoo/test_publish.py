"""Publishing: a dry run first, no name twice, another package's classes."""

from __future__ import annotations

import json
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset
from PIL import Image

from lightning_ae import VAE, HFDataModule, InputError, load_model, registry, zoo
from lightning_ae.cli import main
from lightning_ae.thresholds import Threshold
from lightning_ae.zoo import index
from lightning_ae.zoo.schema import Entry

DATA = {"id": "digits", "licence": "CC-BY-4.0", "provenance": "a test"}


def trained(model: Any, folder: Path) -> Path:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=folder,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, HFDataModule("digits", val_fraction=0))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(VAE((1, 8, 8), 4), tmp_path_factory.mktemp("vae"))


def test_dry_run_by_default(checkpoint: Path, tmp_path: Path) -> None:
    entry = zoo.publish(checkpoint, "vae_mlp.digits_v9", to=str(tmp_path / "zoo"))
    assert isinstance(entry, Entry)
    assert not (tmp_path / "zoo").exists()


def test_published_loads_and_keeps_its_numbers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "zoo"
    recipe = ["--recipe", "vae", "digits", "--overrides", '{"trainer.max_epochs": 1}']
    main(["zoo", "publish", str(checkpoint), "--name", "vae_mlp.digits_v9", "--to", str(to), "--write", *recipe])
    assert "Published" in capsys.readouterr().out
    assert sorted(file.name for file in (to / "weights" / "vae_mlp.digits_v9").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preview.png",
    ]  # fmt: skip
    assert list(to.glob("**/.part*")) == []
    assert zoo.load(to / "weights" / "vae_mlp.digits_v9").latent_dim == 4
    with pytest.raises(InputError, match="is taken"):
        zoo.publish(checkpoint, "vae_mlp.digits_v9", to=str(to))
    card = (to / "weights" / "vae_mlp.digits_v9" / "README.md").read_text()
    assert "`lightning-ae fit -c vae -c digits --trainer.max_epochs 1`" in card
    monkeypatch.setattr(index, "zoo_folder", lambda: to)
    assert zoo.info("vae_mlp.digits_v9").recipe.paths == ["vae", "digits"]
    assert zoo.verify() == ["vae_mlp.digits_v9"]
    found = zoo.reproduce("vae_mlp.digits_v9")
    assert found.passed
    assert found.stated == found.measured
    assert "the same test samples" in found.copy
    # a copy of which one pixel of one test image is another by one
    splits = HFDataModule("digits").splits
    for split, rows in splits.items():
        images = [np.asarray(image).copy() for image in rows["image"]]
        images[7][1, 1] ^= split == "test"
        shown = [Image.fromarray(image) for image in images]
        Dataset.from_dict({"image": shown, "label": rows["label"]}).cast(rows.features).save_to_disk(
            tmp_path / "copy" / split
        )
    (tmp_path / "copy" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    other = zoo.reproduce("vae_mlp.digits_v9", str(tmp_path / "copy"))
    assert other.measured != found.measured
    assert found.stated in other.copy
    assert "another copy" in other.copy


def test_weights_in_half_of_their_digits(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to, place = tmp_path / "zoo", tmp_path / "zoo" / "weights" / "vae_mlp.digits_v9"
    words = ["--name", "vae_mlp.digits_v9", "--to", str(to), "--stored", "float16", "--write"]
    main(["zoo", "publish", str(checkpoint), *words])
    weights = zoo.load(place).state_dict()
    whole = {name: each for name, each in load_model(checkpoint).state_dict().items() if each.dtype == torch.float32}
    assert all(torch.equal(weights[name], tensor.half().float()) for name, tensor in whole.items())
    assert any(not torch.equal(weights[name], tensor) for name, tensor in whole.items())
    assert (place / "model.safetensors").stat().st_size < 0.6 * sum(4 * each.numel() for each in whole.values())
    assert "kept in float16 and loaded in float32" in (place / "README.md").read_text()
    monkeypatch.setattr(index, "zoo_folder", lambda: to)
    found = zoo.reproduce("vae_mlp.digits_v9")
    assert found.passed
    assert all(check.stated == pytest.approx(check.measured, rel=1e-5) for check in found.checks)


def test_weights_too_large_for_half_of_their_digits(tmp_path: Path) -> None:
    model = VAE((1, 8, 8), 4)
    with torch.no_grad():
        next(model.decoder.parameters())[0, 0] = 1e6
    file = trained(model, tmp_path)
    with pytest.raises(InputError, match=r"decoder\..* too large for float16"):
        zoo.publish(file, "vae_mlp.digits_v9", to=str(tmp_path / "zoo"), stored="float16", dry_run=False)
    assert not (tmp_path / "zoo").exists()


def test_a_threshold_stays_with_the_entry(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_ae.training.checkpoint_file import METADATA_KEY, read_checkpoint

    content, threshold = read_checkpoint(checkpoint, mmap=False), Threshold(12.5, 0.9, 40, 1)
    content[METADATA_KEY]["threshold"] = threshold.plain()
    torch.save(content, tmp_path / "kept.ckpt")
    to, place = tmp_path / "zoo", tmp_path / "zoo" / "weights" / "vae_mlp.digits_v9"
    zoo.publish(tmp_path / "kept.ckpt", "vae_mlp.digits_v9", to=str(to), dry_run=False)
    assert "A score above 12.5 nats, by one draw: the 0.9 quantile" in (place / "README.md").read_text()
    assert zoo.load(place).threshold == threshold
    monkeypatch.setattr(index, "zoo_folder", lambda: to)
    assert zoo.load("vae_mlp.digits_v9").threshold == threshold
    main(["score", "vae_mlp.digits_v9", "--splits", "test", "--output", str(tmp_path), "--n", "0", "--device", "cpu"])
    assert "Threshold 12.5: the 0.9 quantile of the scores of 40 validation rows" in capsys.readouterr().out
    config = json.loads((place / "config.json").read_text())
    for value in ({"value": 1.0}, {**config["threshold"], "quantile": 1.0}, {**config["threshold"], "rows": 0}):
        (place / "config.json").write_text(json.dumps({**config, "threshold": value}))
        with pytest.raises(InputError, match="threshold"):
            zoo.load(place)
    del config["threshold"]  # of an entry of before it was kept
    (place / "config.json").write_text(json.dumps(config))
    assert zoo.load(place).threshold is None


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("vae_mlp.digits_v1", {}, "is taken"),
        ("VAE", {}, "no name for an entry"),
        ("../vae_mlp.digits_v9", {}, "no name for an entry"),
        ("vae_mlp.other_v1", {}, "id, licence and provenance"),
        ("vae_mlp.digits_v9", {"recipe": ["vea", "digits"]}, "unknown recipe 'vea'"),
        ("vae_mlp.digits_v9", {"recipe": "mine.yaml"}, "there is no file 'mine.yaml'"),
        ("vae_mlp.digits_v9", {"stored": "bfloat16"}, "stored 'bfloat16'"),
        ("vae_mlp.digits_v9", {"to": f"hf://org/name@{'a' * 40}"}, "pinned"),
    ],
)
def test_refused(checkpoint: Path, name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        zoo.publish(checkpoint, name, **options)


def test_to_the_hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from lightning_ae.zoo.publishing import entry as publishing

    sent: dict[str, Any] = {}
    commit = "0123456789" * 4

    class Api:
        def create_repo(self, repo: str, exist_ok: bool) -> None:
            sent["repo"] = repo

        def file_exists(self, repo: str, name: str) -> bool:
            return repo == "org/taken"

        def create_commit(self, repo: str, operations: Any, commit_message: str) -> Any:
            sent["files"] = {each.path_in_repo for each in operations}
            return types.SimpleNamespace(oid=commit)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(publishing, "hub_file", lambda *args: None)
    entry = zoo.publish(checkpoint, "vae_mlp.digits_v9", to="hf://org/name", dry_run=False)
    assert sent["repo"] == "org/name"
    assert sent["files"] == {"README.md", "config.json", "model.safetensors", "preview.png"}
    assert entry.file("model.safetensors").urls == [f"hf://org/name@{commit}/model.safetensors"]
    sent.clear()
    with pytest.raises(InputError, match="holds an artefact already"):
        zoo.publish(checkpoint, "vae_mlp.digits_v9", to="hf://org/taken", dry_run=False)
    assert "files" not in sent

    def refuse(self: Any, repo: str, exist_ok: bool) -> None:
        raise OSError("no token")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(InputError, match="cannot be published to: OSError: no token"):
        zoo.publish(checkpoint, "vae_mlp.digits_v9", to="hf://org/name", dry_run=False)


def test_nothing_is_left_of_what_failed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_ae import files

    def full(part: Path, place: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        zoo.publish(checkpoint, "vae_mlp.digits_v9", to=str(tmp_path / "zoo"), dry_run=False)
    assert [path for path in (tmp_path / "zoo").rglob("*") if path.is_file()] == []


class Mine(VAE):
    """A user's own class, as a package would have it: it settles an argument, and passes on the rest."""

    def __init__(self, input_shape: Any, **options: Any) -> None:
        super().__init__(input_shape, latent_dim=3, **options)


def test_another_packages_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = trained(Mine((1, 8, 8), beta=0.5), tmp_path)
    with pytest.raises(InputError, match="Mine is not in the registry"):
        zoo.publish(checkpoint, "mine_mlp.digits_v1")
    package = types.SimpleNamespace(name="my-autoencoders")
    point = EntryPoint("mine", f"{Mine.__module__}:Mine", "lightning_ae.models")
    vars(point).update(dist=package)
    monkeypatch.setitem(sys.modules, Mine.__module__, sys.modules[Mine.__module__])
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert "mine" in registry.list_models()
    entry = zoo.publish(checkpoint, "mine_mlp.digits_v1", to=str(tmp_path / "zoo"), data=DATA, dry_run=False)
    assert (entry.model, entry.requires) == ("mine", "my-autoencoders")
    artefact = tmp_path / "zoo" / "weights" / "mine_mlp.digits_v1"
    loaded: Any = zoo.load(artefact)
    assert isinstance(loaded, Mine)
    assert (loaded.beta, loaded.latent_dim) == (0.5, 3)
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    with pytest.raises(InputError, match="'my-autoencoders', which is not installed\n  hint: pip install my-autoenc"):
        zoo.load(artefact)


def test_vectors(tmp_path: Path) -> None:
    from datasets import Dataset

    from lightning_ae import Autoencoder

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 6, generator=generator).tolist()
    data = Dataset.from_dict({"x": rows})
    parts = {"train": data.select(range(200)), "test": data.select(range(200, 300))}
    from datasets import DatasetDict

    DatasetDict(parts).save_to_disk(tmp_path / "data")
    module = HFDataModule(str(tmp_path / "data"), val_fraction=0)
    model = Autoencoder((6,), 2)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    trainer.fit(model, module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    about = {"id": "my/vectors", "licence": "MIT", "provenance": "a test"}
    entry = zoo.publish(
        tmp_path / "last.ckpt", "ae_mlp.vectors_v1", to=str(tmp_path / "zoo"), path=str(tmp_path / "data"), data=about,
        dry_run=False,
    )  # fmt: skip
    assert entry.metric("probe_error") is None  # no labels: not measured, and no default
    assert entry.metric("squared_error") is not None
    encoder = zoo.load_encoder(tmp_path / "zoo" / "weights" / "ae_mlp.vectors_v1")
    assert encoder(torch.randn(5, 6)).shape == (5, 2)


def test_rows_without_a_label_do_not_count() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    from lightning_ae.evaluation import Samples

    generator = torch.Generator().manual_seed(0)
    x = {split: torch.rand(60, 4, generator=generator) for split in ("train", "test")}
    labels = {split: (rows[:, 0] + rows[:, 1] > 1).long() for split, rows in x.items()}
    for split, rows in x.items():
        rows[::3] = 5 + torch.rand(20, 4, generator=generator)
        labels[split][::3] = -1
    probe, knn = Samples(x, labels).errors(x)
    known = {split: (x[split][labels[split] >= 0], labels[split][labels[split] >= 0]) for split in x}
    neighbours = KNeighborsClassifier(5).fit(*known["train"])
    assert knn == pytest.approx(1 - neighbours.score(*known["test"]), abs=1e-9)
    assert Samples(x, {split: of_them for split, (_, of_them) in known.items()}).errors(
        {split: rows for split, (rows, _) in known.items()}
    ) == (probe, knn)


@pytest.mark.parametrize("binarize", [None, "threshold", "dynamic"])
def test_an_entry_says_how_images_are_binarised(binarize: Any) -> None:
    from lightning_ae.data import Image
    from lightning_ae.zoo.publishing.entry import config_of
    from lightning_ae.zoo.schema import Config

    model = VAE((1, 8, 8), 4)
    model.signature = HFDataModule("digits", kind=Image(binarize=binarize), cache="memory").signature
    config = config_of("vae_mlp.digits_v9", model)
    assert Config.model_validate_json(config.model_dump_json(by_alias=True)).read_signature() == model.signature
    assert config.preprocess.binarize == binarize  # type: ignore[union-attr]
