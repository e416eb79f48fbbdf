"""The networks of latent diffusion's autoencoders, and critics of patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae import InputError
from lightning_ae.architectures import LatentDiffusionNet, PatchCritic


@pytest.mark.parametrize(
    ("net", "shape", "code"),
    [
        (LatentDiffusionNet((8,), groups=4), (3, 5, 7), (4, 5, 7)),
        (LatentDiffusionNet((4, 8, 8), groups=2, attention=(1,)), (1, 8, 12), (4, 2, 3)),
        (LatentDiffusionNet((4, 8), groups=2, middle_attention=False, quant_conv=False), (3, 6, 4), (4, 3, 2)),
    ],
)
def test_shapes(net: LatentDiffusionNet, shape: tuple[int, ...], code: tuple[int, ...]) -> None:
    x = torch.rand(2, *shape)
    z = net.encoder(shape, 4)(x)
    assert z.shape[1:] == code
    assert net.decoder(4, shape)(z).shape == x.shape


def test_attention_is_softmax_of_products_by_hand() -> None:
    torch.manual_seed(0)
    layer = LatentDiffusionNet((8, 8), groups=4).encoder((1, 4, 4), 2).mid_block.attentions[0].double()
    x = torch.randn(2, 8, 3, 2).double()
    rows = F.group_norm(x, 4, layer.group_norm.weight, layer.group_norm.bias, 1e-6).flatten(2).transpose(1, 2)
    q, k, v = (m(rows) for m in (layer.to_q, layer.to_k, layer.to_v))
    found = (torch.einsum("bic,bjc->bij", q, k) / 8**0.5).softmax(dim=2) @ v
    expected = x + layer.to_out[0](found).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)


def reach(network: Any, x: Tensor, row: int, column: int) -> tuple[list[int], list[int]]:
    """The rows and columns of an image that a value of a map depends on."""
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[0, :, row, column].sum(), x)
    seen = gradient[0].abs().sum(dim=0) > 0
    return seen.any(dim=1).nonzero().flatten().tolist(), seen.any(dim=0).nonzero().flatten().tolist()


def test_halving_sees_zeros_to_the_right_and_below_only() -> None:
    layer = LatentDiffusionNet((8, 8), groups=4).encoder((1, 8, 8), 2).down_blocks[0].downsamplers[0]
    assert reach(layer, torch.rand(1, 8, 8, 8), 0, 0) == ([0, 1, 2], [0, 1, 2])
    assert reach(layer, torch.rand(1, 8, 8, 8), 3, 3) == ([6, 7], [6, 7])


@pytest.mark.parametrize(("channels", "side"), [((4,), 8), ((4, 4), 18), ((4, 4, 4), 38)])
def test_what_a_score_of_a_patch_sees(channels: tuple[int, ...], side: int) -> None:
    torch.manual_seed(0)
    critic = PatchCritic(channels, norm="none").build((1, 64, 64))
    size = 64 // 2 ** len(channels)
    scores = critic(torch.rand(2, 1, 64, 64))
    assert scores.shape == (2, 1, size, size)
    rows, columns = reach(critic, torch.rand(1, 1, 64, 64), size // 2, size // 2)
    assert len(rows) == len(columns) == side


def test_a_score_is_of_its_image_alone() -> None:
    critic, x = PatchCritic((4, 8)).build((1, 8, 8)), torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(critic(x)[:2], critic(x[:2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups of LatentDiffusionNet must divide"),
        ({"blocks": 0}, "blocks of LatentDiffusionNet must be a positive"),
        ({"attention": (2,)}, "names stages from 0 to 1"),
        ({"code_channels": 0}, "code_channels of LatentDiffusionNet must be"),
        ({"code_channels": 4, "quant_conv": False}, "only where quant_conv"),
        ({"activation": "swish"}, "activation of LatentDiffusionNet"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatentDiffusionNet(**options)


def test_images_that_cannot_be_served() -> None:
    net = LatentDiffusionNet((8, 8, 8))
    for shape in ((1, 6, 8), (64,)):
        with pytest.raises(InputError, match="LatentDiffusionNet .*cannot serve"):
            net.encoder(shape, 2)
        with pytest.raises(InputError, match="LatentDiffusionNet .*cannot serve"):
            net.decoder(2, shape)
