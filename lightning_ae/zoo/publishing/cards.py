"""The cards, the zoo's README and the JSON Schema, all made from the entries.

python -m lightning_ae.zoo.publishing.cards            # writes what is stale
python -m lightning_ae.zoo.publishing.cards --check    # fails where something is
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning_ae.zoo import index
from lightning_ae.zoo.schema import Entry, Metric

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
            dataset_type=entry.data.id,
            dataset_name=entry.dataset,
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
        datasets=None if "/" not in entry.data.id else [entry.data.id],
        model_name=entry.name,
        eval_results=results,
    )
    return f"---\n{about.to_yaml()}\n---\n\n{_text(entry)}"


def _text(entry: Entry) -> str:
    lines = [f"# {entry.name}", ""]
    if entry.deprecated:
        lines += [f"**Deprecated**: {entry.deprecated}", ""]
    lines += [
        f"A `{entry.model}` model of lightning_ae, trained on {entry.dataset}: {entry.features.dim} features for each "
        f"input of shape {tuple(entry.input_shape)}. "
        f"[{entry.paper.title}]({entry.paper.url}).",
        "",
    ]
    if any(file.name == "preview.png" for file in entry.files):
        lines += ["![Test images above their reconstructions; samples below, where there are any](preview.png)", ""]
    lines += [
        "```python",
        "from lightning_ae import zoo",
        "",
        f'encoder = zoo.load_encoder("{entry.name}")  # {_INPUTS[entry.preprocess.kind]}, to (B, {entry.features.dim})',
        f'model = zoo.load("{entry.name}")  # the whole autoencoder',
        "```",
        "",
        "## Numbers",
        "",
        f"On the {entry.metrics[0].split} split of {entry.dataset}. Classifiers learn from at most 10 000 training",
        "codes; ± is the standard deviation over the seeds of the evaluation.",
        f"`lightning-ae zoo reproduce {entry.name}` measures all of it again.",
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
        "## Training",
        "",
        f"`{_command(entry)}`, {entry.recipe.checkpoint or 'a'} checkpoint; {_minutes(entry)} on "
        f"{entry.recipe.hardware}; "
        + ", ".join(f"{name} {version}" for name, version in entry.recipe.versions.items())
        + ".",
        "",
        f"Data: {entry.data.provenance} (`{entry.data.id}`), {entry.licence.data}. Weights: {entry.licence.weights}.",
        "",
    ]
    return "\n".join(lines)


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
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        here = [entry for entry in entries if entry.dataset == dataset]
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
    return "\n".join(lines)


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


def _command(entry: Entry) -> str:
    if not entry.recipe.paths:
        return "unknown"
    words = ["lightning-ae fit", *(f"-c {path}" for path in entry.recipe.paths)]
    words += [f'--{key} "{value}"' if " " in str(value) else f"--{key} {value}" for key, value in _items(entry)]
    return " ".join(words)


def _items(entry: Entry) -> list[tuple[str, object]]:
    seed = [] if entry.recipe.seed in (None, 0) else [("seed_everything", entry.recipe.seed)]
    return [*entry.recipe.overrides.items(), *seed]


def _minutes(entry: Entry) -> str:
    return "time unknown" if entry.recipe.minutes is None else f"{entry.recipe.minutes:.1f} minutes"


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
