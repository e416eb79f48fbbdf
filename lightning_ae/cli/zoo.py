"""`lightning-ae zoo ...`: what `lightning_ae.zoo` does, with tables for people and JSON for scripts."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_ae import registry
from lightning_ae.cli import source
from lightning_ae.cli.parsing import ToolParser
from lightning_ae.errors import InputError, unknown
from lightning_ae.shapes import is_any, words

if TYPE_CHECKING:
    from lightning_ae.zoo.schema import Entry

COMMANDS = {
    "list": "show the entries by data set, the best features first",
    "info": "show all that is known of an entry",
    "load-test": "load an encoder, and compare its golden values",
    "download": "copy entries to a folder",
    "verify": "hash all files of entries, load them, compare their golden values",
    "reproduce": "measure every number that an entry states",
    "import": "write published weights of another library's layout as a folder",
    "publish": "evaluate a checkpoint and make an entry of it",
}

HELP = """usage: lightning-ae zoo COMMAND [options]

Pretrained models. They come with the package: no network is needed.

commands:
{commands}

start here:
  lightning-ae zoo list                       what there is
  lightning-ae zoo info vae_conv.mnist_v1     one of them: its data, its numbers, its licence
  lightning-ae features vae_mlp.digits_v1     use it, as any checkpoint

`lightning-ae zoo COMMAND --help` lists the options of a command; --json is for scripts.
""".format(commands="\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items()))


def add_commands(parser: ToolParser) -> None:
    """Gives a parser the commands of `lightning-ae zoo`."""
    parsers = {name: ToolParser(description=f"{text[0].upper()}{text[1:]}.") for name, text in COMMANDS.items()}
    given = parsers["list"]
    given.add_argument("pattern", nargs="?", default="*", help='of names: mnist, "vae_*"')
    given.add_argument("--model", help="a variant: vae, or any of its other names")
    given.add_argument("--dataset", help="digits, mnist, fashion_mnist and so on")
    given.add_argument("--licence", help="of the weights or the data, an SPDX identifier")
    given.add_argument("--sort", default="probe_error", help="name, model, dataset, size, probe_error or knn_error")
    for name in ("info", "load-test"):
        parsers[name].add_argument("name", help="of an entry")
    for name in ("download", "verify"):
        parsers[name].add_argument("names", nargs="*", help="of entries")
        parsers[name].add_argument("--all", action="store_true", help="all entries")
    parsers["download"].add_argument("--to", required=True, help="the folder; each entry gets one in it")
    given = parsers["reproduce"]
    given.add_argument("name", help="of an entry")
    given.add_argument("--path", help="a local copy of the data set, instead of the hub's")
    given.add_argument("--train", action="store_true", help="train the model again by its recipe first")
    given = parsers["import"]
    given.add_argument(
        "source", help="a folder, a repository on the Hugging Face hub, or hf://organisation/name@commit"
    )
    given.add_argument("--to", required=True, help="the folder to write")
    given.add_argument("--revision", help="of a repository: a commit, branch or tag")
    given.add_argument("--subfolder", help="of the folder or repository: vae")
    given.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    given = parsers["publish"]
    given.add_argument("checkpoint", help="of a model in the registry")
    given.add_argument("--name", required=True, help="<variant>_<architecture>.<dataset>_v<N>")
    given.add_argument("--to", default="zoo", help="a folder, or hf://organisation/name")
    given.add_argument("--path", help="a local copy of the data set, instead of the hub's")
    given.add_argument("--recipe", nargs="+", default=[], help="the recipes that it was trained by: names or files")
    given.add_argument("--overrides", type=dict[str, Any], help='options that were changed, as JSON: {"model.k": 3}')
    given.add_argument(
        "--data", type=dict[str, str], help='of another data set: {"id": ., "licence": ., "provenance": .}'
    )
    given.add_argument("--licence", default="Apache-2.0", help="of the weights, an SPDX identifier")
    given.add_argument("--minutes", type=float, help="how long the training took")
    given.add_argument(
        "--stored", choices=["float32", "float16"], default="float32", help="the type of the weights in the file"
    )
    given.add_argument("--write", action="store_true", help="write it; without this, everything is done but that")
    commands = parser.add_subcommands(required=True)
    for name, each in parsers.items():
        each.add_argument("--json", action="store_true", help="print JSON, for scripts")
        commands.add_subcommand(name, each, help=COMMANDS[name])


def run(args: list[str]) -> None:
    """Runs a command."""
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        sys.exit(0)
    parser = ToolParser(prog="lightning-ae zoo", description="Pretrained models.")
    add_commands(parser)
    given = parser.parse_args(args).as_dict()
    name = given["subcommand"]
    options = given[name]
    as_json = options.pop("json")
    function: Any = _RUN[name]
    function(as_json, **options)


def _list(as_json: bool, **options: Any) -> None:
    from lightning_ae.zoo import info, list_models

    entries = [info(name) for name in list_models(**_filters(**options))]
    if as_json:
        _print_json([entry.model_dump(by_alias=True, mode="json") for entry in entries])
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{'':<{_NAME}}{'code':>6}  {'probe':>5}  {'5-NN':>5}  {'KiB':>6}  good for")
    for dataset in sorted({entry.dataset for entry in entries}):
        here = [entry for entry in entries if entry.dataset == dataset]
        console.print(f"\n[bold]{dataset}[/], {words(here[0].input_shape, here[0].multiple)}")
        for entry in sorted(here, key=lambda entry: entry.deprecated is not None):
            size = f"{sum(file.size for file in entry.files) / 1024:,.0f}"
            console.print(_row(entry.name, entry.features.dim, entry, "", size, ", ".join(_uses(entry))), markup=False)
        if not is_any(here[0].input_shape):
            console.print(_row("(the inputs themselves)", math.prod(here[0].input_shape), here[0], "raw_"), style="dim")
    count = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    console.print(f"\n{count}. probe and 5-NN: errors in % of logistic regression and of 5 nearest neighbours that")
    console.print(
        "learn from codes, on test data; where one does better than on the inputs: features. [bold]To use one[/]:"
    )
    name = entries[0].name if entries else "NAME"
    for command, text in (
        (f"lightning-ae zoo info {name}", "all that is known of it"),
        (f"lightning-ae features {name} --path photos/", "codes of your own data"),
        (f'zoo.load_encoder("{name}")', "after: from lightning_ae import zoo"),
    ):
        console.print(f"  {command:<60}  {text}", markup=False)


_NAME = 34


def _row(name: str, dim: int, entry: Entry, prefix: str, size: str = "", uses: str = "") -> str:
    errors = [entry.metric(f"{prefix}{metric}_error") for metric in ("probe", "knn")]
    cells = [f"{'' if error is None else f'{100 * error:.1f}':>5}" for error in errors]
    return f"  {name:<{_NAME - 2}}{dim:>6}  {'  '.join(cells)}  {size:>6}  {uses}".rstrip()


def _uses(entry: Entry) -> list[str]:
    """What an entry is good for, as its numbers and its class say."""
    if entry.deprecated:
        return ["deprecated: see info"]
    errors = [(entry.metric(name), entry.metric(f"raw_{name}")) for name in ("probe_error", "knn_error")]
    better = [own < raw for own, raw in errors if own is not None and raw is not None]
    uses = ["features"] if any(better) else []
    uses += ["sampling"] if entry.sampler is not None or _generates(entry.model) else []
    uses += ["indices"] if "indices" in entry.features.latents else []
    uses += ["denoising"] if entry.model == "denoising" else []
    if is_any(entry.input_shape):
        return [*uses, "codes of photographs"]
    return uses or ["compression" if entry.features.dim < math.prod(entry.input_shape) else "sparse codes"]


def _generates(model: str) -> bool:
    """Whether a variant draws samples, as its source says."""
    place = registry.MODELS.get(model, "").replace(":", ".")
    return bool(place) and source.attribute(source.place_of(place), "generates") == "True"


def _filters(pattern: str, model: str | None, dataset: str | None, licence: str | None, sort: str) -> dict[str, Any]:
    """What `zoo.list_models` takes; a word without * is looked for anywhere in names.

    Raises:
        InputError: for a name that no entry has.
    """
    from lightning_ae.zoo import index

    entries = [index.info(name) for name in index.names()]
    if not re.search(r"[*?[]", pattern):
        if not any(pattern in entry.name for entry in entries):
            raise unknown("zoo entry", pattern, [entry.name for entry in entries])
        pattern = f"*{pattern}*"
    model = None if model is None else registry.variant(model)
    for kind, given, there in (
        ("data set of the zoo", dataset, {entry.dataset for entry in entries}),
        ("licence of the zoo", licence, {each for entry in entries for each in entry.licence.model_dump().values()}),
    ):
        if given is not None and given not in there:
            raise unknown(kind, given, there)
    return {"pattern": pattern, "model": model, "dataset": dataset, "licence": licence, "sort": sort}


def _info(as_json: bool, name: str) -> None:
    from lightning_ae.zoo import info
    from lightning_ae.zoo.publishing.cards import ABOUT

    entry = info(name)
    plain = entry.model_dump(by_alias=True, mode="json")
    if as_json:
        _print_json(plain)
        return
    console = _console()
    console.print(f"[bold]{entry.name}[/]" + (f"  deprecated: {escape(entry.deprecated)}" if entry.deprecated else ""))
    rows = {
        "model": f"{entry.model} ({entry.paper.title}, {entry.paper.url})",
        "input": words(entry.input_shape, entry.multiple) if entry.multiple else f"{entry.input_shape}",
        "features": f"{entry.features.dim}; latent: {', '.join(entry.features.latents)}",
        "layers": ", ".join(layer.name for layer in entry.features.layers),
        "data": f"{entry.data.id or entry.dataset}: {entry.data.provenance}",
        "licence": f"weights {entry.licence.weights}, data {entry.licence.data}",
        **_made(entry),
        "files": ", ".join(f"{file.name} ({file.size / 1024:,.0f} KiB)" for file in entry.files),
    }
    for key, value in rows.items():
        console.print(f"  {key:<9} {escape(str(value))}", soft_wrap=True)
    table = Table("metric", "value", "±", "samples", "")
    for metric in entry.metrics:
        value = "" if metric.value is None else f"{metric.value:.5g}"
        spread = "" if metric.std is None else f"{metric.std:.2g}"
        table.add_row(metric.name, value, spread, str(metric.n or ""), ABOUT.get(metric.name, ""))
    console.print(table)


def _made(entry: Entry) -> dict[str, str]:
    """How an entry came to be."""
    if entry.imported is not None:
        return {"imported": f"{entry.imported.source}, {entry.imported.authors}"}
    assert entry.recipe is not None
    return {"recipe": f"{', '.join(entry.recipe.paths) or 'unknown'} {entry.recipe.overrides or ''}"}


def _load_test(as_json: bool, name: str) -> None:
    from lightning_ae.zoo import info, load, load_encoder
    from lightning_ae.zoo.checks import golden_checks

    entry = info(name)
    start = time.perf_counter()
    encoder = load_encoder(name)
    seconds = time.perf_counter() - start
    failed = [check.name for check in golden_checks(entry, load(name)) if not check.passed]
    found = {"name": name, "feature_dim": encoder.feature_dim, "seconds": round(seconds, 3), "failed": failed}
    if as_json:
        _print_json(found)
    else:
        verdict = f"[bold red]differs in {', '.join(failed)}[/]" if failed else "[green]golden values agree[/]"
        _console().print(f"{name}: {encoder.feature_dim} features, loaded in {seconds:.2f} s; {verdict}")
    sys.exit(1 if failed else 0)


def _download(as_json: bool, names: list[str], all: bool, to: str) -> None:
    names = _names(names, all)
    from lightning_ae.zoo import download

    folders = download(names, to)
    if as_json:
        _print_json([str(folder) for folder in folders])
        return
    _console().print("[bold]Written[/]")
    for folder in folders:
        _console().print(f"  {folder}", soft_wrap=True)


def _verify(as_json: bool, names: list[str], all: bool) -> None:
    names = _names(names, all)
    from tqdm.auto import tqdm

    from lightning_ae.zoo import verify

    found = {}
    for name in tqdm(names, "verifying", delay=2, leave=False):
        try:
            verify([name])
            found[name] = ""
        except InputError as error:
            found[name] = error.message
    if as_json:
        _print_json([{"name": name, "error": problem or None} for name, problem in found.items()])
    else:
        table = Table("entry", "files, weights and golden values")
        for name, problem in found.items():
            table.add_row(name, f"[bold red]{escape(problem)}[/]" if problem else "[green]right[/]")
        _console().print(table)
    sys.exit(1 if any(found.values()) else 0)


def _reproduce(as_json: bool, name: str, path: str | None, train: bool) -> None:
    from lightning_ae.zoo import reproduce

    found = reproduce(name, path, train)
    if as_json:
        fields = ("name", "stated", "measured", "atol", "passed")
        checks = [{field: getattr(check, field) for field in fields} for check in found.checks]
        _print_json({"digest": {"stated": found.stated, "measured": found.measured}, "checks": checks})
    else:
        table = Table("metric", "stated", "measured", "tolerance", "", title=name)
        for check in found.checks:
            verdict = "[green]reproduced[/]" if check.passed else "[bold red]not reproduced[/]"
            numbers = (f"{check.stated:.6g}", f"{check.measured:.6g}", f"{check.atol:.2g}")
            table.add_row(check.name, *numbers, verdict)
        _console().print(table)
        _console().print(f"Measured on {found.copy}.", soft_wrap=True)
    sys.exit(0 if found.passed else 1)


def _import(as_json: bool, source: str, to: str, revision: str | None, subfolder: str | None, overwrite: bool) -> None:
    from lightning_ae.zoo.pretrained import load

    model = load(source, revision=revision, subfolder=subfolder)
    folder = model.save_pretrained(to, overwrite)
    found = {
        "folder": str(folder),
        "class": type(model).__name__,
        "input_shape": list(model.input_shape),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if as_json:
        _print_json(found)
        return
    console = _console()
    console.print(f"[bold]Written[/]\n  {escape(str(folder))}", soft_wrap=True)
    console.print(
        f"  {found['class']}, input {' x '.join(map(str, model.input_shape))}, {found['parameters']:,} parameters"
    )
    console.print(f"Next\n  lightning-ae features {escape(str(folder))} --path photos/", soft_wrap=True)


def _publish(as_json: bool, write: bool, **options: Any) -> None:
    from lightning_ae.zoo import publish
    from lightning_ae.zoo.publishing.entry import dump

    entry = publish(dry_run=not write, **options)
    if as_json:
        _print_json(entry.model_dump(by_alias=True, mode="json"))
        return
    console = _console()
    if write:
        console.print(f"[bold]Published[/]\n  {entry.name} to {options['to']}", soft_wrap=True)
        return
    text = dump(entry)
    console.print(escape(text if len(text) < 6000 else f"{text[:6000]}\n..."), soft_wrap=True)
    console.print("[bold]Dry run[/]: nothing was written; add --write to publish.")


def _names(names: list[str], everything: bool) -> list[str]:
    from lightning_ae.zoo import index

    if bool(names) == everything:
        raise InputError("give names of entries, or --all", "`lightning-ae zoo list` shows the names")
    for name in names:
        if name not in index.names():
            raise unknown("zoo entry", name, index.names())
    return index.names() if everything else names


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


_RUN = {
    "list": _list,
    "info": _info,
    "load-test": _load_test,
    "download": _download,
    "verify": _verify,
    "reproduce": _reproduce,
    "import": _import,
    "publish": _publish,
}
