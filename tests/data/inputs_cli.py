"""Words of a command, and the error that they end in; all before anything is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import Case, Refused

from lightning_ae import recipes
from lightning_ae.cli import options
from lightning_ae.registry import variant
from lightning_ae.zoo import index

DIGITS = "-c vae -c digits "


def read(words: str) -> Callable[[Path], Any]:
    return lambda folder: options.read("fit", words.split())


def after(file: str, text: str, words: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        (folder / file).write_text(text)
        return options.read("fit", words.split())

    return run


def values(words: str, path: str) -> Callable[[Path], Any]:
    return lambda folder: options.read("fit", words.split()).values[path]


OWN = "from lightning_ae import VAE\nclass Mine(VAE):\n    pass\n"
CASES = [
    Case("--model VEA", read("--model VEA"), Refused("unknown model 'VEA'(.|\n)*did you mean 'VAE'")),
    Case("-c vea", read("-c vea"), Refused("unknown recipe 'vea'(.|\n)*did you mean 'vae'")),
    Case("-c recipes/vea.yaml", read("-c recipes/vea.yaml"), Refused("no file(.|\n)*did you mean -c vae")),
    Case("a file's misspelt path", after("own.yaml", "", "-c onw.yaml"), Refused("did you mean -c own.yaml")),
    Case("a recipe without -c", read("vae digits"), Refused("'vae' belongs to no option(.|\n)*-c vae")),
    Case("--model.latent_dmi", read(DIGITS + "--model.latent_dmi 8"), Refused("did you mean 'latent_dim'")),
    Case("--data.batchsize", read(DIGITS + "--data.batchsize 8"), Refused("did you mean 'batch_size'")),
    Case("--trainer.max_epoch", read(DIGITS + "--trainer.max_epoch 8"), Refused("did you mean 'max_epochs'")),
    Case("--max_epochs", read(DIGITS + "--max_epochs 8"), Refused("did you mean --trainer.max_epochs")),
    Case("--ckpt_pth", read(DIGITS + "--ckpt_pth x"), Refused("did you mean --ckpt_path")),
    Case("--model.likelihood Gausian", read(DIGITS + "--model.likelihood Gausian"), Refused("did you mean 'Gaussian'")),
    Case("a misspelt choice", read(DIGITS + "--data.cache dsk"), Refused("did you mean 'disk'")),
    Case(
        "a choice within a class", read(DIGITS + "--model.architecture.activation rleu"), Refused("did you mean 'relu'")
    ),
    Case(
        "a key misspelt in a recipe",
        after(
            "own.yaml", "model: {class_path: VAE, init_args: {architecture: {init_args: {hiden: [3]}}}}", "-c own.yaml"
        ),
        Refused("option of MLP in own.yaml 'hiden'(.|\n)*did you mean 'hidden'"),
    ),
    Case(
        "a misspelt group in a recipe", after("own.yaml", "modle: VAE", "-c own.yaml"), Refused("did you mean --model")
    ),
    Case(
        "a class that a module has not",
        after("own_m.py", OWN, "--model own_m.Mnie"),
        Refused("there is no module 'own_m'"),
    ),
    Case("a zoo entry", lambda folder: index.info("vae_mlp.digts_v1"), Refused("did you mean 'vae_mlp.digits_v1'")),
    Case("a model that is not here", read("-c mae"), Refused("no model 'mae' here yet(.|\n)*nearest is 'denoising'")),
    Case("a value left out", read(DIGITS + "--model.beta"), Refused("--model.beta is given no value")),
    Case(
        "names of elsewhere",
        lambda folder: [variant(name) for name in ("vqvae", "VQ-VAE", "sae", "betavae", "cvae", "aae", "topk")],
        ["vq_vae", "vq_vae", "sparse", "vae", "conditional_vae", "adversarial", "topk_dictionary"],
    ),
    Case("-c vqvae", lambda folder: Path(recipes.find("vqvae")).stem, "vq_vae"),
    Case("a list with commas", values(DIGITS + "--model.architecture.hidden 8,4", "model.architecture.hidden"), [8, 4]),
    Case("a list as JSON", values(DIGITS + "--model.architecture.hidden [8]", "model.architecture.hidden"), [8]),
]
