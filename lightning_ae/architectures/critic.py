"""Critics: what tells codes or inputs of two kinds apart, and how one backward pass serves both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from lightning_ae.architectures.layers import Activation, check_option, check_sizes
from lightning_ae.architectures.mlp import MLP, Layers
from lightning_ae.config import Configurable


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
