"""The cards, the zoo's README and the JSON Schema, all made from the entries.

python -m lightning_ae.zoo.publishing.cards            # writes what is stale
python -m lightning_ae.zoo.publishing.cards --check    # fails where something is
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning_ae.shapes import words
from lightning_ae.zoo import index
from lightning_ae.zoo.schema import Entry, Metric, Recipe

ABOUT = {
    "squared_error": "squared error of reconstruction, summed over a sample's dimensions",
    "explained_variance": "share of the variance that reconstructions explain",
    "negative_elbo": "negative evidence lower bound, nats",
    "beta_vae_loss": "bound whose divergence is weighted by beta, nats",
    "negative_iwae_bound": "negative importance-weighted bound, nats",
    "beta_tc_loss": "bound whose divergence is weighted in three parts, nats",
    "capacity_loss": "reconstruction and weighted distance of the divergence from a capacity, nats",
    "dip_vae_loss": "bound and weighted distance of the codes' covariance from the identity, nats",
    "factor_vae_loss": "bound, weighted total correlation by a critic, and the critic's loss, nats",
    "semi_supervised_loss": "bound on -log p(x, y) of labelled samples, with the classifier's weighted error, nats",
    "free_bits_loss": "bound whose divergence has a free part, nats",
    "mmd_vae_loss": "weighted bound and weighted distance of the codes from the prior, nats",
    "ms_ssim_vae_loss": "bound and weighted dissimilarity of images, nats",
    "adversarial_loss": "reconstruction and both sides of the critic's game, nats",
    "psnr": "peak signal-to-noise ratio of reconstructions, clamped to [0, 1], in dB; the mean over images",
    "denoising_loss": "training objective on corrupted samples, nats",
    "probe_error": "error of logistic regression on the codes",
    "knn_error": "error of 5 nearest neighbours on the codes",
    "raw_probe_error": "error of logistic regression on raw inputs",
    "raw_knn_error": "error of 5 nearest neighbours on raw inputs",
    "pca_probe_error": "error of logistic regression on principal components",
    "pca_knn_error": "error of 5 nearest neighbours on principal components",
}


_INPUTS = {
    "image": "images, uint8 or in [0, 1]",
    "tabular": "vectors in natural units",
    "sequence": "sequences in natural units",
}


def card(entry: Entry) -> str:
    """The model card of an entry, in Hugging Face's form."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-feature-extraction" if entry.preprocess.kind == "image" else "feature-extraction",
            dataset_type=metric.dataset if entry.data.id is None else entry.data.id,
            dataset_name=metric.dataset,
            dataset_split=metric.split,
            metric_type=metric.name,
            metric_name=ABOUT.get(metric.name, metric.name),
            metric_value=metric.value,
        )
        for metric in entry.metrics
        if metric.value is not None
    ]
    about = ModelCardData(
        license=entry.licence.weights.lower(),
        library_name="lightning_ae",
        tags=["autoencoder", entry.model, "feature-extraction"],
        datasets=None if entry.data.id is None or "/" not in entry.data.id else [entry.data.id],
        model_name=entry.name,
        eval_results=results,
    )
    return f"---\n{about.to_yaml()}\n---\n\n{_text(entry)}"


def _text(entry: Entry) -> str:
    lines = [f"# {entry.name}", ""]
    if entry.deprecated:
        lines += [f"**Deprecated**: {entry.deprecated}", ""]
    lines += [*_first(entry), ""]
    if any(file.name == "preview.png" for file in entry.files):
        shown = "Test images above their reconstructions; samples below, where there are any"
        if entry.imported is not None:
            shown = f"Images of {entry.metrics[0].dataset}, scaled down, above their reconstructions"
        lines += [f"![{shown}](preview.png)", ""]
    lines += [
        "```python",
        "from lightning_ae import zoo",
        "",
        *_use(entry),
        "```",
        "",
        "## Numbers",
        "",
        *_measured(entry),
        "",
        "| metric | value | samples | |",
        "|---|---|---|---|",
        *(
            f"| `{metric.name}` | {_value(metric)} | {metric.n or ''} | {ABOUT.get(metric.name, '')} |"
            for metric in entry.metrics
        ),
        "",
        *_strange(entry),
        *_sampled(entry),
        "## Features",
        "",
        f"`latent`: {', '.join(entry.features.latents)}. Layers:",
        "",
        "| layer | channels | stride |",
        "|---|---|---|",
        *(f"| `{each.name}` | {each.channels} | {each.stride or 'a vector'} |" for each in entry.features.layers),
        "",
        *_origin(entry),
        "",
    ]
    return "\n".join(lines)


def _first(entry: Entry) -> list[str]:
    """What it is."""
    paper = f"[{entry.paper.title}]({entry.paper.url})."
    if entry.imported is None:
        return [
            f"A `{entry.model}` model of lightning_ae, trained on {entry.dataset}: {entry.features.dim} features for "
            f"each input of shape {tuple(entry.input_shape)}. {paper}"
        ]
    size = words(entry.input_shape, entry.multiple)
    if (m := entry.multiple) is not None:
        size += f", to codes of {entry.features.dim} x H / {m} x W / {m}"
    return [f"Weights of {entry.imported.authors} as the model `{entry.model}`, for images of {size}. {paper}"]


def _use(entry: Entry) -> list[str]:
    """The lines that load it, and of images of any size those that take it there and back."""
    load = f'model = zoo.load("{entry.name}")'
    if (m := entry.multiple) is not None:
        return [
            f"{load}  # {_INPUTS[entry.preprocess.kind]}; height and width in multiples of {m}",
            "codes = model.features(images)  # as they are; pooled=True gives vectors",
            "again = model.decode(codes).clamp(0, 1)",
        ]
    kind = f"{_INPUTS[entry.preprocess.kind]}, to (B, {entry.features.dim})"
    return [f'encoder = zoo.load_encoder("{entry.name}")  # {kind}', f"{load}  # the whole autoencoder"]


def _measured(entry: Entry) -> list[str]:
    """What the numbers are of, and how to have them again."""
    again = f"`lightning-ae zoo reproduce {entry.name}"
    first = entry.metrics[0]
    if entry.imported is not None:
        stated = ", ".join(f"{name} {value}" for name, value in entry.imported.stated.items())
        return [
            f"On the {first.split} split of {first.dataset}; {again} --path {first.dataset}/` measures it again.",
            *([f"The authors' own code gives {stated} there."] if stated else []),
        ]
    return [
        f"On the {first.split} split of {entry.dataset}. Classifiers learn from at most 10 000 training",
        "codes; ± is the standard deviation over the seeds of the evaluation.",
        f"{again}` measures all of it again.",
    ]


def _origin(entry: Entry) -> list[str]:
    """How it came to be, and under which licences."""
    if (own := entry.imported) is not None:
        files = [f"- `{name}`, sha256 `{digest}`" for name, digest in own.files.items()]
        return [
            "## Origin",
            "",
            f"By {own.authors}, {own.source}; licence {entry.licence.weights}. The files as they came:",
            "",
            *files,
            "",
            f"`{own.command}` made this entry of them; the weights are kept in {entry.stored}, and loaded in float32.",
            "",
            f"Trained on: {entry.data.provenance}.",
        ]
    assert (recipe := entry.recipe) is not None
    return [
        "## Training",
        "",
        f"`{_command(recipe)}`, {recipe.checkpoint or 'a'} checkpoint; {_minutes(recipe)} on "
        f"{recipe.hardware}; " + ", ".join(f"{name} {version}" for name, version in recipe.versions.items()) + ".",
        "",
        f"Data: {entry.data.provenance} (`{entry.data.id}`), {entry.licence.data}. Weights: {entry.licence.weights}"
        + (f", kept in {entry.stored} and loaded in float32." if entry.stored != "float32" else "."),
    ]


def overview(entries: list[Entry]) -> str:
    """The zoo's README."""
    lines = [
        "# The zoo",
        "",
        "Made by `python -m lightning_ae.zoo.publishing.cards` from `entries/`; `lightning-ae zoo list` shows it, too.",
        "",
        "Errors in %, on the test split, of classifiers that learn from at most 10 000 training codes: logistic",
        "regression (probe) and 5 nearest neighbours (k-NN), on the codes, on raw pixels, on principal components (as",
        "many as the code has dimensions, at most 50 and at most half of the pixels). **Bold** beats both raw pixels",
        "and principal components.",
        "",
    ]
    trained = [entry for entry in entries if entry.imported is None]
    for dataset in dict.fromkeys(entry.dataset for entry in trained):
        here = [entry for entry in trained if entry.dataset == dataset]
        lines += [
            f"## {dataset}",
            "",
            f"Raw pixels: probe {_percent(here[0], 'raw_probe_error')}, k-NN {_percent(here[0], 'raw_knn_error')}.",
            "",
            "| entry | features | squared error | probe | PCA probe | k-NN | PCA k-NN | KiB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for entry in here:
            size = sum(file.size for file in entry.files) / 1024
            error = entry.metric("squared_error")
            row = [
                f"[`{entry.name}`](weights/{entry.name}/README.md)",
                str(entry.features.dim),
                "" if error is None else f"{error:.3f}",
                _bold(entry, "probe_error"),
                _percent(entry, "pca_probe_error"),
                _bold(entry, "knn_error"),
                _percent(entry, "pca_knn_error"),
                f"{size:,.0f}",
            ]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join([*lines, *_imports([entry for entry in entries if entry.imported is not None])])


def _imports(entries: list[Entry]) -> list[str]:
    """The table of the weights that others made."""
    lines = ["## Weights that others made", "", "| entry | images | code | what is measured | licence, authors | KiB |"]
    lines += ["|---|---|---|---|---|---|"]
    for entry in entries:
        assert entry.imported is not None
        row = [
            f"[`{entry.name}`](weights/{entry.name}/README.md)",
            words(entry.input_shape, entry.multiple),
            f"{entry.features.dim} x H / {m} x W / {m}" if (m := entry.multiple) else str(entry.features.dim),
            ", ".join(f"{each.name} {_value(each)} on {each.dataset}" for each in entry.metrics),
            f"{entry.licence.weights}, {entry.imported.authors}",
            f"{sum(file.size for file in entry.files) / 1024:,.0f}",
        ]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""] if entries else []


def schema() -> str:
    """The JSON Schema of an entry."""
    return json.dumps(Entry.model_json_schema(), indent=1) + "\n"


def generated() -> dict[Path, str]:
    """Every file that is made from the entries, and what it should say."""
    folder = index.zoo_folder()
    entries = [index.info(name) for name in index.names()]
    cards = {folder / "weights" / entry.name / "README.md": card(entry) for entry in entries}
    return {folder / "README.md": overview(entries), folder / "schema.json": schema(), **cards}


def beats_both(entry: Entry, metric: str) -> bool:
    """Whether an error on the codes is below those on raw inputs and on principal components."""
    values = [entry.metric(f"{prefix}{metric}") for prefix in ("", "raw_", "pca_")]
    return None not in values and values[0] < min(values[1:])  # type: ignore[operator, type-var]


def _bold(entry: Entry, metric: str) -> str:
    text = _percent(entry, metric)
    return f"**{text}**" if beats_both(entry, metric) else text


def _percent(entry: Entry, metric: str) -> str:
    value = entry.metric(metric)
    return "" if value is None else f"{100 * value:.2f}"


def _value(metric: Metric) -> str:
    if metric.value is None:
        return "not measured"
    spread = "" if metric.std is None else f" ± {metric.std:.2g} (seeds {', '.join(map(str, metric.seeds))})"
    return f"{metric.value:.5g}{spread}"


def _strange(entry: Entry) -> list[str]:
    """What the card says of its threshold, where it has one."""
    if (known := entry.threshold) is None:
        return []
    draws = "one draw" if known.draws == 1 else f"{known.draws} draws"
    return [
        "## What counts as strange",
        "",
        f"A score above {known.value:.6g} nats, by {draws}: the {known.quantile:g} quantile of the scores of",
        f"{known.rows} validation rows. `lightning-ae score {entry.name} --path YOURS` says which rows exceed it.",
        "",
    ]


def _sampled(entry: Entry) -> list[str]:
    """What the card says of the density that is fitted to its codes, where there is one."""
    if entry.sampler is None:
        return []
    name = str(entry.sampler["class_path"]).rpartition(".")[2]
    return ["## Samples", "", f"A `{name}` is fitted to its codes: `model.sample(n)` draws from it.", ""]


def _command(recipe: Recipe) -> str:
    if not recipe.paths:
        return "unknown"
    said = ["lightning-ae fit", *(f"-c {path}" for path in recipe.paths)]
    said += [f'--{key} "{value}"' if " " in str(value) else f"--{key} {value}" for key, value in _items(recipe)]
    return " ".join(said)


def _items(recipe: Recipe) -> list[tuple[str, object]]:
    seed = [] if recipe.seed in (None, 0) else [("seed_everything", recipe.seed)]
    return [*recipe.overrides.items(), *seed]


def _minutes(recipe: Recipe) -> str:
    return "time unknown" if recipe.minutes is None else f"{recipe.minutes:.1f} minutes"


def main() -> None:
    """Writes what is stale, or fails where something is."""
    stale = {file: text for file, text in generated().items() if not file.is_file() or file.read_text() != text}
    if "--check" not in sys.argv:
        for file, text in stale.items():
            file.write_text(text)
    for file in stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {file}")
    if stale and "--check" in sys.argv:
        sys.exit("run `make format`")


if __name__ == "__main__":
    main()
