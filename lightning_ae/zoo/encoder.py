"""Pretrained encoders as feature extractors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.config import class_path
from lightning_ae.data.signature import Signature
from lightning_ae.descriptions import DescribedModule, parameters
from lightning_ae.errors import InputError, unknown
from lightning_ae.export import graphs
from lightning_ae.parts.likelihoods import known
from lightning_ae.preprocess import Preprocess
from lightning_ae.shapes import is_any, one_size, words
from lightning_ae.zoo.artefact import load_with_config
from lightning_ae.zoo.schema import Config, golden_input
from lightning_ae.zoo.unusual import say_if_unusual

Latent = Literal["mean", "sample", "indices"]
Pool = Literal["avg", "max"]


class Encoder(DescribedModule, nn.Module):
    """From data in natural units to features, (B, ...) to (B, feature_dim).

    Features are the code as a vector, or what intermediate layers give: of a map or of tokens the mean over positions,
    of a hierarchy the codes beside each other. Of a model of images of any size they are the code's map, (B,
    feature_dim, h, w), unless `pool` makes a vector of it.

    Its input is what `Autoencoder.features` takes: images of any form, size and mode, vectors as arrays or by the
    names of their columns. What is no tensor goes to where the weights are; a tensor has to lie there, as for every
    module. Called on tensors it is differentiable, can be a part of any module, which it follows to another type or
    device, and can be exported. It computes in the type of its weights, after the preprocessing in float32. `model` is
    the autoencoder without its decoder.

    Codes unlike those of the training data are warned of, once: where their root mean square, after the training codes'
    mean and standard deviation, is above 1.5 over eight samples or more, where training data have 1. That tells of the
    crude cases alone: of ten encoders of digits and clothes all tell of negatives, but three or four of noise or of
    small photographs, whose codes look usual to the others.

    Values of another range than the model's, and NaN, are refused. To look at them waits for the device, so of floats
    on an accelerator only the first batch is looked at; `features` looks at all. In a graph that is exported or
    compiled nothing is looked at, and only what the preprocessing itself takes goes in: bytes or floats in [0, 1], (B,
    H, W) or (B, C, H, W); vectors as numbers, (B, dimensions).

    Args:
        model: the autoencoder; its decoder is dropped.
        config: what is known of it.
        latent: see `load_encoder`, as are the others.
        layer: the name of an intermediate layer, or several.
        pool: over the layers' maps, or the code's of a model of images of any size.
        normalize: whether to standardise the code.
        freeze: whether the weights stay as they are.

    Raises:
        InputError: naming the argument that cannot work.
    """

    mean: Tensor
    std: Tensor
    _looked = False  # at the values of a batch
    _said = False  # that codes are unusual

    def __init__(
        self,
        model: Autoencoder,
        config: Config,
        latent: Latent = "mean",
        layer: str | Sequence[str] | None = None,
        pool: Pool | None = None,
        normalize: bool = False,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        known = config.features
        layers = [] if layer is None else [layer] if isinstance(layer, str) else list(layer)
        if latent not in known.latents:
            raise unknown(f"latent of {config.name}", latent, known.latents)
        strides = {each.name: each.stride for each in known.layers}
        for each in layers:
            if each not in strides:
                raise unknown(f"layer of {config.name}", str(each), list(strides))
        if layer is not None and (not layers or len(set(layers)) < len(layers)):
            raise InputError(f"layer must name different layers, got {layer!r}", f"there are {', '.join(strides)}")
        if pool not in (None, "avg", "max"):
            raise unknown("pool", str(pool), ("avg", "max"))
        mapped = is_any(config.input_shape) if layer is None else any(strides[each] is not None for each in layers)
        if pool is not None and not mapped:
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
        self.model.sampler = None
        self.config, self.latent, self.pool, self.normalize = config, latent, pool, normalize
        self.layer = layer if layer is None or isinstance(layer, str) else tuple(layers)
        self._layers = layers
        for name, values in (("mean", known.mean), ("std", known.std)):
            self.register_buffer(name, torch.tensor(values) if normalize else torch.empty(0), persistent=False)
        self.frozen = False
        self.eval()
        with torch.no_grad():
            x = golden_input(config)
            found = self.encode(x, self.model.stand_ins(len(x)))
            self._feature_dim = sum(int(each.shape[1]) for each in (found if isinstance(found, tuple) else (found,)))
        if freeze:
            self.freeze()
        else:
            self.unfreeze()

    def described(self) -> dict[str, str]:
        """What `repr` says, and a notebook's table; `print(encoder)` shows torch's tree."""
        wanted, layer = self.config.input_shape, self.layer if self.layer is None else f"{self.layer}"
        return {
            "entry": self.config.name,
            "input": words(wanted, self.config.multiple) if is_any(wanted) else f"{tuple(wanted)}",
            "features": f"{self.feature_dim} features of {layer or self.latent}"
            + (f", {self.pool} pooled" if self.pool else "")
            + (", standardised" if self.normalize else ""),
            "parameters": parameters(self),
            "weights": "frozen weights" if self.frozen else "weights that train",
            "trained on": self.config.dataset,
        }

    @property
    def feature_dim(self) -> int:
        """How many features there are; of several layers' maps, how many channels."""
        return self._feature_dim

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The layers that `layer` may name: name, channels, stride (none where the output is a vector)."""
        return [each.model_dump() for each in self.config.features.layers]

    @property
    def signature(self) -> Signature:
        """What goes into it; `forward` reads its input so."""
        assert self.model.signature is not None
        return self.model.signature

    @property
    def preprocess(self) -> Preprocess:
        """From natural units to what the model takes: a part of the signature."""
        return self.signature.preprocess

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
            features = self.encode(x, self.model.stand_ins(len(x)))
            total = (
                sum((each.sum() for each in features), x.new_zeros(()))
                if isinstance(features, tuple)
                else features.sum()
            )
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        return self

    def train(self, mode: bool = True) -> Encoder:
        """Sets the mode, unless frozen."""
        return super().train(mode and not self.frozen)

    @torch.no_grad()
    def features(self, data: Any, **given: Any) -> Features:
        """The features of data of any form, without gradients, as `forward` gives them; all values are looked at.

        Args:
            data: see `Autoencoder.features`.
            given: what else the model takes, by the names in its `given`.

        Raises:
            InputError: naming row, place or column, and value of what the model was not trained on.
        """
        roles = {role: torch.as_tensor(value, device=self.model.device) for role, value in given.items()}
        x = self.signature.natural(data, roles.get("mask")).to(self.model.device)
        return self.looked_at(self.encode(x, roles))

    def forward(self, x: Any, **given: Tensor) -> Features:
        """(B, ...) in natural units to (B, feature_dim); what else the model takes by the names in its `given`.

        Several layers give a tuple of what each gives, maps (B, channels, height, width) or vectors, in the order in
        which they were asked for; with `pool`, one vector of all.

        Raises:
            InputError: naming row, place or column, and value of what the model was not trained on.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # exporting, too
            return self.encode(x, given)
        if not isinstance(x, Tensor):
            natural = self.signature.natural(x, given.get("mask")).to(self.model.device)
        else:
            check = x.device.type == "cpu" or not self._looked
            natural = self.signature.natural(x, given.get("mask"), check=check)
            self._looked = True
            if not check:
                return self.encode(natural, given)
        return self.looked_at(self.encode(natural, given))

    def export(
        self, file: str | os.PathLike[str], example: Tensor | None = None, to: Literal["onnx", "torch"] = "torch"
    ) -> None:
        """Writes the encoder as a graph that runs without this package, for batches of any number of samples.

        Its input is "input", its output "features", or those of several layers by their names; before the file is
        there, the graph was run on the example, and gave what the encoder gives. The file's description is that of
        `lightning_ae.export.export`.

        Args:
            file: to write, *.pt2 or *.onnx.
            example: a batch in natural units, of the type and shape that the graph is to take; by default bytes in the
                model's size for images, float32 for vectors.
            to: "torch", for a file that `torch.export.load` reads, or "onnx".

        Raises:
            InputError: for a model that takes more than its input; see `lightning_ae.export.export`.
        """
        if set(self.model.given) - {"mask"}:
            raise InputError(
                f"{self.config.name} takes {', '.join(self.model.given)} besides its input, which a graph of one input "
                "has no place for",
                "lightning_ae.export.export(model, file) writes a graph of several inputs",
            )
        one_size(self.model, "a graph")
        graphs.check_to(to)
        graphs.check_file(file, to, overwrite=True)
        x = (golden_input(self.config) if example is None else example).to(self.model.device)
        part = _Alone(self)
        with torch.no_grad():
            found = self.encode(x)
        case = graphs.Case((x,), found if isinstance(found, tuple) else (found,))
        about = {"model": class_path(type(self.model)), "what": "features", "outputs": part.outputs}
        graphs.write(part, [case], file, to, about, self.signature)

    def encode(self, x: Tensor, given: Mapping[str, Tensor] = MappingProxyType({})) -> Features:
        """What `forward` does once the data are a tensor in natural units, (B, ...), which it does not look at."""
        x = self.preprocess(x)
        if not self.model.takes(x.shape[1:]):
            wanted = self.config.input_shape
            raise InputError(
                f"the samples have the shape {tuple(x.shape[1:])}, where {self.config.name} takes "
                f"{words(wanted, self.config.multiple) if is_any(wanted) else wanted}"
            )
        dtype = self.model.dtype
        x = x.to(dtype)
        mask = given.get("mask")
        if mask is None and self.signature.masked:
            mask = ~x.isnan()
        if mask is not None:
            x = known(x, mask)
        if self._layers:
            outputs = self._at(self._layers, x, given)
            if isinstance(self.layer, tuple) and self.pool is None:
                return tuple(each.to(dtype) for each in outputs)
            pooled = [
                each.flatten(1) if self.pool is None or each.ndim < 4 else _POOLS[self.pool](each) for each in outputs
            ]
            return torch.cat(pooled, dim=1).to(dtype)
        if self.latent == "indices":
            features: Tensor = self.model.coordinates_of(x, **given)
        elif self.latent == "sample":
            features = self._vector(self.model.draw(x, **given))
        else:
            features = self._vector(self.model.encode(x, **given))
        if self.normalize:
            features = (features - self.mean.view(self._each(features))) / self.std.view(self._each(features))
        return features.to(dtype) if features.is_floating_point() else features

    def _at(self, layers: Sequence[str], x: Tensor, given: Mapping[str, Tensor]) -> list[Tensor]:
        found: dict[str, Tensor] = {}
        handles = [
            self.model.encoder.get_submodule(layer).register_forward_hook(
                lambda module, args, output, layer=layer: found.__setitem__(layer, output)
            )
            for layer in layers
        ]
        try:
            self.model.encode(x, **given)
        finally:
            for handle in handles:
                handle.remove()
        return [found[layer] for layer in layers]

    def looked_at(self, features: Features) -> Features:
        """Says once where codes are unlike those of the training data."""
        if not self._said and self.frozen and self.latent == "mean" and not self._layers:
            assert isinstance(features, Tensor)
            self._said = say_if_unusual(features, self.config, standardised=self.normalize)
        return features

    @staticmethod
    def _each(features: Tensor) -> list[int]:
        return [-1, *[1] * (features.ndim - 2)]

    def _vector(self, code: Any) -> Tensor:
        """What a code is as features: a vector, but where images may be of any size and nothing pools, the map."""
        if not is_any(self.config.input_shape):
            return self.model.pool(code)
        found: Tensor = code if self.pool is None else _POOLS[self.pool](code)
        return found


Features = Tensor | tuple[Tensor, ...]
_POOLS: dict[str, Any] = {"avg": lambda x: x.mean(dim=(2, 3)), "max": lambda x: x.amax(dim=(2, 3))}


class _Alone(graphs.Part):
    """An encoder as a part of its input alone."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        several = isinstance(encoder.layer, tuple) and encoder.pool is None
        self.outputs = tuple(each.replace(".", "_") for each in encoder.layer or ()) if several else ("features",)

    def forward(self, *inputs: Tensor) -> Features:
        features: Features = self.model.encode(*inputs)
        return features[0] if isinstance(features, tuple) and len(features) == 1 else features


def load_encoder(
    name: str | os.PathLike[str],
    latent: Latent = "mean",
    layer: str | Sequence[str] | None = None,
    pool: Pool | None = None,
    normalize: bool = False,
    freeze: bool = True,
) -> Encoder:
    """A pretrained encoder as a module from images in natural units to features.

    Args:
        name: of an entry; or an artefact's folder; or hf://organisation/name@commit.
        latent: "mean", the code without randomness; "sample", a draw from the posterior, where there is one; "indices",
            those of a codebook, (B, positions), where codes are discrete.
        layer: an intermediate layer of the encoder instead of the code, or several, such as ["stages.0", "stages.2"]:
            then their maps as they are, in that order. `feature_info` lists them, with their channels and strides.
        pool: "avg" or "max" over height and width of a layer's map, those of several beside each other in one vector;
            by default one layer's is flattened. Of a model of images
            of any size also over the code's, which by default stays a map.
        normalize: standardise the code by its mean and standard deviation over the training data.
        freeze: leave the weights as they are; `unfreeze()` changes that.

    Raises:
        InputError: for an unknown name, or an argument that does not suit the model.
        IntegrityError: when a file has another hash than the entry says.
    """
    model, config = load_with_config(name)
    return Encoder(model, config, latent, layer, pool, normalize, freeze)
