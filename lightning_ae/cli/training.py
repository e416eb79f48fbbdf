"""fit, validate, test and predict: LightningCLI with a run folder of its own for every run."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import ModelSummary, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import ProcessingSpeedColumn
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.model_summary.model_summary import get_human_readable_count
from rich.console import Console
from rich.table import Table
from rich.text import Text

import lightning_ae.callbacks
import lightning_ae.data.module  # noqa: F401  imported, all these are known by their bare names
from lightning_ae import recipes
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.cli import options, run_folder, source
from lightning_ae.cli.parsing import MODE, one_line
from lightning_ae.cli.run_folder import LastCheckpoint, RunFacts
from lightning_ae.config import Configurable, current_path, import_class, import_own, to_plain
from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.models.finetune import FineTuneClassifier
from lightning_ae.training.checkpoint import OF_TRAINING
from lightning_ae.training.checkpoint_file import METADATA_KEY, check_class, init_args_of, read_checkpoint
from lightning_ae.training.preemption import Preemption
from lightning_ae.training.progress import draw_always, draw_seldom
from lightning_ae.training.rebuild import check_weights
from lightning_ae.training.versions import of_later, written_by


class TrainingParser(LightningArgumentParser):
    """Parses the options of a model, its data and the trainer.

    Recipes are what -c, --model and --data name. A file that an option of a class names, a checkpoint say, is never
    read as one: its text could name any class.
    """

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})

    def __init__(self, *args: Any, parser_mode: str = MODE, **kwargs: Any) -> None:
        super().__init__(*args, parser_mode=parser_mode, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: D102
        if not self.exit_on_error:
            super().error(message, ex)
        raise one_line(message, str(self.prog)) from ex


class TrainingCLI(LightningCLI):
    """Parses a command's options, builds model, data and trainer, and runs the trainer's method of that name.

    Args:
        command: "fit", "validate", "test" or "predict".
        args: the words after the command.
        summary: what the command does, for --help.
    """

    def __init__(self, command: str, args: list[str], summary: str = "") -> None:
        self.command, self.words = command, args
        import_own()
        super().__init__(
            model_class=pl.LightningModule,
            datamodule_class=pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": False},
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={
                "prog": f"lightning-ae {command}",
                "usage": f"lightning-ae {command} [-c RECIPE ...] [options]",
                "description": f"{summary.capitalize()}. Recipes and options compose; the last one wins. "
                f"A recipe is a YAML file, or the name of one of these: {recipes.overview()}. "
                "--model.help CLASS and --data.help CLASS list the options of a class.",
            },
            args=args,
            run=False,
            load_from_checkpoint_support=False,  # models keep their own hyper-parameters as plain data
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:  # noqa: D102
        for name, option in options.of_command(self.command).items():
            parser.add_argument(f"--{name}", type=option.type, default=option.default, help=option.help)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: D102
        given = options.read(self.command, args)
        path = options.checkpoint_of(args)
        if self.command != "fit" and path is not None:
            trained = Trained(path, given)
            given = options.read(self.command, args, trained.class_path)
            trained.check_data(given)
            config = parser.parse_args(["-c", trained.text, *given.words])
            config.config = config.config[1:]
            trained.check(config.model, given)
            self.config = config
        else:
            options.check_complete(given)
            self.config = self._of_data(parser, given)
        for note in given.notes:
            rank_zero_info(note)

    def _of_data(self, parser: LightningArgumentParser, given: options.Given) -> Namespace:
        """The configuration, with the `input_shape` of a model for which none is given, and what suits the data."""
        taken = source.options(source.place_of(given.classes.get("model", "")), all_of_it=False) or {}
        asked = "input_shape" in taken and taken["input_shape"].default is None
        if not asked or given.says("model.input_shape"):
            return parser.parse_args(given.words)
        config = parser.parse_args([*given.words, "--model.input_shape", "[1]"])
        data = parser.instantiate_classes(Namespace(data=config.data)).data
        shape = getattr(data, "input_shape", None)
        if shape is None:
            raise InputError(
                f"{type(data).__name__} does not say the shape of a sample, and no input_shape is given",
                "add --model.input_shape 1,28,28, say",
            )
        words = _suiting(getattr(data, "suits", {}), taken, given)
        if (levels := getattr(data, "conditions", ())) and "conditions" in taken and not given.says("model.conditions"):
            words += ["--model.conditions", json.dumps(list(levels))]
        if words:
            rank_zero_info(f"what suits the data, where nothing else is said: {' '.join(words)}")
        return parser.parse_args([*given.words, "--model.input_shape", str(list(shape)), *words])

    def before_instantiate_classes(self) -> None:
        """Claims the run folder, and points the loggers there; without one, what else is written."""
        for file in recipes.pairs(self.config.config or []):
            rank_zero_info(f"{file.stem} on {file.parent.name}: what it wants otherwise there is read from {file}")
        trainer = self.config.trainer
        if self.command != "fit" and trainer.callbacks:  # a checkpoint's own would warn that its folder has changed
            trainer.callbacks = [c for c in trainer.callbacks if not c.class_path.endswith("ModelCheckpoint")]
        self.run_dir: Path | None = None
        keeps = self.command == "fit" and trainer.enable_checkpointing is not False
        writes = trainer.logger is not False or keeps or trainer.callbacks
        if not writes or trainer.fast_dev_run or trainer.barebones:
            self.save_config_callback = None  # which would write to the folder one stands in
            return
        self.run_dir = run_folder.claim(self.config.run_dir, _recipe_name(self.config), self.command)
        self.config.run_dir = None  # the saved configuration starts a run of its own
        if trainer.logger is False:
            trainer.default_root_dir = str(self.run_dir)  # where checkpoints and pictures go without a logger
        else:
            trainer.logger = run_folder.loggers(trainer.logger, self.run_dir)
        if keeps:
            _keep_no_other_last(trainer.callbacks)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with a progress bar that shows losses only, and the newest state kept in last.ckpt."""
        given = self.config_init.trainer
        added: list[pl.Callback] = []
        if given.enable_progress_bar is not False and not given.barebones:
            added.append(ProgressBar())
        own = any(isinstance(callback, ModelSummary) for callback in given.callbacks or [])
        if given.enable_model_summary is not False and not given.barebones and not own:
            added.append(Summary())
            given.enable_model_summary = False  # so that there is one
        if self.command == "fit" and self.run_dir is not None and given.enable_checkpointing is not False:
            added.append(LastCheckpoint(str(self.run_dir / "checkpoints")))
        if self.command == "fit" and self.run_dir is not None:
            added.append(RunFacts(str(self.run_dir), self.words))
        given.callbacks = [*(given.callbacks or []), *added]
        return super().instantiate_trainer(**kwargs)

    def run(self) -> None:
        """Runs the command, and says where things were written."""
        self._speed_up()
        path = self.config.ckpt_path
        if path is None and self.command != "fit":
            rank_zero_warn(f"without --ckpt_path, {self.command} takes a model that has not been trained")
        if self.command == "predict" and self.run_dir is None:
            rank_zero_warn("without a logger there is no run folder: what is predicted goes to callbacks only")
        if path is not None:
            checkpoint = read_checkpoint(path)
            check_class(checkpoint, type(self.model))
            if self.command != "fit":  # only the weights are wanted, not the state of the training callbacks
                self.model.on_load_checkpoint(checkpoint)
                with written_by(checkpoint[METADATA_KEY].get("version")):
                    check_weights(self.model.state_dict(keep_vars=True), checkpoint["state_dict"])
                self.model.load_state_dict(checkpoint["state_dict"])
                path = None
        run = getattr(self.trainer, self.command)
        try:
            result = run(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True)
        except SystemExit as end:
            # Lightning ends so on SIGTERM, and after Ctrl-C with a status that says nothing of it
            interrupted = isinstance(end.__context__, KeyboardInterrupt)
            if interrupted or isinstance(end, SIGTERMException):
                self._say_how_to_go_on()
            if interrupted:
                raise KeyboardInterrupt from end
            raise
        except Exception as error:
            if path is None or not _in_restoring(error):
                raise
            raise InputError(
                f"the run cannot go on from {path!r}, whose state is not this run's, or damaged: "
                f"{type(error).__name__}: {' '.join(str(error).split())}",
                of_later(checkpoint[METADATA_KEY].get("version"))
                or "use the recipe that it was written with, or an earlier checkpoint of the run",
            ) from error
        if self.command == "predict" and self.run_dir is not None:
            parts = {key: _joined([batch[key] for batch in result]) for key in result[0]}
            # the trainer knows the first rank's folder
            place = Path(self.trainer.log_dir or self.run_dir) / f"predictions-rank{self.trainer.global_rank}.pt"
            with whole_file(place) as part, open(part, "wb") as file:
                torch.save(parts, file)
        if self.run_dir is not None:
            page = self._report(self.run_dir) if self.config.get("report") else None
            if self.trainer.is_global_zero:
                self._summary(self.run_dir, page)

    def _report(self, run_dir: Path) -> Path | None:
        """The page of a run that has ended, by the first rank; why there is none is said, and the run stays whole."""
        if not self.trainer.is_global_zero:
            return None
        from lightning_ae.cli.report import at_the_end

        # the first rank goes on alone, and metrics must not wait for the others
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        return at_the_end(run_dir, best, self.trainer.loggers, self.trainer.global_step)

    def _speed_up(self) -> None:
        if self.config.matmul_precision is not None:
            torch.set_float32_matmul_precision(self.config.matmul_precision)
        if self.config.channels_last:
            if not any(parameter.ndim == 4 for parameter in self.model.parameters()):
                raise InputError(
                    f"channels_last concerns convolutions, and {type(self.model).__name__} has none here",
                    "leave it out, or use the architecture ConvNet or ResNet",
                )
            self.model.to(memory_format=torch.channels_last)
        if self.config.get("compile"):
            if not isinstance(self.model, Autoencoder | FineTuneClassifier):
                raise InputError(
                    f"compile knows which networks to compile in this package's models, not in "
                    f"{type(self.model).__name__}",
                    "compile its networks in its __init__",
                )
            self.model.compile()

    def _say_how_to_go_on(self) -> None:
        if self.command != "fit" or not self.trainer.is_global_zero:
            return
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # set without a type
        written = [c.path for c in callbacks if isinstance(c, Preemption | LastCheckpoint) and c.path is not None]
        written = [path for path in written if path.is_file()]
        if not written:
            return
        console = Console(highlight=False, soft_wrap=True)
        launched = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ
        console.print(f"[bold]Next[/]{', by the same launcher' if launched else ''}")
        newest = max(written, key=lambda path: path.stat().st_mtime_ns)
        console.print(f"  {run_folder.command_to_go_on(self.run_dir, newest, self.words)}", markup=False)

    def _summary(self, run_dir: Path, page: Path | None = None) -> None:
        console = Console(highlight=False, soft_wrap=True)
        rows = [("run folder", run_dir)]
        checkpoints = {}
        if self.command == "fit":
            checkpoints["best"] = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            checkpoints["last"] = str(run_dir / "checkpoints" / "last.ckpt")
        checkpoints = {name: path for name, path in checkpoints.items() if path and os.path.isfile(path)}
        rows += [(f"{name} checkpoint", Path(os.path.relpath(path))) for name, path in checkpoints.items()]
        if (run_dir / "pictures").is_dir():
            rows.append(("pictures", run_dir / "pictures"))
        if (run_dir / "metrics.csv").is_file():
            rows.append(("metrics", run_dir / "metrics.csv"))
        if page is not None:
            rows.append(("report", page))
        console.print("\n[bold]Written[/]")
        for name, path in rows:
            console.print(f"  {name:<16} {path}")
        if checkpoints:
            console.print("[bold]Next[/]")
            console.print(f"  lightning-ae features {rows[1][1]}")


class Trained:
    """What a checkpoint says of its model and its data, for a command that evaluates it.

    Args:
        path: the checkpoint.
        given: what the command says.

    Raises:
        InputError: when it cannot be read, or holds a class that is neither imported nor named by the command.
    """

    def __init__(self, path: str, given: options.Given) -> None:
        self.path = path
        checkpoint = read_checkpoint(path)
        saved = checkpoint[METADATA_KEY]
        self.class_path: str = current_path(saved["class_path"])
        self.init_args = init_args_of(checkpoint)
        named = given.classes.get("model")
        if named is not None and not _same_class(named, self.class_path):
            raise InputError(
                f"the checkpoint holds a {self.class_path}, and {given.places['model']} says {named}",
                f"leave the model out: {path!r} says it",
            )
        self.data = saved.get("data")
        # a recipe, or a class, of data stands for all of them; an option changes the checkpoint's
        if "data" in given.places:
            self.data = None
        content = {"model": {"class_path": self.class_path, "init_args": self.init_args}}
        content |= {} if self.data is None else {"data": self.data}
        for cls in _class_paths(content):
            if current_path(cls) not in given.classes.values():
                with written_by(saved.get("version")):
                    import_class(cls, object, "the checkpoint")  # a file cannot make Python run a module
        self.text = json.dumps(content)

    def check_data(self, given: options.Given) -> None:
        """Refuses a command that has no data, and whose checkpoint does not say any."""
        options.check_complete(given, model=True, data=self.data is not None)

    def check(self, model: Namespace, given: options.Given) -> None:
        """Refuses what the command says of the model otherwise than it was trained; what it leaves out is as it was.

        Raises:
            InputError: naming each option, both values, and where it stands.
        """
        now = model.init_args.as_dict()
        differ = [
            f"{path} = {_short(kept)}, and {given.places[f'model.{path}']} says {_short(value)}"
            for name, whole in self.init_args.items()
            if name not in OF_TRAINING
            for path, value, kept in _differences(name, now[name], whole)
            if f"model.{path}" in given.places
        ]
        if differ:
            raise InputError(
                f"the checkpoint was trained with {'; with '.join(differ)}",
                f"leave the recipe or the option out: {self.path!r} says what its model is",
            )
        for name, kept in self.init_args.items():
            if any(_differences(name, now[name], kept)):
                model.init_args[name] = kept


class ProgressBar(RichProgressBar):
    """Lightning's bar with losses only, brought up to date a few times a second: more takes time from training."""

    def __init__(self, **options: Any) -> None:
        super().__init__(refresh_rate=5, **options)

    def setup(self, trainer: pl.Trainer, *args: Any, **options: Any) -> None:
        """Draws seldom for a module of another package, too."""
        super().setup(trainer, *args, **options)
        draw_seldom(trainer)

    def teardown(self, trainer: pl.Trainer, *args: Any, **options: Any) -> None:  # noqa: D102
        super().teardown(trainer, *args, **options)
        draw_always(trainer)

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Lightning's, with a speed where it is known."""
        *columns, _ = super().configure_columns(trainer)
        return [*columns, _Speed(style=self.theme.processing_speed)]

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        """All but the number of the run."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # a piece of the run folder's name
        return metrics


class Summary(ModelSummary):
    """The parts of a model and their numbers of parameters."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        *modes_and_operations: Any,
        **options: Any,
    ) -> None:
        """Prints a table; Lightning's has columns of what is never counted here, operations for one."""
        columns = dict(summary_data)
        table = Table("part", "class")
        table.add_column("parameters", justify="right")
        for row in zip(columns["Name"], columns["Type"], columns["Params"], strict=True):
            table.add_row(*row)
        fixed = total_parameters - trainable_parameters
        console = Console(highlight=False)
        console.print(table)
        console.print(
            f"{get_human_readable_count(total_parameters).strip()} parameters"
            f"{f', of which {get_human_readable_count(fixed).strip()} stay as they are' if fixed else ''}, "
            f"{model_size:.1f} MB\n"
        )


class _Speed(ProcessingSpeedColumn):
    def render(self, task: Any) -> Any:
        return super().render(task) if task.speed else Text("")  # of a few batches nothing is known


def training_parser(command: str) -> TrainingParser:
    """The parser of a command, without parsing anything."""

    class _Unparsed(TrainingCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            raise StopIteration(parser)

    try:
        _Unparsed(command, [])
    except StopIteration as built:
        parser: TrainingParser = built.value
        return parser
    raise AssertionError("unreachable: parse_arguments raises")


def _suiting(suits: Mapping[str, Any], taken: Mapping[str, Any], given: options.Given) -> list[str]:
    """The parts of a model that suit the data as options, as far as the command leaves them open."""
    words: list[str] = []
    for name, part in suits.items():
        path, own = f"model.{name}", type(part).__name__
        if name not in taken or not isinstance(part, Configurable):
            continue
        if not given.says(path):
            words += [f"--{path}", own]
        elif given.classes.get(path, own).rpartition(".")[2] != own:
            continue  # of another class, which is refused by name where it cannot be
        usual, stated = to_plain(type(part)(), name)["init_args"], to_plain(part, name)["init_args"]
        words += [
            word
            for key, value in stated.items()
            if value != usual[key] and not given.says(f"{path}.{key}")
            for word in (f"--{path}.{key}", json.dumps(value))
        ]
    return words


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _class_paths(each)


def _same_class(a: str, b: str) -> bool:
    """Whether two paths, of which one may be a bare name, name one class."""
    a, b = current_path(a), current_path(b)
    return a == b or (("." not in a or "." not in b) and a.rpartition(".")[2] == b.rpartition(".")[2])


def _differences(path: str, now: Any, kept: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, by the path of the option, and both."""
    classes = [str(each["class_path"]) for each in (now, kept) if isinstance(each, Mapping) and "class_path" in each]
    if len(classes) == 2 and _same_class(*classes):
        own, other = now.get("init_args") or {}, kept.get("init_args") or {}
        for name in own.keys() & other.keys():
            yield from _differences(f"{path}.{name}", own[name], other[name])
    elif (list(now) if isinstance(now, tuple) else now) != (list(kept) if isinstance(kept, tuple) else kept):
        yield path, now, kept


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        inner = ", ".join(f"{name}={_short(each)}" for name, each in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({inner})"
    return repr(value)


def _joined(parts: list[Any]) -> Any:
    """What was predicted of the samples of several batches; of a hierarchy's codes a tuple."""
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))
    return torch.cat(parts)


def _in_restoring(error: BaseException) -> bool:
    """Whether Lightning raised it while it restored a checkpoint: of such state it says neither what nor whence."""
    frames = traceback.extract_tb(error.__traceback__)
    restores = any(f.filename.endswith("checkpoint_connector.py") and f.name.startswith("restore") for f in frames)
    return restores and not isinstance(error, InputError)


def _keep_no_other_last(callbacks: list[Namespace] | None) -> None:
    """Leaves `save_last` of a recipe's own callbacks out: two would write last.ckpt."""
    for callback in callbacks or []:
        options = callback.get("init_args") or Namespace()
        if callback.class_path.endswith(".ModelCheckpoint") and options.get("save_last"):
            options.save_last = None
            rank_zero_info(
                "save_last of ModelCheckpoint is left out: last.ckpt is the newest state, written after each epoch"
            )


def _recipe_name(config: Namespace) -> str:
    """From `-c vae -c digits`, "vae-digits"; without a recipe, the model's name."""
    name: str = config.model.class_path.rpartition(".")[2].lower()
    return recipes.title(config.config or []) or name
