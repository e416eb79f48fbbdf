"""The command line: `lightning-ae`."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import signal
import sys
import threading
import warnings
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from lightning_ae.cli.parsing import ToolParser

COMMANDS = {
    "quickstart": "train a VAE on embedded images of clothes, and show what it learned",
    "fit": "train a model: losses, checkpoints and pictures go to a run folder",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write codes and reconstructions of the test split as tensors",
    "features": "write the codes of a data set to parquet files",
    "score": "write how strange each row of a data set is, and which features make it so",
    "export": "write a model as an ONNX or torch graph that takes raw rows or pixels",
    "encode": "compress photographs of any size to small files, and say what that costs",
    "decode": "make images of such files again",
    "reconstruct": "draw inputs above their reconstructions",
    "neighbours": "compare codes with PCA, raw inputs and the untrained encoder, by neighbours",
    "sample": "draw samples from a generative model",
    "fit-sampler": "fit a density to the codes of any model, which then generates",
    "evaluate": "measure all that applies to a model, or to several side by side",
    "report": "write a page to look at: curves, numbers, pictures, the map of codes",
    "explore": "serve a local page: sliders move the code, and the decoder answers",
    "rate-distortion": "measure the bits of the codes against the error of reconstruction",
    "certify": "check that a model trains the same on any number of processes",
    "zoo": "list, show, download, check and publish pretrained models",
    "cache": "show or clear the decoded samples that are kept between runs",
    "completion": 'make your shell complete words: eval "$(lightning-ae completion bash)"',
}

TRAINING = ("fit", "validate", "test", "predict")

_GROUPS = {
    "train and evaluate": ("fit", "test", "validate", "predict"),
    "use a model: a checkpoint, or the name of a pretrained one": (
        "zoo",
        "features",
        "encode",
        "decode",
        "score",
        "export",
        "reconstruct",
        "neighbours",
        "sample",
        "fit-sampler",
        "evaluate",
        "report",
        "explore",
        "rate-distortion",
    ),
    "check and tidy up": ("certify", "cache", "completion"),
}
_ELSEWHERE = {
    **dict.fromkeys(("train", "run"), "fit"),
    **dict.fromkeys(("eval", "measure", "metrics", "benchmark", "compare"), "evaluate"),
    **dict.fromkeys(("embed", "extract"), "features"),
    **dict.fromkeys(("compress", "pack"), "encode"),
    **dict.fromkeys(("decompress", "unpack"), "decode"),
    **dict.fromkeys(("page", "html", "summary", "dashboard"), "report"),
    **dict.fromkeys(("serve", "app", "play", "gui", "demo"), "explore"),
    **dict.fromkeys(("generate", "draw"), "sample"),
    **dict.fromkeys(("anomaly", "anomalies", "outliers", "detect"), "score"),
    **dict.fromkeys(("onnx", "compile", "convert"), "export"),
    **{word: f"zoo {word}" for word in ("list", "info", "download", "verify", "reproduce", "publish")},
    **{word: word for word in ("--help", "--version")},
}
"""What commands are called elsewhere."""

HELP = """usage: lightning-ae COMMAND [options]
Autoencoders: train one on what you have, or use one that is trained.

start here; none of these needs a network or a GPU:
  quickstart       train a VAE on images of clothes, and show what it learned: two minutes
  lightning-ae fit -c vae -c digits         train one on the embedded digits
  lightning-ae sample vae_conv.mnist_v1     draw from a model that comes trained: ./samples.png
{commands}

further:
  lightning-ae fit -c vae -c mnist --trainer.max_epochs 20      a model, a data set, an option
  lightning-ae fit --model my_module.MyVAE --data.path photos/  a class and a folder of your own
  lightning-ae COMMAND --help               its options (fit -c vae --help, fit --model.help VAE)
""".format(
    commands="".join(
        f"\n{title}:\n" + "".join(f"  {name:<17}{COMMANDS[name]}\n" for name in names)
        for title, names in _GROUPS.items()
    ).rstrip()
)


def main(argv: list[str] | None = None) -> None:
    """Runs a command; input it cannot use ends in one line, a hint, and exit status 2."""
    args = sys.argv[1:] if argv is None else argv
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    if args[0] == "--version":
        from lightning_ae import __version__

        print(f"lightning-ae {__version__}")
        return

    from lightning_ae.errors import InputError

    _find_own_classes(args)
    _quiet()
    _came.clear()
    _answer_ctrl_c(signal.default_int_handler, _note)
    try:
        run(args[0], args[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_interrupted()
    except BrokenPipeError:  # `lightning-ae zoo list | head`: whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if interrupted():
            _end_interrupted()
        # the parser and the trainer wrap what a model or a data module says
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            _fail(cause.message, cause.hint)
        if (refused := _refused_by_system(error)) is not None:
            _fail(*refused)
        if not _lost_rank(error):
            raise
        _fail(
            "another process of the run has ended, so this one cannot go on",
            "what that one printed says why; the run goes on from its last checkpoint with --ckpt_path",
            status=1,
        )
    finally:
        _answer_ctrl_c(_note, signal.default_int_handler)


_came: list[int] = []
"""Ctrl-C, where it came; a library that is being imported makes errors of its own of it."""


def interrupted() -> bool:
    """Whether Ctrl-C came in this command, whatever error was made of it."""
    return bool(_came)


def _note(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    signal.default_int_handler(number, frame)


def _answer_ctrl_c(before: Any, now: Any) -> None:
    """Changes the answer to Ctrl-C; another than `before` stays."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, now)


def _end_interrupted() -> NoReturn:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def _find_own_classes(args: list[str]) -> None:
    """Lets a class of the folder that one stands in be named, by `module.Class` in an option or a recipe.

    Nothing else that lies there is ever imported: the folder comes last on the path, and only where a class is named
    that no installed module has.
    """
    values = [arg.partition("=")[2] if arg.startswith("-") else arg for arg in args]
    named = {match[1] for value in values if (match := re.fullmatch(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)+", value))}
    for value in values:
        text = value
        if value.endswith((".yaml", ".yml", ".json")):
            with contextlib.suppress(OSError, UnicodeDecodeError):  # the parser says what is wrong with it
                text = Path(value).read_text()
        named |= set(
            re.findall(r"""(?:class_path["']?|^model|^data)\s*:\s*["']?([A-Za-z_]\w*)\.""", text, re.MULTILINE)
        )
    folder = Path.cwd()
    for module in named:
        if ((folder / f"{module}.py").is_file() or (folder / module).is_dir()) and find_spec(module) is None:
            sys.path.append(str(folder))
            return


def run(command: str, args: list[str]) -> None:
    """Runs a command.

    Raises:
        InputError: for words that it cannot use.
    """
    from lightning_ae.cli import options
    from lightning_ae.errors import unknown

    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS, elsewhere=_ELSEWHERE)

    if command in TRAINING:
        if "--help" in args or "-h" in args:
            from lightning_ae.cli.help import help_of

            print(help_of(command, args, COMMANDS[command]), end="")
            sys.exit(0)
        if "--help-all" not in args:
            options.read(command, args)  # what does not exist is said before seconds of imports
        from lightning_ae.cli import run_folder
        from lightning_ae.cli.training import TrainingCLI, training_parser

        if "--help-all" in args:
            training_parser(command).print_help()
            sys.exit(0)

        try:
            cli = TrainingCLI(command, args, COMMANDS[command])
            _answer_ctrl_c(_note, signal.default_int_handler)  # in training a model has its own answer
            cli.run()
        finally:
            run_folder.release()
    elif command == "completion":
        print(_completion(args), end="")
    elif command == "zoo":
        from lightning_ae.cli import zoo

        zoo.run(args)
    else:
        function = _tool(command)
        parser = _tool_parser(command)
        parameters = inspect.signature(function).parameters.values()
        switches = {f"--{each.name}" for each in parameters if each.annotation == "bool"}
        args = [
            f"{word}=true" if word in switches and after[:1] in ("", "-") else word
            for word, after in zip_longest(args, args[1:], fillvalue="")
        ]
        kinds = [str(each.annotation) for each in parameters]
        if kinds[:1] == ["Sequence[str]"]:  # the words at the front are one list
            front = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
            args = [json.dumps(args[:front]), *args[front:]] if front else args
        lists = {f"--{each.name}" for each in parameters if str(each.annotation).startswith("Sequence[")}
        args = [
            options.as_list(word) if before in lists else word for before, word in zip(["", *args], args, strict=False)
        ]
        args = [
            f"{name}={options.as_list(value)}" if name in lists and value else word
            for word in args
            for name, _, value in [word.partition("=")]
        ]
        function(**parser.parse_args(args).as_dict())


def _tool(command: str) -> Any:
    """The function of a command."""
    from lightning_ae.cli import score, tools

    return score.score if command == "score" else getattr(tools, command.replace("-", "_"))


def _tool_parser(command: str) -> ToolParser:
    from lightning_ae.cli.parsing import ToolParser

    function = _tool(command)
    description = (inspect.getdoc(function) or "").split("\n\nArgs:")[0]
    parser = ToolParser(prog=f"lightning-ae {command}", description=description)
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    return parser


def _completion(args: list[str]) -> str:
    from lightning_ae.cli.completion import script
    from lightning_ae.errors import InputError, unknown

    shells = ("bash", "zsh", "tcsh")
    if find_spec("shtab") is None:
        raise InputError("completion needs shtab", "pip install 'lightning_ae[completion]'")
    shell = args[0] if args else "bash"
    if shell not in shells:
        raise unknown("shell", shell, shells)
    return script(shell, COMMANDS, TRAINING)


def _quiet() -> None:
    import logging

    # deprecations inside the libraries that only their authors can act on, and advertisements
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"jsonargparse|pytorch_lightning")
    # what this command line does on purpose: a new folder for a resumed run, an optimizer from the options
    warnings.filterwarnings("ignore", message=r"The dirpath has changed")
    warnings.filterwarnings("ignore", message=r".*configure_optimizers` will be overridden by")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(words in str(record.msg) for words in ("Tip:", "to estimate number of stepping batches"))
    )


def _refused_by_system(error: BaseException | None) -> tuple[str, str] | None:
    """What a file system refuses and the user can help, and what would: no room, no rights, no such place."""
    import errno

    room = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    rights = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
    while error is not None:
        if isinstance(error, OSError) and error.errno in room | rights:
            what = f"{error.filename}: " if error.filename else "writing a file failed: "
            hint = "make room, or write elsewhere" if error.errno in room else "check the path and its permissions"
            return f"{what}{error.strerror or error}", hint
        error = error.__cause__ or error.__context__
    return None


def _lost_rank(error: Exception) -> bool:
    """Whether a collective failed because a peer is gone; torch says so in the text only."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("closed by peer", "reset by peer", "remote process exited", "Broken pipe")
    )


def _fail(message: str, hint: str, status: int = 2) -> NoReturn:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {_escape(message)}")
    if hint:
        console.print(f"[bold]hint:[/] {_escape(hint)}")
    sys.exit(status)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
