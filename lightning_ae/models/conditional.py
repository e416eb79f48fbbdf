"""The conditional variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.models.vae import VAE, VAEOptions
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.posteriors import Distribution, Posterior
from lightning_ae.parts.priors import Prior


class ConditionalOptions(VAEOptions, total=False):
    """What it passes on to `VAE`: all that one takes."""

    prior: Prior
    posterior: Posterior
    objective: Objective


class ConditionalVAE(VAE):
    r"""A variational autoencoder of each class of data, in one network (Sohn, Lee & Yan 2015).

    Encoder and decoder see the label y besides. It minimises, in nats,

    .. math:: -\mathbb E_{q(z \mid x, y)} [\log p(x \mid z, y)] + \beta\, KL(q(z \mid x, y) \,\|\, p(z)),

    which bounds :math:`-\log p(x \mid y)` from above with :math:`\beta = 1`. The prior is independent of the label, as
    section 4 of the paper admits, so that the code holds what the label does not say: `sample(n, label=3)` draws codes
    and decodes them as that class.

    The label is one-hot. For vectors it stands beside the input and the code; for inputs and codes of more dimensions
    each class has a plane beside their channels, ones or zeros.

    Batches hold labels as the data module's label column, or as a tuple (input, label). How many samples of each class
    were trained on, over all ranks, is the buffer `seen`; once trained, it refuses other classes.

    Args:
        num_classes: the number of classes; labels are 0 to num_classes - 1.
    """

    reference: ClassVar[str] = (
        "Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html"
    )
    given: tuple[str, ...] = ("label",)

    seen: Tensor
    """How often a sample of each class was trained on, (num_classes,)."""

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        num_classes: int = 10,
        **options: Unpack[ConditionalOptions],
    ) -> None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise InputError(f"num_classes must be a positive integer, got {num_classes!r}")
        self.num_classes = num_classes
        super().__init__(input_shape, latent_dim, **options)
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.long))

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that it was trained on; all, before."""
        seen: Tensor | None = getattr(self, "seen", None)  # not there while the parts are built
        if seen is None or seen.is_meta or not seen.any():
            return tuple(range(self.num_classes))
        return tuple(seen.nonzero().flatten().tolist())

    def build_encoder(self) -> nn.Module:
        """The network from (B, channels + num_classes, ...) to (B, encoder_features, ...)."""
        channels, *rest = self.input_shape
        return self.architecture.encoder((channels + self.num_classes, *rest), self.encoder_features)

    def build_decoder(self) -> nn.Module:
        """The network from (B, code_features + num_classes, ...) to what the likelihood takes."""
        shape = self.likelihood.output_shape(self.input_shape)
        return self.architecture.decoder(self.code_features + self.num_classes, shape)

    def infer(self, x: Tensor, **given: Tensor) -> Distribution:
        """q(z | x, y): of (B, *input_shape) and label (B,), over codes (B, *code_shape), in float32 at least."""
        self.check_given(given)
        return super().infer(self._beside(x, given["label"]), **given)

    def decoder_parameters(self, z: Tensor, **given: Tensor) -> Tensor:
        """The parameters of p(x | z, y): (B, *code_shape) and label (B,) to (B, num_parameters, *input_shape)."""
        self.check_given(given)
        seen = self._beside(self.posterior.unfold(z), given["label"])
        return super(VAE, self).decoder_parameters(seen, **given)  # the code is unfolded, and the label is none

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """As `VAE.loss`, of batches with their labels (B,)."""
        self.check_given(given)
        if self.training:
            self.seen += sum_over_ranks(self._one_hot(given["label"], len(x)).sum(dim=0))[0]
        return super().loss(x, target, **given)

    def sample(self, n: int, **given: Any) -> Tensor:
        """The means of p(x | z, y) for `n` draws z from the prior, (n, *input_shape), in data units.

        Args:
            n: how many.
            given: the `label`, one class for all, or a sequence or tensor (n,) of one each.

        Raises:
            InputError: without it, or for a class that there is not, or that was not trained on.
        """
        self.check_given(given)
        label = torch.as_tensor(given["label"], device=self.device)
        return super().sample(n, **{**given, "label": label.expand(n) if label.ndim == 0 else label})

    def _beside(self, x: Tensor, label: Tensor) -> Tensor:
        """The classes beside the channels: (B, C, ...) to (B, C + num_classes, ...)."""
        planes = self._one_hot(label, x.shape[0]).to(x.dtype)
        self._refuse_unseen(label)
        return torch.cat([x, planes.view(*planes.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])], dim=1)

    def _one_hot(self, label: Any, n: int) -> Tensor:
        """(n,) to (n, num_classes)."""
        name = type(self).__name__
        whole = isinstance(label, Tensor) and not (label.is_floating_point() or label.dtype == torch.bool)
        if not whole or label.shape != (n,):
            form = f"{label.dtype} {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
            raise InputError(f"{name} takes labels as whole numbers of shape ({n},), one a sample; got {form}")
        one_hot: Tensor = label.unsqueeze(1) == torch.arange(self.num_classes, device=label.device)
        # a graph that is exported has no place for looking at values
        if not (label.is_meta or torch.compiler.is_exporting() or one_hot.any(dim=1).all()):
            raise InputError(
                f"labels of {name} are 0 to {self.num_classes - 1}, got {int(label.min())} to {int(label.max())}; "
                f"another in row {int(one_hot.any(dim=1).int().argmin())} of the batch first (-1: it has none)",
                "set num_classes to the number of classes, and number them from 0",
            )
        return one_hot.long()

    def _refuse_unseen(self, label: Tensor) -> None:
        """While a fit runs, the classes of its data may still come."""
        if label.is_meta or torch.compiler.is_exporting() or self._fits():
            return
        if unseen := sorted(set(label.tolist()) - set(self.classes)):
            raise InputError(
                f"{type(self).__name__} was trained on no sample of the classes {unseen}, only on {list(self.classes)}",
                "ask for one of those, or train it on data of all classes",
            )
