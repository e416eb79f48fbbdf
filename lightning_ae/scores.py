"""How strange data are to a model: -log p(x), or a bound on it, in nats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_ae.batches import Batches
from lightning_ae.errors import InputError
from lightning_ae.exact import keyed
from lightning_ae.parts.likelihoods import Likelihood
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
        log_ratio: log q(z | x) - log p(z), (B,), where it is one draw of several.
    """

    code: Any
    divergence: Tensor | None = None
    log_ratio: Tensor | None = None


class Scores(Batches):
    """Base of the models that say how strange data are; a variant that draws its codes overrides `coded`."""

    likelihood: Likelihood
    latents: ClassVar[tuple[str, ...]]

    def score(
        self, data: Any, per: Per = "sample", *, draws: int = 1, seed: int = 0, first: int = 0, **given: Any
    ) -> Tensor:
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

        The model is asked in evaluation mode, without gradients, and left as it was. A row's draws are its own: its
        score does not depend, but for rounding, on the rows beside it or on the device.

        Args:
            data: as of `features`.
            per: "sample", or "feature" for the shares that the values of a sample have in :math:`-\log p(x \mid z)`.
                What the code costs is no value's: the shares sum up to the score less that. What a mask calls unknown
                has the share 0.
            draws: K, how many draws of each sample's code.
            seed: of the draws.
            first: the number of the first row in the whole data, where these are a part: row numbers choose the draws.
            given: what else the model takes, by the names in `given`.

        Returns:
            (B,) or (B, *input_shape), on the model's device.

        Raises:
            InputError: as `features`; for values that the likelihood does not take; for draws that the model does not
                have; of a model without a likelihood.
        """
        self.check_scores(per, draws)
        x, target, roles = self.read_natural(data, given)
        return self.score_batch(x, target, per, draws=draws, seed=seed, first=first, **roles)

    def score_batch(
        self,
        x: Tensor,
        target: Tensor,
        per: Per = "sample",
        *,
        draws: int = 1,
        seed: int = 0,
        first: int = 0,
        **given: Tensor,
    ) -> Tensor:
        """The same of a batch in the model's units, as `read` gives it: (B, *input_shape) each."""
        self.check_scores(per, draws)
        likelihood = self.likelihood
        if found := offender(target, *likelihood.support, distance=likelihood.distance):
            raise InputError(
                f"row {first + found.row}, {found.where(tuple(target.shape[1:]), self.signature)}: {found.value:g}, "  # type: ignore[attr-defined]
                f"which the model's likelihood {likelihood} gives no score",
                "drop such rows, or clean them as the training data were",
            )
        model: Any = self
        with asked(model), keyed(seed, "score", samples=len(x), first=first):
            weights: Tensor | None = None
            for coded in self.coded(x, draws, **given):
                if per == "feature":
                    parameters = model.decoder_parameters(coded.code, **model.completed(target, given))
                    return -model.log_prob_each(parameters, target, **given)
                log_p: Tensor = model.log_likelihood(coded.code, target, **given)
                if draws == 1:
                    return -log_p if coded.divergence is None else coded.divergence - log_p
                weight = log_p - coded.log_ratio
                weights = weight if weights is None else torch.logaddexp(weights, weight)
            assert weights is not None
            return math.log(draws) - weights

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
