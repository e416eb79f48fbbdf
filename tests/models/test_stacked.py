"""Stacked autoencoders: phases that train one layer only, resuming inside any, and the supervised stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from asking import variants
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import (
    VAE,
    Autoencoder,
    FineTuneClassifier,
    HFDataModule,
    InputError,
    StackedAutoencoder,
    get_model,
    load_model,
)
from lightning_ae.models.stacked import Contractive, Denoising, Layerwise, Plain, Sparse
from lightning_ae.parts.corruptions import Masking

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
OBJECTIVES = [Plain(), Denoising(), Sparse(), Contractive()]


def weights(model: pl.LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("tied", [True, False])
def test_each_phase_moves_its_own_layer_only(objective: Layerwise, tied: bool, digits: Tensor, fit: Any) -> None:
    moved: list[set[str]] = []

    class Watched(StackedAutoencoder):
        def on_train_epoch_start(self) -> None:
            self.before = weights(self)

        def on_train_epoch_end(self) -> None:
            after = weights(self)
            moved.append({name for name in after if not torch.equal(after[name], self.before[name])})

    # with momentum and weight decay left over from the phase before
    model = Watched((1, 8, 8), 5, hidden=(9, 7), objective=objective, epochs_per_layer=2, tied=tied, weight_decay=0.1)
    fit(model, digits[:256], max_epochs=7)
    names = set(weights(model))
    for epoch, layer in enumerate([0, 0, 1, 1, 2, 2]):
        expected = {n for n in names if n.startswith((f"encoder.stages.{layer}.", f"decoder.stages.{2 - layer}."))}
        assert moved[epoch] == expected, f"epoch {epoch}"
    assert moved[6] == names


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_a_layer_learns_what_a_shallow_autoencoder_would(objective: Layerwise) -> None:
    # phase 1 on the clean codes of layer 0: its loss is that of an autoencoder whose data are those codes
    torch.manual_seed(0)
    model = StackedAutoencoder((6,), 3, hidden=(5,), objective=objective, epochs_per_layer=[0, 1])
    x = torch.rand(8, 6)
    below = model.encoder.stages[0](x)
    with model.at_step("train", 0):
        terms = model.loss(x, x)
    with model.at_step("train", 0):
        seen = objective.corrupt(below, model.noise("layer 1"))
    top, back = model.encoder.stages[1], model.decoder.stages[0]
    code = torch.sigmoid(seen @ top[0].weight.T + top[0].bias)
    output = code @ top[0].weight + back.bias
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output, below, reduction="none").sum(1).mean()
    torch.testing.assert_close(terms["reconstruction"], expected)
    assert (seen == below).all() == (not isinstance(objective, Denoising))
    if isinstance(objective, Contractive):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda h: torch.sigmoid(top[0](h))))(below)
        torch.testing.assert_close(terms["penalty"], 0.1 * jacobian.square().sum(dim=(1, 2)).mean())
    terms["loss"].backward()
    assert all(p.grad is not None for p in model.parameters()), "DistributedDataParallel wants them all in the graph"


def test_the_unrolled_stack_is_the_composition() -> None:
    model = StackedAutoencoder((6,), 3, hidden=(5, 4)).eval()
    x = torch.rand(8, 6)
    h = x
    for stage in model.encoder.stages:
        h = torch.sigmoid(h @ stage[0].weight.T + stage[0].bias)
    torch.testing.assert_close(model.encode(x), h)
    for stage, up in zip(model.decoder.stages, reversed(model.encoder.stages), strict=True):
        z = h @ up[0].weight + stage.bias
        h = torch.sigmoid(z)
    torch.testing.assert_close(model(x), z)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resuming_in_any_phase_gives_the_uninterrupted_run(stop: int, tmp_path: Path) -> None:
    def run(epochs: int, resume: Path | None = None) -> dict[str, Tensor]:
        pl.seed_everything(0, verbose=False)
        data = HFDataModule("digits", batch_size=256)
        model = StackedAutoencoder((1, 8, 8), 5, hidden=(9,), objective=Denoising(Masking(0.3)), epochs_per_layer=2)
        trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, **QUIET)
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / "part.ckpt")
        return weights(model)

    whole = run(6)
    run(stop)
    resumed = run(6, tmp_path / "part.ckpt")
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs_per_layer": [1, 2]}, "epochs_per_layer has 2 numbers for 3 layers"),
        ({"epochs_per_layer": [1, 2, -1]}, "non-negative"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"activation": "relu", "objective": Sparse()}, "sigmoid"),
        ({"activation": "gelu", "objective": Contractive()}, "Contractive"),
        ({"activation": "sigmod"}, "sigmoid"),
    ],
)
def test_refusals(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        StackedAutoencoder(**{"input_shape": (6,), "latent_dim": 3, "hidden": (5, 4), **options})


# ---- the supervised stage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", variants())
def test_fine_tuning_any_variant(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pretrained = get_model(name)((1, 8, 8), latent_dim=24)
    if "label" in pretrained.given:
        with pytest.raises(InputError, match="is given the label"):
            FineTuneClassifier(pretrained, num_classes=10)
        return
    data = HFDataModule("digits", batch_size=64)
    trainer = pl.Trainer(max_epochs=5, enable_checkpointing=False, **QUIET)
    classifier = FineTuneClassifier(pretrained, num_classes=10, lr=1e-2)
    trainer.fit(classifier, data)
    floor = 0.2 if "indices" in pretrained.latents else 0.75  # a codebook that nobody trained says little
    assert trainer.test(classifier, data, verbose=False)[0]["test/accuracy"] > floor
    trainer.save_checkpoint(tmp_path / "classifier.ckpt")
    loaded = load_model(tmp_path / "classifier.ckpt")
    x = next(data.batches("test"))["image"]
    torch.testing.assert_close(loaded(x), classifier.eval()(x), rtol=0, atol=0)
    assert type(loaded.model) is get_model(name)


def test_a_frozen_encoder_stays_and_the_accuracy_is_exact(tmp_path: Path, fit: Any, digits: Tensor) -> None:
    torch.manual_seed(0)
    fit(VAE((1, 8, 8), 8), digits).save_checkpoint(tmp_path / "vae.ckpt")
    classifier = FineTuneClassifier(str(tmp_path / "vae.ckpt"), freeze=True, lr=1e-2)
    before = weights(classifier.model)
    data = HFDataModule("digits")
    trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET)
    trainer.fit(classifier, data)
    assert all(torch.equal(value, before[name]) for name, value in weights(classifier.model).items())
    logged = trainer.test(classifier, data, verbose=False)[0]["test/accuracy"]
    hits = [(classifier(b["image"]).argmax(1) == b["label"]).float() for b in data.batches("test")]
    assert logged == pytest.approx(float(torch.cat(hits).mean()), abs=1e-6)


def test_layer_decay_slows_the_lower_layers() -> None:
    classifier = FineTuneClassifier(StackedAutoencoder((6,), 3, hidden=(5, 4)), lr=0.1, layer_decay=0.5)
    groups = classifier.configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert [tuple(group["params"][0].shape) for group in groups] == [(10, 3), (3, 4), (4, 5), (5, 6)]


def test_fine_tuning_refusals(tmp_path: Path) -> None:
    model = Autoencoder((6,), 3)
    for options, named in (
        ({"pretrained": 3}, "pretrained"),
        ({"pretrained": str(tmp_path / "none.ckpt")}, "no checkpoint"),
        ({"num_classes": 1}, "num_classes"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"lr": 0.0}, "lr"),
    ):
        with pytest.raises(InputError, match=named):
            FineTuneClassifier(**{"pretrained": model, **options})  # type: ignore[arg-type]
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(InputError, match="labels"):
        trainer.fit(FineTuneClassifier(model), DataLoader(TensorDataset(torch.rand(8, 6))))
    from datasets import Dataset

    unlabelled = HFDataModule(Dataset.from_dict({"v": [[0.1] * 6] * 40}))
    with pytest.raises(InputError, match="no label column"):
        trainer.fit(FineTuneClassifier(model), unlabelled)
    for label in (-1, 10):
        batches = DataLoader(TensorDataset(torch.rand(8, 6), torch.tensor([1, 2, label, *[0] * 5])), batch_size=8)
        trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
        with pytest.raises(InputError, match=f"labels are 0 to 9, but row 2 of the batch has {label}"):
            trainer.fit(FineTuneClassifier(model), batches)


@pytest.mark.parametrize("options", [{}, {"cache": "none"}, {"streaming": True}], ids=["held", "decoded", "streamed"])
@pytest.mark.parametrize(("run", "split"), [("fit", "train"), ("fit", "val"), ("validate", "val"), ("test", "test")])
def test_a_row_without_label_is_refused_by_its_row(run: str, split: str, options: dict[str, Any]) -> None:
    from datasets import Dataset, DatasetDict

    def rows(bad: bool) -> Dataset:
        labels = [None if bad and i == 5 else i % 2 for i in range(12)]
        return Dataset.from_dict({"v": [[0.1] * 6] * 12, "label": labels})

    splits = DatasetDict({name: rows(name == split) for name in ("train", "val", "test")})
    data = HFDataModule(splits, val_split="val", **{"cache": "memory", "batch_size": 4, **options})
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    model = FineTuneClassifier(Autoencoder((6,), 3), num_classes=2)
    with pytest.raises(InputError, match=f"needs a label .*'label' of split '{split}' has none in row 5"):
        getattr(trainer, run)(model, datamodule=data)
    trainer.predict(model, data)  # which needs none
    trainer.fit(model.model, data)  # nor does this
