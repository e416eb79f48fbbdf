"""The conditional VAE: each class's bound, labels that cannot work, classes that were never seen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, ConditionalVAE, FineTuneClassifier, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.callbacks import LatentProbe, LatentTraversal, ReconstructionGrid, ReconstructionMetrics, SampleGrid
from lightning_ae.cli import main
from lightning_ae.parts import Bernoulli, Gaussian

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
}  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def linears(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


# ---- what it computes -------------------------------------------------------------------------------------------


def test_of_one_class_it_is_the_vae_whose_biases_are_that_class() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((12,), latent_dim=3, num_classes=4).double()
    plain = VAE((12,), latent_dim=3).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    for c in range(4):
        label = torch.full((5,), c)
        with torch.no_grad():
            for theirs, ours, width in ((plain.encoder, model.encoder, 12), (plain.decoder, model.decoder, 3)):
                for i, (a, b) in enumerate(zip(linears(theirs), linears(ours), strict=True)):
                    a.weight.copy_(b.weight[:, :width] if i == 0 else b.weight)
                    a.bias.copy_(b.bias + b.weight[:, width + c] if i == 0 else b.bias)
            plain.head.load_state_dict(model.head.state_dict())
        torch.manual_seed(1)
        expected = plain.loss(x, x)
        torch.manual_seed(1)
        found = model.loss(x, x, label=label)
        assert found.keys() == expected.keys()
        for term, value in found.items():
            torch.testing.assert_close(value, expected[term])
        torch.testing.assert_close(model(x, label=label), plain(x))
        torch.manual_seed(2)
        drawn = model.eval().sample(3, label=c)
        torch.manual_seed(2)
        torch.testing.assert_close(drawn, plain.sample(3))
        model.train()


def test_the_bound_is_tight_at_the_true_posterior_of_each_class() -> None:
    # z ~ N(0, 1), x = W z + b_y + N(0, s^2): p(x | y) is Gaussian, and its posterior of z is known
    torch.manual_seed(0)
    model = ConditionalVAE(
        (3,), latent_dim=1, num_classes=2, architecture=MLP(hidden=()), likelihood=Gaussian(scale=0.7)
    ).double()
    (encoder,), (decoder,) = linears(model.encoder), linears(model.decoder)
    w = decoder.weight[:, 0].detach()
    shifts = (decoder.bias + decoder.weight[:, 1:].T).detach()
    precision = 1 + (w @ w) / 0.49
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.zero_()
        encoder.weight[0, :3] = w / 0.49 / precision
        encoder.weight[0, 3:] = -(shifts @ w) / 0.49 / precision
        encoder.bias[1] = -precision.log()
    covariance = torch.outer(w, w) + 0.49 * torch.eye(3, dtype=torch.float64)
    for c in range(2):
        x = torch.randn(1, 3, dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(shifts[c], covariance).log_prob(x)
        batch = x.expand(20_000, -1)
        bound = -model.loss(batch, batch, label=torch.full((20_000,), c))["loss"].item()
        assert bound == pytest.approx(float(exact), abs=0.03)
        wrong = -model.loss(batch, batch, label=torch.full((20_000,), 1 - c))["loss"].item()
        assert abs(wrong - float(exact)) > 0.1


@pytest.mark.parametrize("architecture", [MLP(), ConvNet(channels=(4, 8), code="map")], ids=["vector", "map"])
def test_classes_stand_beside_the_values_or_the_channels(architecture: Any) -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((2, 8, 8), latent_dim=3, num_classes=3, architecture=architecture).eval()
    seen: dict[str, Tensor] = {}
    for name in ("encoder", "decoder"):
        getattr(model, name).register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
    x, label = torch.rand(4, 2, 8, 8), torch.tensor([2, 0, 1, 2])
    assert len(model.code_shape) == (1 if isinstance(architecture, MLP) else 3)
    code = model.encode(x, label=label)
    model.decode(code, label=label)
    assert code.shape[1:] == model.code_shape
    for name, before in (("encoder", x.flatten(1) if isinstance(architecture, MLP) else x), ("decoder", code)):
        found, channels = seen[name], before.shape[1]
        assert torch.equal(found[:, :channels], before)
        for row, c in enumerate(label.tolist()):
            for plane in range(3):
                assert (found[row, channels + plane] == float(plane == c)).all()
    assert model.sample(2, label=1).shape == (2, 2, 8, 8)


def test_weights_of_planes_beside_what_is_made_a_vector_load_as_their_sum(tmp_path: Path) -> None:
    """As an earlier version had them: the same function."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"latent_dim": 3, "num_classes": 3, "architecture": MLP((16,))}
    model = ConditionalVAE((2, 4, 4), **options).double().eval()
    planes = torch.randn(16, (2 + 3) * 16, dtype=torch.float64)
    weights = {**model.state_dict(), "encoder.linears.0.weight": planes}
    before = dict(weights)
    model.load_state_dict(weights)
    assert weights == before  # the caller's stay
    x, label = torch.rand(5, 2, 4, 4, dtype=torch.float64), torch.tensor([2, 0, 1, 1, 0])
    beside = torch.nn.functional.one_hot(label, 3).double()[:, :, None, None].expand(-1, -1, 4, 4)
    hidden = torch.cat([x, beside], dim=1).flatten(1) @ planes.T + model.encoder.linears[0].bias
    mean = model.encoder.linears[1](hidden.relu())[:, :3]
    torch.testing.assert_close(model.encode(x, label=label), mean)
    file = tmp_path / "earlier.ckpt"
    trainer = pl.Trainer(max_epochs=0, enable_checkpointing=False, **QUIET)
    trainer.fit(model.float(), DataLoader(TensorDataset(x.float(), label)))
    trainer.save_checkpoint(file)
    kept = torch.load(file, weights_only=True)
    kept["state_dict"]["encoder.linears.0.weight"] = planes.float()
    torch.save(kept, file)
    torch.testing.assert_close(load_model(file).eval().encode(x.float(), label=label), mean.float())
    fresh, loader = ConditionalVAE((2, 4, 4), **options), DataLoader(TensorDataset(x.float(), label))
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(InputError, match=r"had the shape \(16, 80\) and not \(16, 35\): its optimizer cannot go on"):
        trainer.fit(fresh, loader, ckpt_path=file)
    trainer.validate(fresh, loader, ckpt_path=file)
    torch.testing.assert_close(fresh.eval().encode(x.float(), label=label), mean.float())


def test_samples_of_a_class_look_like_it(digits: Tensor) -> None:
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    torch.manual_seed(0)
    labels = torch.from_numpy(load_digits().target)
    model = ConditionalVAE((1, 8, 8), latent_dim=4, architecture=MLP((128,)), likelihood=Bernoulli(), lr=3e-3)
    loader = DataLoader(TensorDataset(digits, labels), batch_size=64, shuffle=True)
    pl.Trainer(max_epochs=15, enable_checkpointing=False, **QUIET).fit(model, loader)
    assert torch.equal(model.seen, 15 * torch.bincount(labels))
    wanted = torch.arange(10).repeat_interleave(20)
    with torch.no_grad():
        drawn = model.eval().sample(200, label=wanted).flatten(1)
    judge = KNeighborsClassifier().fit(digits.flatten(1).numpy(), labels.numpy())
    assert (judge.predict(drawn.numpy()) == wanted.numpy()).mean() > 0.9


@pytest.mark.parametrize("label", [2, np.int64(2), [2, 2, 2], np.array([2, 2, 2]), torch.tensor([2, 2, 2]),
                                   torch.tensor(2, dtype=torch.uint8)], ids=str)  # fmt: skip
def test_a_label_may_be_given_in_any_form(label: Any) -> None:
    model = ConditionalVAE((5,), latent_dim=2, num_classes=3).eval()
    torch.manual_seed(0)
    found = model.sample(3, label=label)
    torch.manual_seed(0)
    assert torch.equal(found, model.sample(3, label=torch.tensor([2, 2, 2])))
    torch.manual_seed(0)
    assert not torch.equal(found, model.sample(3, label=1))


# ---- what it refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (7, "labels of ConditionalVAE are 0 to 2, got 7 to 7"),
        (-1, "labels of ConditionalVAE are 0 to 2, got -1"),
        (1.0, "whole numbers"),
        (True, "whole numbers"),
        ([0, 1], r"shape \(3,\).*\(2,\)"),
        ([[0], [1], [2]], r"shape \(3,\).*\(3, 1\)"),
    ],
)
def test_labels_that_cannot_be_are_refused(label: Any, message: str) -> None:
    model = ConditionalVAE((5,), latent_dim=2, num_classes=3)
    x = torch.rand(3, 5)
    with pytest.raises(InputError, match=message):
        model.sample(3, label=label)
    if not isinstance(label, int | float):
        for call in (model.loss, lambda x, _, label: model.encode(x, label=label)):
            with pytest.raises(InputError, match=message):
                call(x, x, label=torch.tensor(label))
    assert not model.seen.any()


def test_labels_that_are_missing_are_asked_for() -> None:
    model = ConditionalVAE((5,), latent_dim=2)
    x = torch.rand(3, 5)
    for call in (lambda: model.sample(3), lambda: model(x), lambda: model.loss(x, x), lambda: model.features(x)):
        with pytest.raises(InputError, match="takes label besides the input, got nothing"):
            call()
    for batch in (x, (x,), {"x": x}, (x, torch.tensor(1)), (x, torch.zeros(2, dtype=torch.long)), (x, [0, 1, 2])):
        with pytest.raises(InputError, match="takes 'label' besides the input"):
            model.read(batch)
    with pytest.raises(InputError, match="num_classes must be a positive integer"):
        ConditionalVAE((5,), num_classes=0)
    with pytest.raises(InputError, match="is given the label"):
        FineTuneClassifier(model)


def test_a_class_that_was_never_seen_is_refused_once_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((5,), latent_dim=2, num_classes=4)
    assert model.classes == (0, 1, 2, 3)
    x = torch.rand(16, 5)
    train = DataLoader(TensorDataset(x, torch.arange(16) % 3), batch_size=8)
    val = DataLoader(TensorDataset(x, torch.arange(16) % 4), batch_size=8)
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, callbacks=[ReconstructionMetrics()], **QUIET)
    trainer.fit(model, train, val)  # while it trains, the class may still come
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    for trained in (model, load_model(tmp_path / "m.ckpt")):
        assert trained.classes == (0, 1, 2)
        assert trained.seen.tolist() == [6, 5, 5, 0]
        for call in (lambda m: m.sample(2, label=[1, 3]), lambda m: m.encode(x[:2], label=torch.tensor([3, 0]))):
            with pytest.raises(InputError, match=r"no sample of the classes \[3\], only on \[0, 1, 2\]"):
                call(trained)
        assert trained.sample(2, label=[1, 2]).shape == (2, 5)
        assert trained.stand_ins(5)["label"].tolist() == [0, 1, 2, 0, 1]


def test_a_data_module_without_labels_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_dict({"a": [0.1, 0.2, 0.3, 0.4], "b": [1.0, 2.0, 3.0, 4.5]})
    data = HFDataModule(DatasetDict(train=rows, test=rows), val_fraction=0, batch_size=2)
    with pytest.raises(InputError, match="takes labels, but the data set has no label column"):
        pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(ConditionalVAE((2,)), datamodule=data)


# ---- end to end -------------------------------------------------------------------------------------------------


def test_from_the_fit_to_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks, the column of labels in the checkpoint, tools, publishing and the encoder of the zoo."""
    from datasets import DatasetDict, load_dataset

    from lightning_ae import zoo
    from lightning_ae.data import digits
    from lightning_ae.zoo import index

    monkeypatch.chdir(tmp_path)
    files = {split: str(Path(digits.__file__).parent / f"{split}.parquet") for split in ("train", "test")}
    found = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hub"))
    renamed = DatasetDict({split: rows.rename_column("label", "digit") for split, rows in found.items()})
    renamed.save_to_disk("data")
    model = ConditionalVAE((1, 8, 8), latent_dim=3, architecture=MLP((32,)))
    pictures = [SampleGrid(40), ReconstructionGrid(4), LatentTraversal(dims=2)]
    trainer = pl.Trainer(
        max_epochs=1, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[*pictures, ReconstructionMetrics(), LatentProbe()], **QUIET,
    )  # fmt: skip
    trainer.fit(model, HFDataModule("data", label="digit"))
    assert {"val/mse", "val/knn_error"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint("m.ckpt")
    assert load_model("m.ckpt").columns == {"label": "digit"}
    main(["sample", "m.ckpt", "--n", "20", "--output", "all.png"])
    main(["sample", "m.ckpt", "--label", "3", "--output", "three.png"])
    assert Path("all.png").read_bytes() != Path("three.png").read_bytes()
    for label in ("11", "-1"):
        with pytest.raises(SystemExit):
            main(["sample", "m.ckpt", "--label", label, "--output", f"{label}.png"])
        assert not Path(f"{label}.png").exists()
    main(["features", "m.ckpt", "--output", "features"])
    main(["reconstruct", "m.ckpt", "--output", "r.png"])
    about = {"id": "data", "licence": "CC-BY-4.0", "provenance": "a test"}
    entry = zoo.publish("m.ckpt", "conditional_vae_mlp.mine_v1", to="zoo", path="data", data=about, dry_run=False)
    encoder = zoo.load_encoder(Path("zoo") / "weights" / entry.name)
    rows = renamed["test"][:5]
    images = torch.stack([torch.from_numpy(np.asarray(image)) for image in rows["image"]])
    features = encoder(images, label=torch.tensor(rows["digit"]))
    written = load_dataset("parquet", data_files={"test": "features/test.parquet"}, cache_dir="hub")["test"][:5]["code"]
    torch.testing.assert_close(features, torch.tensor(written))
    torch.testing.assert_close(model.eval().features(images, label=rows["digit"]), features)
    with pytest.raises(InputError, match="takes label"):
        encoder(images)
    monkeypatch.setattr(index, "zoo_folder", lambda: Path("zoo"))
    assert zoo.verify() == [entry.name]
    assert zoo.reproduce(entry.name, path="data").passed
    assert math.isfinite(entry.metric("squared_error") or math.nan)


def test_a_label_is_refused_by_models_that_take_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["sample", "vae_mlp.digits_v1", "--label", "3", "--output", "three.png"])
    assert not Path("three.png").exists()


def test_a_grid_has_a_row_for_each_class() -> None:
    from lightning_ae.callbacks.pictures import drawn

    model = ConditionalVAE((1, 4, 4), latent_dim=2, num_classes=3).eval()
    rows, names = drawn(model, 12, seed=0)
    assert names == ["class 0", "class 1", "class 2"]
    for c, row in enumerate(rows):
        torch.manual_seed(0)
        assert torch.equal(row, model.sample(4, label=c))
    assert [len(row) for row in drawn(model, 4, seed=0, label=2)[0]] == [2, 2]
