"""Architectures: shapes, options, tied weights, refusals."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from lightning_ae import VAE, Autoencoder
from lightning_ae.architectures import MLP, Architecture, ConvNet, ResNet, SequenceNet
from lightning_ae.architectures.layers import Activation, Init, Norm
from lightning_ae.config import from_plain, to_plain
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import Gaussian


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (2, 1, 5), (13,)], ids=str)
@pytest.mark.parametrize("hidden", [(), (11,), (11, 5)], ids=str)
def test_mlp_shapes(shape: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    architecture, x = MLP(hidden=hidden), torch.randn(4, *shape)
    z = architecture.encoder(shape, 6)(x)
    assert z.shape == (4, 6)
    assert architecture.decoder(6, shape)(z).shape == x.shape


def test_mlp_tokens() -> None:
    architecture, x = MLP(hidden=(11,), tokens=5), torch.randn(4, 3, 9, 7)
    z = architecture.encoder((3, 9, 7), 6)(x)
    assert z.shape == (4, 6, 5)
    assert architecture.decoder(6, (3, 9, 7))(z).shape == x.shape
    assert Autoencoder((13,), 6, architecture=MLP(tokens=5, tied=True)).code_shape == (6, 5)
    with pytest.raises(InputError, match="tokens of MLP"):
        MLP(tokens=0)


@pytest.mark.parametrize("architecture", [ConvNet(channels=(4, 6)), ResNet(channels=(4, 8))], ids=str)
def test_every_image_size(architecture: Architecture) -> None:
    for height in range(4, 14):
        for width in range(4, 14):
            x = torch.randn(2, 3, height, width)
            z = architecture.encoder((3, height, width), 5)(x)
            assert z.shape == (2, 5)
            assert architecture.decoder(5, (2, height, width))(z).shape == (2, 2, height, width)


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_kernel_sizes(kernel_size: int) -> None:
    architecture = ConvNet(channels=(4, 6), kernel_size=kernel_size)
    z = architecture.encoder((1, 15, 9), 5)(torch.randn(2, 1, 15, 9))
    assert architecture.decoder(5, (1, 15, 9))(z).shape == (2, 1, 15, 9)


@pytest.mark.parametrize("family", [MLP, ConvNet, ResNet, SequenceNet])
@pytest.mark.parametrize(
    ("option", "value"),
    [("activation", a) for a in get_args(Activation)]
    + [("norm", n) for n in get_args(Norm)]
    + [("init", i) for i in get_args(Init)],
)
def test_options_build_and_learn(family: Any, option: str, value: str) -> None:
    torch.manual_seed(0)
    shape = (1, 8) if family is SequenceNet else (1, 8, 8)
    model = Autoencoder(shape, 4, architecture=family(**{option: value}))
    x = 3 + torch.rand(8, *shape)  # far from what any network starts at
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model.loss(x, x)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_initialisations() -> None:
    def weight(init: Any) -> Tensor:
        torch.manual_seed(0)
        network = MLP(hidden=(), init=init).encoder((400,), 300)
        return next(m for m in network.modules() if isinstance(m, nn.Linear)).weight.detach()

    orthogonal = weight("orthogonal")
    torch.testing.assert_close(orthogonal @ orthogonal.T, torch.eye(300), atol=1e-5, rtol=0)
    assert float(weight("kaiming").var()) == pytest.approx(2 / 400, rel=0.03)
    assert float(weight("xavier").var()) == pytest.approx(2 / 700, rel=0.03)


def test_norms_without_batch_statistics_treat_samples_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 8, 8)
    for family in (MLP, ConvNet, ResNet):
        for norm in ("none", "layer", "group"):
            encoder = family(norm=norm).encoder((1, 8, 8), 3)
            torch.testing.assert_close(encoder(x)[:2], encoder(x[:2]), atol=1e-5, rtol=1e-5)
        encoder = family(norm="batch").encoder((1, 8, 8), 3)
        assert not torch.allclose(encoder(x)[:2], encoder(x[:2]), atol=1e-3)


def linears(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if hasattr(m, "weight") and m.weight.ndim == 2]


def test_tied_weights_are_one_parameter_with_the_sum_of_both_gradients() -> None:
    torch.manual_seed(0)
    tied = Autoencoder((10,), 4, architecture=MLP(hidden=(7,), tied=True))
    untied = Autoencoder((10,), 4, architecture=MLP(hidden=(7,)))
    assert sum(p.numel() for p in tied.parameters()) == 10 * 7 + 7 + 7 * 4 + 4 + 7 + 10
    with torch.no_grad():
        for ours, theirs in zip(linears(tied.encoder), linears(untied.encoder), strict=True):
            theirs.weight.copy_(ours.weight)
            theirs.bias.copy_(ours.bias)
        for ours, theirs in zip(linears(tied.decoder), linears(untied.decoder), strict=True):
            theirs.weight.copy_(ours.weight.t())
            theirs.bias.copy_(ours.bias)
    x = torch.randn(5, 10)
    torch.testing.assert_close(tied(x), untied(x))
    for model in (tied, untied):
        model.loss(x, x)["loss"].backward()
    for ours, up, down in zip(
        linears(tied.encoder), linears(untied.encoder), reversed(linears(untied.decoder)), strict=True
    ):
        torch.testing.assert_close(ours.weight.grad, up.weight.grad + down.weight.grad.t())


def test_tied_weights_stay_tied() -> None:
    model = Autoencoder((10,), 4, architecture=MLP(hidden=(7,), tied=True))
    fresh = Autoencoder((10,), 4, architecture=MLP(hidden=(7,), tied=True))
    fresh.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        first, last = linears(other.encoder)[0], linears(other.decoder)[-1]
        assert first.weight is last.weight
        torch.testing.assert_close(first.weight, linears(model.encoder)[0].weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: VAE((10,), 4, architecture=MLP(tied=True)),
        lambda: Autoencoder((10,), 4, architecture=MLP(tied=True), likelihood=Gaussian("per_pixel")),
    ],
)
def test_tied_weights_that_do_not_mirror_are_refused(build: Any) -> None:
    with pytest.raises(InputError, match="tied"):
        build()


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ConvNet().encoder((64,), 4), r"ConvNet cannot serve input_shape \(64,\)"),
        (lambda: ResNet().decoder(4, (64,)), r"ResNet cannot serve output_shape \(64,\)"),
        (lambda: ConvNet(channels=(8, 8, 8)).encoder((1, 28, 7), 4), "at least 8"),
        (lambda: MLP().encoder((4,), 0), "features"),
        (lambda: MLP(hidden=(0,)), "hidden"),
        (lambda: MLP(dropout=1.0), "dropout"),
        (lambda: MLP(activation="rely"), "relu"),  # type: ignore[arg-type]
        (lambda: ConvNet(norm="bacth"), "batch"),  # type: ignore[arg-type]
        (lambda: ConvNet(kernel_size=4), "kernel_size"),
        (lambda: ConvNet(channels=()), "channels"),
        (lambda: ResNet(blocks=0), "blocks"),
        (lambda: MLP(init="xaver"), "xavier"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_named(build: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()


@pytest.mark.parametrize("architecture", [MLP((3, 4), dropout=0.5), ConvNet((8,), 5), ResNet((8,), 2)], ids=str)
def test_plain_form(architecture: Architecture) -> None:
    plain = to_plain(architecture, "architecture")
    assert plain["class_path"] == f"lightning_ae.architectures.{type(architecture).__name__}"
    assert from_plain(Architecture, plain, "architecture") == architecture
    assert hash(from_plain(Architecture, plain, "architecture")) == hash(architecture)


@dataclass(frozen=True)
class Careless(Architecture):
    """Gives a channel, whatever the likelihood takes."""

    def encoder(self, input_shape: tuple[int, ...], features: int) -> nn.Module:
        return nn.Conv2d(input_shape[0], features, 2, stride=2)

    def decoder(self, features: int, output_shape: tuple[int, ...]) -> nn.Module:
        return nn.ConvTranspose2d(features, 1, 2, stride=2)


def test_a_likelihood_whose_parameters_a_map_decoder_does_not_give_is_refused() -> None:
    assert Autoencoder((1, 8, 8), 3, architecture=Careless()).code_shape == (3, 4, 4)
    with pytest.raises(
        InputError, match=r"gives \(1, 8, 8\) for a code of shape \(3, 4, 4\), where .* takes \(2, 8, 8"
    ):
        Autoencoder((1, 8, 8), 3, architecture=Careless(), likelihood=Gaussian("per_pixel"))
