"""The base of all modules here: training that does not depend on the number of ranks, nor on interruptions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae.checkpoint import Checkpointed, write_atomically
from lightning_ae.distributed import (
    GLOBAL_BATCH_SIZE,
    Noise,
    keyed,
    noise_of_step,
    sum_over_ranks,
    synchronise_batch_norm,
    use_group,
    world_size,
)
from lightning_ae.errors import InputError
from lightning_ae.lean import use_lean_loop
from lightning_ae.preemption import Preemption

# what runs networks, and under FSDP needs their weights as a whole
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")
_CALLS = ("encode", "decode", "decoder_parameters", "features", "sample")


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
    """

    def __init__(self) -> None:
        super().__init__()
        self._run_seed: int | None = None
        self._gathered = False
        self._epoch = _EpochTerms()

    @abstractmethod
    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The named scalars of a batch, means over this rank's samples or exact over all; "loss" is minimised."""

    # ---- draws --------------------------------------------------------------------------------------------------

    def noise(self, purpose: str) -> Noise:
        """Random draws for the step at hand, others each time they are asked for.

        In a trainer's step they are keyed by the seed, the stage, the step, the purpose and how often it was asked for
        before, so that any number of ranks, and a run resumed in the middle of an epoch, see the same; in evaluation
        they repeat from epoch to epoch. Elsewhere they come from torch's global generator. Where what is drawn for is
        not the batch (several draws for a sample, pseudo-inputs), see `lightning_ae.distributed.rows`.
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
        if whole is None and _tensors(batch):
            whole = _size(batch) * world_size()
        with keyed(seed, stage, epoch, batch_idx, samples=whole):
            yield

    # ---- what Lightning calls -----------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: D102
        with self.at_step("train", batch_idx, batch):
            terms = self._terms(batch, batch_idx)
        size = _size(batch)
        self._log_training(terms, batch, batch_idx, size)
        whole = _whole(batch)
        if whole is None or size * world_size() == whole:
            return terms["loss"]
        return terms["loss"] * (size * world_size() / whole)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: D102
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: D102
        self._evaluate(batch, batch_idx, "test")

    def setup(self, stage: str) -> None:
        """Agrees with the other ranks on the run's seed, and makes the trainer exact."""
        mesh = self.device_mesh
        use_group(None if mesh is None else mesh["data_parallel"].get_group())
        self._run_seed = self.trainer.strategy.broadcast(torch.initial_seed())
        if stage == "fit":
            use_lean_loop(self.trainer)
            write_atomically(self.trainer)
            if world_size() > 1:
                synchronise_batch_norm(self)

    def teardown(self, stage: str) -> None:
        """Forgets the ranks and the seed of the run."""
        use_group(None)
        self._run_seed = None

    def configure_model(self) -> None:
        """Shards the module over the ranks, under ModelParallelStrategy."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        if not isinstance(self, FSDPModule):
            cls = type(self)
            # one group, whole from the forward to the backward pass: weights may be tied, or used outside of a layer
            fully_shard(self, mesh=self.device_mesh["data_parallel"], reshard_after_forward=False)
            for name in (*_STEPS, *_CALLS):
                if hasattr(self, name):
                    plain = getattr(self, name)
                    register_fsdp_forward_method(self, name)
                    setattr(self, name, self._outermost(plain, getattr(self, name)))
            type(self).__name__ = cls.__name__  # FSDP2 gives it a class of its own

    def _outermost(self, plain: Callable[..., Any], gathering: Callable[..., Any]) -> Callable[..., Any]:
        """`gathering`, but `plain` inside of another such call: the weights must stay until that one's backward pass.

        FSDP2 takes the gradient of a call's input for the end of the backward pass.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._gathered:
                return plain(*args, **kwargs)
            self._gathered = True
            try:
                return gathering(*args, **kwargs)
            finally:
                self._gathered = False

        return call

    def configure_callbacks(self) -> list[pl.Callback]:
        """The callback that answers SIGTERM."""
        return [Preemption()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's seed and what the epoch has summed up.

        Raises:
            InputError: when a weight is not finite; checkpoints written earlier stay.
        """
        super().on_save_checkpoint(checkpoint)
        names = {name for name, _ in self.named_parameters()}
        broken = [
            name
            for name, value in checkpoint.get("state_dict", {}).items()
            if name in names and not torch.isfinite(value).all()
        ]
        if broken:
            raise InputError(
                f"weights are not finite after step {self.global_step}, so they are not saved: {', '.join(broken)}",
                "go on from an earlier checkpoint with a lower lr, or set the trainer's gradient_clip_val",
            )
        checkpoint["exact"] = {"seed": self._run_seed, "epoch_terms": self._epoch.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the run's seed again where a fit goes on."""
        super().on_load_checkpoint(checkpoint)
        trainer = self._trainer
        saved = checkpoint.get("exact")
        if trainer is not None and trainer.state.fn == "fit" and saved is not None:
            self._run_seed = saved["seed"]
            self._epoch.restore(saved["epoch_terms"])

    # ---- logging ------------------------------------------------------------------------------------------------

    def _logs_now(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without a type
        return (self.global_step + 1) % every == 0

    def _log_training(self, terms: dict[str, Tensor], batch: Any, batch_idx: int, size: int) -> None:
        # self.log costs a small model a fifth of its step, so terms are kept on the device until the trainer logs
        epoch = self._epoch
        if batch_idx == 0:
            epoch.clear()
        epoch.add(terms, batch_idx, size)
        now = self._logs_now()
        last = self.trainer.is_last_batch
        # reading a value back makes an accelerator wait, so there it happens only when the trainer logs anyway
        if terms["loss"].device.type == "cpu":
            if not math.isfinite(terms["loss"].item()):
                raise self._not_finite("train", batch_idx, terms, batch)
        elif (now or last) and (found := epoch.broken()) is not None:
            raise self._not_finite("train", *found)
        if now:
            for name, value in _means(terms, size).items():
                self.log(f"train/{name}", value, on_step=True, on_epoch=False, prog_bar=name == "loss")
        if last:
            for name, value in epoch.means().items():
                self.log(f"train/{name}_epoch", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _evaluate(self, batch: Any, batch_idx: int, stage: str) -> None:
        with self.at_step(stage, batch_idx, batch):
            terms = self._terms(batch, batch_idx)
        if not math.isfinite(terms["loss"].item()):
            raise self._not_finite(stage, batch_idx, terms, batch)
        weight = _size(batch) * world_size()  # a multiple, since Lightning rounds the mean over ranks of the counts
        for name, value in terms.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "loss", batch_size=weight, sync_dist=True)

    def _not_finite(self, stage: str, batch_idx: int, terms: Mapping[str, Any], batch: Any = None) -> InputError:
        where = f"batch {batch_idx} of epoch {self.current_epoch}"
        if any(x.is_floating_point() and not torch.isfinite(x).all() for x in _tensors(batch)):
            return InputError(
                f"the {stage} data hold NaN or infinite values in {where}",
                "clean the data; the weights of the last checkpoint are untouched",
            )
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        return InputError(
            f"the loss is not finite at {stage} {where} (terms: {', '.join(broken)}), though the data are",
            "lower lr, set the trainer's gradient_clip_val, or use precision 32",
        )


class _EpochTerms:
    """The mean of each term over an epoch's samples, kept on the device and rarely added up."""

    def __init__(self) -> None:
        self.waiting: list[Tensor] = []
        self.clear()

    def clear(self) -> None:
        self.waiting.clear()
        self.sizes: list[int] = []
        self.names: tuple[str, ...] = ()
        self.sums: Tensor | None = None
        self.samples = 0
        self.first = 0
        self._broken: Tensor | None = None

    def add(self, terms: dict[str, Tensor], batch_idx: int, size: int) -> None:
        self.names = tuple(terms)
        if not self.sizes:
            self.first = batch_idx
        self.waiting += [value.detach() for value in terms.values()]
        self.sizes.append(size)
        if len(self.waiting) > 256:
            self._add_up()

    def means(self) -> dict[str, Tensor]:
        """Over the samples of all ranks."""
        self._add_up()
        assert self.sums is not None
        sums, samples = sum_over_ranks(self.sums, self.sums.new_tensor(float(self.samples)))
        return dict(zip(self.names, sums / samples, strict=True))

    def broken(self) -> tuple[int, dict[str, float]] | None:
        """The first batch whose loss is not finite, and its terms."""
        self._add_up()
        assert self._broken is not None
        batch_idx, *values = self._broken.tolist()
        return None if batch_idx < 0 else (int(batch_idx), dict(zip(self.names, values, strict=True)))

    def state(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        if self.waiting:
            self._add_up()
        sums = None if self.sums is None else self.sums.tolist()
        return {"names": list(self.names), "sums": sums, "samples": self.samples}

    def restore(self, state: dict[str, Any]) -> None:
        self.clear()
        self.names, self.samples = tuple(state["names"]), state["samples"]
        self.sums = None if state["sums"] is None else torch.tensor(state["sums"])

    def _add_up(self) -> None:
        if not self.waiting:
            return
        values = torch.stack(self.waiting).view(-1, len(self.names)).float()
        sizes = torch.tensor(self.sizes, dtype=values.dtype, device=values.device)
        sums = sizes @ values
        self.sums = sums if self.sums is None else self.sums.to(sums.device) + sums
        self.samples += sum(self.sizes)
        unsound = ~values[:, self.names.index("loss")].isfinite()
        row = unsound.int().argmax()
        found = torch.cat([torch.where(unsound[row], row + self.first, -1).float().view(1), values[row]])
        self._broken = found if self._broken is None else torch.where(self._broken[0] >= 0, self._broken, found)
        self.waiting.clear()
        self.sizes.clear()


def _means(terms: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Over the samples of all ranks."""
    values = torch.stack([value.detach() for value in terms.values()]).float()
    sums, samples = sum_over_ranks(values * size, values.new_tensor(float(size)))
    return dict(zip(terms, sums / samples, strict=True))


def _tensors(batch: Any) -> list[Tensor]:
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    return [value for value in values if isinstance(value, Tensor)]


def _size(batch: Any) -> int:
    """How many samples this rank has of a batch."""
    return len(_tensors(batch)[0])


def _whole(batch: Any) -> int | None:
    """How many samples all ranks have of a batch, where it says so."""
    return batch.get(GLOBAL_BATCH_SIZE) if isinstance(batch, Mapping) else None
