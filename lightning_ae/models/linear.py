"""The linear autoencoder, which finds principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_ae.architectures import MLP
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.parts.likelihoods import Gaussian, at_least_float32
from lightning_ae.parts.schedules import CosineDecay, Schedule


class LinearOptions(TypedDict, total=False):
    """What `LinearAutoencoder` passes on."""

    lr: float | None
    weight_decay: float


class LinearAutoencoder(Autoencoder):
    r"""One linear layer each way: at its best, principal component analysis (Baldi & Hornik 1989).

    With encoder :math:`z = W (x - m) + b` and decoder :math:`\hat x = m + V z + c` it minimises

    .. math:: \tfrac12 \mathbb E \|x - \hat x\|^2,

    where m is the mean of the training data, taken from the data module before the fit (without one that can pass over
    its data, m is zero: centre the data yourself).

    Every minimum spans the subspace of the first `latent_dim` principal components of the data, with :math:`V W` the
    orthogonal projection on it about the mean; all other critical points are saddles. The factors themselves are
    defined only up to an invertible map of the code, so the code's dimensions are not the components:
    `principal_components` reads those off, from the decoder and the covariance of the codes in training.

    The gradient route converges at the rate of the gap between the eigenvalues on either side of the cut. On centred
    data, a large learning rate that falls to zero over the fit closes it: by default Adam's along half a cosine, over
    however many epochs the fit has; the recipes take gradient descent with momentum. It takes some thousand steps: a
    fit of a few hundred, of a small set or in large batches, stays tens of degrees away. `initialization="pca"` starts
    from the solution, computed from the training data.

    Args:
        latent_dim: the number of components; at most the number of input dimensions.
        initialization: "default" for random weights, "pca" for the principal components of the training data.
        lr: the learning rate of AdamW; by default 1e-2.
    """

    reference: ClassVar[str] = "Baldi & Hornik 1989, https://doi.org/10.1016/0893-6080(89)90014-2"

    mean: Tensor
    code_covariance: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        initialization: Literal["default", "pca"] = "default",
        lr_schedule: Schedule | None = CosineDecay(),
        **options: Unpack[LinearOptions],
    ) -> None:
        super().__init__(
            input_shape,
            latent_dim,
            architecture=MLP(hidden=()),
            likelihood=Gaussian(),
            lr_schedule=lr_schedule,
            **options,
        )
        if initialization not in ("default", "pca"):
            raise InputError(f"initialization must be 'default' or 'pca', got {initialization!r}")
        self.initialization = initialization
        dimensions = self._linear(self.encoder).in_features
        if latent_dim > dimensions:
            raise InputError(f"latent_dim {latent_dim} exceeds the {dimensions} dimensions of the input")
        self.register_buffer("mean", torch.zeros(self.input_shape))
        self.register_buffer("code_covariance", torch.zeros(latent_dim, latent_dim))

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The code of the centred sample: (B, *input_shape) to (B, latent_dim)."""
        self.check_given(given)
        code: Tensor = self.encoder(x - self.mean)
        return code

    def decoder_parameters(self, z: Tensor, **given: Tensor) -> Tensor:
        """The reconstruction: (B, latent_dim) to (B, 1, *input_shape)."""
        return super().decoder_parameters(z, **given) + self.mean

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The negative log-likelihood "loss", and "reconstruction", the same without its constant: half the error."""
        z = self.encode(x, **given)
        if self.training:
            self._track(z.detach())
        nll = self.reconstruction_loss(z, target, **given)
        return {"loss": nll, "reconstruction": nll}

    def setup(self, stage: str) -> None:
        """Takes the mean of the training data, and their principal components where `initialization` says so.

        Raises:
            InputError: when the data module cannot pass over its training data.
        """
        super().setup(stage)
        if stage != "fit":
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "batches"):
            batches = [self.read(batch) for batch in data.batches("train", 4096)]
            x = torch.cat([batch[0] for batch in batches])
            masks = [given["mask"] for _, _, given in batches if "mask" in given]
            if self.initialization == "pca" and not masks:
                self.initialize_from(x)
            elif self.initialization == "pca":
                raise InputError("initialization='pca' needs all values, but the model takes a mask", "use 'default'")
            else:  # of what is known, where the unknown is zero
                self.mean.copy_(x.sum(dim=0) / torch.cat(masks).sum(dim=0).clamp(min=1) if masks else x.mean(dim=0))
        elif self.initialization == "pca":
            raise InputError(
                f"initialization='pca' needs a data module with batches(split), got {type(data).__name__}",
                "use HFDataModule, or call initialize_from(x) before the fit",
            )

    @property
    def default_lr(self) -> float:
        """A large one, 1e-2, since the loss is quadratic in either layer, and the rate falls to nothing."""
        return 1e-2

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Sets the weights to the principal components of samples (N, *input_shape), N > latent_dim."""
        flat = x.flatten(1).double()
        if len(flat) <= self.latent_dim:
            raise InputError(f"{len(flat)} samples do not determine {self.latent_dim} principal components")
        mean = flat.mean(dim=0)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
        components, spectrum = vectors.flip(1)[:, : self.latent_dim], values.flip(0)[: self.latent_dim]
        encoder, decoder = self._linear(self.encoder), self._linear(self.decoder)
        self.mean.copy_(mean.view(self.input_shape))
        encoder.weight.copy_(components.T)
        decoder.weight.copy_(components)
        encoder.bias.zero_()
        decoder.bias.zero_()
        self.code_covariance.copy_(torch.diag(spectrum))

    @torch.no_grad()
    def principal_components(self, x: Tensor | None = None) -> Tensor:
        """The principal components that the decoder spans, by falling variance.

        Args:
            x: samples (N, *input_shape) to take the codes' covariance from; by default it is the running one of
                training (an average over the last few hundred steps).

        Returns:
            (latent_dim, dimensions), with orthonormal rows.

        Raises:
            InputError: when the model was not trained and no samples are given.
        """
        covariance = self.code_covariance if x is None else torch.cov(self.encode(x).T)
        if not covariance.any():
            raise InputError("the model has seen no data to order the components by", "train it, or give samples x")
        weight = self._linear(self.decoder).weight.double()
        values, vectors = torch.linalg.eigh(covariance.double().to(weight.device))
        # V z has the covariance F F^T with F = V C^(1/2), whose left singular vectors are the components
        factor = weight @ vectors @ torch.diag(values.clamp(min=0).sqrt())
        left, _, _ = torch.linalg.svd(factor, full_matrices=False)
        return left.T.to(self._linear(self.decoder).weight.dtype)

    @torch.no_grad()
    def _track(self, z: Tensor, rate: float = 0.01) -> None:
        """Running covariance of the codes, of the batches of all ranks together."""
        z = at_least_float32(z)  # 257 samples are 256 in bfloat16
        count, total, products = sum_over_ranks(z.new_tensor(float(len(z))), z.sum(dim=0), z.T @ z)
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        rate = rate if self.code_covariance.any() else 1.0
        self.code_covariance.lerp_(covariance.to(self.code_covariance.dtype), rate)

    @staticmethod
    def _linear(network: nn.Module) -> nn.Linear:
        return next(module for module in network.modules() if isinstance(module, nn.Linear))
