"""Weights of diffusers' layouts: the same numbers as its own classes give, and by name what is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_ae import VAE, VQGAN, Autoencoder, AutoencoderKL, InputError
from lightning_ae.cli import main
from lightning_ae.zoo.importers import diffusers as layouts

LESS = {"block_out_channels": [8, 12], "norm_num_groups": 4, "sample_size": 16}
PLAIN = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
ATTENDING = {
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
}
KL: dict[str, Any] = {"_class_name": "AutoencoderKL", **LESS, **PLAIN}
VQ: dict[str, Any] = {"_class_name": "VQModel", **LESS, **PLAIN, "num_vq_embeddings": 24}
TINY: dict[str, Any] = {
    "_class_name": "AutoencoderTiny", "encoder_block_out_channels": [8] * 3, "decoder_block_out_channels": [8] * 3,
    "num_encoder_blocks": [1, 3, 2], "num_decoder_blocks": [2, 3, 1],
}  # fmt: skip
SIZES = [(16, 16), (8, 12)]


def published(config: dict[str, Any], folder: Path) -> Any:
    """A model of diffusers with random weights, which is saved there."""
    library = pytest.importorskip("diffusers", reason="the extra 'diffusers' is not installed")
    torch.manual_seed(0)
    model = getattr(library, config["_class_name"])(**{k: v for k, v in config.items() if k[0] != "_"})
    for name, parameter in model.named_parameters():  # as trained ones: no bias is zero, no scale is one
        parameter.data.add_((0.5 if "embedding" in name else 0.05) * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.eval()


def images(size: tuple[int, int], channels: int = 3) -> Tensor:
    return 2 * torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1)) - 1


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


# ---- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        ATTENDING,
        {"layers_per_block": 2, "act_fn": "relu", "mid_block_add_attention": False},
        {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 5},
        {"block_out_channels": [8], "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]},
        {"in_channels": 1, "out_channels": 1, "act_fn": "gelu", "sample_size": [16, 8]},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
@torch.no_grad()
def test_autoencoder_kl(options: dict[str, Any], tmp_path: Path) -> None:
    theirs = published({**KL, **options}, tmp_path)
    ours = Autoencoder.from_pretrained(tmp_path)
    assert type(ours) is AutoencoderKL
    assert not ours.training
    for size in SIZES:
        x = images(size, theirs.config.in_channels)
        dist = theirs.encode(x).latent_dist
        close(ours.encode(x), dist.mean)
        close(ours.infer(x).log_variance, dist.logvar)
        close(ours.decode(dist.mean), theirs.decode(dist.mean).sample)
        # what pipelines give a diffusion model, and take of it
        close(ours.scaled(ours.encode(x)), dist.mean * theirs.config.scaling_factor)
        made = torch.randn(dist.mean.shape)
        close(ours.decode(ours.unscaled(made)), theirs.decode(made / theirs.config.scaling_factor).sample)


@pytest.mark.parametrize("options", [{}, {"vq_embed_dim": 5}, ATTENDING], ids=str)
@torch.no_grad()
def test_vq_model(options: dict[str, Any], tmp_path: Path) -> None:
    theirs = published({**VQ, **options}, tmp_path)
    ours: Any = Autoencoder.from_pretrained(tmp_path)
    assert type(ours) is VQGAN
    for size in SIZES:
        x = images(size)
        h = theirs.encode(x).latents
        close(ours.hidden(x), h)
        quantised, _, (_, _, indices) = theirs.quantize(h)
        assert torch.equal(ours.encode_indices(x).flatten(), indices.flatten())
        close(ours.encode(x), quantised)
        close(ours(x), theirs(x).sample)
        close(ours.scaled(h), h * theirs.config.scaling_factor)
        close(ours.decode(ours.quantised(h)), theirs.decode(h).sample)
    assert indices.unique().numel() > 3


@pytest.mark.parametrize(
    "options", [{}, {"in_channels": 1, "out_channels": 1, "latent_channels": 16, "latent_magnitude": 5}], ids=str
)
@torch.no_grad()
def test_autoencoder_tiny(options: dict[str, Any], tmp_path: Path) -> None:
    theirs = published({**TINY, **options}, tmp_path)
    ours = Autoencoder.from_pretrained(tmp_path)
    assert type(ours) is Autoencoder
    for size in SIZES:
        x = images(size, theirs.config.in_channels)
        z = theirs.encode(x).latents
        close(ours.encode((x + 1) / 2), z)  # images in [0, 1] here
        close(2 * ours.decode(z) - 1, theirs.decode(z).sample)
    photo = (255 * np.random.default_rng(0).random((8, 12, 3))).astype(np.uint8)[..., : theirs.config.in_channels]
    x = torch.from_numpy(photo).permute(2, 0, 1)[None]
    close(ours.features(x), theirs.encode(x / 127.5 - 1).latents)


@torch.no_grad()
def test_weights_in_half_precision_are_the_same_numbers(tmp_path: Path) -> None:
    published(KL, tmp_path).half().save_pretrained(tmp_path)
    stored = load_file(tmp_path / layouts.WEIGHTS)
    ours: Any = Autoencoder.from_pretrained(tmp_path)
    assert stored["encoder.conv_in.weight"].dtype == torch.float16
    assert ours.dtype == torch.float32
    assert torch.equal(ours.encoder.conv_in.weight, stored["encoder.conv_in.weight"].float())


@torch.no_grad()
def test_indices_as_codes(tmp_path: Path) -> None:
    theirs = published({**VQ, "lookup_from_codebook": True}, tmp_path)
    ours: Any = Autoencoder.from_pretrained(tmp_path)
    indices = torch.randint(24, (2, 4, 6))
    expected = theirs.decode(indices.flatten(), force_not_quantize=True, shape=(2, 4, 6, 3)).sample
    close(ours.decode_indices(indices), expected)


@pytest.mark.parametrize(
    ("options", "shift", "factor"),
    [
        ({"scaling_factor": 1.5, "shift_factor": 0.06}, [0.06] * 4, [1.5] * 4),
        (
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [1.0, 2.0, 4.0, 0.5]},
            [1.0, 2.0, 3.0, 4.0],
            [0.5, 0.25, 0.125, 1.0],
        ),
    ],
)
def test_the_scale_of_codes(options: dict[str, Any], shift: Any, factor: Any, tmp_path: Path) -> None:
    published({**KL, **options}, tmp_path)
    ours: Any = AutoencoderKL.from_pretrained(tmp_path)
    z, mean, scale = torch.randn(2, 4, 3, 5), *(torch.tensor(v).view(4, 1, 1) for v in (shift, factor))
    close(ours.scaled(z), (z - mean) * scale)
    close(ours.unscaled(ours.scaled(z)), z)


@torch.no_grad()
def test_photographs_and_a_folder_of_its_own(tmp_path: Path) -> None:
    theirs = published(KL, tmp_path / "theirs")
    ours = AutoencoderKL.from_pretrained(tmp_path / "theirs")
    photo = (255 * np.random.default_rng(0).random((12, 8, 3))).astype(np.uint8)
    x = torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1
    close(ours.features(photo[None]), theirs.encode(x).latent_dist.mean)
    with pytest.raises(InputError, match="multiples of 2"):
        ours.features(photo[None, :11])
    again = VAE.from_pretrained(ours.save_pretrained(tmp_path / "ours"))
    assert type(again) is AutoencoderKL
    assert torch.equal(again(x), ours(x))
    assert torch.equal(again.code_scale.factor, ours.code_scale.factor)
    assert again.signature == ours.signature


@torch.no_grad()
def test_names_of_attention_of_before_2023(tmp_path: Path) -> None:
    theirs = published({**KL, **ATTENDING}, tmp_path)
    file = tmp_path / layouts.WEIGHTS
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    weights = load_file(file)
    for new, earlier in old.items():
        weights = {name.replace(new, earlier): value for name, value in weights.items()}
    save_file(weights, file)
    assert any("proj_attn" in name for name in weights)
    x = images((8, 8))
    close(Autoencoder.from_pretrained(tmp_path).encode(x), theirs.encode(x).latent_dist.mean)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(KL, tmp_path / "pipeline" / "vae")
    main(["zoo", "import", str(tmp_path / "pipeline"), "--subfolder", "vae", "--to", str(tmp_path / "ours"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["class"] == "AutoencoderKL"
    assert said["input_shape"] == [3, None, None]
    assert type(Autoencoder.from_pretrained(tmp_path / "ours")) is AutoencoderKL


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(config: dict[str, Any], folder: Path, message: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        Autoencoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**KL, "out_channels": 4}, "AutoencoderKL has out_channels = 4: in_channels = 3"),
        ({**KL, "act_fn": "mish"}, "act_fn = 'mish': here there are silu"),
        ({**KL, "down_block_types": ["DownEncoderBlock2D"]}, "down_block_types .*there are 2 block_out_channels"),
        ({**KL, "up_block_types": ["UpDecoderBlock2D", "SkipUpBlock2D"]}, "SkipUpBlock2D is no block that is here"),
        ({**KL, "down_block_types": ATTENDING["down_block_types"]}, "has attention where the encoder has it"),
        ({**KL, "norm_num_groups": 5}, "groups of LatentDiffusionNet must divide"),
        ({**KL, "layers_per_block": 0}, "layers_per_block = 0: that is no positive integer"),
        ({**KL, "block_out_channels": 8}, "block_out_channels = 8: that is no list"),
        ({**KL, "use_quant_conv": "no"}, "use_quant_conv = 'no': that is neither true nor false"),
        ({**KL, "scaling_factor": 0}, "scaling_factor = 0: that is no scale"),
        ({**KL, "scaling_factor": None}, "scaling_factor = None: that is no number"),
        ({**KL, "latents_mean": [0.0] * 4}, "either latents_mean and latents_std"),
        ({**KL, "latents_mean": [0.0], "latents_std": [1.0]}, "no number for each of 4 channels"),
        ({**KL, "latents_mean": [0.0] * 4, "latents_std": [0.0] * 4}, "latents_std .* that is no scale"),
        ({**KL, "dropout": 0.1}, "AutoencoderKL has the option dropout = 0.1, which no class here has"),
        ({**VQ, "norm_type": "spatial"}, "norm_type = 'spatial': here there are group normalisations alone"),
        ({**VQ, "use_quant_conv": True}, "VQModel has the option use_quant_conv"),
        ({**TINY, "act_fn": "gelu"}, "AutoencoderTiny has act_fn = 'gelu': here it is relu"),
        ({**TINY, "upsampling_scaling_factor": 3}, "upsampling_scaling_factor = 3: here it is 2"),
        ({**TINY, "scaling_factor": 0.5}, "scaling_factor = 0.5: codes of an Autoencoder have no scale"),
        ({**TINY, "num_decoder_blocks": [1, 3, 2]}, "num_decoder_blocks .*mirrors the encoder"),
        ({**TINY, "num_encoder_blocks": [1, 3]}, "there are 3 encoder_block_out_channels"),
        ({**TINY, "decoder_block_out_channels": [8, 8, 16]}, "decoder_block_out_channels .* as many channels"),
        ({**TINY, "block_out_channels": [8, 8]}, "block_out_channels .* as many channels"),
        (
            {"_class_name": "AsymmetricAutoencoderKL"},
            "holds a AsymmetricAutoencoderKL of diffusers, which has no class",
        ),
        ({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}, "subfolder='vae'"),
        ({"model_type": "vit_mae", "architectures": ["ViTMAEModel"]}, "holds a ViTMAEModel of transformers"),
        ({"hidden": 3, "name": "mine"}, "of no known layout: it says hidden, name"),
    ],
)
def test_configs_that_are_not_here(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(config, tmp_path, message)


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    refused(KL, tmp_path, "diffusion_pytorch_model.bin only, a pickle, which may run code")


def test_a_pipeline_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae").mkdir()
    with pytest.raises(InputError, match="has no config.json") as error:
        Autoencoder.from_pretrained(tmp_path)
    assert "subfolder='vae'" in str(error.value.hint)


def test_weights_of_another_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    refused(KL, tmp_path, "has no diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError) as error:
        Autoencoder.from_pretrained(tmp_path)
    assert "diffusion_pytorch_model.fp16.safetensors" in str(error.value.hint)


def test_weights_of_another_config(tmp_path: Path) -> None:
    published(KL, tmp_path)
    refused({**KL, "block_out_channels": [8, 16]}, tmp_path, "has the shape")
    refused({**KL, "use_quant_conv": False}, tmp_path, "weights add encoder.quant_conv")
    refused({**KL, "layers_per_block": 2}, tmp_path, "weights lack")
    weights = load_file(tmp_path / layouts.WEIGHTS)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * float("inf")}, tmp_path / layouts.WEIGHTS)
    refused(KL, tmp_path, "not finite")
