"""The base class of every variant: steps, logging, optimizer, encode, decode, forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.architectures import MLP, Architecture
from lightning_ae.config import from_plain, to_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import ExactModule, weights_type
from lightning_ae.likelihoods import Gaussian, Likelihood, LikelihoodHead, output_shape
from lightning_ae.preprocess import stack
from lightning_ae.speed import adamw, compile_in_place


class Autoencoder(ExactModule):
    r"""An encoder and a decoder trained to reconstruct their input through a code.

    With encoder :math:`\phi` and decoder :math:`\psi`, it minimises the mean over samples of

    .. math:: -\log p(x \mid \psi(\phi(x))),

    summed over the dimensions of a sample. With the default likelihood, a Gaussian of fixed variance, that is the
    squared error up to a factor and a constant. A code narrower than the input makes it *undercomplete*: it has to
    find what the data have in common (Hinton & Salakhutdinov 2006). With linear layers and squared error it spans the
    principal subspace (Baldi & Hornik 1989).

    It is also the base class of all variants. A variant overrides `loss`, and `encoder_features`, `encode` or
    `corrupt` where it must. Every hyper-parameter is kept as plain data, a subclass's too, so `load_from_checkpoint`
    needs nothing but the path.

    Args:
        input_shape: the shape of one sample: (channels, height, width) for images, (dimensions,) for vectors.
        latent_dim: the number of dimensions of the code.
        architecture: builds the encoder and the decoder.
        likelihood: p(x | z), the distribution whose parameters the decoder gives.
        lr: the learning rate of AdamW.
        weight_decay: AdamW's decoupled weight decay; with 0 it is Adam.

    Raises:
        InputError: when an argument cannot work, naming it.
    """

    reference: ClassVar[str] = "Hinton & Salakhutdinov 2006, https://doi.org/10.1126/science.1127647"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        architecture: Architecture = MLP(),
        likelihood: Likelihood = Gaussian(),
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(to_plain(input_shape, "input_shape"))  # numpy's integers, too
        self.latent_dim = to_plain(latent_dim, "latent_dim")
        self.architecture = from_plain(Architecture, architecture, "architecture")
        self.likelihood = from_plain(Likelihood, likelihood, "likelihood")
        self.lr = to_plain(lr, "lr")
        self.weight_decay = to_plain(weight_decay, "weight_decay")
        _check_arguments(self)

        self.encoder = self.build_encoder()
        self.decoder = self.build_decoder()
        self.architecture.tie(self.encoder, self.decoder)
        self.head = LikelihoodHead(self.likelihood, self.input_shape)

    # ---- what a variant overrides -------------------------------------------------------------------------------

    @property
    def encoder_features(self) -> int:
        """How many values the encoder network gives for a sample."""
        return self.latent_dim

    def build_encoder(self) -> nn.Module:
        """The network from (B, *input_shape) to (B, encoder_features)."""
        return self.architecture.encoder(self.input_shape, self.encoder_features)

    def build_decoder(self) -> nn.Module:
        """The network from (B, latent_dim) to (B, *shape), where the likelihood says how many values it needs."""
        return self.architecture.decoder(self.latent_dim, output_shape(self.likelihood, self.input_shape))

    def corrupt(self, x: Tensor) -> Tensor:
        """What the encoder sees of `x` (B, *input_shape) in a step; the reconstruction's target stays clean."""
        return x

    def encode(self, x: Tensor) -> Tensor:
        """The code of `x`, without randomness: (B, *input_shape) to (B, latent_dim)."""
        code: Tensor = self.encoder(x)
        return code

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The named terms of the objective, of which "loss" is the one minimised.

        Args:
            x: what the encoder sees, (B, *input_shape).
            target: what is to be reconstructed, (B, *input_shape).

        Returns:
            Scalars, each summed over the dimensions of a sample and averaged over the batch.
        """
        reconstruction = self.reconstruction_loss(self.encode(x), target)
        return {"loss": reconstruction, "reconstruction": reconstruction}

    def sample(self, n: int) -> Tensor:
        """`n` samples in data units, (n, *input_shape); only generative variants have them.

        Raises:
            InputError: here, since a plain autoencoder puts no distribution on its codes.
        """
        raise InputError(
            f"{type(self).__name__} has no distribution over codes to sample from",
            "fit one to the codes (sklearn.mixture.GaussianMixture, say) and decode its samples, or train a VAE",
        )

    # ---- what a user calls --------------------------------------------------------------------------------------

    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's mean, in data units: (B, latent_dim) to (B, *input_shape)."""
        return self.likelihood.mean(self.decoder_parameters(z))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of `x`: (B, *input_shape) to the same shape."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def features(self, data: Any) -> Tensor:
        """The codes of data in natural units, after the preprocessing that the model was trained with.

        Args:
            data: for images a sequence of PIL images or arrays, or a tensor (B, H, W) or (B, C, H, W), uint8 or floats
                in [0, 1]; for vectors anything that makes an array (B, dimensions).

        Returns:
            (B, latent_dim), on the model's device and in its weights' type, under autocast too.
        """
        x = data if isinstance(data, Tensor) else stack(data)
        x = x.to(self.device)
        code = self.encode(self.unpack(x if self.preprocess is None else self.preprocess(x))[0])
        return code.to(self.dtype) if code.is_floating_point() else code

    def decoder_parameters(self, z: Tensor) -> Tensor:
        """The parameters of p(x | z): (B, latent_dim) to (B, likelihood.num_parameters, *input_shape)."""
        parameters: Tensor = self.head(self.decoder(z.to(weights_type(self.decoder, self))))
        return parameters

    def reconstruction_loss(self, z: Tensor, target: Tensor) -> Tensor:
        """-log p(target | z) in nats, summed over dimensions and averaged over the batch."""
        return -self.likelihood.log_prob(self.decoder_parameters(z), target).mean()

    def compile(self, **options: Any) -> None:
        """Compiles the encoder and the decoder in place, with the options of `torch.compile`.

        The state_dict keeps its keys. A network that cannot be compiled runs as it is, with a warning.

        It saves passes over activations and the launches of kernels, not products of matrices; and in each step each
        network's graph costs its guards and what wraps its two passes. On one thread of a CPU that makes training
        slower, with convolutions most of all (benchmarks/speed.md, where a GPU is not measured): try it on an
        accelerator before a long run.
        """
        for network in (self.encoder, self.decoder):
            compile_in_place(network, **options)

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The input and the reconstruction's target, (B, *input_shape) each, of a batch, in the weights' type.

        A batch is a tensor, a tuple or list that begins with one, or a dict. Of a dict the entry whose shape is
        `input_shape` is the input; an entry "target" of that shape, where there is one, is the target.

        Raises:
            InputError: when no such tensor is there, or more than one.
        """
        target = None
        if isinstance(batch, Mapping):
            fits = {k: v for k, v in batch.items() if isinstance(v, Tensor) and v.shape[1:] == self.input_shape}
            target = fits.pop("target", None)
            if len(fits) != 1:
                shapes = {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in batch.items()}
                raise InputError(
                    f"{len(fits)} entries of the batch have the shape (B, *input_shape) with input_shape "
                    f"{self.input_shape}; the batch holds {shapes}",
                    "set input_shape to the data's shape, or override unpack() to choose",
                )
            x = next(iter(fits.values()))
        else:
            x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor):
            raise InputError(
                f"a batch must be a tensor, a tuple that begins with one, or a dict; got {type(batch).__name__}"
            )
        if x.shape[1:] != self.input_shape:
            raise InputError(
                f"the batch's samples have the shape {tuple(x.shape[1:])}, but input_shape is {self.input_shape}",
                f"construct the model with input_shape={tuple(x.shape[1:])}, or resize the data",
            )
        if not x.is_floating_point():
            raise InputError(f"the batch holds {x.dtype}, but models take floats", "divide images by 255")
        x = x.to(
            weights_type(self.encoder, self)
        )  # numpy's arrays are float64; autocast converts from float32 by itself
        return x, x if target is None else target.to(x.dtype)

    # ---- what Lightning calls -----------------------------------------------------------------------------------

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """The codes "code" (B, latent_dim) and reconstructions "reconstruction" (B, *input_shape) of a batch."""
        x, _ = self.unpack(batch)
        code = self.encode(x)
        return {"code": code, "reconstruction": self.decode(code)}

    def configure_optimizers(self) -> Any:  # noqa: D102
        return adamw(self, self.parameters(), self.lr, self.weight_decay)

    def setup(self, stage: str) -> None:
        """Takes over the data module's preprocessing, so that checkpoints carry it."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.preprocess = getattr(data, "preprocess", None)
            self.data_config = getattr(data, "config", None)

    # ---- the step -----------------------------------------------------------------------------------------------

    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, target = self.unpack(batch)
        if batch_idx == 0:  # once an epoch: the check reads the values back from the device
            self.likelihood.check(target)
        return self.loss(self.corrupt(x), target)


def _check_arguments(model: Autoencoder) -> None:
    shape = model.input_shape
    if len(shape) not in (1, 3) or any(not isinstance(n, int) or n < 1 for n in shape):
        raise InputError(
            f"input_shape must be (channels, height, width) or (dimensions,) in positive integers, got {shape}"
        )
    if not isinstance(model.latent_dim, int) or model.latent_dim < 1:
        raise InputError(f"latent_dim must be a positive integer, got {model.latent_dim!r}")
    if not model.lr > 0:
        raise InputError(f"lr must be positive, got {model.lr}")
    if not model.weight_decay >= 0:
        raise InputError(f"weight_decay must not be negative, got {model.weight_decay}")
