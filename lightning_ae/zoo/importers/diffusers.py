"""The layouts of diffusers: AutoencoderKL, VQModel and AutoencoderTiny, config.json and safetensors.

There an image lies in [-1, 1]; so it does in the models that come of them (but for AutoencoderTiny, whose network takes
[0, 1]), and their preprocessing brings images there. Codes are as `encode` gives them there, without the scaling that
pipelines apply, which `scaled` does. Images may be of any size, in multiples of what the network asks for.

What is left out has no effect on what a network computes: `sample_size`, of the images that it was trained on;
`force_upcast`, of half precision in pipelines; `latent_magnitude` and `latent_shift`, of codes as bytes; and keys with
an underscore, which say where a config comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ae.architectures import LatentDiffusionNet, TinyNet
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.data.signature import Signature
from lightning_ae.errors import InputError
from lightning_ae.models.latent_diffusion import VQGAN, AutoencoderKL
from lightning_ae.parts.likelihoods import Gaussian
from lightning_ae.parts.vector_quantizers import GradientVectorQuantizer
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.shapes import words
from lightning_ae.training.rebuild import check_finite, rebuild
from lightning_ae.zoo.places import Place

WEIGHTS = "diffusion_pytorch_model.safetensors"
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu"}
_EARLIER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""What the parts of an attention layer were called until 2023."""
_ORIGINS = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", "_commit_hash")
_NETWORK: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"], "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu",
    "norm_num_groups": 32, "sample_size": 32, "scaling_factor": 0.18215, "mid_block_add_attention": True,
}  # fmt: skip
_KL = _NETWORK | {
    "latent_channels": 4, "shift_factor": None, "latents_mean": None, "latents_std": None, "force_upcast": True,
    "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
_VQ = _NETWORK | {
    "latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None, "norm_type": "group",
    "lookup_from_codebook": False, "force_upcast": False,
}  # fmt: skip
_TINY: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "encoder_block_out_channels": [64] * 4, "decoder_block_out_channels": [64] * 4,
    "act_fn": "relu", "upsample_fn": "nearest", "latent_channels": 4, "upsampling_scaling_factor": 2,
    "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1], "latent_magnitude": 3, "latent_shift": 0.5,
    "force_upcast": False, "scaling_factor": 1.0, "shift_factor": 0.0, "block_out_channels": None,
}  # fmt: skip


class Options:
    """The options of a config, with the defaults of their class there for those that it leaves out.

    Args:
        config: what config.json says.
        defaults: of the class.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.name = config["_class_name"]
        for key in config:
            if key not in defaults and key not in _ORIGINS:
                raise InputError(f"{self.name} has the option {key} = {config[key]!r}, which no class here has")
        self.values = {**defaults, **{key: value for key, value in config.items() if key in defaults}}

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def refuse(self, key: str, why: str) -> InputError:
        """An error that names an option, its value, and what is there instead."""
        return InputError(f"{self.name} has {key} = {self.values[key]!r}: {why}")

    def count(self, key: str) -> int:
        """A positive integer."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.refuse(key, "that is no positive integer")
        return value

    def counts(self, key: str) -> tuple[int, ...]:
        """Positive integers."""
        value = self[key]
        if not isinstance(value, list | tuple) or not value or not all(type(n) is int and n > 0 for n in value):
            raise self.refuse(key, "that is no list of positive integers")
        return tuple(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        if not isinstance(self[key], bool):
            raise self.refuse(key, "that is neither true nor false")
        return bool(self[key])

    def number(self, key: str) -> float:
        """A finite number."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(key, "that is no number")
        return float(value)

    def channels(self) -> int:
        """Of images, which come out as they go in."""
        if self.count("in_channels") != self.count("out_channels"):
            raise self.refuse(
                "out_channels", f"in_channels = {self['in_channels']}, and here as many come out as go in"
            )
        return self.count("in_channels")

    def activation(self) -> Any:
        """The activation function, by its name here."""
        name = self["act_fn"]
        if not isinstance(name, str) or name.lower() not in _ACTIVATIONS:
            raise self.refuse("act_fn", f"here there are {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name.lower()]


def read(config: Mapping[str, Any], place: Place) -> Autoencoder:
    """The model in a folder that diffusers wrote, in evaluation mode; see `lightning_ae.zoo.importers.read`."""
    from lightning_ae.zoo.artefact import parse_weights

    try:
        model, weights_for = CLASSES[config["_class_name"]](config)
        weights = parse_weights(place.weights(WEIGHTS), place.where)
        bare = rebuild(model, lambda module: weights_for(module, _renamed(weights)), len(weights), own=True)
        check_finite(weights, weights)
    except InputError as error:
        raise InputError(f"{place.where} cannot be imported: {error.message}", error.hint) from error
    name, takes = config["_class_name"], words(bare.input_shape, bare.multiple)
    rank_zero_info(
        f"{name} of diffusers is {type(bare).__name__} here, of images {takes}; weights do not say a likelihood, which "
        "is a Gaussian of scale 1, nor what else a training takes"
    )
    return bare.eval()


Made = tuple[Callable[[], Any], Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]]


def _kl(config: Mapping[str, Any]) -> Made:
    given = Options(config, _KL)
    latent = given.count("latent_channels")
    flags = {name: given.flag(f"use_{name}") for name in ("quant_conv", "post_quant_conv")}
    given.flag("force_upcast")
    network, shape = _network(given, **flags), (given.channels(), None, None)
    shift, factor = _scale(given, latent)

    def make() -> AutoencoderKL:
        model = AutoencoderKL(shape, latent, architecture=network, likelihood=Gaussian(), perceptual=None, critic=None)
        return _fed(model)

    def weights_for(module: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return _of_networks(weights) | _scale_of(module, shift, factor)

    return make, weights_for


def _vq(config: Mapping[str, Any]) -> Made:
    given = Options(config, _VQ)
    latent = given.count("latent_channels")
    inside = latent if given["vq_embed_dim"] is None else given.count("vq_embed_dim")
    if given["norm_type"] != "group":
        raise given.refuse("norm_type", "here there are group normalisations alone")
    for name in ("force_upcast", "lookup_from_codebook"):  # of the latter `decode_indices` is what decode is there
        given.flag(name)
    network, shape = _network(given, code_channels=latent), (given.channels(), None, None)
    quantizer = GradientVectorQuantizer(given.count("num_vq_embeddings"))
    factor = _factor(given)

    def make() -> VQGAN:
        options: dict[str, Any] = {"architecture": network, "quantizer": quantizer, "likelihood": Gaussian()}
        return _fed(VQGAN(shape, inside, perceptual=None, critic=None, **options))

    def weights_for(module: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        found = _of_networks(weights)
        if "quantize.embedding.weight" in found:
            found["codebook.vectors"] = found.pop("quantize.embedding.weight")
        return found | _scale_of(module, [0.0] * inside, [factor] * inside)

    return make, weights_for


def _tiny(config: Mapping[str, Any]) -> Made:
    given = Options(config, _TINY)
    for key, only in (("act_fn", "relu"), ("upsample_fn", "nearest"), ("upsampling_scaling_factor", 2)):
        if given[key] != only:
            raise given.refuse(key, f"here it is {only}")
    for key, none in (("scaling_factor", 1.0), ("shift_factor", 0.0)):
        if given.number(key) != none:
            raise given.refuse(key, f"codes of an Autoencoder have no scale, so that here it is {none}")
    for key in ("latent_magnitude", "latent_shift"):
        given.number(key)
    given.flag("force_upcast")
    widths = given.counts("encoder_block_out_channels")
    for key in ("encoder_block_out_channels", "decoder_block_out_channels", "block_out_channels"):
        if given[key] is not None and given.counts(key) != widths[:1] * len(widths):
            raise given.refuse(key, f"here all of {len(widths)} stages, of both networks, have as many channels")
    blocks, latent = given.counts("num_encoder_blocks"), given.count("latent_channels")
    if len(blocks) != len(widths):
        raise given.refuse("num_encoder_blocks", f"there are {len(widths)} encoder_block_out_channels")
    if given.counts("num_decoder_blocks") != blocks[::-1]:
        raise given.refuse("num_decoder_blocks", f"here the decoder mirrors the encoder, whose are {list(blocks)}")
    network, channels = TinyNet(widths[0], blocks, pooled=False), given.channels()

    def make() -> Autoencoder:
        model = Autoencoder((channels, None, None), latent, architecture=network, likelihood=Gaussian())
        if channels in (1, 3):
            model.preprocess = ImagePreprocess(channels=channels, multiple=model.multiple)
        return model

    def weights_for(module: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        # what is no layer there keeps its name, and is named where it is too much
        return {_layer(name, places): value for name, value in weights.items()}

    places = _places_of_layers(blocks)
    return make, weights_for


def _places_of_layers(blocks: tuple[int, ...]) -> dict[str, str]:
    """Where the numbered layers of both networks are here, and the convolutions of numbered blocks."""
    found: dict[str, str] = {}
    count = 0
    for stage, n in enumerate(blocks):
        for place in range(1 + n):
            found[f"encoder.layers.{count}"] = f"encoder.stages.{stage}.{place}"
            count += 1
    found[f"encoder.layers.{count}"] = "encoder.head"
    found["decoder.layers.0"] = "decoder.stem"
    count = 2  # after a function
    for stage, n in enumerate(reversed(blocks)):
        last = stage == len(blocks) - 1
        for place in range(n if last else n + 2):
            found[f"decoder.layers.{count}"] = f"decoder.stages.{stage}.{place}"
            count += 1
    found[f"decoder.layers.{count}"] = "decoder.head"
    return found


def _layer(name: str, places: Mapping[str, str]) -> str:
    parts = name.split(".")
    place = places.get(".".join(parts[:3]))
    return name if place is None else ".".join([place, *parts[3:]]).replace(".conv.", ".body.")


def _network(given: Options, **options: Any) -> LatentDiffusionNet:
    channels = given.counts("block_out_channels")
    attention = {}
    for key, plain in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        kinds = given[key]
        if not isinstance(kinds, list | tuple) or len(kinds) != len(channels):
            raise given.refuse(key, f"there are {len(channels)} block_out_channels")
        if unknown := [kind for kind in kinds if kind not in (plain, f"Attn{plain}")]:
            raise given.refuse(key, f"{unknown[0]} is no block that is here; {plain} and Attn{plain} are")
        attention[key] = tuple(i for i, kind in enumerate(kinds) if kind != plain)
    last = len(channels) - 1
    if attention["down_block_types"] != tuple(sorted(last - i for i in attention["up_block_types"])):
        raise given.refuse("up_block_types", "here the decoder has attention where the encoder has it")
    return LatentDiffusionNet(
        channels,
        given.count("layers_per_block"),
        given.count("norm_num_groups"),
        given.flag("mid_block_add_attention"),
        attention["down_block_types"],
        given.activation(),
        **options,
    )


def _factor(given: Options) -> float:
    factor = given.number("scaling_factor")
    if not factor > 0:
        raise given.refuse("scaling_factor", "that is no scale")
    return factor


def _scale(given: Options, channels: int) -> tuple[list[float], list[float]]:
    """The mean of codes and the factor, of each channel: pipelines take (z - mean) * scaling_factor / std."""
    factor = _factor(given)
    lists = {key: given[key] for key in ("latents_mean", "latents_std") if given[key] is not None}
    for key, values in lists.items():
        numbers = isinstance(values, list | tuple) and len(values) == channels
        if not numbers or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise given.refuse(key, f"that is no number for each of {channels} channels")
    if len(lists) == 1 or (lists and given["shift_factor"] is not None):
        key = next(iter(lists))
        raise given.refuse(key, "codes have either latents_mean and latents_std, or shift_factor")
    if lists:
        if min(lists["latents_std"]) <= 0:
            raise given.refuse("latents_std", "that is no scale")
        return [float(v) for v in lists["latents_mean"]], [factor / v for v in lists["latents_std"]]
    shift = 0.0 if given["shift_factor"] is None else given.number("shift_factor")
    return [shift] * channels, [factor] * channels


def _fed(model: Any) -> Any:
    """With the preprocessing from images to what the model takes, in [-1, 1]; of grey and colour, which are known."""
    channels: int = model.input_shape[0]
    if channels in (1, 3):
        half = (0.5,) * channels
        model.signature = Signature(ImagePreprocess(None, channels, mean=half, std=half, multiple=model.multiple))
    return model


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of today."""
    found = {}
    for name, value in weights.items():
        for old, new in _EARLIER.items():
            if ".attentions." in name:
                name = name.replace(old, new)
        found[name] = value
    return found


def _of_networks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions beside the code belong to encoder and decoder here."""
    owner = {"quant_conv": "encoder", "post_quant_conv": "decoder"}
    return {
        f"{owner[first]}.{name}" if (first := name.partition(".")[0]) in owner else name: value
        for name, value in weights.items()
    }


def _scale_of(module: Any, shift: Sequence[float], factor: Sequence[float]) -> dict[str, Tensor]:
    own = {name: value for name, value in module.state_dict().items() if name.startswith("code_scale.")}
    given = {"shift": torch.tensor(shift), "factor": torch.tensor(factor), "settled": torch.tensor(True)}
    return own | {f"code_scale.{name}": value for name, value in given.items()}


CLASSES: dict[str, Callable[[Mapping[str, Any]], Made]] = {
    "AutoencoderKL": _kl,
    "VQModel": _vq,
    "AutoencoderTiny": _tiny,
}
