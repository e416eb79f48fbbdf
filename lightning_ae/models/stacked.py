"""Stacked autoencoders: greedy layer-wise pretraining, then the whole stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures.layers import Activation, activation, check_option
from lightning_ae.autoencoder import Autoencoder, LikelihoodOptions
from lightning_ae.config import Configurable, from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.corruptions import Corruption, Masking
from lightning_ae.parts.likelihoods import Bernoulli, Gaussian
from lightning_ae.parts.penalties import DERIVATIVES, layer_jacobian
from lightning_ae.parts.sparsity import KLSparsity


class Layerwise(Configurable):
    """How one layer of a stack is trained, beyond reconstructing its input: by a part, or a penalty of `parts`."""

    activations: ClassVar[tuple[str, ...]] = get_args(Activation)
    """Of the units that it can serve."""

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """What the layer sees of its input (B, width)."""
        return x

    def penalty(self, pre_activation: Tensor, code: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """What is added to the layer's loss, a scalar.

        Args:
            pre_activation: the layer's code before the activation, (B, units).
            code: after it, (B, units).
            weight: of the layer, (units, width).
            activation: of its units.
        """
        return code.new_zeros(())


@dataclass(frozen=True)
class Plain(Layerwise):
    """A plain autoencoder in each layer."""


@dataclass(frozen=True)
class Denoising(Layerwise):
    """A denoising autoencoder in each layer: its input is corrupted, its target clean.

    Args:
        corruption: what happens to the layer's input.
    """

    corruption: Corruption = Masking(0.25)

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """A corrupted copy of the layer's input (B, width)."""
        return self.corruption(x, noise)


@dataclass(frozen=True)
class Sparse(Layerwise):
    """A sparse autoencoder in each layer: mean activations over the whole batch are drawn to rho, by `KLSparsity`.

    Args:
        weight: of the penalty.
        rho: the target, in (0, 1).
    """

    activations: ClassVar[tuple[str, ...]] = ("sigmoid",)

    weight: float = 0.1
    rho: float = 0.05

    def __post_init__(self) -> None:
        KLSparsity(self.weight, self.rho)  # refuses what it cannot take

    def penalty(self, pre_activation: Tensor, code: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """The weighted divergence."""
        return self.weight * KLSparsity(self.weight, self.rho).penalty(pre_activation, code)


@dataclass(frozen=True)
class Contractive(Layerwise):
    """A contractive autoencoder in each layer: the Jacobian's norm is penalised, in closed form.

    Args:
        weight: of the penalty.
    """

    activations: ClassVar[tuple[str, ...]] = tuple(DERIVATIVES)

    weight: float = 0.1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"weight of Contractive must not be negative, got {self.weight}")

    def penalty(self, pre_activation: Tensor, code: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """The weighted mean of the squared Frobenius norm of the layer's Jacobian."""
        return self.weight * layer_jacobian(code, weight, activation).mean()  # type: ignore[arg-type]


class StackedAutoencoder(Autoencoder):
    r"""Layers that are trained one by one, each to reconstruct the output of the one below; then the whole stack.

    In phase l (Hinton & Salakhutdinov 2006; Bengio et al. 2007; Vincent et al. 2010) layer l alone learns, on the clean
    codes :math:`h_{l-1}` of the layers below:

    .. math:: -\log p(h_{l-1} \mid s(W_l \tilde h_{l-1} + b_l)),

    where the layer's own input :math:`\tilde h_{l-1}` is corrupted, or a penalty on its code is added, as `objective`
    says. For data :math:`h_0 = x` p is the model's likelihood; for sigmoid codes it is the Bernoulli, for others the
    squared error. After the last layer, the stack is unrolled and all of it learns to reconstruct the data.

    All of that is one `fit`: the phase follows from the epoch, `epochs_per_layer` epochs for each layer and the rest of
    `max_epochs` for the unrolled stack, so a run resumes in the middle of any phase. Layers that are not being trained
    take no step: their gradients are dropped, so neither momentum nor weight decay moves them. A term of zero keeps all
    parameters in the graph, as DistributedDataParallel wants it. `compile` concerns the unrolled stack. For the
    supervised stage see `FineTuneClassifier`.

    Args:
        latent_dim: the number of units of the last layer.
        hidden: the numbers of units of the layers before it.
        objective: what each layer is: Plain, Denoising, Sparse or Contractive (of `lightning_ae.models.stacked`).
        epochs_per_layer: the epochs for each layer: one number, or one for each of the len(hidden) + 1 layers.
        activation: of all units.
        tied: whether each layer reconstructs with the transpose of its own weight.
        likelihood: p(x | z) of the data.
    """

    reference: ClassVar[str] = "Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        hidden: Sequence[int] = (64,),
        objective: Layerwise = Plain(),
        epochs_per_layer: int | Sequence[int] = 5,
        activation: Activation = "sigmoid",
        tied: bool = True,
        **options: Unpack[LikelihoodOptions],
    ) -> None:
        self.hidden, self.activation, self.tied = tuple(hidden), activation, tied
        check_option(self, "activation", Activation)
        if any(not isinstance(n, int) or n < 1 for n in self.hidden):
            raise InputError(f"hidden must hold positive integers, got {self.hidden}")
        super().__init__(input_shape, latent_dim, **options)
        self.objective = from_plain(Layerwise, objective, "objective")
        depth = len(self.hidden) + 1
        epochs = [epochs_per_layer] * depth if isinstance(epochs_per_layer, int) else list(epochs_per_layer)
        if len(epochs) != depth:
            raise InputError(
                f"epochs_per_layer has {len(epochs)} numbers for {depth} layers (hidden {self.hidden} and the code)",
                f"give one number, or {depth} of them",
            )
        if any(not isinstance(n, int) or n < 0 for n in epochs):
            raise InputError(f"epochs_per_layer must hold non-negative integers, got {epochs_per_layer!r}")
        self.epochs_per_layer = epochs
        if activation not in self.objective.activations:
            raise InputError(
                f"objective {type(self.objective).__name__} needs an activation of {list(self.objective.activations)}, "
                f"got {activation!r}"
            )

    def build_encoder(self) -> nn.Module:
        """The layers upwards."""
        widths = (math.prod(self.input_shape), *self.hidden, self.latent_dim)
        return StackEncoder(widths, self.activation)

    def build_decoder(self) -> nn.Module:
        """The layers downwards, with the encoder's weights where they are tied."""
        assert isinstance(self.encoder, StackEncoder)
        return StackDecoder(self.encoder, self.likelihood.output_shape(self.input_shape), self.tied)

    @property
    def phase(self) -> int:
        """The layer that is being trained, counted from 0; the number of layers while the whole stack is."""
        epoch = self.current_epoch
        for layer, epochs in enumerate(self.epochs_per_layer):
            if epoch < epochs:
                return layer
            epoch -= epochs
        return len(self.epochs_per_layer)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The phase's "loss", and in training phases of a layer its number "layer" too."""
        stages: Any = self.encoder.stages
        phase = self.phase if self.training else len(stages)  # evaluation is always of the whole stack
        if phase == len(stages):
            reconstruction = self.reconstruction_loss(self.encode(x, **given), target, **given)
            return {"loss": reconstruction, "reconstruction": reconstruction}
        with torch.no_grad():
            below = x.flatten(1)
            for stage in stages[:phase]:
                below = stage(below)
        linear, activate = stages[phase]
        pre_activation = linear(self.objective.corrupt(below, self.noise(f"layer {phase}")))
        code = activate(pre_activation)
        output = self.decoder.layer(code, phase)  # type: ignore[operator]
        if phase == 0:
            params = self.parameters_of(
                output.unflatten(1, self.likelihood.output_shape(self.input_shape)), **self.completed(target, given)
            )
            reconstruction = -self.log_prob(params, target, **given).mean()
        else:
            likelihood = Bernoulli() if self.activation == "sigmoid" else Gaussian()
            reconstruction = -likelihood.log_prob(output.unsqueeze(1), below).mean()
        penalty = self.objective.penalty(pre_activation, code, linear.weight, self.activation)
        idle = sum(parameter.sum() for parameter in self.parameters()) * 0.0
        return {"loss": reconstruction + penalty + idle, "reconstruction": reconstruction, "penalty": penalty}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Drops the gradients of what the phase does not train, so that no optimizer moves it."""
        if self.phase == len(self.epochs_per_layer):
            return
        trained = {id(parameter) for parameter in self._parameters_of(self.phase)}
        for parameter in self.parameters():
            if id(parameter) not in trained:
                parameter.grad = None

    def _parameters_of(self, layer: int) -> list[nn.Parameter]:
        encoder: Any = self.encoder
        decoder: Any = self.decoder
        modules = [encoder.stages[layer], decoder.stages[-1 - layer], *([self.head] if layer == 0 else [])]
        return [parameter for module in modules for parameter in module.parameters()]


class StackEncoder(nn.Module):
    """Stages of a linear layer and an activation each, from (B, ...) to (B, widths[-1])."""

    def __init__(self, widths: Sequence[int], function: Activation) -> None:
        super().__init__()
        self.function = function
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), activation(function)) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, widths[-1])."""
        x = x.flatten(1)
        for stage in self.stages:
            x = stage(x)
        return x


class StackDecoder(nn.Module):
    """The mirrored stages, the topmost first; the lowest gives what the likelihood takes."""

    def __init__(self, encoder: StackEncoder, shape: tuple[int, ...], tied: bool) -> None:
        super().__init__()
        self.shape = shape
        self.activation = activation(encoder.function)
        self.stages = nn.ModuleList()
        for stage in reversed(encoder.stages):
            layer = stage[0]  # type: ignore[index]
            self.stages.append(_Backwards(layer, tied))
        if math.prod(shape) != encoder.stages[0][0].in_features:  # type: ignore[index]
            raise InputError(
                f"the likelihood takes {math.prod(shape)} values of the stack, which gives as many as it takes in, "
                f"{encoder.stages[0][0].in_features}",  # type: ignore[index]
                "use a likelihood with one parameter for each value, not scale='per_pixel'",
            )

    def layer(self, code: Tensor, index: int) -> Tensor:
        """What layer `index`, counted from the data, makes of its own code, before any activation."""
        output: Tensor = self.stages[-1 - index](code)
        return output

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) to (B, *shape)."""
        for stage in self.stages[:-1]:
            z = self.activation(stage(z))
        output: Tensor = self.stages[-1](z)
        return output.unflatten(1, self.shape)


class _Backwards(nn.Module):
    """From a layer's output back to its input, with its transposed weight or one of its own."""

    def __init__(self, layer: nn.Linear, tied: bool) -> None:
        super().__init__()
        own = nn.Linear(layer.out_features, layer.in_features)
        self.weight = layer.weight if tied else nn.Parameter(own.weight.detach().t().clone())
        self.bias = own.bias

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, self.weight.t(), self.bias)
