"""The base of all modules here: training that does not depend on the number of ranks, nor on interruptions."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.exact import (
    GLOBAL_BATCH_SIZE,
    Noise,
    keyed,
    noise_of_step,
    synchronise_batch_norm,
    use_group,
    world_size,
)
from lightning_ae.training.averaging import check_average, use_exact_averaging, write_average
from lightning_ae.training.checkpoint import Checkpointed
from lightning_ae.training.checkpoint_file import use_own_checkpoints
from lightning_ae.training.epoch_terms import EpochTerms, means_of
from lightning_ae.training.lean import use_lean_loop, use_lightnings_loop
from lightning_ae.training.preemption import Preemption
from lightning_ae.training.private import find_unused_parameters, logs_now, trainer_of
from lightning_ae.training.progress import draw_always, draw_seldom
from lightning_ae.training.resume import Resumption, of_all_ranks
from lightning_ae.training.sharding import shard
from lightning_ae.training.values import Distance, Offender, Watch, offender
from lightning_ae.training.weights import first_tensor, weights_type

# what runs networks, and under FSDP needs their weights as a whole
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")
_CALLS = (
    *("encode", "decode", "decoder_parameters", "draw", "features", "rate", "sample", "score", "score_batch"),
    *("encode_indices", "decode_indices", "coordinates_of"),
)


class ExactModule(Checkpointed, pl.LightningModule):  # type: ignore[misc]  # Lightning's loader is no classmethod
    """A LightningModule whose steps give the same run on any number of ranks, and go on after an interruption.

    A subclass gives the terms of a batch, `_terms`; this class makes steps of them:

    - what a step draws is keyed by the run's seed, the epoch and the batch;
    - a rank's loss is weighted by its share of the batch, where ranks have unequal ones, so that the mean over ranks
      that DistributedDataParallel takes is the mean over samples;
    - batch normalisation, under several ranks, takes its statistics from all of them;
    - under ModelParallelStrategy weights, gradients and the optimizer's state are sharded (FSDP2) as one group;
      override `configure_model` for another plan;
    - terms are logged as means over the samples of all ranks;
    - a loss that is not finite stops the run, naming the term and the step; weights that are not finite are never
      saved; checkpoints replace earlier ones in one piece; SIGTERM is answered with a checkpoint.

    A subclass with optimizers of its own that alternate sets `automatic_optimization = False`, and makes its step of
    `step_terms`, `log_terms` and `share`, so that all of this goes for it, too. Where `loss` gives a second term,
    "critic", and `configure_optimizers` an optimizer for each:

        def training_step(self, batch, batch_idx):
            terms = self.step_terms(batch, batch_idx)
            self.log_terms(terms, batch, batch_idx)
            for name, optimizer in zip(("loss", "critic"), self.optimizers()):
                optimizer.zero_grad()
                self.manual_backward(terms[name] * self.share(batch))
                optimizer.step()
    """

    def __init__(self) -> None:
        super().__init__()
        self.keep_arguments()
        self._run_seed: int | None = None
        self._finds_unused = False
        self._epoch = EpochTerms()
        self._watch = Watch()
        self._interval: tuple[str, tuple[float, float], tuple[int, ...]] = ("", (-math.inf, math.inf), ())

    @abstractmethod
    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The named scalars of a batch, means over this rank's samples or exact over all; "loss" is minimised."""

    # ---- what it is, and where ----------------------------------------------------------------------------------

    @property  # type: ignore[misc]  # Lightning's setter does nothing but refuse
    def dtype(self) -> torch.dtype:
        """The weights' type, whoever converted them: Lightning's record misses what a module around this one does."""
        return weights_type(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are; while a trainer runs, where it puts them, which it says in `setup` already."""
        trainer = self._trainer
        if trainer is not None and trainer.state.status == TrainerStatus.RUNNING:
            return super().device
        first = first_tensor(self, lambda tensor: True)
        return super().device if first is None else first.device

    # ---- draws --------------------------------------------------------------------------------------------------

    def noise(self, purpose: str) -> Noise:
        """Random draws for the step at hand, others each time they are asked for.

        In a trainer's step they are keyed by the seed, the stage, the step, the purpose and how often it was asked for
        before, so that any number of ranks, and a run resumed in the middle of an epoch, see the same; in evaluation
        they repeat from epoch to epoch. Elsewhere they come from torch's global generator. Where what is drawn for is
        not the batch (several draws for a sample, pseudo-inputs), see `lightning_ae.exact.rows`.
        """
        return noise_of_step(purpose)

    @contextmanager
    def at_step(self, stage: str, batch_idx: int, batch: Any = None) -> Iterator[None]:
        """Inside, `noise` draws what it draws in that step of "train" (this epoch's), "val" or "test".

        Args:
            stage: which of the three.
            batch_idx: the number of the batch in the epoch.
            batch: the batch, which may say how many samples all ranks have of it.
        """
        seed = torch.initial_seed() if self._run_seed is None else self._run_seed
        epoch = self.current_epoch if stage == "train" else 0
        whole = _whole(batch)
        if whole is None and tensors_of(batch):
            whole = _size(batch) * world_size()
        with keyed(seed, stage, epoch, batch_idx, samples=whole):
            yield

    # ---- what a step is made of ---------------------------------------------------------------------------------

    def step_terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The terms of a training batch, with the draws of that step."""
        with self.at_step("train", batch_idx, batch):
            return self._terms(batch, batch_idx)

    def share(self, batch: Any) -> float:
        """What to multiply a mean over this rank's samples with before its backward pass.

        DistributedDataParallel takes the mean over ranks, which then is the mean over the samples of all ranks.
        """
        whole = _whole(batch)
        return 1.0 if whole is None else _size(batch) * world_size() / whole

    def log_terms(self, terms: Mapping[str, Tensor], batch: Any, batch_idx: int) -> None:
        """Logs the terms of a training batch: where the trainer logs a step, and their means at the epoch's end.

        Call it once for each batch, before an optimizer's step, so that weights stay as they were where the loss is
        not finite. A term may be missing from some batches; its mean is over those that have it.

        Args:
            terms: named scalars, means over this rank's samples or exact over all, "loss" among them; on all ranks the
                same names.
            batch: what they are of.
            batch_idx: its number in the epoch.

        Raises:
            InputError: when the loss is not finite, or not there.
        """
        if "loss" not in terms:
            raise InputError(f"log_terms takes named terms with 'loss' among them, got {', '.join(terms) or 'none'}")
        # self.log costs a small model a fifth of its step, so terms are kept on the device until the trainer logs
        epoch, trainer, size = self._epoch, self.trainer, _size(batch)
        if batch_idx == 0:
            epoch.clear()
        epoch.add(terms, batch_idx, size)
        now, last = logs_now(trainer), trainer.is_last_batch
        # reading a value back makes an accelerator wait, so there it happens only when the trainer logs anyway
        if terms["loss"].device.type == "cpu":
            if not math.isfinite(terms["loss"].item()):
                raise self._not_finite("train", batch_idx, terms, batch)
        elif now or last:
            if (outside := self._watch.first()) is not None:
                raise self._outside(outside)
            if (found := epoch.broken()) is not None:
                raise self._not_finite("train", *found)
        if trainer.barebones:
            return
        if now:
            for name, value in means_of(terms, size).items():
                self.log(f"train/{name}", value, on_step=True, on_epoch=False, prog_bar=name == "loss")
        if last:
            self._log_epoch()

    def check_values(
        self,
        x: Tensor,
        interval: tuple[float, float],
        what: str,
        batch_idx: int,
        distance: Distance | None = None,
    ) -> None:
        """Refuses values of a batch outside an interval, for one reduction.

        On an accelerator, which would have to wait, the first one is kept there while a model trains, and raised at the
        next logged step, before any checkpoint is written.

        Args:
            x: (B, *shape), in the model's units.
            interval: the least and the largest value; between infinite ones all is left to the loss, which such a
                value makes infinite or NaN.
            what: the interval is, in words.
            batch_idx: the batch's number in the epoch.
            distance: how far each value is from what is taken, where an interval does not say it.

        Raises:
            InputError: naming row, column and value.
        """
        if distance is None and not any(math.isfinite(bound) for bound in interval):
            return
        self._interval = what, interval, tuple(x.shape[1:])
        if x.device.type != "cpu" and self.training and self._trainer is not None:
            if batch_idx == 0:
                self._watch = Watch()
            self._watch.look(x, *interval, batch_idx, distance)
        elif (found := offender(x, *interval, batch_idx, distance)) is not None:
            raise self._outside(found)

    def _outside(self, found: Offender) -> InputError:
        what, (low, high), shape = self._interval
        within = f"[{low:g}, {high:g}] is " if math.isfinite(low) or math.isfinite(high) else ""
        images = "divide images by 255; for other values" if high == 1 else "clean the data, or"
        return InputError(
            f"{self._named(found, shape)}, where {within}{what}",
            f"{images} use a likelihood that takes them, Gaussian() say",
        )

    def _named(self, found: Offender, shape: tuple[int, ...]) -> str:
        stage = "train" if self.training else "test" if self.trainer.testing else "val"
        data: Any = getattr(trainer_of(self), "datamodule", None)
        row = data.row_of(stage, found.batch, found.row) if hasattr(data, "row_of") else None
        return found.named(shape, self.signature or getattr(data, "signature", None), row)

    def total_steps(self) -> float:
        """How many steps the optimizer takes in the whole fit.

        Raises:
            InputError: when nobody knows.
        """
        trainer = trainer_of(self)
        total = math.inf if trainer is None else float(trainer.estimated_stepping_batches)
        if math.isinf(total):
            raise InputError(
                "a schedule asks how many steps the fit has, which nobody says",
                "set the trainer's max_epochs or max_steps, or use a schedule that does not ask, such as Warmup",
            )
        return total

    # ---- what Lightning calls -----------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Logs a batch's terms, and gives the loss that is this rank's share of it."""
        terms = self.step_terms(batch, batch_idx)
        self.log_terms(terms, batch, batch_idx)
        share = self.share(batch)
        return terms["loss"] if share == 1 else terms["loss"] * share

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: D102
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: D102
        self._evaluate(batch, batch_idx, "test")

    def setup(self, stage: str) -> None:
        """Agrees with the other ranks on the run's seed, and makes the trainer exact."""
        mesh = self.device_mesh
        use_group(None if mesh is None else mesh["data_parallel"].get_group())
        self._run_seed = self.trainer.strategy.broadcast(torch.initial_seed())
        use_own_checkpoints(self.trainer)
        # inside Lightning 2.6, with every batch that it moves; nothing that a user could change
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        draw_seldom(self.trainer)
        if stage == "fit":
            if self.trainer.checkpoint_callbacks:  # before anything is trained that could not be saved
                self.check_loads()
            use_lean_loop(self.trainer)
            if world_size() > 1:
                synchronise_batch_norm(self)
            if not self.automatic_optimization:
                self._find_unused_parameters()

    def teardown(self, stage: str) -> None:
        """Forgets the ranks and the seed of the run, and leaves the trainer as Lightning has it."""
        use_lightnings_loop(self.trainer)
        draw_always(self.trainer)
        if self._finds_unused:
            self._finds_unused = False
            find_unused_parameters(self.trainer, False)
        use_group(None)
        self._run_seed = None

    def _find_unused_parameters(self) -> None:
        self._finds_unused = find_unused_parameters(self.trainer, True)
        if self._finds_unused:
            rank_zero_info(
                "manual optimization: DistributedDataParallel looks for the weights that a loss leaves out "
                "(strategy='ddp_find_unused_parameters_false' does without)"
            )

    def configure_model(self) -> None:
        """Shards the module over the ranks, under ModelParallelStrategy."""
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"], (*_STEPS, *_CALLS))

    def configure_callbacks(self) -> list[pl.Callback]:
        """Those that answer SIGTERM and Ctrl-C with a checkpoint, and go on from one, unless the trainer has them."""
        trainer = trainer_of(self)
        use_exact_averaging(trainer, plain=type(self).configure_model is ExactModule.configure_model)
        there = [] if trainer is None else [type(callback) for callback in trainer.callbacks]
        return [callback() for callback in (Preemption, Resumption) if callback not in there]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's seed and what the epoch has summed up.

        Raises:
            InputError: when a weight is not finite; checkpoints written earlier stay.
        """
        if (outside := self._watch.first()) is not None:
            raise self._outside(outside)
        super().on_save_checkpoint(checkpoint)
        write_average(trainer_of(self), checkpoint)
        names = {name for name, _ in self.named_parameters()}
        broken = [
            name
            for key in ("state_dict", "current_model_state")
            for name, value in checkpoint.get(key, {}).items()
            if name in names and not torch.isfinite(value).all()
        ]
        if broken:
            raise InputError(
                f"weights are not finite after step {self.global_step}, so they are not saved: {', '.join(broken)}",
                "go on from an earlier checkpoint with a lower lr, or set the trainer's gradient_clip_val",
            )
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        checkpoint["exact"] = {
            "seed": self._run_seed,
            "epoch_terms": of_all_ranks(self._epoch.state(progress.processed)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the run's seed again where a fit goes on.

        Raises:
            InputError: when the run took an average of its weights, and the trainer does not.
        """
        super().on_load_checkpoint(checkpoint)
        trainer = self._trainer
        saved = checkpoint.get("exact")
        if trainer is not None and trainer.state.fn == "fit":
            check_average(trainer, checkpoint)
        if trainer is not None and trainer.state.fn == "fit" and saved is not None:
            self._run_seed = saved["seed"]
            self._epoch.restore(saved["epoch_terms"])

    # ---- logging ------------------------------------------------------------------------------------------------

    def _log_epoch(self) -> None:
        for name, value in self._epoch.means().items():
            self.log(f"train/{name}_epoch", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _evaluate(self, batch: Any, batch_idx: int, stage: str) -> None:
        with self.at_step(stage, batch_idx, batch):
            terms = self._terms(batch, batch_idx)
        if not math.isfinite(terms["loss"].item()):
            raise self._not_finite(stage, batch_idx, terms, batch)
        if self.trainer.barebones:
            return
        weight = _size(batch) * world_size()  # a multiple, since Lightning rounds the mean over ranks of the counts
        for name, value in terms.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "loss", batch_size=weight, sync_dist=True)

    def _not_finite(self, stage: str, batch_idx: int, terms: Mapping[str, Any], batch: Any = None) -> InputError:
        where = f"batch {batch_idx} of epoch {self.current_epoch}"
        for module in self.modules():  # a network that makes NaN of what it does not take, and can say of what
            if (refused := getattr(module, "refused", None)) is not None and (error := refused()) is not None:
                return error
        for x in tensors_of(batch):
            if x.is_floating_point() and x.ndim > 1 and (found := offender(x, -math.inf, math.inf, batch_idx)):
                return InputError(
                    f"the {stage} data hold NaN or infinite values in {where}: "
                    f"{self._named(found, tuple(x.shape[1:]))}",
                    "clean the data; the weights of the last checkpoint are untouched",
                )
        broken = [name for name, value in terms.items() if not torch.as_tensor(value).detach().isfinite()]
        return InputError(
            f"the loss is not finite at {stage} {where} (terms: {', '.join(broken)}), though the data are",
            "lower lr, set the trainer's gradient_clip_val, or use precision 32",
        )


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors that a batch holds, or is."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    return [value for value in values if isinstance(value, Tensor)]


def _size(batch: Any) -> int:
    """How many samples this rank has of a batch."""
    return len(tensors_of(batch)[0])


def _whole(batch: Any) -> int | None:
    """How many samples all ranks have of a batch, where it says so."""
    return batch.get(GLOBAL_BATCH_SIZE) if isinstance(batch, Mapping) else None
