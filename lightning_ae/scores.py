"""How strange data are to a model: -log p(x), or a bound on it, in nats."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_ae.batches import Batches, rows_of
from lightning_ae.errors import InputError
from lightning_ae.evidence import Evidence
from lightning_ae.exact import keyed, rows
from lightning_ae.parts.likelihoods import Likelihood
from lightning_ae.thresholds import Threshold, check_quantile
from lightning_ae.training.values import offender

Per = Literal["sample", "feature"]


@dataclass(frozen=True)
class Coded:
    """A code of each sample of a batch, and what it costs.

    Args:
        code: what `decode` takes.
        divergence: what it costs where it is the only one, in nats, (B,): KL(q(z | x) || p(z)), in closed form where
            there is one, or the indices' number of bits. None of a code that costs nothing, since the model has no
            distribution over codes.
        log_ratio: log q(z | x) - log p(z), (B,), where it is one draw of several; of a mixture (B, k), with the
            logarithm of the prior probability of each subtracted.
        weights: of a mixture, of which a sample has k codes, how probable each is, (B, k); the code's rows are (B * k),
            a sample's beside each other.
        given: of a mixture, what its rows are given instead of the sample's, by role.
    """

    code: Any
    divergence: Tensor | None = None
    log_ratio: Tensor | None = None
    weights: Tensor | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def log_likelihood(self, model: Any, target: Tensor, **given: Tensor) -> Tensor:
        """log p(x | z) of the samples, the mean of a mixture, (B,)."""
        each = self.log_likelihoods(model, target, **given)
        return each[:, 0] if self.weights is None else (self.weights * each).sum(dim=1)

    def log_likelihoods(self, model: Any, target: Tensor, **given: Tensor) -> Tensor:
        """log p(x | z) of each code of the samples, (B, k)."""
        target, given = self._repeated(target, given)
        with self._noise():
            found: Tensor = model.log_likelihood(self.code, target, **given)
        return found.unflatten(0, (-1, self._k))

    def shares(self, model: Any, target: Tensor, **given: Tensor) -> Tensor:
        """What each value has of -log p(x | z), the mean of a mixture, (B, *input_shape)."""
        repeated, given = self._repeated(target, given)
        with self._noise():
            parameters = model.decoder_parameters(self.code, **model.completed(repeated, given))
            each: Tensor = -model.log_prob_each(parameters, repeated, **given)
        if self.weights is None:
            return each
        weights = self.weights.view(*self.weights.shape, *[1] * (target.ndim - 1))
        return (weights * each.unflatten(0, (-1, self._k))).sum(dim=1)

    @property
    def _k(self) -> int:
        return 1 if self.weights is None else self.weights.shape[1]

    def _noise(self) -> Any:
        return nullcontext() if self.weights is None else rows("by_sample")

    def _repeated(self, target: Tensor, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.weights is None:
            return target, dict(given)
        repeated = {role: value.repeat_interleave(self._k, dim=0) for role, value in given.items()}
        return target.repeat_interleave(self._k, dim=0), {**repeated, **self.given}


@dataclass(frozen=True)
class Scored:
    """What a batch scores.

    Args:
        score: in nats, (B,).
        shares: of each value in -log p(x | z), (B, *input_shape), where they were asked for.
    """

    score: Tensor
    shares: Tensor | None = None


class Scores(Batches):
    """Base of the models that say how strange data are; a variant that draws its codes overrides `coded`."""

    likelihood: Likelihood
    latents: ClassVar[tuple[str, ...]]
    threshold: Threshold | None = None
    """From which score on a row counts as strange; `fit_threshold` finds it, and checkpoints carry it."""

    def score(self, data: Any, per: Per = "sample", *, draws: int = 1, seed: int = 0, **given: Any) -> Tensor:
        r"""How strange data in natural units are, in nats: higher is stranger.

        - Of a deterministic model it is :math:`-\log p(x \mid z)` at the code z of x: no bound on :math:`-\log p(x)`,
          since such a model has no distribution over codes. Nothing is corrupted, whatever training does.
        - Of a variational one it is the negative evidence lower bound, with beta = 1 whatever the objective weights,
          :math:`-\log p(x \mid z) + KL(q(z \mid x) \,\|\, p(z))`, by one draw; its mean over draws bounds
          :math:`-\log p(x)` from above.
        - With K draws of such a model it is the importance-weighted bound (Burda, Grosse & Salakhutdinov 2016),
          :math:`-\log \frac1K \sum_k p(x \mid z_k)\, p(z_k) / q(z_k \mid x)`, the tighter the larger K.
        - Of a quantised one it is :math:`-\log p(x \mid z)` plus what the indices cost when all are as likely, a bound,
          too.

        The model is asked in evaluation mode, without gradients, and left as it was. All rows get the same draws: a
        score is a function of its row, and does not depend, but for rounding, on the rows beside it or on the device;
        scores compare without the noise of different draws.

        Args:
            data: as of `features`.
            per: "sample", or "feature" for the shares that the values of a sample have in :math:`-\log p(x \mid z)`.
                What the code costs is no value's: the shares sum up to the score less that. What a mask calls unknown
                has the share 0.
            draws: K, how many draws of each sample's code.
            seed: of the draws.
            given: what else the model takes, by the names in `given`.

        Returns:
            (B,) or (B, *input_shape), on the model's device.

        Raises:
            InputError: as `features`; for values that the likelihood does not take; for draws that the model does not
                have; of a model without a likelihood.
        """
        self.check_scores(per, draws)
        x, target, roles = self.read_natural(data, given)
        found = self.score_batch(x, target, per == "feature", draws=draws, seed=seed, first=0, **roles)
        if per == "sample":
            return found.score
        assert found.shares is not None
        return found.shares

    def score_batch(
        self,
        x: Tensor,
        target: Tensor,
        shares: bool = False,
        *,
        draws: int = 1,
        seed: int = 0,
        first: int = 0,
        **given: Tensor,
    ) -> Scored:
        """The same of a batch in the model's units, as `read` gives it.

        It depends on the model and the rows alone.

        Args:
            x: what the encoder sees, (B, *input_shape).
            target: what is scored, (B, *input_shape).
            shares: whether the values' shares are wanted, too.
            draws: how many draws of each sample's code.
            seed: of the draws.
            first: the number of the first row in the whole data, for errors.
            given: what else the model takes.

        Raises:
            InputError: as `score`.
        """
        self.check_scores("feature" if shares else "sample", draws)
        self._check_support(target, first)
        model: Any = self
        with asked(model), keyed(seed, "score", samples=len(x), alike=True):
            if draws > 1:
                weights = functools.reduce(torch.logaddexp, self._log_weights(x, target, draws, given))
                return Scored(math.log(draws) - weights)
            coded = next(iter(self.coded(x, 1, **given)))
            if shares:
                each = coded.shares(model, target, **given)
                return Scored(_plus(each.flatten(1).sum(dim=1), coded.divergence), each)
            return Scored(_plus(-coded.log_likelihood(model, target, **given), coded.divergence))

    def _log_weights(self, x: Tensor, target: Tensor, draws: int, given: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """log p(x | z) p(z) / q(z | x) of each draw, (B,); of a mixture, of all its codes together."""
        for coded in self.coded(x, draws, **given):
            assert coded.log_ratio is not None
            log_p = coded.log_likelihoods(self, target, **given)
            yield (log_p - coded.log_ratio.view(log_p.shape)).logsumexp(dim=1)

    def _check_support(self, target: Tensor, first: int) -> None:
        likelihood = self.likelihood
        if found := offender(target, *likelihood.support, distance=likelihood.distance):
            raise InputError(
                f"row {first + found.row}, {found.where(tuple(target.shape[1:]), self.signature)}: {found.value:g}, "
                f"which the model's likelihood {likelihood} gives no score",
                "drop such rows, or clean them as the training data were",
            )

    def log_evidence(
        self, data: Any, samples: int = 1000, *, batch_size: int = 256, seed: int = 0, **given: Any
    ) -> Evidence:
        r"""Estimates :math:`\log p(x)` of data in natural units by importance sampling, with their standard errors.

        The proposals are :math:`q(z \mid x)`; `Evidence` has the formula. Memory is that of a batch with one draw, and
        of a number for each draw and sample of it.

        Args:
            data: as of `features`.
            samples: K, how many draws of each sample's code.
            batch_size: how many samples at a time; these have draws in common, others have their own.
            seed: of the draws.
            given: what else the model takes, by the names in `given`.

        Raises:
            InputError: as `score`; of a model that draws no codes, and so has no density; for fewer than 2 samples.
        """
        self.check_evidence(samples, batch_size)
        x, target, roles = self.read_natural(data, given)
        if not len(x):
            raise InputError("data hold no rows, and so no evidence")
        parts = [slice(start, start + batch_size) for start in range(0, len(x), batch_size)]
        return Evidence.joined(
            self.evidence_batch(x[p], target[p], samples, seed=seed, first=p.start, **rows_of(roles, p))
            for p in tqdm(parts, "evidence", delay=2, leave=False)
        )

    def evidence_rows(
        self,
        data: Any,
        split: str,
        samples: int = 1000,
        *,
        batch_size: int = 256,
        seed: int = 0,
        first: int = 0,
        last: int | None = None,
    ) -> Evidence:
        """The same of the rows of a data module's split, those from `first` up to `last`, exclusive.

        Raises:
            InputError: as `log_evidence`.
        """
        self.check_evidence(samples, batch_size)
        found, model = [], cast(Any, self)
        for batch in tqdm(data.batches(split, batch_size, first, last), "evidence", delay=2, leave=False):
            x, target, given = model.read(move_data_to_device(batch, model.device))
            found.append(self.evidence_batch(x, target, samples, seed=seed, first=first, **given))
            first += len(x)
        if not found:
            raise InputError(f"there are no rows of the {split} split to take the evidence of")
        return Evidence.joined(found)

    def evidence_batch(
        self, x: Tensor, target: Tensor, samples: int = 1000, *, seed: int = 0, first: int = 0, **given: Tensor
    ) -> Evidence:
        """The same of a batch in the model's units, as `read` gives it; its samples have draws in common.

        Args:
            x: what the encoder sees, (B, *input_shape).
            target: what is scored, (B, *input_shape).
            samples: how many draws of each sample's code.
            seed: of the draws, with `first`.
            first: the number of the first row in the whole data.
            given: what else the model takes.
        """
        self.check_evidence(samples)
        self._check_support(target, first)
        with asked(cast(Any, self)), keyed(seed, "evidence", first, samples=len(x), alike=True):
            weights = [each.double() for each in self._log_weights(x, target, samples, given)]
        discrete = "mask" not in given and self.likelihood.is_mass_at(target)
        return Evidence.of(torch.stack(weights, dim=1), math.prod(target.shape[1:]) if discrete else None)

    def check_evidence(self, samples: int, batch_size: int = 1) -> None:
        """Refuses what the model has no evidence for.

        Raises:
            InputError: naming the argument.
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise InputError(f"samples must be a whole number from 2 on, got {samples!r}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, got {batch_size!r}")
        if "sample" not in self.latents:
            raise InputError(
                f"{type(self).__name__} has no distribution over codes, and so no density p(x)",
                "score gives -log p(x | z) at its codes; a VAE has a density",
            )

    def score_rows(
        self,
        data: Any,
        split: str,
        shares: bool = False,
        *,
        draws: int = 1,
        seed: int = 0,
        batch_size: int = 1024,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[Scored]:
        """What the rows of a data module's split score, a batch at a time, in the order of evaluation; those from
        `first` up to `last`, exclusive.

        Raises:
            InputError: as `score`; for a score that is not finite, naming its row.
        """
        model: Any = self
        for batch in data.batches(split, batch_size, first, last):
            x, target, given = model.read(batch)
            given = {role: value.to(model.device) for role, value in given.items()}
            x, target = x.to(model.device), target.to(model.device)
            found = self.score_batch(x, target, shares, draws=draws, seed=seed, first=first, **given)
            if not (finite := found.score.isfinite()).all():
                row = int((~finite).int().argmax())
                raise InputError(
                    f"row {first + row} of the {split} split has the score {found.score[row].item()}",
                    "its values are too far from what the model was trained on for float32; drop the row, or convert "
                    "the model, model.double()",
                )
            yield found
            first += len(x)

    def fit_threshold(
        self, data: Any, quantile: float = 0.99, *, draws: int = 1, seed: int = 0, batch_size: int = 1024
    ) -> Threshold:
        """Finds `threshold`: a quantile of the scores of rows that the model was not fitted to, the validation split's.

        Args:
            data: a data module; of the data that the model was trained on, divided as they were then.
            quantile: which, in (0, 1).
            draws: how many draws of each sample's code.
            seed: of the draws.
            batch_size: how many samples at a time.

        Raises:
            InputError: when the data have no validation split, or one that the model was fitted to in part; as `score`.
        """
        check_quantile(quantile)
        self.check_scores(draws=draws)
        self._check_held_out(data)
        found = self.score_rows(data, "val", draws=draws, seed=seed, batch_size=batch_size)
        scores = torch.cat([each.score.double().cpu() for each in found])
        value = float(np.quantile(scores.numpy(), quantile))
        if (1 - quantile) * len(scores) < 1:
            rank_zero_warn(
                f"the {quantile:g} quantile of the scores of {len(scores)} validation rows rests on the largest of them"
            )
        self.threshold = Threshold(value, float(quantile), len(scores), draws)
        return self.threshold

    def _check_held_out(self, data: Any) -> None:
        """Refuses a validation split whose rows the model may have been fitted to."""
        if not data.has("val"):
            raise InputError(
                "the data have no validation split, and no threshold is taken of rows that the model was fitted to",
                "train with val_fraction or val_split, or take a quantile of scores of rows of your own",
            )
        own, now = (getattr(each, name, None) for each, name in ((self, "data_config"), (data, "config")))
        if not own or not now:
            return
        was, found = own["init_args"], now["init_args"]
        if all(was.get(name) == found.get(name) for name in ("path", "name", "revision")):
            changed = [name for name in _DIVIDING if was.get(name) != found.get(name)]
            if changed:
                raise InputError(
                    f"the data are those of training, divided otherwise ({', '.join(changed)}): their validation split "
                    "holds rows that the model was fitted to",
                    "divide them as they were: HFDataModule.load_from_checkpoint(path)",
                )

    def coded(self, x: Tensor, draws: int = 1, **given: Tensor) -> Iterator[Coded]:
        """So many codes of each sample, with what they cost: of (B, *input_shape).

        A variant that draws takes `self.noise` once for each. By default there is one, `encode`'s, that costs nothing.

        Raises:
            InputError: of a variant that draws, and does not say what its draws cost.
        """
        if "sample" in self.latents:
            raise InputError(
                f"{type(self).__name__} draws codes, and does not say what they cost: it has no score",
                "override coded(x, draws, **given), which gives a lightning_ae.scores.Coded for each draw",
            )
        model: Any = self
        yield Coded(model.encode(x, **given))

    def check_scores(self, per: Per = "sample", draws: int = 1) -> None:
        """Refuses what the model has no score for.

        Raises:
            InputError: naming the argument.
        """
        name = type(self).__name__
        if per not in get_args(Per):
            raise InputError(f"per must be 'sample' or 'feature', got {per!r}")
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise InputError(f"draws must be a positive integer, got {draws!r}")
        if draws > 1 and "sample" not in self.latents:
            raise InputError(f"{name} gives one code for an input, and no {draws} draws of it", "leave draws at 1")
        if draws > 1 and per == "feature":
            raise InputError(
                f"per='feature' takes one draw, got draws={draws}: a bound of several is no sum over features",
                "leave draws at 1, or use per='sample'",
            )


_DIVIDING = (
    *("train_split", "val_split", "test_split", "val_fraction", "test_fraction", "split_seed"),
    *("split_by", "split_time"),
)
"""The options of a data module that say which rows validate."""


def _plus(score: Tensor, cost: Tensor | None) -> Tensor:
    return score if cost is None else score + cost


@contextmanager
def asked(model: nn.Module) -> Any:
    """Inside, a model can be asked: in evaluation mode, without gradients; it is left as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
