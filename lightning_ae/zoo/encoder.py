"""Pretrained encoders as feature extractors."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError, unknown
from lightning_ae.preprocess import Preprocess
from lightning_ae.zoo.artefact import load_with_config
from lightning_ae.zoo.schema import Config, golden_input

Latent = Literal["mean", "sample", "indices"]
Pool = Literal["avg", "max"]


class Encoder(nn.Module):
    """From images in natural units to features, (B, ...) to (B, feature_dim).

    Features are the code as a vector: of a map or of tokens the mean over positions, of a hierarchy the codes beside
    each other.

    Its input is what the preprocessing takes: images as uint8 or as floats in [0, 1], (B, H, W) or (B, C, H, W), grey
    or in colour, of any size; vectors as numbers, (B, dimensions). It is differentiable, can be a part of any module,
    which it follows to another type or device, and can be exported. It computes in the type of its weights, after the
    preprocessing in float32. `model` is the autoencoder without its decoder.

    Args:
        model: the autoencoder; its decoder is dropped.
        config: what is known of it.
        latent: see `load_encoder`, as are the others.
        layer: the name of an intermediate layer.
        pool: over the layer's map.
        normalize: whether to standardise the code.
        freeze: whether the weights stay as they are.

    Raises:
        InputError: naming the argument that cannot work.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Autoencoder,
        config: Config,
        latent: Latent = "mean",
        layer: str | None = None,
        pool: Pool | None = None,
        normalize: bool = False,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        known = config.features
        if latent not in known.latents:
            raise unknown(f"latent of {config.name}", latent, known.latents)
        if layer is not None and layer not in [each.name for each in known.layers]:
            raise unknown(f"layer of {config.name}", layer, [each.name for each in known.layers])
        if pool not in (None, "avg", "max"):
            raise unknown("pool", str(pool), ("avg", "max"))
        chosen = next((each for each in known.layers if each.name == layer), None)
        if pool is not None and (chosen is None or chosen.stride is None):
            raise InputError(f"pool={pool!r} needs a layer whose output is a map", "set layer, or leave pool out")
        if normalize and (layer is not None or known.mean is None or known.std is None):
            raise InputError(
                "normalize needs the mean and the standard deviation of the features",
                "they are known of the codes of the zoo's entries only; leave layer out",
            )
        if latent == "indices" and (normalize or not freeze):
            raise InputError(
                "latent='indices' gives numbers of a codebook, which have neither a scale nor a gradient",
                "leave normalize and freeze out, or take latent='mean', the vectors that they stand for",
            )
        if layer is not None and latent != "mean":
            raise InputError(f"layer={layer!r} comes before the code, so latent={latent!r} means nothing")
        self.model = model
        for network in {"decoder", "head"} - set(model.encodes_with):
            delattr(self.model, network)
        self.config, self.latent, self.layer, self.pool, self.normalize = config, latent, layer, pool, normalize
        for name, values in (("mean", known.mean), ("std", known.std)):
            self.register_buffer(name, torch.tensor(values) if normalize else torch.empty(0), persistent=False)
        self.frozen = False
        self.eval()
        with torch.no_grad():
            x = golden_input(config)
            self._feature_dim = int(self(x, **self.model.stand_ins(len(x))).shape[1])
        if freeze:
            self.freeze()
        else:
            self.unfreeze()

    @property
    def feature_dim(self) -> int:
        """How many features there are."""
        return self._feature_dim

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The layers that `layer` may name: name, channels, stride (none where the output is a vector)."""
        return [each.model_dump() for each in self.config.features.layers]

    @property
    def preprocess(self) -> Preprocess:
        """From natural units to what the model takes; `forward` applies it."""
        assert self.model.preprocess is not None
        return self.model.preprocess

    def freeze(self) -> Encoder:
        """Keeps the weights, and what depends on the mode, as they are; gradients still reach the input."""
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def unfreeze(self) -> Encoder:
        """Lets those weights be trained that the features depend on; others would be left without a gradient.

        Raises:
            InputError: for indices, which have no gradient.
        """
        if self.latent == "indices":
            raise InputError("latent='indices' has no gradient to train by", "take latent='mean'")
        self.frozen = False
        self.requires_grad_(True)
        parameters = list(self.parameters())
        x = golden_input(self.config).to(parameters[0].device)
        with torch.enable_grad():
            features = self(x, **self.model.stand_ins(len(x)))
            gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        return self

    def train(self, mode: bool = True) -> Encoder:
        """Sets the mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor, **given: Tensor) -> Tensor:
        """(B, ...) in natural units to (B, feature_dim); what else the model takes by the names in its `given`."""
        dtype = self.model.dtype
        x = self.preprocess(x).to(dtype)
        if self.layer is not None:
            features = self._at(self.layer, x, given)
        elif self.latent == "indices":
            features = self.model.encode_indices(x, **given).reshape(len(x), -1)  # type: ignore[operator]
        elif self.latent == "sample":
            features = self.model.pool(self.model.draw(x, **given))
        else:
            features = self.model.pool(self.model.encode(x, **given))
        if self.normalize:
            features = (features - self.mean) / self.std
        return features.to(dtype) if features.is_floating_point() else features

    def _at(self, layer: str, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        found: list[Tensor] = []
        module = self.model.encoder.get_submodule(layer)
        handle = module.register_forward_hook(lambda module, args, output: found.append(output))
        try:
            self.model.encode(x, **given)
        finally:
            handle.remove()
        value = found[0]
        if self.pool == "avg":
            return value.mean(dim=(2, 3))
        return value.amax(dim=(2, 3)) if self.pool == "max" else value.flatten(1)


def load_encoder(
    name: str | os.PathLike[str],
    latent: Latent = "mean",
    layer: str | None = None,
    pool: Pool | None = None,
    normalize: bool = False,
    freeze: bool = True,
) -> Encoder:
    """A pretrained encoder as a module from images in natural units to features.

    Args:
        name: of an entry; or an artefact's folder; or hf://organisation/name@commit.
        latent: "mean", the code without randomness; "sample", a draw from the posterior, where there is one; "indices",
            those of a codebook, (B, positions), where codes are discrete.
        layer: an intermediate layer of the encoder instead of the code; `feature_info` lists them.
        pool: "avg" or "max" over height and width of the layer's map; by default it is flattened.
        normalize: standardise the code by its mean and standard deviation over the training data.
        freeze: leave the weights as they are; `unfreeze()` changes that.

    Raises:
        InputError: for an unknown name, or an argument that does not suit the model.
        IntegrityError: when a file has another hash than the entry says.
    """
    model, config = load_with_config(name)
    return Encoder(model, config, latent, layer, pool, normalize, freeze)
