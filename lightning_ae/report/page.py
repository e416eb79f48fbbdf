"""The page: what is shown, and the HTML that shows it."""

from __future__ import annotations

import html
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.colours import GREY, PALETTE
from lightning_ae.errors import InputError
from lightning_ae.evaluation import Beside, Evaluation, beside, look
from lightning_ae.evaluation.beside import BASELINES
from lightning_ae.evaluation.report import shown
from lightning_ae.files import whole_file
from lightning_ae.report import charts
from lightning_ae.report.contents import Contents, Shown
from lightning_ae.report.facts import Facts, checkpoint_facts, configuration, facts, versions
from lightning_ae.report.runs import Run
from lightning_ae.scores import asked

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

EXTRA = ("jinja2", "vl_convert")
TEMPLATES = Path(__file__).parent / "templates"
DRAWS = 100
ROWS, LEAST_ROWS, VALUES = 1000, 100, 2**23
"""How many rows are looked at by default, at most and at least, and how many values they have together in between."""


@dataclass(frozen=True)
class Report:
    """A page about a trained model.

    Args:
        title: what the model is called.
        facts: what was trained on what, in groups of pairs of words.
        contents: what is shown of the model on its data.
        evaluation: the numbers, where there are data.
        beside: some of them beside baselines.
        run: its run, where there is one.
        config: the configuration, as YAML.
        left_out: what is not there, and why.
        chosen_step: the step of the checkpoint.
    """

    title: str
    facts: Facts
    contents: Contents
    evaluation: Evaluation | None = None
    beside: Sequence[Beside] = ()
    run: Run | None = None
    config: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    chosen_step: int | None = None

    @property
    def html(self) -> str:
        """The page, which needs nothing else: no other file, no network.

        Raises:
            InputError: where the extra "report" is not installed.
        """
        check_extra()
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["number"] = shown
        curves = {} if self.run is None else self.run.terms
        every = dict(self.contents.charts)
        every |= {
            f"curve-{i}": charts.curve(name, series, self.chosen_step)
            for i, (name, series) in enumerate(curves.items())
        }
        return environment.get_template("page.html").render(
            report=self,
            contents=self.contents,
            curves=list(curves),
            lost=_lost(self.run),
            charts=every,
            colours=PALETTE,
            grey=GREY,
            baselines=BASELINES,
            bundle=bundle(),
            made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
            versions=versions(),
            about={"captions": self.contents.captions, "thumbnails": _sizes(self.contents)},
            loads=self._loads,
            headline=self._headline,
        )

    @property
    def _headline(self) -> list[str]:
        found = {name: text for pairs in self.facts.values() for name, text in pairs}
        said = {"training rows": "{} training rows", "parameters": "{} parameters", "taken at": "{}", "ended": "{}"}
        return [text.format(found[name]) for name, text in said.items() if name in found]

    @property
    def _loads(self) -> tuple[str, str]:
        """What loads the model in Python, and what names it in a shell."""
        name = "CHECKPOINT" if self.run is None else self.run.checkpoint
        of_zoo = self.run is not None and not os.path.exists(name)
        return f"lightning_ae.{'zoo.load' if of_zoo else 'load_model'}({name!r})", shlex.quote(name)

    def write(self, file: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Writes the page to a file, whole or not at all.

        Raises:
            InputError: where it exists and is not to be replaced, or cannot be written; where the extra "report" is not
                installed.
        """
        place, text = Path(file), self.html
        with whole_file(place, overwrite) as part:
            part.write_text(text, encoding="utf-8")
        return place

    def markdown(self) -> str:
        """The facts and the numbers beside their baselines, for a logger that takes text."""
        lines = [f"# {self.title}", ""]
        for pairs in self.facts.values():
            lines += [f"- {name}: {text}" for name, text in pairs]
        lines.append("")
        for row in self.beside:
            others = "".join(f", {name} {value:.4g}" for name, value in row.others.items())
            lines.append(f"- {row.name}: {row.value:.4g}{others}")
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="report" '
            'style="width: 100%; height: 720px; border: 1px solid #8884"></iframe>'
        )


def report_of(
    model: Autoencoder,
    data: HFDataModule | None = None,
    *,
    run: Run | None = None,
    title: str = "",
    rows: int | None = None,
    seed: int = 0,
    full: bool = False,
) -> Report:
    """A page about a trained model: what applies to it, and in one line each what does not, and why.

    Args:
        model: a trained one.
        data: its data module; without one the page says what the model and its run say by themselves.
        run: its run, `find_run(folder)`, for the curves, the configuration and the dates.
        title: what the model is called; by default its class.
        rows: how many rows of the training and of the test split are looked at, at most, drawn by seed; where there is
            no test split, of the validation split. By default 1000, and fewer, down to 100, where a row has more than
            8192 values.
        seed: of all draws.
        full: measure what takes longer, too: the evidence, the factors, how good samples are.

    Returns:
        The page: `write(file)`, or `html`.

    Raises:
        InputError: as `evaluate`, of codes that are not finite, say.

    Example:
        >>> from lightning_ae import HFDataModule, VAE
        >>> from lightning_ae.report import report_of
        >>> data = HFDataModule("digits")
        >>> report_of(VAE(data.input_shape, 2), data, rows=100).title
        'VAE'
    """
    left_out = {} if run is None else dict(run.why)
    looked, compared = None, []
    with asked(model):
        if data is not None:
            held_out = next((split for split in ("test", "val") if data.has(split)), "test")
            try:
                size = math.prod(data.input_shape)
                count = min(ROWS, max(LEAST_ROWS, VALUES // size)) if rows is None else rows
                looked = look(
                    model, data, title, rows=count, draws=DRAWS if full else None, seed=seed, held_out=held_out
                )
            except InputError as reason:
                if "NaN or infinite" in reason.message:
                    raise
                left_out["what is made of data"] = reason.message
        else:
            left_out["what is made of data"] = "no data are at hand"
        if looked is not None:
            compared = beside(model, looked.samples, looked.evaluation.numbers, seed)
            left_out |= {
                side: "it takes longer: `lightning-ae report --full`, or `lightning-ae evaluate`, measures it"
                if why == "it takes longer"
                else why
                for side, why in looked.evaluation.left_out.items()
                if {"samples": model.generates, "factors": full or bool(data and data.factor_names)}.get(side, True)
            }
        contents = Shown(model, data, looked, seed).all()
        saved = checkpoint_facts(run)
        return Report(
            title or type(model).__name__,
            facts(model, data, run, saved),
            contents,
            None if looked is None else looked.evaluation,
            compared,
            run,
            configuration(model, run),
            {**_called(left_out), **contents.left_out},
            saved.get("global_step"),
        )


def _sizes(contents: Contents) -> dict[str, int] | None:
    """How the thumbnails stand in their image."""
    found = contents.thumbnails
    if found is None:
        return None
    return {name: getattr(found, name) for name in ("columns", "rows", "width", "height")}


def _called(left_out: Mapping[str, str]) -> dict[str, str]:
    """The sides of an evaluation by what they are."""
    names = {"samples": "how good samples are", "classes": "how well classes are told apart", "code": "the code"}
    names |= {"reconstruction": "the error of reconstruction", "factors": "factors", "likelihood": "likelihood"}
    return {names.get(name, name): why for name, why in left_out.items()}


def _lost(run: Run | None) -> list[str]:
    """What is said of curves of which values are missing."""
    if run is None:
        return []
    broken = {term: sum(each.broken for each in series) for term, series in run.terms.items()}
    said = [f"{count} values of {term} are not finite, and not drawn" for term, count in broken.items() if count]
    if any(each.logged > len(each.points) for series in run.terms.values() for each in series):
        said.append("of long curves every n-th value is drawn; metrics.csv has them all")
    return said


def check_extra() -> None:
    """Refuses to write a page without what it is made with.

    Raises:
        InputError: saying what to install.
    """
    if lacking := [name for name in EXTRA if find_spec(name) is None]:
        raise InputError(
            f"a report needs {' and '.join(lacking)}, of the extra 'report'", "pip install 'lightning_ae[report]'"
        )


@cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from vl-convert-python, kept in the cache between runs.

    To bundle them takes seconds, to read them none.
    """
    import vl_convert

    from lightning_ae.data.cache import cache_folder

    file = cache_folder().parent / "report" / f"vega-embed-{version('vl-convert-python')}.js"
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    text = (
        str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )
    try:
        with whole_file(file) as part:
            part.write_text(text, encoding="utf-8")
    except InputError:  # a cache that cannot be written: the next one takes as long
        pass
    return text
