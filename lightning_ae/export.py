"""A trained model as a graph that runs without this package: what goes in is in natural units.

Preprocessing, statistics and threshold are part of the graph. What it takes and gives is described in the file; what a
graph has not is said in `export`.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
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
from lightning_ae.files import whole_file
from lightning_ae.parts.likelihoods import known
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess
from lightning_ae.scores import asked
from lightning_ae.training.weights import weights_type

What = Literal["encode", "decode", "score"]
To = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
BOUND = 1e-5
CHECKED = 100
OPSET = 18  # the first whose Resize averages, as antialias=True does


def export(
    model: Autoencoder,
    file: str | os.PathLike[str],
    what: What = "encode",
    to: To = "onnx",
    *,
    rows: Tensor | Sequence[Tensor] | None = None,
    resize: bool = True,
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
    - what else the model takes, by role ("label", and for "decode" also "library"), a value for each sample. A mask is
      none of these: what is NaN is unknown.

    It gives, by name:

    - "code", of "encode": what the model's `encode` gives, and "features" where those are another vector: the mean over
      the positions of a map or of tokens; of a hierarchy all levels beside each other.
    - "reconstruction", of "decode", in natural units: images in [0, 1], in the model's size; tables in float64.
    - "score", of "score", in nats: what `model.score` gives of each sample alone, by one draw of `seed`: a graph has no
      numbers of rows, so each sample has the draws of the data's first row. What the likelihood does not take, where
      `model.score` refuses it, has the score NaN. With a threshold also "exceeds": whether the score is larger.

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
        rows: in natural units, as the graph takes them, for the check, of which the first 100 are used: a tensor
            (B, ...), or samples of several sizes, a list of (C, H, W). By default, rows made up from the signature,
            with missing values and categories where it has some.
        resize: whether images of any size are brought to the model's in the graph; else it takes the model's size.
        threshold: of scores, from which on "exceeds" is true.
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
    if threshold is not None and what != "score":
        raise InputError(f"threshold={threshold!r} is of scores, which {what!r} does not give", "set what='score'")
    if what == "score":
        model.check_scores()
    check_file(file, to, overwrite)
    twin = _twin(model)
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


def check_to(to: str) -> None:
    """Whether a format is known, and what writes it installed.

    Raises:
        InputError: naming the argument, or the extra.
    """
    if to not in get_args(To):
        raise unknown("value of to", str(to), get_args(To), elsewhere={"pt2": "torch", "ort": "onnx"})
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if to == "onnx" and lacking:
        raise InputError(f"to='onnx' needs {', '.join(lacking)}", 'pip install "lightning_ae[onnx]"; or to="torch"')


def check_file(file: str | os.PathLike[str], to: str, overwrite: bool) -> None:
    """Raises InputError for a file of another ending than the format's, or one that is there and may not be replaced."""
    if Path(file).suffix != SUFFIX[to]:
        raise InputError(f"a file of to={to!r} ends in {SUFFIX[to]}, got {os.fspath(file)!r}")
    if os.path.lexists(file) and not overwrite:
        raise InputError(f"{os.fspath(file)} exists already", "give another output, or set overwrite")


@dataclass(frozen=True)
class Case:
    """What a graph is given, and what the model gives for it.

    Args:
        inputs: the graph's, in order.
        expected: the outputs, in order.
        unit: of the outputs' values, that which an error is compared with where a value is smaller.
        middle: of the outputs' values, where they are counted from.
    """

    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]
    unit: Tensor | float = 1.0
    middle: Tensor | float = 0.0


class Part(nn.Module):
    """A module of tensors alone that a graph is made of; its forward takes `*inputs` and gives `outputs`.

    Args:
        module: whose weights it has.
    """

    inputs: tuple[str, ...] = ("input",)
    outputs: tuple[str, ...] = ()
    about: Mapping[str, Any] = {}
    any_size = False
    """Whether the first input's last two dimensions may vary."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.model: Any = module


class _OfModel(Part):
    """A part of an autoencoder: from natural units, with what the model is given."""

    def __init__(self, model: Autoencoder, resize: bool, threshold: float | None, seed: int) -> None:
        super().__init__(model)
        self.preprocess: Preprocess | None = None if model.signature is None else model.signature.preprocess
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
        given = dict(zip(self.roles, beside, strict=True))
        if self.masked:
            mask = ~x.isnan()
            x = known(x, mask)
            given |= {"mask": mask} if "mask" in self.model.given else {}
        return x, self.model.completed(x, given)

    def given(self, n: int) -> dict[str, Tensor]:
        """Examples of what else the model takes, by role."""
        stand_ins: dict[str, Tensor] = self.model.stand_ins(n)
        return {role: stand_ins[role] for role in self.roles}


class _Encode(_OfModel):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outputs = tuple(_codes(self.model)) + (() if len(_flat_shape(self.model)) == 1 else ("features",))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, given = self.read(*inputs)
        return self.named(self.model.encode(x, **given))

    def named(self, code: Any) -> tuple[Tensor, ...]:
        """The outputs that a code makes."""
        codes = code if isinstance(code, tuple) else (code,)
        return codes if "features" not in self.outputs else (*codes, self.model.pool(code))

    def cases(self, x: Tensor) -> Iterator[Case]:
        given = self.given(len(x))
        read, _, roles = _read(self.model, x, given)
        yield Case((x, *given.values()), self.named(self.model.encode(read, **roles)))


class _Decode(_OfModel):
    outputs = ("reconstruction",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        implied = tuple(role for role in self.model.implied if role not in self.roles)
        self.codes = len(_codes(self.model))
        self.roles = (*self.roles, *implied)
        self.inputs = (*_codes(self.model), *self.roles)
        self.any_size = False

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        codes, beside = inputs[: self.codes], inputs[self.codes :]
        code = codes if isinstance(self.model.code_shape[0], tuple) else codes[0]
        return (self.natural(self.model.decode(code, **dict(zip(self.roles, beside, strict=True)))),)

    def natural(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; in float64 where a large offset would cost digits."""
        if self.preprocess is None:
            return x
        return self.preprocess.inverse(x.double() if _scales(self.preprocess) else x)

    def cases(self, x: Tensor) -> Iterator[Case]:
        stand_ins = self.model.stand_ins(len(x))
        read, _, given = _read(self.model, x, {role: stand_ins[role] for role in self.model.given if role != "mask"})
        beside = {role: given[role] for role in self.roles}
        code = self.model.encode(read, **given)
        codes = code if isinstance(code, tuple) else (code,)
        expected = self.natural(self.model.decode(code, **beside))
        yield Case((*codes, *beside.values()), (expected,), *_units(self.preprocess, expected))


class _Score(_OfModel):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outputs = ("score",) if self.threshold is None else ("score", "exceeds")
        drawn = "sample" in self.model.latents
        self.about = {
            "score": "of one draw of each sample's code, of the data's first row whatever the row" if drawn else
            "of the code, without draws",
            "seed": self.seed if drawn else None,
            "threshold": self.threshold,
        }  # fmt: skip
        self.draws = nn.ParameterList()
        self.at: int | None = None
        self.model.noise = self.noise

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, given = self.read(*inputs)
        self.at = 0
        coded = next(self.model.coded(x, 1, **given))
        score = -self.model.log_likelihood(coded.code, x, **given)
        if coded.divergence is not None:
            score = coded.divergence + score
        score = torch.where(_outside(self.model.likelihood, x), torch.nan, score)
        return (score,) if self.threshold is None else (score, score > self.threshold)

    def noise(self, purpose: str) -> Noise:
        """The draws of the data's first row: written down the first time, the same for every sample after that."""
        return _Written(self, type(self.model).noise(self.model, purpose))

    def cases(self, x: Tensor) -> Iterator[Case]:
        given = self.given(len(x))
        each = []
        for i in range(len(x)):
            own = {role: value[i : i + 1] for role, value in given.items()}
            row, target, roles = _read(self.model, x[i : i + 1], own)
            self.at = None
            self.draws = nn.ParameterList()
            each.append(self.model.score_batch(row, target, seed=self.seed, **roles))
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
        return part.draws[part.at - 1].expand(x.shape[0], *x.shape[1:]).to(x.dtype)


# ---- the file -------------------------------------------------------------------------------------------------------


def write(
    part: Part,
    cases: Sequence[Case],
    file: str | os.PathLike[str],
    to: To,
    about: Mapping[str, Any],
    signature: Any,
    overwrite: bool = True,
) -> None:
    """Makes a graph of a part, compares it with the model on the cases, and writes it.

    The first case is the example whose shapes, but for the batch's size, are the graph's.

    Raises:
        InputError: when the part cannot be a graph, naming the operation; when the graph gives something else.
    """
    extra = {
        "signature.json": json.dumps(None if signature is None else signature.plain()),
        "signature_hash": "" if signature is None else signature.hash,
        "export.json": json.dumps(about),
    }
    with asked(part), _quiet():
        program = _program(part, cases[0].inputs, to)
        with whole_file(file, overwrite) as temporary:
            if to == "torch":
                torch.export.save(program, temporary, extra_files=extra)
                run = torch.export.load(temporary).module()
            else:
                run = _write_onnx(part, program, temporary, extra)
            _compare(part, run, cases, to)


def _program(part: Part, inputs: tuple[Tensor, ...], to: To) -> Any:
    example = tuple(_rows(each, 3) for each in inputs)  # of no size that stands for a constant: 0, 1
    batch = torch.export.Dim("batch", min=1)
    dims: list[dict[int, Any]] = [{0: batch} for _ in example]
    if part.any_size:
        dims[0] |= {2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
    try:
        return torch.export.export(part, example, dynamic_shapes=(tuple(dims),), strict=False)
    except Exception as error:  # whatever torch's tracing raises of code that is no graph
        raise InputError(
            f"{_name(part)} cannot be a graph: {_first_line(error)}",
            "export another part of the model (encode, decode or score), or override the method that it names",
        ) from error


def _write_onnx(part: Part, program: Any, file: Path, extra: Mapping[str, str]) -> Callable[..., Any]:
    import onnxruntime

    from lightning_ae.onnx_ops import instead

    names = list(part.inputs)
    try:
        program = program.run_decompositions(instead())
        written = torch.onnx.export(
            program,
            input_names=names,
            output_names=list(part.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=True,
        )
        assert written is not None
        for key, value in extra.items():
            written.model.metadata_props[key] = value
        written.save(file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever the exporter or the runtime raises of an operation that it lacks
        if isinstance(error, OSError):
            raise
        raise InputError(
            f"{_name(part)} cannot be an ONNX graph: {_lacking(error)}", "to='torch' writes a graph of torch's own"
        ) from error

    def run(*inputs: Tensor) -> list[Tensor]:
        try:
            found = session.run(list(part.outputs), {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
        except Exception as error:
            raise InputError(
                f"onnxruntime cannot run the graph of {_name(part)}: {_first_line(error)}",
                "to='torch' writes a graph of torch's own",
            ) from error
        return [torch.as_tensor(each) for each in found]

    return run


def _compare(part: Part, run: Callable[..., Any], cases: Sequence[Case], to: To) -> None:
    """Whether the graph gives what the model gives, in batches of one, of two, and whole.

    Raises:
        InputError: where it does not.
    """
    for case in cases:
        n = len(case.inputs[0])
        for rows in {1: slice(0, 1), 2: slice(0, 2), n: slice(0, n)}.values():
            found = run(*(each[rows].contiguous() for each in case.inputs))
            for name, got, wanted in zip(part.outputs, found, case.expected, strict=True):
                error = _error(got, wanted[rows], case)
                if not error <= BOUND:
                    shape = tuple(case.inputs[0].shape)
                    hint = "to='torch' writes a graph of torch's own" if to == "onnx" else "the model is not repeatable"
                    if part.any_size:
                        hint = "resize=False takes images of the model's size, whose bytes nobody rounds; or " + hint
                    raise InputError(
                        f"the graph's {name} differs from that of {_name(part)} by {error:.1e} of its scale, where "
                        f"{BOUND:.0e} is allowed, on rows of the shape {shape}; nothing is written",
                        hint,
                    )


def _error(got: Tensor, wanted: Tensor, case: Case) -> float:
    if got.shape != wanted.shape or got.dtype != wanted.dtype or not torch.equal(got.isnan(), wanted.isnan()):
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(got, wanted) else float("inf")
    same = (got == wanted) | wanted.isnan()
    far = (got.double() - wanted.double()).abs() / case.unit
    scale = ((wanted.double() - case.middle).abs() / case.unit).clamp(min=1)
    return float(torch.where(same, 0.0, far / scale).amax()) if wanted.numel() else 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter does not say what it skips, which no user can change."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "torch.onnx",
            "torch.export",
            "torch.fx",
            "torch.fx.experimental.symbolic_shapes",
            "onnxscript",
            "onnx_ir",
        )
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _lacking(error: BaseException | None) -> str:
    """The operation that the exporter has nothing for, where it says that; else its first line."""
    first, texts = error, []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    for text in texts:
        if match := re.search(r"OpOverload\(op='([\w.]+)'|implementation for (\w+)\(", text):
            return f"the operation {match[1] or match[2]} is not there"
    assert first is not None
    return _first_line(first)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _name(part: Part) -> str:
    what = next((what for what, cls in _PARTS.items() if cls is type(part)), "forward")
    return f"{type(part.model).__name__}.{what}"


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


def _batches(model: Autoencoder, rows: Tensor | Sequence[Tensor] | None, resize: bool) -> list[Tensor]:
    """Rows as the graph takes them, those of a size together, as many as are checked."""
    given = [rows] if isinstance(rows, Tensor) else [] if rows is None else [each[None] for each in rows]
    preprocess = None if model.signature is None else model.signature.preprocess
    batches = [each[:CHECKED] for each in given] if given else example_rows(model, resize)
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for batch in batches[:CHECKED]:
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


def _rows(x: Tensor, n: int) -> Tensor:
    """The first rows of a batch, again and again where it has fewer."""
    return x[torch.arange(n) % len(x)]


def _described(model: Autoencoder, part: Part, inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Each input: its name, type and shape (-1 where any number goes), and the columns of the first."""
    found: list[dict[str, Any]] = []
    for i, (name, x) in enumerate(zip(part.inputs, inputs, strict=True)):
        shape = [-1, *x.shape[1:]]
        if i == 0 and part.any_size:
            shape[2:] = [-1, -1]
        found.append({"name": name, "type": str(x.dtype).removeprefix("torch."), "shape": shape})
    if model.signature is not None and part.inputs[0] == "input":
        plain = model.signature.plain()
        found[0] |= {"units": "natural", "columns": plain["columns"]}
    elif part.inputs[0] == "input":
        found[0] |= {"units": "the model's own: it has no signature"}
    return found


def _version() -> str:
    from lightning_ae import __version__

    return f"lightning_ae {__version__}, torch {torch.__version__}"
