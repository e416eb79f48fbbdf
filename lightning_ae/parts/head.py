"""What stands between a decoder and its likelihood: the parameters that no sample has for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_ae.exact import sum_over_ranks
from lightning_ae.parts.likelihoods import LOG_SCALE_RANGE, Likelihood, at_least_float32, float64


class LikelihoodHead(nn.Module):
    r"""Turns what the decoder network gives into the likelihood's parameters, of which it holds those of all samples.

    Some are learned, by gradients. One, a scale, may be fitted to the data's errors instead (`scale="optimal"`):

    - a step of training has the one under which the batch of all ranks is most likely, which follows from the sum of
      its errors, of known values only, and their number. It counts as a constant: where it is the optimum, the
      gradient through it is zero (the envelope theorem). Of several draws for a sample all count alike; with gradient
      accumulation each part is a batch of its own.
    - evaluation has the training data's: of the errors of all batches of the last epoch of training, replaced at its
      end. Before the first epoch's end, and in a loop without a trainer, it is the last step's; such a loop may call
      `begin` and `end_epoch` itself. The sums are in float64, and checkpoints hold them: a batch that was begun, and is
      begun again by a resumed run, counts once. An average of weights has the average of their parameters.

    Args:
        likelihood: whose parameters.
        shape: of one sample.
    """

    fitted: Tensor
    """The fitted parameter, (fitted_values,)."""
    sums: Tensor
    """Of errors, and their numbers: of this epoch's earlier batches and of the last, (2, 2, fitted_values)."""
    batch: Tensor
    """The number of the last one, ()."""
    settled: Tensor
    """Whether it is of an epoch, ()."""

    def __init__(self, likelihood: Likelihood, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.shape = shape
        self._parts: list[Tensor] | None = None  # the errors of a batch's parts, while they are summed
        self._taken: Tensor | None = None
        self._weights: Tensor | None = None  # of the rows of which errors are summed
        self._held = False
        start = likelihood.shared_parameters()
        each = likelihood.shared_values(shape)
        shared = torch.tensor(start) if each == 1 else torch.tensor(start).unsqueeze(1).repeat(1, each)
        self.shared = nn.Parameter(shared) if start else None
        self.fits = likelihood.fitted_values(shape)
        if self.fits:
            self.register_buffer("fitted", torch.zeros(self.fits))
            self.register_buffer("sums", torch.zeros(2, 2, self.fits, dtype=torch.float64))
            self.register_buffer("batch", torch.tensor(-1))
            self.register_buffer("settled", torch.tensor(False))

    def forward(self, output: Tensor, **taken: Tensor) -> Tensor:
        """(B, *output_shape) to (B, num_parameters, *shape); `taken` is what the likelihood takes, by role."""
        more = [] if self.shared is None else [self.shared.view(len(self.shared), -1)]
        if self.fits:
            more.append(self.fitted.unsqueeze(0))
        return self.likelihood.parameters(output, self.shape, *more, **taken)

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None, held: bool = False) -> Tensor:
        """The likelihood's log p(x) in nats; in training, with the fitted parameter that suits the batch.

        Args:
            params: (B, num_parameters, *shape).
            x: (B, *shape).
            mask: true where a value is known.
            held: whether what an earlier epoch has settled stays until this one's end.

        Returns:
            (B,).
        """
        if not self.fits:
            return self.likelihood.log_prob(params, x, mask)
        fitted = self._fit(params, x, mask, held) if self.training else self.fitted
        return self.likelihood.log_prob_fitted(fitted, params, x, mask)

    @contextmanager
    def summing(self) -> Iterator[list[Tensor]]:
        """Inside, `log_prob` in training takes parts of one batch; at the end, the list holds what suits them all.

        Until then it has no use for what it returns. Every rank must ask.
        """
        found: list[Tensor] = []
        self._parts = []
        try:
            yield found
            parts, self._parts = self._parts, None
            found.append(self._settle(torch.stack(parts).sum(dim=0), self._held))
        finally:
            self._parts = None

    @contextmanager
    def taking(self, fitted: Tensor) -> Iterator[None]:
        """Inside, `log_prob` in training takes this, and counts no errors."""
        self._taken = fitted
        try:
            yield
        finally:
            self._taken = None

    @contextmanager
    def weighing(self, weights: Tensor) -> Iterator[None]:
        """Inside, a row of what `log_prob` takes counts so much in the errors, (rows,): one of several guesses, say."""
        self._weights = weights
        try:
            yield
        finally:
            self._weights = None

    def log_prob_each(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each value's share of `log_prob` as evaluation has it, (B, *shape)."""
        return self.likelihood.log_prob_each(params, x, mask, self.fitted if self.fits else None)

    @torch.no_grad()
    def begin(self, batch: int) -> None:
        """Begins the batch of that number in an epoch, or begins it again; the first forgets earlier epochs."""
        if not self.fits:
            return
        if batch == 0:
            self.sums.zero_()
        earlier, last = self.sums
        earlier.add_(last * (self.batch != batch))
        last.zero_()
        self.batch.fill_(batch)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """From now on the fitted parameter is of the batches since the epoch began."""
        if self.fits:
            sums = self.sums.sum(dim=0)
            self.fitted.copy_(self._optimum(sums))
            self.settled.logical_or_((sums[1] > 0).any())

    @torch.no_grad()
    def _fit(self, params: Tensor, x: Tensor, mask: Tensor | None, held: bool) -> Tensor:
        if self._taken is not None:
            return self._taken
        weights = {} if self._weights is None else {"weights": self._weights}
        errors = torch.stack(self.likelihood.errors(params, x, mask, **weights)).to(self.sums.dtype)
        if self._parts is not None:
            self._parts.append(errors)
            self._held = held
            return self.fitted
        return self._settle(errors, held)

    def _settle(self, errors: Tensor, held: bool) -> Tensor:
        """What suits a batch of which this rank has these errors."""
        (sums,) = sum_over_ranks(errors)
        self.sums[1].add_(sums)
        found = self._optimum(sums)
        self.fitted.copy_(torch.where(self.settled, self.fitted, found) if held else found)
        return found

    def _optimum(self, sums: Tensor) -> Tensor:
        """Where nothing is known, as it was."""
        errors, counts = sums
        found = self.likelihood.fit(errors / counts).clamp(*LOG_SCALE_RANGE)
        return torch.where(counts > 0, found, self.fitted.to(found.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Leaves what is fitted in float32 at least, whatever type weights get, and its sums in float64 where it can.

        In half precision they would be wrong after a few steps.
        """
        before = dict(self._buffers)
        if self.fits:
            self._buffers["sums"] = self.sums.float()  # a device may have no float64
        super()._apply(fn, recurse)
        for name in ("fitted", "sums") if self.fits else ():
            kept, value = before[name], self._buffers[name]
            assert kept is not None
            assert value is not None
            dtype = (float64(value) if name == "sums" else at_least_float32(value)).dtype
            as_it_is = value.dtype == dtype or kept.is_meta or value.is_meta  # without memory there are no values
            self._buffers[name] = value.to(dtype) if as_it_is else kept.to(value.device, dtype)
        return self
