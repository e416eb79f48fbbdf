"""Critics: what tells codes or inputs of two kinds apart, and how one backward pass serves both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from lightning_ae.architectures.layers import Activation, check_option, check_sizes, norm
from lightning_ae.architectures.mlp import MLP, Layers
from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.shapes import is_any


@dataclass(frozen=True)
class Critic(Configurable):
    """Fully connected layers from a code, or an input, to a score.

    Args:
        hidden: the widths of the hidden layers; none makes it a linear function.
        activation: the function after each hidden layer; the score is linear.
    """

    hidden: tuple[int, ...] = (512,)
    activation: Activation = "leaky_relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "hidden", minimum=0)
        check_option(self, "activation", Activation)

    def build(self, shape: Sequence[int], scores: int = 1) -> nn.Module:
        """A network from (B, *shape) to (B, scores)."""
        options = MLP(hidden=self.hidden, activation=self.activation)
        return Layers((math.prod(shape), *self.hidden, scores), (scores,), options)


@dataclass(frozen=True)
class PatchCritic(Configurable):
    """Strided convolutions from an image to a score for each of its patches (Isola et al. 2017, section 3.2.2).

    Convolutions of 4 x 4 halve height and width, rounding down, and leaky rectifiers of slope 0.2 follow; then one of
    3 x 3 gives the scores, where the paper has two of 4 x 4. A score sees 8 x 8 pixels of an image after one
    convolution of stride 2, 18 x 18 after two, 38 x 38 after three. All but the first are normalised, sample by sample:
    the paper's batch normalisation would have an image's score depend on what else is in its batch.

    Args:
        channels: after each strided convolution.
        norm: the normalisation: "group", "layer" or "none".
    """

    channels: tuple[int, ...] = (32, 64)
    norm: Literal["none", "layer", "group"] = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "channels")
        check_option(self, "norm", Literal["none", "layer", "group"])

    def build(self, shape: Sequence[Any]) -> nn.Module:
        """A network from (B, C, H, W) to (B, 1, h, w); height and width may be None, any.

        Raises:
            InputError: where samples are no images, or too small.
        """
        name, stages = type(self).__name__, len(self.channels)
        if len(shape) != 3:
            raise InputError(
                f"{name} cannot serve input_shape {tuple(shape)}: it takes images (channels, height, width)",
                "give critic=None, which leaves the critic out",
            )
        if not is_any(shape) and min(shape[1:]) < 2**stages:
            raise InputError(
                f"{name} with {stages} stages cannot serve input_shape {tuple(shape)}: height and width must be at "
                f"least {2**stages}",
                "give fewer channels",
            )
        layers = _OfPatches(2**stages)
        for i, (a, b) in enumerate(zip((shape[0], *self.channels), self.channels, strict=False)):
            layers.append(nn.Conv2d(a, b, 4, stride=2, padding=1))
            layers.extend([norm(self.norm, b, spatial=True)] if i else [])
            layers.append(nn.LeakyReLU(0.2))
        # a bias of all scores has no gradient while both sides of a hinge are open, which they are at first
        layers.append(nn.Conv2d(self.channels[-1], 1, 3, padding=1, bias=False))
        return layers


class _OfPatches(nn.Sequential):
    """Refuses images of which its stages would leave nothing, where they may be of any size."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.least:
            raise InputError(
                f"images of {x.shape[2]} x {x.shape[3]} pixels, where the critic takes at least {self.least}",
                "give PatchCritic fewer channels, or larger images",
            )
        scores: Tensor = super().forward(x)
        return scores


def detached(module: nn.Module, *inputs: Any) -> Tensor:
    r"""What a module gives, as if its weights were constants: gradients reach the inputs, and never the weights.

    So one loss, one backward pass and one optimizer serve two sides that pull in opposite directions. With a critic
    :math:`c_w` and codes :math:`z_\theta`, one minimises

    .. math:: L(\theta) + A(c_{\bar w}(z_\theta)) + C(c_w(\bar z)),

    where a bar means that no gradient passes: A is what the encoder wants of the critic, by `detached(critic, z)`, and
    C what the critic wants, on `z.detach()`. Each weight gets the gradient of its own side, that of two optimizers
    which step in turn and use the codes that the encoder gave before either step. For other learning rates give the
    critic a group of its own in `parameter_groups`. Accumulation, several ranks and sharded weights are as they are
    for any loss; a gradient clipped by its norm is clipped by that of both sides together.

    A module that changes itself in a forward pass (the running statistics of batch normalisation) does so here, too.

    Args:
        module: the critic.
        inputs: what it takes.
    """
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    found: Tensor = functional_call(module, constants, inputs)
    return found


def groups_of(model: nn.Module, critic: nn.Module, lr: float | None) -> list[dict[str, Any]]:
    """Groups of parameters: all but the critic's, and the critic's, with its learning rate where it has one."""
    own = {id(parameter) for parameter in critic.parameters()}
    others = [parameter for parameter in model.parameters() if id(parameter) not in own]
    group: dict[str, Any] = {"params": list(critic.parameters())}
    return [{"params": others}, group if lr is None else group | {"lr": lr}]
