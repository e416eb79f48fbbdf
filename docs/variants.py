"""A page for each variant, made from its class, its recipe, the zoo and the benchmarks: `python docs/variants.py`.

`make docs` calls it before each build. The pages and pictures go to docs/variants/, which is not committed. A picture
is of the entry that the zoo has of a class on data that the package brings, and else of a model that is trained for it
on the digits, some seconds each, by the code that stands on the page; it is made anew when that code or the package's
code changes.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from lightning_ae import zoo
from lightning_ae.registry import ALIASES, MODELS, get_model, setting

HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = HERE / "variants"
BROUGHT = ("digits", "fashion")
"""The data sets that come with the package."""

PUBLISHED: dict[str, tuple[str, ...]] = {
    "pca": ("linear",),
    "deep": ("ae",),
    "k_sparse": ("k_sparse",),
    "stacked_denoising": ("stacked", "denoising"),
    "contractive": ("contractive",),
    "score": ("score_matching",),
    "vae": ("vae",),
    "iwae": ("iwae", "vae"),
    "vampprior": ("vampprior_vae", "vae"),
    "frey": ("vampprior_vae",),
    "total_correlation": ("beta_tc_vae",),
    "bounds": ("iwae", "hamiltonian_vae", "vae"),
    "memory": ("iwae",),
}
"""The variants that each row of benchmarks/RESULTS.md is about."""
MEASURED: dict[str, tuple[str, ...]] = {
    "quantizers": ("vq_vae", "residual_vq_vae", "fsq_vae", "lfq_vae", "sim_vq_vae", "gumbel_vq_vae"),
    "counts": ("vae", "conditional_vae"),
    "anomaly": ("vae",),
    "overcomplete": ("ae", "sparse", "denoising", "contractive"),
    "contraction": ("contractive",),
    "defaults": ("ae", "vae"),
    "compression": ("ae", "fsq_vae"),
    "samplers": ("ae", "vae"),
}
"""The variants that other benchmarks are about, which have no published number beside them."""

SETTINGS: dict[str, tuple[str, int]] = {
    "fsq_vae": ("lr=3e-3", 20),
    "lfq_vae": ("lr=3e-3", 20),
    "residual_vq_vae": ("lr=3e-3", 20),
    "sim_vq_vae": ("lr=3e-3", 20),
    "gumbel_vq_vae": ("lr=3e-3", 20),
    "vq_vae_2": ("lr=3e-3", 15),
    "top_down_vae": ("lr=3e-3", 15),
    "vqgan": ("latent_dim=8", 3),
    "info_vae": ("latent_dim=8, alpha=1.0", 15),
    "beta_vae": ("latent_dim=8, beta=2.0", 15),
    "hamiltonian_vae": ("latent_dim=8", 6),
    "piwae": ("latent_dim=8", 6),
}
"""What the pictures' models differ in from `latent_dim=8` and 10 epochs, where the zoo has none: what trains in some
seconds on 8 x 8 digits."""

DRAW = """
from lightning_ae.callbacks.pictures import reconstruction_figure{sample_figure}

x, _, given = model.read(next(data.batches("test", 12)))
figure = reconstruction_figure(model, x, **given)
"""
SAMPLES = "samples = sample_figure(model, {n}, seed=0)\n"
OF_ZOO = """
from lightning_ae import HFDataModule, zoo

model = zoo.load("{entry}")
data = HFDataModule("{data}")
"""
OF_FIT = """
import pytorch_lightning as pl
from lightning_ae import HFDataModule, {cls}

pl.seed_everything(0)
data = HFDataModule("digits")
model = {cls}(**data.suits, {options})
pl.Trainer(max_epochs={epochs}, logger=False, enable_checkpointing=False).fit(model, data)
model.eval()
"""

TRAINED = "a model that was trained for this picture, for some seconds on 8 x 8 digits: not what it can do at its best"
PICTURE = """
```{{figure}} {file}
:alt: {words}
:width: {width}px

{words}
```
"""


def entries(name: str) -> dict[str, Any]:
    """The zoo's entries of a variant."""
    return {each: found for each, found in _entries().items() if found.model == name}


@functools.cache
def _entries() -> dict[str, Any]:
    return {each: zoo.info(each) for each in zoo.list_models()}


def entry(name: str) -> str | None:
    """The zoo's entry of a variant on data that the package brings."""
    return next((each for each in entries(name) if each.partition(".")[2].rpartition("_v")[0] in BROUGHT), None)


def picture_code(name: str) -> str:
    """The program whose `figure`, and `samples` of a variant that generates, are the page's pictures."""
    cls = get_model(name)
    draw = DRAW.format(sample_figure=", sample_figure" if cls.generates else "")
    draw += SAMPLES.format(n=80 if "label" in cls.given else 24) if cls.generates else ""
    found = entry(name)
    if found is None:
        options, epochs = SETTINGS.get(name, ("latent_dim=8", 10))
        return (OF_FIT.format(cls=cls.__name__, options=options, epochs=epochs) + draw).strip() + "\n"
    data = found.partition(".")[2].rpartition("_v")[0]
    return (OF_ZOO.format(entry=found, data=data) + draw).strip() + "\n"


def code_digest() -> str:
    """A hash of what the package does: of its code without comments and docstrings."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "lightning_ae").rglob("*.py")):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                texts = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
                node.body = [n for n in body if n not in texts]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def draw(codes: dict[str, str], package: str) -> None:
    """Makes the pictures that are not there, in two processes.

    Raises:
        RuntimeError: when a program fails, with what it said.
    """
    made_of = {name: hashlib.sha256((package + code).encode()).hexdigest() for name, code in codes.items()}
    stamps = {name: FOLDER / f"{name}.made" for name in codes}
    todo = [name for name in codes if not stamps[name].is_file() or stamps[name].read_text() != made_of[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--draw", *todo[i::2]], env=environment, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )
        for i in range(min(2, len(todo)))
    ]  # fmt: skip
    said = [worker.communicate()[1] for worker in workers]
    for worker, words in zip(workers, said, strict=True):
        if worker.returncode:
            raise RuntimeError(f"pictures of the variants cannot be made: {words[-2000:]}")
    for name in todo:
        stamps[name].write_text(made_of[name])


def draw_here(names: list[str]) -> None:
    """Makes the pictures of some variants, in this process."""
    for name in names:
        code = picture_code(name)
        scope: dict[str, Any] = {"__name__": name}
        exec(compile(code, f"the picture of {name}", "exec"), scope)
        for key, end in (("figure", ""), ("samples", "_samples")):
            if key in scope:
                scope[key].savefig(FOLDER / f"{name}{end}.png")


def sections() -> dict[str, str]:
    """The rows of benchmarks/RESULTS.md, without their headings' level."""
    parts = re.split(r"^## `(\w+)`: ", (ROOT / "benchmarks" / "RESULTS.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def published(name: str, rows: dict[str, str]) -> str:
    """Its rows of the published numbers beside ours, or that there is none, and where else it is measured."""
    found = [f"### {rows[row].strip()}" for row, names in PUBLISHED.items() if name in names]
    others = [f"[{file}](../benchmarks/{file}.md)" for file, names in MEASURED.items() if name in names]
    if not found:
        found = ["No published number of it was measured here."]
    if others:
        found.append(f"It is in these benchmarks, too: {', '.join(others)}.")
    return "\n\n".join(found)


def zoo_numbers(name: str) -> str:
    """What the cards of its entries in the zoo say of codes, in one table."""
    lines = []
    for each, found in entries(name).items():
        numbers = {metric.name: metric.value for metric in found.metrics}
        cells = [
            f"{100 * numbers[key]:.2f}" if key in numbers else ""
            for key in ("probe_error", "pca_probe_error", "raw_probe_error")
        ]
        error = f"{numbers['squared_error']:.4g}" if "squared_error" in numbers else ""
        lines.append(f"| [`{each}`](zoo/weights/{each}/README.md) | {error} | {' | '.join(cells)} |")
    if not lines:
        return "The zoo has no entry of it."
    head = "| entry | squared error | probe error, % | of PCA's codes | of raw inputs |\n|---|---|---|---|---|\n"
    return head + "\n".join(lines)


def title(name: str) -> str:
    """The name of its class."""
    return get_model(name).__name__


def summary(name: str) -> str:
    """The first line of its docstring."""
    return (get_model(name).__doc__ or "").strip().split("\n", 1)[0]


def aliases(name: str) -> list[str]:
    """What a variant is called elsewhere."""
    return sorted(alias for alias, own in ALIASES.items() if own == name)


def page(name: str, code: str, rows: dict[str, str]) -> str:
    """The page in Markdown."""
    cls = get_model(name)
    source, _, link = cls.reference.rpartition(", ")
    also = [f"`{alias}`" + (f" ({setting(alias)})" if setting(alias) else "") for alias in aliases(name)]
    known = f" Elsewhere it is called {', '.join(also)}; `get_model` and the command line take that."
    found = entry(name)
    of = f"`{found}` of the zoo" if found else TRAINED
    pictures = PICTURE.format(file=f"{name}.png", words=f"Test images above their reconstructions, by {of}.", width=640)
    if "samples =" in code:
        pictures += PICTURE.format(file=f"{name}_samples.png", words="Samples of the same model.", width=320)
    recipe = "\n".join(
        [
            "```bash", f"lightning-ae fit -c {name} -c digits", "```", "",
            f"````{{dropdown}} recipes/models/{name}.yaml",
            f"```{{literalinclude}} ../../recipes/models/{name}.yaml", ":language: yaml", "```", "````",
        ]
    )  # fmt: skip
    again = "\n   :no-index:" if name == "ae" else "\n   :members:"
    return f"""# {cls.__name__}

{summary(name)}

[{source}]({link}). In recipes and in the registry it is `{name}`.{known if also else ""}

{pictures}
````{{dropdown}} The code that made {"them" if "samples =" in code else "it"}
```python
{code}```
````

## Objective and options

```{{eval-rst}}
.. currentmodule:: lightning_ae

.. autoclass:: {cls.__name__}{again}
```

## Recipe

{recipe}

## Published numbers beside ours

{published(name, rows)}

## In the zoo

{zoo_numbers(name)}
"""


def index() -> str:
    """The page of all variants: a card each."""
    cards = []
    for name in MODELS:
        words = textwrap.shorten(summary(name).rstrip("."), 140, placeholder=" ...")
        cards.append(
            f":::{{grid-item-card}} {title(name)}\n:link: {name}\n:link-type: doc\n:img-top: {name}.png\n"
            f":img-alt: test images above reconstructions\n\n{words}\n:::\n"
        )
    toctree = "\n".join(f"{title(name)} <{name}>" for name in MODELS)
    return f"""# The variants

A class a paper. The pictures are of trained models, test images above their reconstructions, and each page has the code
that made them. Names of elsewhere are taken on the command line, too, and what comes nearest is said of those that are
not here.

::::{{grid}} 1 2 2 3
:gutter: 3

{"".join(cards)}
::::

```{{toctree}}
:hidden:

{toctree}
```
"""


def write() -> None:
    """Writes all pages, and the pictures that are not there, two at a time."""
    FOLDER.mkdir(exist_ok=True)
    rows, package = sections(), code_digest()
    codes = {name: picture_code(name) for name in MODELS}
    draw(codes, package)
    for name in MODELS:
        whole(FOLDER / f"{name}.md", page(name, codes[name], rows))
    whole(FOLDER / "index.md", index())


def whole(file: Path, text: str) -> None:
    """Writes a file if it is another, so that Sphinx reads only what changed."""
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)


if __name__ == "__main__":
    draw_here(sys.argv[2:]) if sys.argv[1:2] == ["--draw"] else write()
