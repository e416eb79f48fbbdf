"""A trained model as a graph that runs without this package: what goes in is in natural units.

Preprocessing, statistics and threshold are part of the graph. What it takes and gives is described in the file; what a
graph has not is said in `export`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.config import class_path
from lightning_ae.counts import CountPreprocess
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise
from lightning_ae.export.graphs import Case, Part, To, check_file, check_to, write
from lightning_ae.parts.likelihoods import known
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess
from lightning_ae.scores import asked
from lightning_ae.shapes import one_size
from lightning_ae.training.weights import weights_type

What = Literal["encode", "decode", "score"]
CHECKED = 100


def export(
    model: Autoencoder,
    file: str | os.PathLike[str],
    what: What = "encode",
    to: To = "onnx",
    *,
    rows: Tensor | Sequence[Tensor] | None = None,
    resize: bool | None = None,
    threshold: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes a model as a graph, after it was run on rows and gave what the model gives.

    The graph takes batches of any number of samples, as one input, or more:

    - "input", of "encode" and "score": images (B, C, H, W), bytes or, where `rows` are, floats in [0, 1]; of any height
      and width where the model resizes; tables (B, columns) and sequences (B, channels, length) in float64, of which
      large numbers lose no digits; missing values are NaN, categories the numbers of their classes in the description,
      dates seconds; counts (B, genes) in float32. Of a model without a signature it is in the model's own units.
    - "code", of "decode": (B, *code_shape) in float32; of a hierarchy "code_0", "code_1" and so on.
    - what else the model takes, by role ("label", and for "decode" also "library"), a value for each sample; a
      "condition" (B, columns) in float64, numbers as they are and categories as above. A mask is none of these: what is
      NaN is unknown.

    It gives, by name; a graph of torch's a tuple in this order, or, of one output, a tensor:

    - "code", of "encode": what the model's `encode` gives, and "features" where those are another vector: the mean over
      the positions of a map or of tokens; of a hierarchy all levels beside each other.
    - "reconstruction", of "decode", in natural units: images in [0, 1], in the model's size; tables in float64.
    - "score", of "score", in nats: what `model.score` gives, by one draw of `seed`, which is a part of the graph. What
      the likelihood does not take, where `model.score` refuses it, has the score NaN. With a threshold also
      "exceeds": whether the score is larger.

    No values are looked at: what `model.features` refuses (NaN where none may be missing, numbers of no class) gives
    numbers that mean nothing, or NaN.

    The file's description is "signature.json", "signature_hash" and "export.json" (the model's class, the inputs with
    columns and classes, the outputs, threshold, seed, versions): the metadata_props of an ONNX file; for the others,
    `torch.export.load(file, extra_files={"export.json": ""})`.

    Args:
        model: the model; it stays as it is.
        file: to write.
        what: "encode", "decode" or "score".
        to: "onnx", or "torch" for a file that `torch.export.load` reads.
        rows: in natural units, as the graph takes them, for the check: a tensor (B, ...), or samples of
            several sizes, a list of (C, H, W). By default, rows made up from the signature,
            with missing values and categories where it has some.
        resize: whether images of any size are brought to the model's in the graph; else it takes the model's size. By
            default where an image of the rows, or that the model was trained on, has another size.
        threshold: of scores, above which "exceeds" is true; by default the model's own, where it has one of one draw.
        seed: of the draws.
        overwrite: whether a file that exists is replaced.

    Returns:
        The file.

    Raises:
        InputError: for what a graph cannot hold, by name; when an extra is not installed; when the graph gives
            something else than the model, by more than 1e-5 of the larger of 1 and the value (in units of the column's
            standard deviation or range). Nothing is written then.
    """
    if what not in get_args(What):
        raise unknown("value of what", str(what), get_args(What))
    check_to(to)
    one_size(model, "a graph")
    if threshold is not None and what != "score":
        raise InputError(f"threshold={threshold!r} is of scores, which {what!r} does not give", "set what='score'")
    own = model.threshold
    if threshold is None and what == "score" and own is not None and own.draws == 1:
        threshold = own.value
    if what == "score":
        model.check_scores()
    check_file(file, to, overwrite)
    twin = _twin(model)
    if resize is None:
        resize = _other_size(model, rows)
    batches = _batches(twin, rows, resize)
    part = _PARTS[what](twin, resize, threshold, seed)
    with asked(twin):
        cases = [case for batch in batches for case in part.cases(batch)]
    if what == "decode":  # images of all sizes have codes of one shape
        cases = [_joined(cases)]
    about = {
        "model": class_path(type(model)),
        "what": what,
        "package": _version(),
        **part.about,
        "inputs": _described(model, part, cases[0].inputs),
        "outputs": part.outputs,
    }
    write(part, cases, file, to, about, model.signature, overwrite)
    return Path(file)


class _OfModel(Part):
    """A part of an autoencoder: from natural units, with what the model is given."""

    def __init__(self, model: Autoencoder, resize: bool, threshold: float | None, seed: int) -> None:
        super().__init__(model)
        self.preprocess: Preprocess | None = None if model.signature is None else model.signature.preprocess
        condition = None if model.signature is None else model.signature.condition
        self.conditions = None if condition is None else condition.preprocess
        self.threshold, self.seed = threshold, seed
        self.roles = tuple(role for role in model.given if role != "mask")
        self.inputs = ("input", *self.roles)
        self.masked = "mask" in model.given or (model.signature is not None and model.signature.masked)
        self.any_size = resize and _resizes(self.preprocess)

    def read(self, x: Tensor, *beside: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The model's input, (B, *input_shape), and what it is given."""
        if isinstance(self.preprocess, ImagePreprocess) and self.any_size:
            x = _resized(self.preprocess, x)
        if self.preprocess is not None:
            x = self.preprocess(x)
        x = x.to(weights_type(self.model.encoder, self.model))
        given = self.units(beside)
        if self.masked:
            mask = ~x.isnan()
            x = known(x, mask)
            given |= {"mask": mask} if "mask" in self.model.given else {}
        return x, self.model.completed(x, given)

    def units(self, beside: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the model is given, in its units, by role."""
        given = dict(zip(self.roles, beside, strict=True))
        if self.conditions is not None and "condition" in given:
            given["condition"] = self.conditions(given["condition"]).to(weights_type(self.model.encoder, self.model))
        return given

    def given(self, n: int) -> dict[str, Tensor]:
        """Examples of what else the model takes, by role, as the graph does."""
        stand_ins: dict[str, Tensor] = self.model.stand_ins(n)
        if self.conditions is not None:
            stand_ins["condition"] = self.conditions.inverse(stand_ins["condition"].double())
        return {role: stand_ins[role] for role in self.roles if role in self.model.given}


class _Encode(_OfModel):
    what = "encode"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outputs = tuple(_codes(self.model)) + (() if len(_flat_shape(self.model)) == 1 else ("features",))

    def forward(self, *inputs: Tensor) -> Any:
        x, given = self.read(*inputs)
        outputs = self.named(self.model.encode(x, **given))
        return outputs if len(outputs) > 1 else outputs[0]

    def named(self, code: Any) -> tuple[Tensor, ...]:
        """The outputs that a code makes."""
        codes = code if isinstance(code, tuple) else (code,)
        return codes if "features" not in self.outputs else (*codes, self.model.pool(code))

    def cases(self, x: Tensor) -> Iterator[Case]:
        given = self.given(len(x))
        read, _, roles = _read(self.model, x, given)
        yield Case((x, *given.values()), self.named(self.model.encode(read, **roles)))


class _Decode(_OfModel):
    what = "decode"
    outputs = ("reconstruction",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        implied = tuple(role for role in self.model.implied if role not in self.roles)
        self.codes = len(_codes(self.model))
        self.roles = (*self.roles, *implied)
        self.inputs = (*_codes(self.model), *self.roles)
        self.any_size = False

    def forward(self, *inputs: Tensor) -> Tensor:
        codes, beside = inputs[: self.codes], inputs[self.codes :]
        code = codes if isinstance(self.model.code_shape[0], tuple) else codes[0]
        return self.natural(self.model.decode(code, **self.units(beside)))

    def natural(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; in float64 where a large offset would cost digits."""
        if self.preprocess is None:
            return x
        return self.preprocess.inverse(x.double() if _scales(self.preprocess) else x)

    def cases(self, x: Tensor) -> Iterator[Case]:
        examples = self.given(len(x))
        read, _, given = _read(self.model, x, examples)
        code = self.model.encode(read, **given)
        codes = code if isinstance(code, tuple) else (code,)
        expected = self.natural(self.model.decode(code, **{role: given[role] for role in self.roles}))
        beside = [examples[role] if role in examples else given[role] for role in self.roles]
        yield Case((*codes, *beside), (expected,), *_units(self.preprocess, expected))


class _Score(_OfModel):
    what = "score"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outputs = ("score",) if self.threshold is None else ("score", "exceeds")
        drawn = "sample" in self.model.latents
        self.about = {
            "score": "by one draw of the code, the same for all samples" if drawn else
            "of the code, without draws",
            "seed": self.seed if drawn else None,
            "threshold": self.threshold,
        }  # fmt: skip
        self.draws = nn.ParameterList()
        self.at: int | None = None
        self.model.noise = self.noise

    def forward(self, *inputs: Tensor) -> Any:
        x, given = self.read(*inputs)
        self.at = 0
        coded = next(self.model.coded(x, 1, **given))
        score = -coded.log_likelihood(self.model, x, **given)
        if coded.divergence is not None:
            score = coded.divergence + score
        score = torch.where(_outside(self.model.likelihood, x), torch.nan, score)
        return score if self.threshold is None else (score, score > self.threshold)

    def noise(self, purpose: str) -> Noise:
        """The draws of a sample: written down the first time, the same for every sample after that."""
        return _Written(self, type(self.model).noise(self.model, purpose))

    def cases(self, x: Tensor) -> Iterator[Case]:
        given = self.given(len(x))
        each = []
        for i in range(len(x)):
            own = {role: value[i : i + 1] for role, value in given.items()}
            row, target, roles = _read(self.model, x[i : i + 1], own)
            self.at = None
            self.draws = nn.ParameterList()
            each.append(self.model.score_batch(row, target, seed=self.seed, **roles).score)
        score = torch.cat(each)
        yield Case((x, *given.values()), (score,) if self.threshold is None else (score, score > self.threshold))


_PARTS: dict[str, Any] = {"encode": _Encode, "decode": _Decode, "score": _Score}


class _Written(Noise):
    """Draws that are written down, or read again for all rows."""

    def __init__(self, part: _Score, noise: Noise) -> None:
        super().__init__()
        self._part, self._noise = part, noise

    def _draw(self, draw: Any, x: Tensor) -> Tensor:
        part = self._part
        if part.at is None:
            drawn = self._noise._draw(draw, x)
            part.draws.append(nn.Parameter(drawn.clone(), requires_grad=False))
            return drawn
        part.at += 1
        drawn = part.draws[part.at - 1]
        if len(drawn) == 1:
            return drawn.expand(x.shape[0], *x.shape[1:]).to(x.dtype)
        rows = x.shape[0] // len(drawn)  # of a mixture, whose k rows of a sample are beside each other
        return drawn.unsqueeze(0).expand(rows, *drawn.shape).flatten(0, 1).to(x.dtype)


# ---- models and rows ------------------------------------------------------------------------------------------------


def _twin(model: Autoencoder) -> Autoencoder:
    """The same model on the CPU, in evaluation, without its trainer."""
    trainer, model._trainer = model._trainer, None
    try:
        return copy.deepcopy(model).cpu().eval().requires_grad_(False)
    finally:
        model._trainer = trainer


def _read(model: Any, x: Tensor, given: Mapping[str, Tensor]) -> Any:
    """What the model makes of rows by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images that are resized
        return model.read_natural(x, given)


def _codes(model: Autoencoder) -> list[str]:
    shapes = model.code_shape
    return [f"code_{i}" for i in range(len(shapes))] if isinstance(shapes[0], tuple) else ["code"]


def _flat_shape(model: Autoencoder) -> tuple[Any, ...]:
    """The shape of a code: of one dimension where it is a vector."""
    shapes: Any = model.code_shape
    return (*shapes, 0) if isinstance(shapes[0], tuple) else shapes


def _resizes(preprocess: Preprocess | None) -> bool:
    return isinstance(preprocess, ImagePreprocess) and preprocess.size is not None


def _scales(preprocess: Preprocess) -> bool:
    return isinstance(preprocess, TabularPreprocess) and preprocess.scales


def _resized(preprocess: ImagePreprocess, x: Tensor) -> Tensor:
    """What `ImagePreprocess.resize` does, whatever the size: to one's own it changes nothing."""
    assert preprocess.size is not None
    y = replace(preprocess, size=None).resize(x.float())
    y = F.interpolate(y, preprocess.size, mode="bilinear", antialias=True, align_corners=False)
    return y.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else y


def _outside(likelihood: Any, x: Tensor) -> Tensor:
    """Which samples have a value that the likelihood gives no score, (B,)."""
    low, high = likelihood.support
    bad = ~((x >= low) & (x <= high)) | (x.abs() == float("inf"))
    if likelihood.distance is not None:
        bad = bad | (likelihood.distance(x) != 0)
    return bad.flatten(1).any(dim=1)


def _units(preprocess: Preprocess | None, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Of natural values (B, ...), what an error is measured by, and where they are counted from."""
    if not isinstance(preprocess, TabularPreprocess) or not preprocess.scales:
        return 1.0, 0.0
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean = torch.tensor(preprocess.mean or [0.0] * x.shape[1], dtype=torch.float64)
    std = torch.tensor(preprocess.std or [1.0] * x.shape[1], dtype=torch.float64)
    for i, knots in enumerate(preprocess.knots or ()):
        if knots:
            mean[i], std[i] = mean[i] + std[i] * (knots[0] + knots[-1]) / 2, std[i] * (knots[-1] - knots[0])
    return std.clamp(min=1e-300).view(shape), mean.view(shape)


def _other_size(model: Autoencoder, rows: Tensor | Sequence[Tensor] | None) -> bool:
    """Whether images have another size than the model's: those given, or else that of its training data."""
    if model.signature is None or not _resizes(model.signature.preprocess):
        return False
    if rows is None:
        sizes = {column.shape[-2:] for column in model.signature.columns}
    else:
        sizes = {tuple(each.shape[-2:]) for each in ([rows] if isinstance(rows, Tensor) else rows)}
    return not sizes <= {tuple(model.input_shape[-2:])}


def _batches(model: Autoencoder, rows: Tensor | Sequence[Tensor] | None, resize: bool) -> list[Tensor]:
    """Rows as the graph takes them, those of a size together, as many as are checked."""
    given = [rows] if isinstance(rows, Tensor) else [] if rows is None else [each[None] for each in rows]
    preprocess = None if model.signature is None else model.signature.preprocess
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for batch in given or example_rows(model, resize):
        if isinstance(preprocess, ImagePreprocess):
            batch = batch.unsqueeze(1) if batch.ndim == 3 else batch
            batch = batch if batch.dtype == torch.uint8 else batch.float()
            batch = batch if resize else preprocess.resize(batch)
        elif isinstance(preprocess, CountPreprocess):
            batch = preprocess(batch)
        else:
            batch = batch.to(weights_type(model.encoder, model) if preprocess is None else torch.float64)
        sizes.setdefault(tuple(batch.shape[1:]), []).append(batch)
    found = [torch.cat(each).cpu() for each in sizes.values()]
    if len({each.dtype for each in found}) > 1 or len({each.shape[1] for each in found}) > 1:
        raise InputError(
            "rows hold images of several types or numbers of channels: "
            + ", ".join(f"{each.dtype} {tuple(each.shape[1:])}" for each in found),
            "a graph takes one: convert them first (ImagePreprocess(channels=3).resize, say)",
        )
    if len(found) > 1 and not _resizes(preprocess):
        raise InputError(f"rows have {len(found)} shapes, where the graph takes one", "give rows of the model's shape")
    return found


def example_rows(model: Autoencoder, resize: bool = True, n: int = CHECKED) -> list[Tensor]:
    """Made-up rows in natural units, a batch of each size: of a table with missing values and all classes."""
    generator = torch.Generator().manual_seed(0)
    shape, signature = model.input_shape, model.signature
    normal = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    if signature is None:
        low, high = model.likelihood.support
        x = normal.clamp(low, high) if low == -float("inf") else torch.rand(normal.shape, generator=generator)
        return [x.round() if model.likelihood.whole else x]
    preprocess = signature.preprocess
    if isinstance(preprocess, ImagePreprocess):
        read = signature.columns[0].shape if signature.columns else ()
        channels, height, width = read if len(read) == 3 else shape
        sizes = [(height, width)]
        if resize and preprocess.size is not None:
            sizes.append((height + height // 2 + 1, width + width // 3 + 1))
        return [
            torch.randint(256, (n // len(sizes), channels, *size), generator=generator, dtype=torch.uint8)
            for size in sizes
        ]
    if isinstance(preprocess, CountPreprocess):
        return [normal.abs().mul(3).floor()]
    x = preprocess.inverse(normal)
    if len(shape) == 1 and len(signature.columns) == shape[0]:
        for i, column in enumerate(signature.columns):
            if column.classes:
                x[:, i] = torch.arange(n, dtype=x.dtype) % len(column.classes)
    if signature.masked:
        may = torch.tensor([column.missing == "masked" for column in signature.columns])
        may = may.view(-1, *[1] * (len(shape) - 1)) if len(may) == shape[0] else may.any()
        x[(torch.rand(x.shape, generator=generator) < 0.2) & may] = torch.nan
    return [x]


def _joined(cases: Sequence[Case]) -> Case:
    first = cases[0]
    inputs = tuple(torch.cat(each) for each in zip(*(case.inputs for case in cases), strict=True))
    expected = tuple(torch.cat(each) for each in zip(*(case.expected for case in cases), strict=True))
    return Case(inputs, expected, first.unit, first.middle)


def _described(model: Autoencoder, part: Part, inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Each input: its name, type and shape (-1 where any number goes), and the columns of the first."""
    found: list[dict[str, Any]] = []
    for i, (name, x) in enumerate(zip(part.inputs, inputs, strict=True)):
        shape = [-1, *x.shape[1:]]
        if i == 0 and part.any_size:
            shape[2:] = [-1, -1]
        found.append({"name": name, "type": str(x.dtype).removeprefix("torch."), "shape": shape})
        if name == "condition" and model.signature is not None and model.signature.condition is not None:
            found[-1] |= {"units": "natural", "columns": model.signature.condition.plain()["columns"]}
    if model.signature is not None and part.inputs[0] == "input":
        plain = model.signature.plain()
        found[0] |= {"units": "natural", "columns": plain["columns"]}
    elif part.inputs[0] == "input":
        found[0] |= {"units": "the model's own: it has no signature"}
    return found


def _version() -> str:
    from lightning_ae import __version__

    return f"lightning_ae {__version__}, torch {torch.__version__}"
