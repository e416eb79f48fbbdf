"""Codes and images made in tiles are those of the whole."""

from __future__ import annotations

import pytest
import torch

from lightning_ae import VAE, Autoencoder, InputError
from lightning_ae.architectures import ConvNet, ResNet, TinyNet
from lightning_ae.uses import decode_in_tiles, encode_in_tiles

NETWORKS = {
    "conv": ConvNet(channels=(4, 8), code="map"),
    "resnet": ResNet(channels=(4, 8), code="map", norm="none"),
    "tiny": TinyNet(channels=8, blocks=(1, 1, 1), pooled=False),
}


def of_any_size(name: str) -> Autoencoder:
    torch.manual_seed(0)
    return VAE((3, None, None), 2, architecture=NETWORKS[name]).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_are_the_whole(name: str) -> None:
    model, x = of_any_size(name), torch.rand(1, 3, 64, 44, dtype=torch.float64)
    z = model.encode(x)
    torch.testing.assert_close(encode_in_tiles(model, x, tile=16, margin=40), z, rtol=0, atol=1e-12)
    torch.testing.assert_close(decode_in_tiles(model, z, tile=16, margin=40), model.decode(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(encode_in_tiles(model, x), z, rtol=0, atol=1e-12)  # one tile
    # without what is around a tile, values at its border are others: the comparison can fail
    assert float((encode_in_tiles(model, x, tile=16, margin=0) - z).abs().max()) > 1e-4
    assert float((decode_in_tiles(model, z, tile=16, margin=0) - model.decode(z)).abs().max()) > 1e-4


@torch.no_grad()
def test_where_the_network_looks_at_all_of_the_image_tiles_are_near() -> None:
    """A group normalisation has statistics of the tile: the bound is that of the bundled autoencoder of photographs."""
    from lightning_ae import zoo

    model = zoo.load("ae_tiny.taef2_v1").eval()
    rows, columns = torch.meshgrid(torch.linspace(0, 9, 128), torch.linspace(0, 9, 192), indexing="ij")
    x = torch.stack([0.5 + 0.4 * (rows * k).sin() * columns.cos() for k in (1.0, 1.3, 0.7)])[None]
    z, parts = model.encode(x), encode_in_tiles(model, x, tile=128, margin=64)
    assert float((parts - z).abs().mean() / z.std()) < 0.05
    again, whole = decode_in_tiles(model, z, tile=128, margin=64), model.decode(z)
    assert float((again - whole).abs().max()) < 0.1


def test_bad_input() -> None:
    model, x = of_any_size("conv"), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    for options, reason in (
        ({"tile": 6}, "tile must be a multiple of 4"),
        ({"tile": 0}, "tile must be a multiple of 4 pixels, as the model's images are, from 4 on"),
        ({"margin": -4}, "margin must be"),
        ({"margin": 2.0}, "margin must be"),
    ):
        with pytest.raises(InputError, match=reason):
            encode_in_tiles(model, x, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="multiples of 4"):
        encode_in_tiles(model, x[..., :30])
    with pytest.raises(InputError, match="images of .3, 32, 32."):
        encode_in_tiles(VAE((3, 32, 32), architecture=ConvNet(code="map")).eval(), x)
    with pytest.raises(InputError, match="training mode"):
        encode_in_tiles(model.train(), x)
