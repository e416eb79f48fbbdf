"""Priors p(z): what a variational autoencoder's codes are drawn from.

A prior is plain data; where it has weights, they are a module that it builds and the model holds as `prior_weights`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise, gather_batch, rows
from lightning_ae.parts.flows import Flows, MaskedAutoregressive, check_sizes, check_units
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.posteriors import (
    CorrelatedNormal,
    DiagonalGaussian,
    DiagonalNormal,
    Distribution,
    FullCovarianceGaussian,
    Posterior,
)
from lightning_ae.shapes import one_size

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder

M = TypeVar("M", bound=nn.Module)
Q = TypeVar("Q", bound=Posterior)
PseudoStart = Literal["normal", "data"]
MARGIN = 1e-3
"""How far from an end of the support a pseudo-input starts at least: as a part of its width, or of one where it has no
width."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Prior(Configurable):
    """A distribution over codes."""

    @property
    def independent(self) -> bool:
        """Whether the units of a code are independent of each other under it."""
        return False

    def tempered(self, model: Autoencoder) -> bool:
        """Whether a temperature says something of it: whether its draws are made of Gaussian ones, and of a temperature
        T, of which `Noise` multiplies these, have T times the standard deviations there."""
        return False

    def check(self, model: Autoencoder) -> None:
        """Raises InputError where it cannot work with the model's other parts."""

    def closed_form(self, posterior: Posterior) -> bool:
        """Whether `kl` is exact for such posteriors, and not an estimate from a draw."""
        return False

    def build(self, model: Autoencoder) -> nn.Module | None:
        """The module that holds its weights, where it has some."""
        return None

    def observe(self, model: Autoencoder, x: Tensor) -> None:
        """What it takes from a training batch before the terms of that are computed; here nothing.

        Args:
            model: in training.
            x: this rank's samples, (B, *input_shape), without corruption.
        """

    @abstractmethod
    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""

    def kl(self, model: Autoencoder, q: Distribution, z: Tensor, log_q: Tensor | None = None) -> Tensor:
        """KL(q(z | x) || p(z)) in nats for each sample, (B,); by default from one draw z ~ q, (B, *code_shape).

        `log_q` is log q(z | x) where it is known, (B,).
        """
        return (q.log_prob(z) if log_q is None else log_q) - self.log_prob(model, z)

    def kl_by_unit(self, q: Distribution) -> Tensor | None:
        """The terms of the divergence, (B, *code_shape), where it is a sum over the code's values in closed form."""
        return None

    def draw_for_kl(self, posterior: Posterior, q: Distribution, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """A draw z ~ q, (B, *code_shape), and its log q(z | x), (B,), where `kl` has no closed form and needs it."""
        return (q.draw(noise), None) if self.closed_form(posterior) else q.draw_with_log_prob(noise)

    @abstractmethod
    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape)."""


@dataclass(frozen=True)
class StandardNormal(Prior):
    """N(0, I)."""

    @property
    def independent(self) -> bool:
        """True."""
        return True

    def tempered(self, model: Autoencoder) -> bool:
        """True: N(0, T^2 I)."""
        return True

    def closed_form(self, posterior: Posterior) -> bool:
        """Of a Gaussian."""
        return isinstance(posterior, DiagonalGaussian | FullCovarianceGaussian)

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""
        dims = tuple(range(z.ndim - len(model.code_shape), z.ndim))
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=dims)

    def kl(self, model: Autoencoder, q: Distribution, z: Tensor, log_q: Tensor | None = None) -> Tensor:
        r"""Of a diagonal Gaussian in closed form, :math:`\tfrac12 \sum \mu^2 + \sigma^2 - \log \sigma^2 - 1`.

        Of one with the covariance :math:`L L^T` it is
        :math:`\tfrac12 \sum \mu^2 + \tfrac12 \|L\|_F^2 - \sum \log L_{jj} - \tfrac{D}{2}`.
        """
        if isinstance(q, CorrelatedNormal):
            terms = q.mean.square() + (2 * q.log_diagonal).exp() - 2 * q.log_diagonal - 1
            return 0.5 * (terms.flatten(1).sum(dim=1) + q.below.tril(-1).square().flatten(1).sum(dim=1))
        each = self.kl_by_unit(q)
        return super().kl(model, q, z, log_q) if each is None else each.flatten(1).sum(dim=1)

    def kl_by_unit(self, q: Distribution) -> Tensor | None:
        """The terms of the first sum, of a diagonal Gaussian."""
        if not isinstance(q, DiagonalNormal):
            return None
        return 0.5 * (q.mean.square() + q.log_variance.exp() - q.log_variance - 1)

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape)."""
        return noise.randn_like(model.zeros(n))


class Mixture(Prior):
    """A mixture of distributions over codes. A divergence from it has no closed form."""

    @abstractmethod
    def distributions(self, model: Autoencoder, chosen: Tensor | None = None) -> Distribution:
        """All K of them as one distribution over (K, *code_shape), or those whose numbers `chosen` (n,) holds."""

    @abstractmethod
    def log_weights(self, model: Autoencoder) -> Tensor:
        """The logarithms of the weights, (K,)."""

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""
        each, weights = self.distributions(model), self.log_weights(model)
        batch = z.shape[: z.ndim - each.mean.ndim + 1]
        flat = z.reshape(1, -1, *each.mean.shape[1:]).expand(len(weights), *[-1] * each.mean.ndim)
        return (weights.unsqueeze(1) + each.log_prob(flat)).logsumexp(dim=0).view(batch)

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape), each of a component that is drawn first."""
        weights = self.log_weights(model)
        # by the inverse of the distribution function, which takes no draw that ranks would have to share
        function = weights.exp().cumsum(dim=0)
        edges = function[:-1] / function[-1]  # what has no weight comes after an edge of exactly one
        chosen = torch.searchsorted(edges, noise.rand_like(edges.new_zeros(n)), right=True)
        return self.distributions(model, chosen).draw(noise)


@dataclass(frozen=True)
class MixturePrior(Mixture):
    r"""A learned mixture of diagonal Gaussians, over codes of any shape.

    .. math:: p(z) = \sum_k w_k\, N(z; \mu_k, \mathrm{diag}\, \sigma_k^2)

    A fresh model's means are draws from N(0, I), its variances one, its weights equal. The log-variances are kept in
    [-30, 20]; the gradient passes.

    Args:
        components: how many.
    """

    components: int = 10

    def __post_init__(self) -> None:
        check_sizes(self, "components")

    @property
    def independent(self) -> bool:
        """Of a single component."""
        return self.components == 1

    def tempered(self, model: Autoencoder) -> bool:
        """True: each component has T times its standard deviations, the weights stay."""
        return True

    def build(self, model: Autoencoder) -> nn.Module:
        """Their means, log-variances and weights."""
        return GaussianComponents(self.components, model.code_shape)

    def distributions(self, model: Autoencoder, chosen: Tensor | None = None) -> Distribution:
        """The K Gaussians, or those chosen."""
        values = _weights(model, GaussianComponents).values
        return DiagonalGaussian()(values if chosen is None else values[chosen])

    def log_weights(self, model: Autoencoder) -> Tensor:
        """(K,)."""
        return at_least_float32(_weights(model, GaussianComponents).logits).log_softmax(dim=0)


@dataclass(frozen=True)
class VampPrior(Mixture):
    r"""The mixture of the posteriors at learned pseudo-inputs u (Tomczak & Welling 2018, equation 9).

    .. math:: \log p(z) = \log \frac1K \sum_k q(z \mid u_k)

    A pseudo-input has a free number v for each value. Where the likelihood's support is bounded on both sides,
    u = low + (high - low) sigmoid(v); on one side, u = low + softplus(v); else u = v. So u never leaves the support,
    and has a gradient everywhere in it. A fresh model's v are draws from N(0, I).

    With `start="data"` the u start as training samples, and are learned from there. The first K samples that training
    sees are taken, in the order of the batches of all ranks, so on any number of ranks the same; where a batch has
    fewer than K, over several, and until there are K the mixture is of those that were taken. Buffers hold them and
    their number, so that it happens once, goes on after an interruption, and never again in a later fit. Values at an
    end of the support, which no v reaches, are taken .001 of its width from it, or .001 where one side has no end. An
    epoch with fewer than K samples is refused at its end.

    Every evaluation of the density encodes all pseudo-inputs. They come without labels and masks, and an
    encoder with batch normalisation would mix their statistics with the data's: both are refused.

    Args:
        pseudo_inputs: K, how many.
        start: "normal", v from N(0, I), or "data", u from training samples.
    """

    pseudo_inputs: int = 500
    start: PseudoStart = "normal"

    def __post_init__(self) -> None:
        check_sizes(self, "pseudo_inputs")
        if self.start not in get_args(PseudoStart):
            raise unknown("start of VampPrior", str(self.start), get_args(PseudoStart))

    def tempered(self, model: Autoencoder) -> bool:
        """Where the posterior is a Gaussian: as `MixturePrior`."""
        return isinstance(getattr(model, "posterior", None), DiagonalGaussian | FullCovarianceGaussian)

    def check(self, model: Autoencoder) -> None:
        """Raises InputError where the encoder cannot take a pseudo-input as it takes a sample."""
        posterior: Posterior = model.posterior  # type: ignore[assignment]
        if not posterior.evaluates:
            raise InputError(
                f"VampPrior asks for the density of any code under the posteriors of its pseudo-inputs, and "
                f"{type(posterior).__name__} knows that of its own draws only",
                "use the prior MixturePrior(), or a posterior such as SplineFlow() or DiagonalGaussian()",
            )
        if model.given:
            raise InputError(
                f"VampPrior encodes pseudo-inputs, which come without {', '.join(model.given)}, but "
                f"{type(model).__name__} takes that besides the input",
                "use the prior MixturePrior() or StandardNormal()",
            )
        if any(isinstance(layer, BATCH_NORMS) for layer in model.encoder.modules()):
            raise InputError(
                "VampPrior encodes pseudo-inputs in a batch of their own, whose statistics a batch normalisation would "
                "mix with the data's",
                "give the architecture norm='layer', 'group' or 'none', or use the prior MixturePrior()",
            )

    def build(self, model: Autoencoder) -> nn.Module:
        """The pseudo-inputs."""
        return PseudoInputs(self.pseudo_inputs, one_size(model, "VampPrior"), model.likelihood.support, self.start)

    def observe(self, model: Autoencoder, x: Tensor) -> None:
        """Takes samples as pseudo-inputs, where it starts with them and there are too few yet.

        Raises:
            InputError: at the end of an epoch that held fewer than there are to be.
        """
        inputs = _weights(model, PseudoInputs)
        if inputs.complete:
            return
        inputs.take(gather_batch(x))
        if inputs.complete or not model._fits():
            return
        trainer = model.trainer
        if trainer.is_last_batch and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise InputError(
                f"pseudo_inputs = {self.pseudo_inputs} are to start as training samples, of which an epoch has "
                f"{int(inputs.taken)}",
                "give fewer, or start='normal'",
            )

    def distributions(self, model: Autoencoder, chosen: Tensor | None = None) -> Distribution:
        """The posteriors at the K pseudo-inputs, or at those chosen."""
        inputs: Tensor = _weights(model, PseudoInputs)()
        with rows("shared"):
            q: Distribution = model.infer(inputs if chosen is None else inputs[chosen])  # type: ignore[operator]
            return q

    def log_weights(self, model: Autoencoder) -> Tensor:
        """Equal weights of those that there are, (K,)."""
        inputs = _weights(model, PseudoInputs)
        equal = at_least_float32(inputs.values.new_zeros(self.pseudo_inputs)) - math.log(self.pseudo_inputs)
        if self.start == "normal":
            return equal
        place = torch.arange(self.pseudo_inputs, device=equal.device)
        some = (-inputs.taken.to(equal.dtype).log()).where(place < inputs.taken, -math.inf)
        return equal.where(inputs.taken == 0, some)  # before the first batch, the draws of a fresh model


@dataclass(frozen=True)
class FlowPrior(Prior):
    r"""A masked autoregressive flow from N(0, I) to codes (Chen et al. 2017, section 3.2; Papamakarios et al. 2017).

    .. math:: \log p(z) = \log N(f^{-1}(z); 0, I) - \log \left| \det \frac{\partial f}{\partial x} \right|,
        \quad z_i = m_i(z_{<i}) + e^{a_i(z_{<i})} x_i \ \text{in each step}

    It is the direction whose density takes one pass a step, as training does; a draw takes as many passes a step as a
    code has values. Each step takes the values in the reverse order of the one before. The values of a map are taken
    as one vector, in the order of `flatten`, so that positions depend on each other. Scales are kept in (e^-4, e^4) a
    step. A fresh one is N(0, I).

    Args:
        steps: how many.
        hidden: the units of each of a step's two hidden layers.
    """

    steps: int = 2
    hidden: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "steps", "hidden")

    def tempered(self, model: Autoencoder) -> bool:
        """True, before the flow: the convention of Kingma & Dhariwal (2018), section 5."""
        return True

    def build(self, model: Autoencoder) -> nn.Module:
        """The steps' weights.

        Raises:
            InputError: when a code is a single value.
        """
        units = math.prod(model.code_shape)
        check_units(self, units)
        return Flows(
            units, [MaskedAutoregressive(units, self.hidden, backwards=step % 2 == 1) for step in range(self.steps)]
        )

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""
        z = at_least_float32(z).flatten(z.ndim - len(model.code_shape))
        x, log_det = _weights(model, Flows)(z, inverse=True)
        return -0.5 * (x.square() + math.log(2 * math.pi)).sum(dim=-1) - log_det

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape), value by value."""
        zeros = at_least_float32(model.zeros(n))
        z: Tensor = _weights(model, Flows)(noise.randn_like(zeros).flatten(1))[0]
        return z.view_as(zeros)


class GaussianComponents(nn.Module):
    """The weights of a `MixturePrior`.

    Args:
        count: how many components.
        code_shape: of a code, channels first.
    """

    def __init__(self, count: int, code_shape: tuple[int, ...]) -> None:
        super().__init__()
        means = torch.randn(count, *code_shape)
        # as an encoder's output: mean and log-variance beside each other in dimension 1
        self.values = nn.Parameter(torch.cat([means, torch.zeros_like(means)], dim=1))
        self.logits = nn.Parameter(torch.zeros(count))


class PseudoInputs(nn.Module):
    """The weights of a `VampPrior`.

    Where they start from data, `values` are what is learned beside the buffer `origin`: a step may change a buffer,
    also where weights are sharded.

    Args:
        count: how many pseudo-inputs.
        input_shape: of each.
        support: the interval that their values stay in.
        start: "normal" or "data".
    """

    origin: Tensor
    """(count, *input_shape)."""
    taken: Tensor
    """How many of them are samples."""

    def __init__(
        self,
        count: int,
        input_shape: tuple[int, ...],
        support: tuple[float, float],
        start: PseudoStart = "normal",
    ) -> None:
        super().__init__()
        draws = torch.randn(count, *input_shape)
        self.values = nn.Parameter(draws if start == "normal" else torch.zeros_like(draws))
        self.support = support
        self._complete = start == "normal"
        if start == "data":
            self.register_buffer("origin", draws)
            self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    @property
    def complete(self) -> bool:
        """Whether no more samples are wanted."""
        if not self._complete:  # a number on the device, which is read no longer than it must be
            self._complete = int(self.taken) == len(self.origin)
        return self._complete

    @torch.no_grad()
    def take(self, x: Tensor) -> None:
        """The next ones become the first of these samples, (B, *input_shape), as many as are wanted."""
        start = int(self.taken)
        x = x[: len(self.origin) - start]
        self.origin[start : start + len(x)] = self.free(at_least_float32(x)).to(self.origin.dtype)
        self.taken += len(x)

    def forward(self) -> Tensor:
        """(count, *input_shape)."""
        values = self.origin + self.values if hasattr(self, "origin") else self.values
        low, high = self.support
        if math.isinf(low) and math.isinf(high):
            return values
        if math.isinf(low):
            return high - F.softplus(values)
        if math.isinf(high):
            return low + F.softplus(values)
        return low + (high - low) * values.sigmoid()

    def free(self, u: Tensor) -> Tensor:
        """The free numbers of values in the support, of which those at its ends are brought inside by `MARGIN`."""
        low, high = self.support
        if math.isinf(low) and math.isinf(high):
            return u
        if math.isinf(low) or math.isinf(high):
            away = (high - u if math.isinf(low) else u - low).clamp(min=MARGIN)
            return away + (-(-away).expm1()).log()
        return ((u - low) / (high - low)).clamp(MARGIN, 1 - MARGIN).logit()

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._complete = not hasattr(self, "origin")  # what was loaded may hold fewer


def posterior_for(prior: Prior, model: Autoencoder, kind: type[Q], codes: str) -> Q:
    """The model's posterior, of the kind whose codes a prior is of.

    Raises:
        InputError: where it is another, or the model has none.
    """
    posterior = getattr(model, "posterior", None)
    if not isinstance(posterior, kind):
        own = model if posterior is None else posterior
        raise InputError(
            f"{type(prior).__name__} takes codes {codes}, {type(own).__name__} gives others",
            f"use the posterior {kind.__name__}()",
        )
    return posterior


def _weights(model: Autoencoder, kind: type[M]) -> M:
    assert isinstance(model.prior_weights, kind)
    return model.prior_weights
