"""Fused optimizers and compiled networks: the same training, and a fallback that says so."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import variants
from pytorch_lightning.trainer.states import TrainerState
from torch import Tensor, nn

from lightning_ae import VAE, Autoencoder, get_model
from lightning_ae.architectures import Architecture, ConvNet
from lightning_ae.cli import main
from lightning_ae.parts import Bernoulli, DiscretizedLogistic, Gaussian, Laplace, Likelihood
from lightning_ae.training.speed import adamw, compile_in_place

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Graphs:
    """A backend that counts the graphs it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.mark.parametrize("name", variants())
def test_every_variant_trains_the_same_when_compiled(name: str, digits: Tensor, fit: Any) -> None:
    def trained(graphs: Graphs | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        options = {"epochs_per_layer": 0} if name == "stacked" else {}
        model: Autoencoder = get_model(name)(SHAPE, latent_dim=8, **options)
        if graphs is not None:
            model.compile(backend=graphs)
        fit(model, digits[:256], max_epochs=2)
        return model.state_dict()

    graphs = Graphs()
    plain = trained(None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be compiled")
        compiled = trained(graphs)
    assert graphs.count > 0
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "likelihood", [Gaussian("learned"), Gaussian("optimal"), Laplace(), DiscretizedLogistic(), Bernoulli()], ids=str
)
def test_decoder_and_likelihood_make_one_graph(likelihood: Likelihood) -> None:
    model = VAE(SHAPE, 4, likelihood=likelihood)
    z, target = torch.randn(3, 4), torch.rand(3, *SHAPE)
    graphs = Graphs()
    compiled = torch.compile(model.reconstruction_loss, backend=graphs, fullgraph=True)
    torch.testing.assert_close(compiled(z, target), model.reconstruction_loss(z, target))
    assert graphs.count == 1


@pytest.mark.slow
def test_the_default_compiler(digits: Tensor) -> None:
    torch.manual_seed(0)
    model = VAE(SHAPE, 8)
    keys = list(model.state_dict())
    with model.at_step("train", 0):
        expected = model.loss(digits[:64], digits[:64])["loss"]
    model.compile()
    with model.at_step("train", 0):
        terms = model.loss(digits[:64], digits[:64])
    terms["loss"].backward()
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=0)
    assert list(model.state_dict()) == keys
    assert copy.deepcopy(model)(digits[:2]).shape == (2, *SHAPE)


@dataclass(frozen=True)
class Plain(Architecture):
    """Networks as torch's own containers."""

    def encoder(self, input_shape: Any, features: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, features))

    def decoder(self, features: int, output_shape: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(features, 64), nn.Unflatten(1, output_shape))


def test_sequential_networks_are_compiled_too() -> None:
    graphs = Graphs()
    plain = Plain().encoder(SHAPE, 3)
    plain.compile(backend=graphs)
    plain(torch.rand(2, *SHAPE))
    assert graphs.count == 0  # what torch itself makes of them
    model = Autoencoder(SHAPE, 3, architecture=Plain())
    model.compile(backend=graphs)
    model(torch.rand(2, *SHAPE))
    assert graphs.count == 2


def test_every_network_has_a_cache_of_its_own() -> None:
    graphs = Graphs()
    for network in [nn.Linear(3, 2) for _ in range(torch._dynamo.config.recompile_limit + 2)]:
        compile_in_place(network, backend=graphs)
        before = graphs.count
        network(torch.rand(4, 3))
        assert graphs.count == before + 1


def test_what_cannot_be_compiled_runs_as_it_is() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    network = nn.Linear(3, 2)
    x = torch.rand(4, 3)
    expected = network(x)
    compile_in_place(network, backend=broken)
    with pytest.warns(UserWarning, match=r"Linear cannot be compiled, and runs uncompiled: .*no compiler"):
        assert torch.equal(network(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert torch.equal(network(x), expected)


def test_the_fused_optimizer_is_adam() -> None:
    def trained(make: Any) -> Tensor:
        torch.manual_seed(0)
        model = VAE(SHAPE, 4)
        optimizer = make(model)
        x = torch.rand(16, *SHAPE)
        for step in range(5):
            optimizer.zero_grad()
            with model.at_step("train", step):
                model.loss(x, x)["loss"].backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    ours = trained(lambda model: model.configure_optimizers())
    assert VAE(SHAPE, 4).configure_optimizers().defaults["fused"]
    torch.testing.assert_close(ours, trained(lambda model: torch.optim.Adam(model.parameters(), lr=3e-3)))


def test_a_scaled_optimizer_is_not_fused() -> None:
    class Scaled:
        precision_plugin = type("Precision", (), {"scaler": object()})
        state = TrainerState()

    model = VAE(SHAPE, 4)
    model._trainer = Scaled()  # type: ignore[assignment]
    assert not adamw(model, model.parameters(), 1e-3, 0.0).defaults["fused"]


def test_options_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", "-c", "ae", "-c", "digits", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    before = torch.get_float32_matmul_precision()
    try:
        with pytest.raises(SystemExit):
            main([*fit, "--channels_last", "true", "--run_dir", str(tmp_path / "a")])
        assert "concerns convolutions" in capsys.readouterr().err
        convolutions = ["--model.architecture", "ConvNet", "--model.architecture.channels", "[4, 8]"]
        options = ["--channels_last", "true", "--matmul_precision", "high", "--run_dir", str(tmp_path / "b")]
        main([*fit, *convolutions, *options])
        assert torch.get_float32_matmul_precision() == "high"
        assert (tmp_path / "b" / "checkpoints").is_dir()
    finally:
        torch.set_float32_matmul_precision(before)


def test_channels_last_changes_no_value() -> None:
    model = Autoencoder((1, 8, 8), 4, architecture=ConvNet(channels=(4, 8)))
    x = torch.rand(3, 1, 8, 8)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), expected)
