"""The rows of `reproduce.py` of variational autoencoders whose bounds, priors and posteriors papers compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from published import Asked, Clock, Figure, Found, Number, fit, row
from torch import Tensor, nn

import lightning_ae as ae
from lightning_ae.architectures import MLP
from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.data import Image
from lightning_ae.data.source import load_splits
from lightning_ae.parts import Bernoulli, DiscretizedLogistic, StandardNormal, VampPrior

WHOLE = 3280
"""The epochs of the paper's training of importance-weighted autoencoders."""
DRAWS = 1000
IMAGES = 1000
ERROR = "the standard error over the test images, of a difference that of the paired one"


@dataclass(frozen=True)
class Gated(Architecture):
    """Fully connected layers whose units are each multiplied by a gate, h(x) * sigmoid(g(x)), as in the paper."""

    hidden: tuple[int, ...] = (300, 300)

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *self._layers(math.prod(input_shape), features))

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        return nn.Sequential(*self._layers(features, math.prod(output_shape)), nn.Unflatten(1, output_shape))

    def _layers(self, inputs: int, outputs: int) -> Iterator[nn.Module]:
        for width in self.hidden:
            yield nn.Linear(inputs, 2 * width)
            yield nn.GLU()
            inputs = width
        yield nn.Linear(inputs, outputs)


def binarised(asked: Asked, name: str, batch_size: int) -> ae.HFDataModule:
    """Images of zeros and ones, drawn by their intensities: anew in each epoch of training, once for the test."""
    splits = load_splits(asked.path(name))
    return ae.HFDataModule(splits, kind=Image(binarize="dynamic"), val_fraction=0.0, batch_size=batch_size)


def adam(model: pl.LightningModule, lr: float, eps: float = 1e-8, each: Callable[[int], float] | None = None) -> None:
    """Gives a model Adam, and a factor of its learning rate for each epoch."""

    def configure() -> Any:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=eps, fused=True)
        if each is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, each)}

    model.configure_optimizers = configure  # type: ignore[method-assign]


def stages(epoch: int) -> float:
    """The learning rate's factor in Burda et al. (2016): 10^(-i / 7) for 3^i epochs, i = 0, ..., 7."""
    stage, end = 0, 1
    while epoch >= end and stage < 7:
        stage += 1
        end += 3**stage
    return 10 ** (-stage / 7)


def train(asked: Asked, name: str, model: ae.VAE, data: ae.HFDataModule, epochs: int) -> Clock:
    """Fits a model, and says how long that took."""
    clock = Clock()
    fit(model, data, epochs, None if asked.keep is None else Path(asked.keep, f"{name}.ckpt"), callbacks=[clock])
    return clock


def nats(model: ae.VAE, images: Tensor) -> Tensor:
    """-log p(x) of each image by importance sampling, (B,); each two hundred images have draws of their own."""
    parts = images.to(model.device).split(200)
    return torch.cat([model.score_batch(x, x, draws=DRAWS, seed=i).score for i, x in enumerate(parts)]).double().cpu()


def averaged(values: Tensor) -> Number:
    """The mean, with its standard error."""
    return Number(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


# ---- the rows -----------------------------------------------------------------------------------------------------


@row(
    "VAE against IWAE, one stochastic layer, dynamic MNIST",
    "Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519",
    [
        Figure("VAE, negative log-likelihood, nats", "86.76: Burda et al. 2016, table 1, VAE, k = 1"),
        Figure("IWAE-5, negative log-likelihood, nats", "85.54: the same table"),
        Figure("IWAE-50, negative log-likelihood, nats", "84.78: the same table"),
        Figure("VAE minus IWAE-5, nats", "1.22: the difference of the two"),
        Figure("IWAE-5 minus IWAE-50, nats", "0.76: the difference of the two"),
        Figure(f"core hours that {WHOLE} epochs of VAE take"),
        Figure(f"core hours that {WHOLE} epochs of IWAE-5 take"),
        Figure(f"core hours that {WHOLE} epochs of IWAE-50 take"),
    ],
    differs=f"a tier, as many epochs as the setting says, where the paper trains for {WHOLE}; the learning rate is "
    "that of the paper's first epochs. The first 1 000 test images and 1 000 importance samples, where the paper has "
    "10 000 and 5 000; the decoder's last bias starts from zero. The hours are those of the processor that measured, "
    "by its time an epoch",
    spread=ERROR,
)
def iwae(asked: Asked) -> Iterator[Found]:
    """VAE against IWAE-5 and IWAE-50 on dynamic MNIST; comes in tiers."""
    data = binarised(asked, "mnist", batch_size=20)
    images = next(data.batches("test", IMAGES))["image"]
    network = MLP(hidden=(200, 200), activation="tanh", init="xavier")
    shared: dict[str, Any] = {"latent_dim": 50, "architecture": network, "likelihood": Bernoulli()}
    found: dict[str, Number] = {}
    before, last, earlier = torch.empty(0), "", 0.0
    for samples in (1, 5, 50):
        pl.seed_everything(0, verbose=False)
        shape, name = (1, 28, 28), "VAE" if samples == 1 else f"IWAE-{samples}"
        model = ae.VAE(shape, **shared) if samples == 1 else ae.IWAE(shape, samples=samples, **shared)
        adam(model, 1e-3, eps=1e-4, each=stages)
        clock = train(asked, f"iwae_{samples}", model, data, asked.epochs)
        earlier += clock.before
        found[f"core hours that {WHOLE} epochs of {name} take"] = Number(WHOLE / asked.epochs * clock.processor / 3600)
        scores = nats(model, images)
        found[f"{name}, negative log-likelihood, nats"] = averaged(scores)
        if last:
            found[f"{last} minus {name}, nats"] = averaged(before - scores)
        before, last = scores, name
        yield Found(
            f"784-200-200-50, tanh, Glorot's initial weights, Bernoulli on zeros and ones drawn anew in each epoch, "
            f"Adam 1e-3 falling in the paper's stages, epsilon 1e-4, batch 20, a tier of {asked.epochs} epochs, 60 000 "
            f"images; {DRAWS} importance samples on the first {IMAGES} test images, binarised once",
            [0],
            dict(found),
            earlier,
        )


def priors(
    asked: Asked, name: str, data: ae.HFDataModule, images: Tensor, epochs: int, **shared: Any
) -> Iterator[tuple[str, Number, float]]:
    """What a Gaussian prior and a VampPrior reach, and the difference; each with the seconds of earlier calls."""
    shape, scores = tuple(images.shape[1:]), []
    for label, prior in (("Gaussian", StandardNormal()), ("VampPrior", VampPrior(500))):
        pl.seed_everything(0, verbose=False)
        model = ae.VAE(shape, 40, architecture=Gated(), prior=prior, **shared)
        adam(model, 5e-4)
        clock = train(asked, f"{name}_{label}", model, data, epochs)
        scores.append(nats(model, images))
        yield f"{name}, {label}, nats", averaged(scores[-1]), clock.before
    yield f"{name}, Gaussian minus VampPrior, nats", averaged(scores[0] - scores[1]), 0.0


@row(
    "Gaussian prior against VampPrior, MNIST and Fashion-MNIST",
    "Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120; the numbers are those of Norouzi, Fleet & Norouzi 2020, "
    "https://arxiv.org/abs/2004.04795",
    [
        Figure("MNIST, Gaussian, nats", "84.45: Norouzi et al. 2020, dynamic MNIST"),
        Figure("MNIST, VampPrior, nats", "82.43: the same table"),
        Figure("MNIST, Gaussian minus VampPrior, nats", "2.02: the difference of the two"),
        Figure("Fashion-MNIST, Gaussian, nats", "228.70: the same table"),
        Figure("Fashion-MNIST, VampPrior, nats", "227.35: the same table"),
        Figure("Fashion-MNIST, Gaussian minus VampPrior, nats", "1.35: the difference of the two"),
    ],
    differs="a tier, as many epochs as the setting says, where the papers train until validation stops them, with a "
    "warm-up of 100 epochs; here is none. 1 000 importance samples on the first 1 000 test images, where they have "
    "5 000 on all. Pseudo-inputs are the sigmoids of free numbers that start from N(0, 1). That the papers draw "
    "Fashion-MNIST's zeros and ones in the same way is taken for granted here",
    spread=ERROR,
)
def vampprior(asked: Asked) -> Iterator[Found]:
    """A Gaussian prior against the VampPrior on MNIST and Fashion-MNIST; comes in tiers."""
    found: dict[str, Number] = {}
    earlier = 0.0
    for folder, name in (("mnist", "MNIST"), ("fashion_mnist", "Fashion-MNIST")):
        data = binarised(asked, folder, batch_size=100)
        images = next(data.batches("test", IMAGES))["image"]
        for what, number, before in priors(asked, name, data, images, asked.epochs, likelihood=Bernoulli()):
            found[what], earlier = number, earlier + before
            yield Found(
                f"gated 300-300, 40 latent units, 500 pseudo-inputs, Bernoulli on zeros and ones drawn anew in each "
                f"epoch, Adam 5e-4, batch 100, a tier of {asked.epochs} epochs, 60 000 images; {DRAWS} importance "
                f"samples on the first {IMAGES} test images, binarised once",
                [0],
                dict(found),
                earlier,
            )


@row(
    "Gaussian prior against VampPrior, Frey faces",
    "Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120, for the models",
    [Figure(f"{prior}, nats") for prior in ("Frey faces, Gaussian", "Frey faces, VampPrior")]
    + [
        Figure("Frey faces, Gaussian minus VampPrior, nats"),
        Figure("Frey faces, Gaussian, bits per dimension"),
        Figure("Frey faces, VampPrior, bits per dimension"),
    ],
    differs="the paper's split is random, so that neighbours of a test frame train; here the last 200 frames test, "
    "the 200 before them are left out, and the first 1 565 train, so its numbers are not comparable, and none stands "
    "here. A tier, as many epochs as the setting says, with no warm-up; 1 000 importance samples where the paper has "
    "5 000",
    spread=ERROR,
)
def frey(asked: Asked) -> Iterator[Found]:
    """A Gaussian prior against the VampPrior on Frey faces; comes in tiers."""
    found: dict[str, Number] = {}
    data = ae.HFDataModule(load_splits(asked.path("frey_faces")), val_split="validation", batch_size=100)
    images, epochs = next(data.batches("test", IMAGES))["image"], 40 * asked.epochs
    bits = images[0].numel() * math.log(2)
    likelihood, earlier = DiscretizedLogistic("per_pixel"), 0.0
    for what, number, before in priors(asked, "Frey faces", data, images, epochs, likelihood=likelihood):
        found[what], earlier = number, earlier + before
        if "minus" not in what:
            each = Number(number.ours / bits, None if number.spread is None else number.spread / bits)
            found[what.replace("nats", "bits per dimension")] = each
        yield Found(
            f"gated 300-300, 40 latent units, 500 pseudo-inputs, a discretised logistic of 256 levels with a scale for "
            f"each pixel, Adam 5e-4, batch 100, a tier of {epochs} epochs, {DRAWS} importance samples on {len(images)} "
            "test images",
            [0],
            dict(found),
            earlier,
        )
