"""Graphs that run without this package: made of a module, compared with it, and written."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_ae.errors import InputError, unknown
from lightning_ae.files import whole_file
from lightning_ae.scores import asked

To = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
BOUND = 1e-5
OPSET = 18  # the first whose Resize averages, as antialias=True does


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
    """Raises InputError for a file of another ending than the format's, or one that is there and has to stay."""
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
    """A module of tensors alone that a graph is made of; its forward takes `*inputs`.

    It gives `outputs`: a tuple, or, where there is one, a tensor.


    Args:
        module: whose weights it has.
    """

    what = "forward"
    inputs: tuple[str, ...] = ("input",)
    outputs: tuple[str, ...] = ()
    about: Mapping[str, Any] = {}
    any_size = False
    """Whether the first input's last two dimensions may vary."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.model: Any = module


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
                run: Callable[..., Any] = torch.export.load(temporary).module()
            else:
                run = _write_onnx(part, program, temporary, extra)
            _compare(part, run, cases, to)


def _program(part: Part, inputs: tuple[Tensor, ...], to: To) -> Any:
    example = tuple(each[torch.arange(3) % len(each)] for each in inputs)  # as 0 and 1 rows may be constants
    batch = torch.export.Dim("batch", min=1)
    dims: list[dict[int, Any]] = [{0: batch} for _ in example]
    if part.any_size:
        dims[0] |= {2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
    try:
        with redirect_stderr(io.StringIO()):  # to which tracing prints the graph as far as it came
            return torch.export.export(part, example, dynamic_shapes=(tuple(dims),), strict=False)
    except Exception as error:  # whatever torch's tracing raises of code that is no graph
        raise InputError(
            f"{_name(part)} cannot be a graph: {_first_line(error)}",
            "export another part of the model (encode, decode or score), or override the method that it names",
        ) from error


def _write_onnx(part: Part, program: Any, file: Path, extra: Mapping[str, str]) -> Callable[..., Any]:
    import onnxruntime

    from lightning_ae.export.onnx_ops import instead

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
            found = (found,) if isinstance(found, Tensor) else found
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
    return f"{type(part.model).__name__}.{part.what}"
