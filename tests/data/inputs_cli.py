"""Words of a command, and the error that they end in; all before anything is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import Case, Refused

from lightning_ae import recipes
from lightning_ae.cli import app, options, run_folder
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


def command(words: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        (folder / "file").touch()
        first, *rest = words.split()
        return app.run(first, rest)

    return run


def below(path: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        (folder / "file").touch()
        return run_folder.claim(path, "", "fit")

    return run


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
        ["vq_vae", "vq_vae", "sparse", "beta_vae", "conditional_vae", "adversarial", "topk_dictionary"],
    ),
    Case("-c vqvae", lambda folder: Path(recipes.find("vqvae")).stem, "vq_vae"),
    Case("a list with commas", values(DIGITS + "--model.architecture.hidden 8,4", "model.architecture.hidden"), [8, 4]),
    Case("a list as JSON", values(DIGITS + "--model.architecture.hidden [8]", "model.architecture.hidden"), [8]),
    *(
        Case(f"lightning-ae {words}", command(words), Refused(because))
        for words, because in (
            ("fti", "unknown command 'fti'(.|\n)*did you mean 'fit'"),
            ("evalute", "did you mean 'evaluate'"),
            ("list", "did you mean 'zoo list'"),
            ("--hlep", "did you mean '--help'"),
            ("zoo lst", "unknown command of lightning-ae zoo 'lst'(.|\n)*did you mean 'list'"),
            ("zoo shwo", "did you mean 'info'"),
            ("zoo info", "required: name"),
            ("zoo list --datset mnist", "unknown option of lightning-ae zoo list 'datset'(.|\n)*mean 'dataset'"),
            ("zoo list --dataset mnsit", "unknown data set of the zoo(.|\n)*did you mean 'mnist'"),
            ("zoo list --model vea", "unknown model(.|\n)*did you mean 'vae'"),
            ("zoo list --licence MTI", "unknown licence(.|\n)*did you mean 'MIT'"),
            ("zoo list digts", "unknown zoo entry 'digts'(.|\n)*did you mean '[a-z_]+.digits_v1'"),
            ("zoo verify vae_mlp.digts_v1", "unknown zoo entry(.|\n)*did you mean 'vae_mlp.digits_v1'"),
            ("features vae_mlp.digts_v1", "no checkpoint(.|\n)*did you mean 'vae_mlp.digits_v1'"),
            ("features x.ckpt --splitt train", "unknown option(.|\n)*did you mean 'splits'"),
            ("features vae_mlp.digits_v1 --splits trian", "unknown split 'trian'(.|\n)*did you mean 'train'"),
            ("features vae_mlp.digits_v1 --splits []", "splits is empty"),
            ("features vae_mlp.digits_v1 --batch_size 0", "batch_size must be a positive integer, got 0"),
            ("reconstruct vae_mlp.digits_v1 --split valid", "unknown split 'valid'(.|\n)*did you mean 'val'"),
            ("sample vae_mlp.digits_v1 --n -1", "n must be a positive integer, got -1"),
            ("sample vae_mlp.digits_v1 --output s.xyz", "output 's.xyz' is no picture"),
            ("sample vae_mlp.digits_v1 --device cdua", "unknown device here 'cdua'(.|\n)*mean '(cuda|cpu)"),
            ("cache clear", "'clear' belongs to no option(.|\n)*did you mean --clear"),
            ("certify VAE --strategy dpd", "unknown value of strategy 'dpd'(.|\n)*did you mean 'ddp'"),
            ('certify VAE --trainer {"max_epoch":3}', "unknown option of Trainer(.|\n)*did you mean 'max_epochs'"),
            (
                "features vae_mlp.digits_v1 --output file/x",
                "output 'file/x/train.parquet' cannot be written: Not a dir",
            ),
            ("sample vae_mlp.digits_v1 --output file/x.png", "output 'file/x.png' cannot be written: its folder is a"),
            ("sample vae_mlp.digits_v1 --output /proc/x/y.png", "output '/proc/x/y.png' cannot be written"),
            ("zoo download vae_mlp.digits_v1 --to file", "cannot be written"),
        )
    ),
    *(
        Case(f"--run_dir {path}", below(path), Refused(f"run_dir '{path}' cannot be made"))
        for path in ("file/x", "/proc/x")
    ),
    Case(
        "a run where runs is a file",
        lambda folder: ((folder / "runs").touch(), run_folder.claim(None, "vae", "fit")),
        Refused("run_dir 'runs/vae/fit-1' cannot be made: Not a directory"),
    ),
    Case(
        "a checkpoint beside another",
        lambda folder: ((folder / "best.ckpt").touch(), app.run("features", ["bset.ckpt"])),
        Refused("no checkpoint at 'bset.ckpt'(.|\n)*did you mean 'best.ckpt'"),
    ),
]
