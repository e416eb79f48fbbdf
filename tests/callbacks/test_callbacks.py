"""Callbacks: what they log and draw, into which loggers, and that they leave the run as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import DatasetDict
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, Autoencoder, DenoisingAutoencoder, HFDataModule, InputError, SparseAutoencoder
from lightning_ae.callbacks import (
    DenoisingMetrics,
    JacobianSpectrum,
    LatentProbe,
    LatentProjection,
    LatentTraversal,
    ReconstructionGrid,
    ReconstructionMetrics,
    SampleGrid,
    SparsityMetrics,
)
from lightning_ae.callbacks.projections import projection_figure

PICTURES = [ReconstructionGrid, SampleGrid, LatentProjection, LatentTraversal, JacobianSpectrum]


def trainer(folder: Path, callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
    options = {"logger": CSVLogger(folder, name="", version="run"), "max_epochs": 1} | options
    return pl.Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        default_root_dir=folder, **options,
    )  # fmt: skip


def check_picture(file: Path) -> None:
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 150
    assert len(np.unique(pixels)) > 15


def psnr(images: np.ndarray, outputs: np.ndarray) -> float:
    """That of scikit-image, image by image, then the mean."""
    from skimage.metrics import peak_signal_noise_ratio

    pairs = zip(images, outputs, strict=True)
    return float(np.mean([peak_signal_noise_ratio(*pair, data_range=1.0) for pair in pairs]))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of Wang et al. 2004 on images in [0, 1], averaged over all pixels."""
    from scipy.ndimage import gaussian_filter, uniform_filter

    def mean(x: np.ndarray) -> np.ndarray:
        if min(x.shape) > 10:
            return gaussian_filter(x, 1.5, truncate=3.5, mode="mirror")  # 11 pixels
        return uniform_filter(x, 7, mode="mirror")

    a, b = a.astype(np.float64), b.astype(np.float64)
    product = (2 * mean(a) * mean(b) + 1e-4) * (2 * (mean(a * b) - mean(a) * mean(b)) + 9e-4)
    squares = mean(a) ** 2 + mean(b) ** 2
    return float((product / ((squares + 1e-4) * (mean(a * a) + mean(b * b) - squares + 9e-4))).mean())


@pytest.mark.parametrize("shape", [(1, 16, 12), (1, 8, 8)])
def test_metrics_equal_those_of_all_the_data(shape: tuple[int, int, int], tmp_path: Path) -> None:
    class Faint(Autoencoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.7 * x - 0.05

    torch.manual_seed(0)
    model = Faint(shape, 4)
    data = torch.rand(70, *shape) * torch.rand(70, 1, 1, 1)  # some images are faint, so that their errors differ
    loader = DataLoader(data, batch_size=32)
    logged = trainer(tmp_path, [ReconstructionMetrics(), SparsityMetrics(0.5)]).validate(model, loader, verbose=False)[
        0
    ]
    with torch.no_grad():
        output, codes = model(data), model.encode(data)
    assert logged["val/mse"] == pytest.approx(float((output - data).square().sum() / 70), rel=1e-5)
    clipped = output.clamp(0, 1).numpy()
    assert logged["val/psnr"] == pytest.approx(psnr(data.numpy(), clipped), rel=1e-5)
    expected = np.mean([ssim(a[0], b[0]) for a, b in zip(data.numpy(), clipped, strict=True)])
    assert logged["val/ssim"] == pytest.approx(expected, abs=1e-5)
    assert 0.5 < logged["val/ssim"] < 0.95
    assert logged["val/active_units"] == int((codes.var(dim=0, correction=0) > 0.01).sum())
    assert logged["val/l0"] == pytest.approx(float((codes.abs() > 0.5).sum() / 70), rel=1e-6)
    error = (output - data).square().sum() / (data - data.mean(dim=0)).square().sum()
    assert logged["val/r_squared"] == pytest.approx(float(1 - error), rel=1e-4)


def test_denoising_is_measured_from_the_corrupted_input_of_the_step(tmp_path: Path) -> None:
    class Identity(DenoisingAutoencoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    data = 0.5 + torch.rand(40, 1, 8, 8) / 2
    seen = []

    class Seen(Identity):
        def loss(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append((x - target).square().sum())
            return super().loss(x, target)

    logged = trainer(tmp_path, [ReconstructionMetrics()]).validate(
        Seen((1, 8, 8)), DataLoader(data, batch_size=16), verbose=False
    )[0]
    assert logged["val/mse"] == pytest.approx(float(sum(seen)) / 40, rel=1e-5)
    assert logged["val/mse"] > 1


def test_probe_is_that_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    model, data = Autoencoder((1, 8, 8), 6), HFDataModule("digits")
    logged = trainer(tmp_path, [LatentProbe(k=3)]).test(model, data, verbose=False)[0]
    model.eval()

    def codes(split: str) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            encoded = torch.cat([model.encode(batch["image"]) for batch in data.batches(split)]).numpy()
        return encoded, np.array(data.dataset(split)["label"][:])

    (x, y), (xt, yt) = codes("train"), codes("test")
    assert logged["test/knn_error"] == pytest.approx(1 - KNeighborsClassifier(3).fit(x, y).score(xt, yt), abs=1e-6)
    scaler = StandardScaler().fit(x)
    regression = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
    assert logged["test/probe_error"] == pytest.approx(1 - regression.score(scaler.transform(xt), yt), abs=0.006)


def test_pictures_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = ReconstructionGrid.draw
    monkeypatch.setattr(ReconstructionGrid, "draw", lambda *args: drawn.append(args[-1]) or draw(*args))
    run = trainer(tmp_path, [make(every_n_epochs=2) for make in PICTURES], max_epochs=4)
    data = HFDataModule("digits")
    model = VAE((1, 8, 8), latent_dim=4)
    run.fit(model, data)
    run.test(model, data, verbose=False)
    names = [make.name.replace(" ", "_") for make in PICTURES]
    files = sorted((tmp_path / "run" / "pictures").iterdir())  # the newest of each kind, and the test's
    assert [file.name for file in files] == sorted(f"{name}{end}.png" for name in names for end in ("", "_test"))
    for file in files:
        check_picture(file)
    assert drawn == ["reconstructions, epoch 2", "reconstructions, epoch 4", "reconstructions, test"]
    assert "test/jacobian_norm" in run.callback_metrics


def test_a_bare_validation_measures_whatever_the_epochs(tmp_path: Path) -> None:
    run = trainer(tmp_path, [ReconstructionGrid(every_n_epochs=5), LatentProbe(every_n_epochs=5)])
    logged = run.validate(VAE((1, 8, 8), 4), HFDataModule("digits"), verbose=False)[0]
    assert logged.keys() >= {"val/knn_error", "val/probe_error"}
    check_picture(tmp_path / "run" / "pictures" / "reconstructions_validate.png")


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_models_of_another_precision_are_measured(precision: Any, tmp_path: Path) -> None:
    measures = [ReconstructionMetrics(), SparsityMetrics(), LatentProbe()]
    run = trainer(tmp_path, [*measures, *[make() for make in PICTURES]], precision=precision)
    logged = run.validate(VAE((1, 8, 8), 4), HFDataModule("digits"), verbose=False)[0]
    assert all(np.isfinite(value) for value in logged.values())
    assert len(list(tmp_path.rglob("*_validate.png"))) == len(PICTURES)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_metrics_are_those_of_the_outputs_in_any_precision(precision: Any, tmp_path: Path) -> None:
    class Kept(Autoencoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.pairs.append((x, super().forward(x), self.encode(x)))
            return self.pairs[-1][1]

    torch.manual_seed(0)
    model = Kept((1, 8, 8), 4)
    model.pairs = []
    data = DataLoader(torch.rand(3000, 1, 8, 8), batch_size=100)
    run = trainer(tmp_path, [ReconstructionMetrics(), SparsityMetrics()], precision=precision)
    (logged,) = run.validate(model, data, verbose=False)
    assert model.pairs[0][1].dtype == {"bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    x, output, code = (torch.cat(parts).double() for parts in zip(*model.pairs, strict=True))
    error = (output - x).square().flatten(1)
    assert logged["val/mse"] == pytest.approx(float(error.sum(1).mean()), rel=1e-6)
    assert logged["val/active_units"] == int((code.var(dim=0, correction=0) > 0.01).sum())
    assert logged["val/mean_activation"] == pytest.approx(float(code.mean()), rel=1e-6)
    spread = (x - x.mean(dim=0)).square().sum()
    assert logged["val/r_squared"] == pytest.approx(float(1 - error.sum() / spread), rel=1e-5)


def test_a_single_sample_is_drawn(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.long)))
    callbacks = [LatentProjection(beside_pca=True), LatentTraversal()]
    trainer(tmp_path, [*callbacks]).validate(VAE((1, 8, 8), 4), data, verbose=False)
    for callback in callbacks:
        check_picture(tmp_path / "run" / "pictures" / f"{callback.name}_validate.png")


def test_legend_names_the_classes() -> None:
    labels = torch.tensor([-1, 0, 1, 2] * 5)  # unlabeled, cat, dog, unnamed
    figure = projection_figure({"codes": torch.rand(20, 3)}, labels, ["cat", "dog"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["-1", "cat", "dog", "2"]


def test_the_error_among_points_counts_those_that_have_a_class() -> None:
    points = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]).repeat_interleave(2, dim=0)
    labels = torch.tensor([0] * 4 + [-1] * 2 + [1] * 4 + [-1] * 2)  # each wrong, were -1 a class
    panels = {"codes": points, "inputs, PCA": points}

    def titles(labels: torch.Tensor) -> list[str]:
        return [axes.get_title() for axes in projection_figure(panels, labels, ["a", "b"]).axes]

    assert titles(labels)[:2] == ["codes: 5-NN error 0.0 %", "inputs, PCA: 5-NN error 0.0 %"]
    assert titles(labels.float() + 0.5) == ["codes", "inputs, PCA", ""]  # numbers, on a scale
    assert titles(torch.full((12,), -1)) == ["codes", "inputs, PCA"]


@pytest.mark.parametrize("streaming", [False, True], ids=["held", "streamed"])
def test_pictures_show_all_classes_of_a_sorted_data_set(streaming: bool, tmp_path: Path) -> None:
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Shown(ReconstructionGrid):
        def draw(self, trainer: Any, model: Any, x: torch.Tensor, labels: Any, title: str) -> Any:
            shown.append((x, labels))
            return super().draw(trainer, model, x, labels, title)

    splits = DatasetDict({name: rows.sort("label") for name, rows in HFDataModule("digits").splits.items()})
    data = HFDataModule(splits, val_split="test", cache="memory", streaming=streaming)
    run = trainer(tmp_path, [Shown(20)], max_epochs=2, limit_train_batches=1)
    run.fit(Autoencoder((1, 8, 8), 2), data)
    run.test(Autoencoder((1, 8, 8), 2), data, verbose=False)
    (x, labels), *others = shown
    for other, of_other in others:  # the same in every epoch, and in the same split
        assert torch.equal(other, x)
        assert torch.equal(of_other, labels)
    # a stream gives its first rows
    assert sorted(labels.tolist()) == ([0] * 20 if streaming else sorted([*range(10)] * 2))


def test_corrupted_inputs_get_a_row(tmp_path: Path) -> None:
    sizes = {}
    for cls in (Autoencoder, DenoisingAutoencoder):
        folder = tmp_path / cls.__name__
        trainer(folder, [ReconstructionGrid(4)]).fit(cls((1, 8, 8), 4), HFDataModule("digits"))
        with Image.open(folder / "run" / "pictures" / "reconstructions.png") as picture:
            sizes[cls] = picture.size
    assert sizes[DenoisingAutoencoder][1] > 1.3 * sizes[Autoencoder][1]


def test_tensorboard_gets_the_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="tb")
    trainer(tmp_path, [ReconstructionGrid(4), SampleGrid(9)], logger=logger).fit(
        VAE((1, 8, 8), 4), HFDataModule("digits")
    )
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["pictures/reconstructions", "pictures/samples"]
    (image,) = events.Images("pictures/samples")
    assert image.width > 150
    assert (tmp_path / "tb" / "pictures" / "samples.png").is_file()


def test_wandb_gets_the_pictures_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    steps: list[Any] = []

    class Watched(WandbLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            super().log_metrics(metrics, step)
            if "pictures/reconstructions" in metrics:
                steps.append(step)

    logger = Watched(project="test", save_dir=tmp_path)
    run = trainer(tmp_path, [ReconstructionGrid(4)], logger=[CSVLogger(tmp_path, name="", version="run"), logger])
    run.fit(VAE((1, 8, 8), 4), HFDataModule("digits"))
    wandb.finish()
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/media/images/pictures/*.png")
    assert steps == [run.global_step]  # or the picture has no place on the axis of the metrics
    assert picture.read_bytes() == (tmp_path / "run" / "pictures" / "reconstructions.png").read_bytes()


def test_callbacks_leave_the_run_as_it_is(tmp_path: Path) -> None:
    class Dropping(VAE):
        # draws from the global generator, which this package's own noise does not
        def infer(self, x: torch.Tensor, **given: torch.Tensor) -> Any:
            return super().infer(torch.nn.functional.dropout(x, 0.2, self.training))

    def weights(*callbacks: pl.Callback) -> torch.Tensor:
        pl.seed_everything(5, verbose=False)
        model = Dropping((1, 8, 8), latent_dim=4)
        trainer(tmp_path / str(len(callbacks)), [*callbacks], max_epochs=2).fit(model, HFDataModule("digits"))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    class Drawing(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            torch.rand(1)

    alone = weights()
    others = ReconstructionMetrics(), SparsityMetrics(), LatentProbe()
    assert torch.equal(alone, weights(*[make() for make in PICTURES], *others))
    assert not torch.equal(alone, weights(Drawing()))  # a disturbance would show


def test_denoising_baselines_are_those_of_scikit_image(tmp_path: Path) -> None:
    from skimage.filters import median

    from lightning_ae.parts.corruptions import GaussianNoise

    data = HFDataModule("digits", batch_size=1000)
    model = DenoisingAutoencoder((1, 8, 8), 4, corruption=GaussianNoise(0.3))
    logged = trainer(tmp_path, [DenoisingMetrics()]).test(model, data, verbose=False)[0]
    clean = next(data.batches("test", 1000))["image"]
    with model.at_step("test", 0):
        noisy = model.corrupt(clean).clamp(0, 1)
    filtered = np.stack([median(image[0], np.ones((3, 3)), mode="reflect") for image in noisy.numpy()])[:, None]
    for name, images in (("psnr_corrupted", noisy.numpy()), ("psnr_median", filtered)):
        assert logged[f"test/{name}"] == pytest.approx(psnr(clean.numpy(), images), rel=1e-5)


def test_projection_beside_pca(tmp_path: Path) -> None:
    run = trainer(tmp_path, [LatentProjection(beside_pca=True)])
    run.fit(Autoencoder((1, 8, 8), 2), HFDataModule("digits"))
    with Image.open(tmp_path / "run" / "pictures" / "projection.png") as picture:
        assert picture.size[0] > 1.8 * picture.size[1]


@pytest.mark.parametrize(
    ("callback", "model", "named"),
    [
        (DenoisingMetrics(), Autoencoder((1, 4, 4), 2), "denoises none"),
        (ReconstructionGrid(), Autoencoder((4,), 2), "ReconstructionGrid draws images"),
        (SampleGrid(), Autoencoder((1, 4, 4), 2), "cannot sample"),
        (LatentProbe(), SparseAutoencoder((4,), 2), "batches"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    callback: pl.Callback, model: Autoencoder, named: str, tmp_path: Path
) -> None:
    loader = DataLoader(TensorDataset(torch.rand(8, *model.input_shape)))
    with pytest.raises(InputError, match=named):
        trainer(tmp_path, [callback]).fit(model, loader, loader)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReconstructionGrid(n=0),
        lambda: SampleGrid(every_n_epochs=0),
        lambda: SampleGrid(n=0),
        lambda: LatentTraversal(steps=1),
        lambda: LatentProbe(k=0),
        lambda: SparsityMetrics(threshold=-1.0),
    ],
)
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_probe_without_labels_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    data = HFDataModule(Dataset.from_dict({"v": [[0.1, 0.2]] * 40}), test_split="train")
    with pytest.raises(InputError, match="label"):
        trainer(tmp_path, [LatentProbe()]).fit(Autoencoder((2,), 1), data)


def test_vectors_have_metrics_too(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.rand(40, 5), torch.arange(40) % 3), batch_size=8)
    run = trainer(tmp_path, [ReconstructionMetrics(), LatentProjection()])
    logged = run.validate(Autoencoder((5,), 1), loader, verbose=False)[0]
    assert set(logged) == {"val/loss", "val/reconstruction", "val/mse", "val/active_units"}
    check_picture(tmp_path / "run" / "pictures" / "projection_validate.png")
