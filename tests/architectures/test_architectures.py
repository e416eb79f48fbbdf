"""Architectures: shapes, options, tied weights, refusals."""

from __future__ import annotations

import copy
import math
import pickle
import re
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae import VAE, Autoencoder
from lightning_ae.architectures import MLP, Architecture, ConvNet, LatentDiffusionNet, ResNet, SequenceNet
from lightning_ae.architectures.layers import Activation, Init, Norm, convolution, enlarging
from lightning_ae.architectures.mlp import Columns
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


@pytest.mark.parametrize("architecture", [ConvNet(channels=(4, 6)), ResNet(channels=(4, 10))], ids=str)
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
    small = {"hidden": (32,)} if family is MLP else {"channels": (4, 8)}
    model = Autoencoder(shape, 4, architecture=family(**small, **{option: value}))
    x = 3 + torch.rand(8, *shape)  # far from what any network starts at
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(10):
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


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (MLP((8,), norm="group"), (6,)),
        (MLP((1,), norm="layer"), (6,)),
        (ConvNet((8, 8, 8), norm="group"), (1, 8, 8)),
        (ResNet((4,), norm="group"), (1, 2, 2)),
        (SequenceNet((8,), stride=4, norm="group"), (1, 4)),
        (LatentDiffusionNet((4, 4), groups=4), (1, 2, 2)),
        (LatentDiffusionNet((4, 4), groups=4), (1, None, None)),
    ],
    ids=str,
)
@pytest.mark.parametrize("n", [1, 2])
def test_a_normalisation_that_would_leave_nothing_is_refused(architecture: Any, shape: Any, n: int) -> None:
    encoder = architecture.encoder(shape, 3)
    few = torch.rand(n, *(2 if size is None else size for size in shape))
    with pytest.raises(InputError, match=r"groups? of \(.*\) values, one each"):
        encoder(few)


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
        (lambda: ConvNet(upsampling="neerest"), "nearest"),  # type: ignore[arg-type]
        (lambda: ResNet(padding="zeroes"), "zeros"),  # type: ignore[arg-type]
        (lambda: SequenceNet().encoder((1, 8, 8), 4), r"SequenceNet cannot serve input_shape \(1, 8, 8\)"),
        (lambda: SequenceNet(dilations=()), "dilations"),
        (lambda: SequenceNet(stride=0), "stride"),
        (lambda: SequenceNet(kernel_size=2), "kernel_size of SequenceNet"),
        (lambda: SequenceNet(dropout=1.0), "dropout"),
        (lambda: MLP(categories=(0, -1)), "categories of MLP"),
        (lambda: MLP(categories=()), "categories of MLP"),
        (lambda: MLP(categories=(0, 3)).encoder((3,), 2), r"cannot serve input_shape \(3,\)"),
        (lambda: MLP(embedding_dim=3), "of which there are none"),
        (lambda: MLP(categories=(3,), embedding_dim=0), "embedding_dim"),
        (lambda: MLP(categories=(0, 3), tied=True), "tied .* categories"),
        (lambda: MLP(log1p=True, tied=True), "tied .* log1p"),
    ],
)
def test_what_cannot_work_is_named(build: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()


@pytest.mark.parametrize(
    "architecture",
    [MLP((3, 4), dropout=0.5), MLP(categories=(0, 3)), ConvNet((8,), 5), ResNet((8,), 2), SequenceNet((8,), 5)],
    ids=str,
)
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


# ---- no checkerboards, no border artefacts --------------------------------------------------------------------------


def far_from_its_start(network: nn.Module) -> nn.Module:
    """With weights as large as any training makes them, biases and scales of norms among them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.double().eval()


def unevenness(x: Tensor) -> float:
    """How far a channel is from constant, by its size."""
    flat = x.detach().flatten(2)
    return float((flat.amax(2) - flat.amin(2)).max() / flat.abs().max())


@pytest.mark.parametrize("size", [(4, 5), (16, 12), (13, 15), (1,), (7,), (32,)], ids=str)
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize(
    "architecture",
    [ConvNet(), ConvNet(kernel_size=5), ConvNet(kernel_size=7), ResNet(), SequenceNet(), SequenceNet(stride=3)],
    ids=str,
)
def test_what_is_constant_stays_constant_up_to_the_borders(architecture: Any, norm: Any, size: tuple[int, ...]) -> None:
    if isinstance(architecture, SequenceNet) is (len(size) == 2):
        return  # it takes no such input
    architecture, ones = replace(architecture, channels=(4, 6), norm=norm, code="map"), [1] * len(size)
    encoder = far_from_its_start(architecture.encoder((3, *size), 5))
    code = encoder(torch.tensor([0.3, -1.0, 2.0]).double().view(1, 3, *ones).expand(2, 3, *size))
    assert unevenness(code) < 1e-12
    decoder = far_from_its_start(architecture.decoder(5, (3, *size)))
    decoded = decoder(torch.randn(2, 5, *ones, dtype=torch.double).expand(2, *code.shape[1:]))
    assert decoded.shape == (2, 3, *size)
    assert decoded.std() > 0.1
    assert unevenness(decoded) < 1e-12


@pytest.mark.parametrize("family", [ConvNet, ResNet])
def test_what_was_constant_did_not_stay_so(family: Any) -> None:
    architecture = family(channels=(4, 6), code="map", **family.earlier)
    decoded = far_from_its_start(architecture.decoder(5, (3, 16, 12)))(torch.ones(1, 5, 4, 3).double())
    assert unevenness(decoded) > 0.1
    if family is ConvNet:  # not even far from the border, where every other pixel differs
        assert unevenness(decoded[..., 4:-4, 4:-4]) > 0.1
        nearest = replace(architecture, upsampling="nearest")
        inside = far_from_its_start(nearest.decoder(5, (3, 32, 32)))(torch.ones(1, 5, 8, 8).double())[..., 9:-9, 9:-9]
        assert unevenness(inside) < 1e-12


@pytest.mark.parametrize("size", [(1,), (2,), (5,), (1, 3), (4, 5)], ids=str)
@pytest.mark.parametrize(("kernel_size", "factor"), [(3, 2), (5, 2), (7, 2), (3, 1), (3, 3), (5, 3)])
def test_an_enlargement_is_nearest_neighbours_and_a_convolution(
    size: tuple[int, ...], kernel_size: int, factor: int
) -> None:
    torch.manual_seed(0)
    for less, channels in product(range(factor), (4, 9)):  # what a stage rounded up; few channels and many
        larger = tuple(factor * n - less for n in size)
        layer: Any = enlarging(3, channels, kernel_size, larger, factor=factor).double()
        x = torch.randn(2, 3, *size, dtype=torch.double)
        repeated = x
        for dim, n in enumerate(larger, start=2):
            repeated = repeated.repeat_interleave(factor, dim).narrow(dim, 0, n)
            ends = [repeated.narrow(dim, i, 1) for i in (0, n - 1)]
            half = kernel_size // 2
            repeated = torch.cat([ends[0]] * half + [repeated] + [ends[1]] * half, dim)
        convolved = (F.conv1d, F.conv2d)[len(size) - 1](repeated, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), convolved, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_an_enlargement_of_a_map_with_margins_is_that_of_a_larger_map(kernel_size: int, kept: int) -> None:
    torch.manual_seed(0)
    half, margin = kernel_size // 2, 2
    for larger, channels in product([(7, 8), (10, 9)], (1, 9)):
        layer: Any = enlarging(3, channels, kernel_size, larger, margin=margin, kept=kept).double()
        x = torch.randn(2, 3, *(-(-n // 2) + 2 * margin for n in larger), dtype=torch.double)
        repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        for dim, n in enumerate(larger, start=2):  # what lies beyond the border by no more than is read
            repeated = repeated.narrow(dim, 2 * margin - kept - half, n + 2 * (kept + half))
        torch.testing.assert_close(layer(x), F.conv2d(repeated, layer.weight, layer.bias), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [(1,), (2,), (9,), (1, 3), (4, 5), (6, 8)], ids=str)
@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 3, 1), (3, 1, 4)])
def test_a_convolution_beyond_whose_border_lies_the_nearest_value_is_torchs(
    size: tuple[int, ...], kernel_size: int, stride: int, dilation: int
) -> None:
    dims, around = len(size), dilation * (kernel_size // 2)
    layer: Any = convolution(dims, 3, 4, kernel_size, "replicate", stride, dilation).double()
    kind: Any = (nn.Conv1d, nn.Conv2d)[dims - 1]
    plain = kind(3, 4, kernel_size, stride, around, dilation, padding_mode="replicate").double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.double)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)


# ---- sequences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("code", ["vector", "map"])
def test_every_length(stride: int, code: Any) -> None:
    architecture = SequenceNet(channels=(10, 16), dilations=(1, 4), stride=stride, code=code)
    for length in (1, 2, 3, 5, 8, 13, 27):
        x = torch.randn(2, 3, length)
        z = architecture.encoder((3, length), 5)(x)
        short = math.ceil(math.ceil(length / stride) / stride)
        assert z.shape == ((2, 5) if code == "vector" else (2, 5, short))
        assert architecture.decoder(5, (2, length))(z).shape == (2, 2, length)


def test_a_sequence_is_seen_as_far_as_dilations_reach() -> None:
    network: Any = SequenceNet(channels=(4,), stride=1, dilations=(1, 4), norm="none", code="map")
    encoder = far_from_its_start(network.encoder((1, 64), 2))
    x = torch.randn(1, 1, 64, dtype=torch.double, requires_grad=True)
    encoder(x)[0, 0, 32].backward()
    assert x.grad is not None
    reach = 1 + 2 * (1 + 4)  # the first convolution, and two for each dilation
    assert x.grad[0, 0].nonzero().flatten().tolist() == list(range(32 - reach, 32 + reach + 1))


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_the_encoder_of_a_table_sees_numbers_and_vectors_of_categories() -> None:
    torch.manual_seed(0)
    encoder: Any = MLP(hidden=(), categories=(0, 3, 0, 200), log1p=True).encoder((4,), 2)
    assert [table.weight.shape for table in encoder.columns.embeddings] == [(3, 2), (200, 50)]
    x = torch.tensor([[4.0, 2.0, 0.5, 199.0], [0.0, 0.0, 3.0, 7.0]])
    tables = [table.weight for table in encoder.columns.embeddings]
    seen = torch.cat([x[:, [0, 2]].log1p(), tables[0][[2, 0]], tables[1][[199, 7]]], dim=1)
    torch.testing.assert_close(encoder(x), seen @ encoder.linears[0].weight.T + encoder.linears[0].bias)
    assert MLP(categories=(0, 3), embedding_dim=7).encoder((2,), 2).columns.width == 8  # type: ignore[attr-defined]
    # the decoder gives what a likelihood asks for
    assert MLP(categories=(0, 3)).decoder(2, (5,))(torch.randn(6, 2)).shape == (6, 5)


def test_a_model_of_a_table_learns_its_categories() -> None:
    torch.manual_seed(0)
    x = torch.stack([torch.randint(5, (256,)).float(), torch.randn(256)], dim=1)
    target = torch.stack([(x[:, 0] * 2) % 5, x[:, 1]], dim=1)  # no linear function of the number
    model = Autoencoder((2,), 2, architecture=MLP(hidden=(), categories=(5, 0), embedding_dim=2))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model.loss(x, target)["loss"]
        loss.backward()
        optimizer.step()
    assert (model(x) - target).square().mean() < 0.01


@pytest.mark.parametrize(
    ("value", "named"),
    [(3.0, "column 1: 3, .*0 to 2"), (-1.0, "column 1: -1"), (0.5, r"column 1: 0\.5"), (float("nan"), "column 1: nan")],
)
def test_what_is_no_category_is_refused_by_name(value: float, named: str) -> None:
    encoder: Any = MLP(categories=(0, 3)).encoder((2,), 2)
    x = torch.tensor([[7.0, 2.0], [-7.0, value], [0.0, 9.0]])
    with pytest.raises(InputError, match=f"row 1 of a batch, {named}"):
        encoder(x)
    # as on an accelerator, which is not waited for: the loss is NaN, and the first of all batches is named
    columns = encoder.columns
    for batch in (x[:1], x, x[2:]):
        columns._keep(batch, columns._allowed(batch))
    refused = columns.refused()
    assert refused is not None
    assert re.search(f"row 1 of a batch, {named}", str(refused))
    assert columns.refused() is None


def test_a_fit_that_does_not_wait_names_what_made_its_loss_nan(monkeypatch: pytest.MonkeyPatch, fit: Any) -> None:
    monkeypatch.setattr(Columns, "_waits_to_tell", lambda self, x: True)
    model = Autoencoder((2,), 2, architecture=MLP(categories=(0, 3)))
    x = torch.ones(8, 2)
    x[:, 1] = 3
    with pytest.raises(InputError, match="row 0 of a batch, column 1: 3, .* 3 categories, 0 to 2"):
        fit(model, x, max_epochs=1)


def test_counts_are_not_negative() -> None:
    with pytest.raises(InputError, match="row 0 of a batch, column 1: -2, where MLP takes a count"):
        MLP(log1p=True).encoder((3,), 2)(torch.tensor([[1.0, -2.0, 3.0]]))
    x = torch.rand(5, 2, 3)
    torch.manual_seed(0)
    plain = MLP().encoder((2, 3), 2)
    torch.manual_seed(0)
    torch.testing.assert_close(MLP(log1p=True).encoder((2, 3), 2)(x), plain(x.log1p()))


def test_categories_that_a_type_cannot_count_are_refused() -> None:
    encoder = MLP(categories=(300,)).encoder((1,), 2).bfloat16()
    with pytest.raises(InputError, match="bfloat16 cannot tell 300 categories apart"):
        encoder(torch.zeros(1, 1, dtype=torch.bfloat16))
    MLP(categories=(257,)).encoder((1,), 2).bfloat16()(torch.tensor([[256.0]], dtype=torch.bfloat16))
