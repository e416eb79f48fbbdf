"""A run on W ranks is the run of one: losses, gradients, buffers, weights and metrics, for every variant."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cover import CODES, Cover, cover, named, pairs
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_ae import VAE, Autoencoder, InputError, SparseAutoencoder, get_model, list_models
from lightning_ae.architectures import Architecture, ConvNet
from lightning_ae.cli import main
from lightning_ae.exact import (
    Dropout,
    Noise,
    gather,
    gather_batch,
    gather_rows,
    keyed,
    noise_of_step,
    rank,
    rows,
    sum_over_ranks,
    synchronise_batch_norm,
    world_size,
)
from lightning_ae.parts import JointCapacity, Mixed
from lightning_ae.parts.penalties import kl_sparsity
from lightning_ae.training import processes
from lightning_ae.training.certify import Case, Certificate, certify

DEEP = {"class_path": "MLP", "init_args": {"hidden": [24]}}
NORMED = {"class_path": "MLP", "init_args": {"hidden": [24], "norm": "batch", "dropout": 0.2}}
DROPPING = {"class_path": "MLP", "init_args": {"hidden": [24], "dropout": 0.2}}
TIED = {"class_path": "MLP", "init_args": {"hidden": [], "tied": True}}
ATTENTION = {"class_path": "test_distributed.RowNet", "init_args": {"attends": True}}
# as many as rows that would be two or three for each sample, if nobody said what they are
TWELVE = {"architecture": DROPPING, "pseudo_inputs": 12, "said": True}
SPARSE = {"class_path": "lightning_ae.models.stacked.Sparse"}
DRAWS = {"class_path": "IWAEObjective", "init_args": {"samples": 2}}
STRATIFIED = {"class_path": "TotalCorrelation", "init_args": {"estimator": "stratified"}}
COLUMNS = {"class_path": "Mixed", "init_args": {"categories": [0, 2, 3, 0] * 16}}
MAP = {"class_path": "ConvNet", "init_args": {"channels": [4], "code": "map"}}
TABLE = {"class_path": "MLP", "init_args": {"hidden": [8], "categories": [0, 5, 0, 3], "log1p": True}}
SEQUENCES = {
    "class_path": "SequenceNet",
    "init_args": {"channels": [4, 6], "dilations": [1, 2], "norm": "batch", "dropout": 0.3, "code": "map"},
}
CONVOLUTIONS = {"class_path": "ConvNet", "init_args": {"channels": [4, 8], "norm": "batch"}}


# ---- models of users ------------------------------------------------------------------------------------------------


class SeveralSamples(VAE):
    """The importance-weighted bound (Burda et al. 2016) of three samples: side by side, or the batch thrice over."""

    order: Any = None

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        q = self.infer(x)
        mean, log_variance = q.mean.unsqueeze(1), q.log_variance.unsqueeze(1)
        epsilon = self.noise("posterior").randn_like(mean.expand(-1, 3, -1))
        z = mean + (0.5 * log_variance).exp() * epsilon
        log_ratio = 0.5 * (epsilon.square() - z.square() + log_variance).sum(dim=2)  # log p(z) - log q(z | x)
        if self.order is None:
            log_prob = self.log_prob_given(z.flatten(0, 1), target.repeat_interleave(3, dim=0)).unflatten(0, (-1, 3))
        else:
            with rows(self.order):
                z = z.transpose(0, 1).flatten(0, 1)
                log_prob = self.log_prob_given(z, target.repeat(3, 1, 1, 1)).unflatten(0, (3, -1)).T
        return {"loss": math.log(3) - (log_prob + log_ratio).logsumexp(dim=1).mean()}

    def log_prob_given(self, z: Tensor, target: Tensor) -> Tensor:
        return self.likelihood.log_prob(self.decoder_parameters(z), target)


class BatchThrice(SeveralSamples):
    order = "by_draw"


class PseudoInputs(VAE):
    """A mixture of posteriors at pseudo-inputs for a prior (Tomczak & Welling 2018), one of them chosen at random."""

    def __init__(self, input_shape: Sequence[int], pseudo_inputs: int = 7, said: bool = False, **options: Any) -> None:
        super().__init__(input_shape, **options)
        generator = torch.Generator().manual_seed(0)
        self.pseudo = nn.Parameter(torch.rand(pseudo_inputs, *self.input_shape, generator=generator))
        self.said = said

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        terms = super().loss(x, target)
        if self.said:
            with rows("shared"):
                means = self.infer(self.pseudo).mean
        else:
            means = self.infer(self.pseudo).mean
        chosen = means[self.noise("component").choice(len(means), 3)]
        shuffled = means[self.noise("order").permutation(len(means))]
        prior = chosen.square().sum() + (shuffled - means).square().sum()
        return {"loss": terms["loss"] + 0.1 * prior, "prior": prior}


class Levels(VAE):
    """The same purpose asked for in a loop."""

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        code = self.encode(x)
        for _ in range(3):
            code = code + self.noise("level").randn_like(code)
        return {"loss": self.reconstruction_loss(code, target)}


class Rows(nn.Module):
    """An image's rows as tokens: an encoder that looks at each alone, or each at all others."""

    def __init__(self, size: int, features: int, attends: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True) if attends else None
        self.each = nn.Sequential(nn.Linear(size, 12), nn.Tanh(), Dropout(0.2), nn.Linear(12, 4))
        self.code = nn.Linear(4 * size, features)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.squeeze(1)
        if self.attention is not None:
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        each = self.each(tokens.flatten(0, 1)).unflatten(0, (len(x), -1))
        code: Tensor = self.code(each.flatten(1))
        return code


@dataclass(frozen=True)
class RowNet(Architecture):
    attends: bool = False

    def encoder(self, input_shape: Any, features: int) -> nn.Module:
        return Rows(input_shape[-1], features, self.attends)

    def decoder(self, features: int, output_shape: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(features, math.prod(output_shape)), nn.Unflatten(1, output_shape))


# ---- negative controls ----------------------------------------------------------------------------------------------


class Careless(SparseAutoencoder):
    """Each rank takes the mean activation of its own samples."""

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        code = self.encode(x)
        sparsity = -(self.rho * code.mean(dim=0).log() + (1 - self.rho) * (1 - code.mean(dim=0)).log()).sum()
        return {"loss": self.reconstruction_loss(code, target) + 10 * sparsity, "sparsity": sparsity}


class Scaled(Autoencoder):
    """Gradients of the mean over ranks once too often; of all weights, or of one layer's."""

    layers = ("encoder", "decoder")

    def __init__(self, input_shape: Sequence[int], **options: Any) -> None:
        super().__init__(input_shape, **options)
        for name, parameter in self.named_parameters():
            if name.startswith(self.layers):
                parameter.register_hook(lambda gradient: gradient / world_size())


class ScaledLayer(Scaled):
    layers = ("encoder.linears.0.bias",)  # type: ignore[assignment]


class InFloat32(Autoencoder):
    """Not wrong, but of one type."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x.float())


class Apart(VAE):
    """Each rank draws for itself."""

    def noise(self, purpose: str) -> Noise:
        return Noise(rank(), purpose)


def of_registry(**options: Any) -> list[Case]:
    names = [name for name in list_models() if name != "stacked"]
    return [Case(get_model(name).__name__, title=name, **options) for name in names] + [stacked(**options)]


def stacked(title: str = "stacked", trainer: Any = None, **options: Any) -> Case:
    """A stack's phases take an epoch each, so that three epochs see two layers and the whole."""
    options = {"hidden": [8], "epochs_per_layer": 1} | options
    return Case("StackedAutoencoder", options, {**(trainer or {}), "max_epochs": 3}, title=title)


def fine_tuned() -> Case:
    encoder = {"class_path": "lightning_ae.VAE", "init_args": {"input_shape": [1, 8, 8], "architecture": NORMED}}
    return Case("FineTuneClassifier", {"pretrained": encoder}, title="fine-tuned")


VARIANTS = of_registry()
CASES = [
    Case("SparseAutoencoder", {"penalty": "l1"}, title="sparse, l1"),
    Case("SparseAutoencoder", {"sparsity_weight": 10.0}, title="sparse, strong"),
    Case("ContractiveAutoencoder", {"architecture": DEEP, "hessian_weight": 1.0}, title="contractive, exact"),
    Case("ContractiveAutoencoder", {"architecture": DEEP, "method": "hutchinson"}, title="contractive, hutchinson"),
    Case("ScoreMatchingAutoencoder", {"sigma": [1.0, 0.5, 0.1]}, title="score matching, three levels"),
    Case("ScoreMatchingAutoencoder", {"objective": "sliced"}, title="score matching, sliced"),
    Case("VAE", {"architecture": CONVOLUTIONS}, sgd=True, title="vae, convolutions with batch norm"),
    Case("VAE", {"input_shape": [3, 21], "architecture": SEQUENCES}, title="sequences, batch norm and dropout"),
    Case("VAE", {"input_shape": [4], "architecture": TABLE}, title="a table, categories and counts"),
    Case("Autoencoder", {"architecture": NORMED}, title="ae, batch norm and dropout"),
    fine_tuned(),
    Case("ContractiveAutoencoder", {"architecture": DROPPING}, title="contractive, exact, dropout"),
    Case("ScoreMatchingAutoencoder", {"architecture": TIED, "code_activation": "sigmoid"}, title="score of an energy"),
    stacked("stacked, sparse", objective=SPARSE),
    Case("test_distributed.SeveralSamples", {"architecture": DROPPING}, title="three samples each, dropout"),
    Case("test_distributed.BatchThrice", {"architecture": DROPPING}, title="the batch thrice, dropout"),
    Case("test_distributed.PseudoInputs", {"architecture": DROPPING}, title="pseudo-inputs, dropout"),
    # as many as rows that would be two or three for each sample
    Case(
        "test_distributed.PseudoInputs", {"architecture": DROPPING, "pseudo_inputs": 12, "said": True}, title="12, said"
    ),
    Case("test_distributed.Levels", title="one purpose thrice"),
    Case("VAE", {"architecture": {"class_path": "test_distributed.RowNet"}}, title="tokens, dropout"),
    Case("VampPriorVAE", {"pseudo_inputs": 12, "objective": DRAWS, "architecture": DROPPING}, title="12, weighted"),
    Case("VAE", {"prior": {"class_path": "MixturePrior"}, "architecture": MAP}, title="mixture of maps"),
    Case("VAE", {"objective": STRATIFIED, "beta": 3.0, "architecture": MAP}, title="total correlation of maps"),
    Case(
        "IWAE", {"likelihood": {"class_path": "Laplace", "init_args": {"scale": "optimal"}}}, title="calibrated draws"
    ),
    Case("VAE", {"likelihood": COLUMNS, "input_shape": [64]}, title="mixed columns"),
    Case("VAE", {"architecture": ATTENTION}, title="attention"),
    Case("VAE", {"architecture": ATTENTION}, {"precision": "32-true"}, title="attention in float32"),
]
COVER = cover()
RUNS = [*VARIANTS, *CASES, *COVER.once()]
"""What every run of the tests certifies on two ranks; the slow ones all pairs of parts, and on three."""
WRONG = [Case(f"test_distributed.{name}", title=name) for name in ("Careless", "Scaled", "ScaledLayer", "Apart")]


@pytest.fixture(scope="module")
def certificates() -> dict[tuple[str, int], Certificate]:
    wrong, right = certify(WRONG), certify(RUNS, worlds=[2])
    return {(found.title, found.world): found for found in [*wrong, *right]}


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.title)
def test_the_same_run(certificates: dict[tuple[str, int], Certificate], case: Case) -> None:
    assert certificates[case.title, 2].passed, certificates[case.title, 2]


@pytest.mark.slow
def test_the_same_run_of_all_cases_on_two_and_three_ranks() -> None:
    for found in certify([*VARIANTS, *CASES, *COVER.cases], worlds=[2, 3]):
        assert found.passed, found


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.title)
def test_the_certificate_can_be_refused(
    certificates: dict[tuple[str, int], Certificate], case: Case, world: int
) -> None:
    found = certificates[case.title, world]
    assert not found.passed
    assert found.errors["gradients"] > 1e-3


def test_weights_on_which_nothing_depends_do_not_count(certificates: dict[tuple[str, int], Certificate]) -> None:
    """In float32 a key's bias has a gradient of rounding, of which Adam makes steps; what is computed is the same."""
    assert certificates["attention in float32", 2].errors["weights"] > 1e-5
    assert certificates["attention", 2].errors["weights"] < 1e-9


def test_each_pair_of_parts_is_covered_or_refused_with_a_reason() -> None:
    kinds = {"Prior": "Posterior", "Posterior": "Prior", "Objective": "Likelihood", "Likelihood": "Objective"}
    for kind, partner in kinds.items():
        for part in named(kind):
            of_it = [title for title in COVER.covered if type(part).__name__ in title.split(" x ")]
            refused = [title for title in COVER.refused if type(part).__name__ in title.split(" x ")]
            assert len(of_it) + len(refused) == len(named(partner))
            # an input of 1 x 8 x 8, and a code of one part
            assert of_it or isinstance(part, Mixed | JointCapacity), f"{type(part).__name__} works with nothing"
    for quantizer in named("Quantizer"):
        assert any(type(quantizer).__name__ in title for title in COVER.covered)
    certified = "; ".join(case.title for case in COVER.cases).split("; ")
    assert set(COVER.covered) == set(certified)
    once = {name for case in COVER.once() for name in re.split("; | x ", case.title)}
    assert once == {name for title in certified for name in title.split(" x ")}
    for title, reason in COVER.refused.items():
        assert any(name in reason for name in title.split(" x ")), f"{title}: {reason}"


def test_what_is_refused_is_kept_by_its_reason() -> None:
    found = Cover()
    found.add(Autoencoder, pairs(architecture=list(CODES.values()), corruption=named("Corruption")))
    assert len(found.cases) == len(found.covered) == len(CODES) * len(named("Corruption"))
    image = {"architecture": CODES["map"], "corruption": named("Corruption")[0]}
    found.add(Refusing, [image, {**image, "architecture": CODES["vector"]}])
    (reason,) = found.refused.values()
    assert "ConvNet is not for Refusing" in reason


class Refusing(Autoencoder):
    def __init__(self, input_shape: Sequence[int], **options: Any) -> None:
        super().__init__(input_shape, **options)
        if isinstance(self.architecture, ConvNet):
            raise InputError("ConvNet is not for Refusing")


@pytest.mark.slow
def test_accumulated_and_clipped() -> None:
    cases = of_registry(trainer={"accumulate_grad_batches": 2, "gradient_clip_val": 1.0})
    for found in certify(cases, worlds=(2, 4)):
        assert found.passed, found


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_sharded(world: int) -> None:
    for found in certify([*VARIANTS, *CASES, *COVER.cases, WRONG[0]], worlds=(world,), strategy="fsdp"):
        assert found.passed == (found.title != "Careless"), found


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["certify", "test_distributed.Careless", "--worlds", "[2]"])
    assert ended.value.code == 1
    assert "failed" in capsys.readouterr().out


def test_what_cannot_be_certified() -> None:
    with pytest.raises(InputError, match=r"worlds .* got \[5\]"):
        certify([Case("VAE")], worlds=[5])
    with pytest.raises(InputError, match="did you mean 'VAE'"):
        certify([Case("VAEE")])
    with pytest.raises(InputError, match="beta"):
        certify([Case("VAE", {"beta": -1.0})])
    with pytest.raises(ProcessRaisedException, match=r"InputError: .*InFloat32 cannot be trained in float64"):
        certify([Case("test_distributed.InFloat32")], worlds=[2])


# ---- the pieces: several ranks, each with its share, against one with all of it -----------------------------------

N = 7


def whole(shape: Sequence[int] = (N, 3)) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def statistic(x: Tensor) -> Tensor:
    """A function of sums over the batch that has second derivatives."""
    total, squares = sum_over_ranks(x.sum(dim=0), x.square().sum(dim=0))
    return (total.sin() * squares).sum()


def spread(x: Tensor) -> Tensor:
    """A function of pairs of samples."""
    samples = gather_batch(x)
    return torch.pdist(samples).square().log().sum() + (samples[0] * samples[-1]).sum()


def twice(x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(statistic(x), x, create_graph=True)
    return sum_over_ranks((slope / world_size()).square().sum())[0]


def sparse(x: Tensor) -> Tensor:
    """Dead, usual and saturated units."""
    return kl_sparsity(torch.stack([3 * x - 30, 3 * x, 3 * x + 30], dim=1).flatten(1), 0.05)


def normalised(x: Tensor) -> tuple[Tensor, nn.Module]:
    layer = nn.BatchNorm1d(3, momentum=None).double()
    synchronise_batch_norm(layer)
    for shift in (0.0, 100.0):  # far from zero, where sums of squares would cancel
        output = layer(x + shift)
    return sum_over_ranks(output.pow(3).sum())[0], layer


def pieces(x: Tensor) -> dict[str, Tensor]:
    x = x.requires_grad_()
    found = {}
    for function in (statistic, spread, twice, sparse):
        value = function(x)
        (slope,) = torch.autograd.grad(value, x)
        found[function.__name__] = value.detach()
        # each rank holds the same value, so its backward pass counts it W times
        found[f"{function.__name__}, gradient"] = gather_batch(slope / world_size())
    value, layer = normalised(x)
    (slope,) = torch.autograd.grad(value, x)
    found["batch norm"], found["batch norm, gradient"] = value.detach(), gather_batch(slope / world_size())
    found |= {f"batch norm, {name}": buffer.double() for name, buffer in layer.named_buffers()}
    with keyed(3, "train", 0, samples=N):
        dropped = Dropout(0.5)(x.detach())
        dropped = torch.cat([dropped, Dropout(0.5)(x.detach())], dim=1)
    found["dropout"] = gather_batch(dropped)
    found["noise"] = gather_batch(Noise(1, "a", samples=N).randn_like(x.detach()))
    found["rows"] = gather_rows(x.detach()).sort(dim=0).values
    found["order"] = gather(torch.tensor(float(rank())))[:1]
    return found


def work(index: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=world)
    found = pieces(whole()[index::world])
    if index == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_the_pieces(world: int, tmp_path: Path) -> None:
    processes.run(work, (world, str(tmp_path)), world)
    found, expected = torch.load(tmp_path / "found.pt", weights_only=True), pieces(whole())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_batch_norm_is_torchs() -> None:
    """Against torch's own layer, on one rank."""
    x = whole()
    ours, theirs = normalised(x)[1], nn.BatchNorm1d(3, momentum=None).double()
    for shift in (0.0, 100.0):
        theirs(x + shift)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert type(ours).__name__ == "GlobalBatchNorm1d"


def test_without_a_process_group() -> None:
    x = torch.rand(4, 3)
    assert (world_size(), rank()) == (1, 0)
    assert sum_over_ranks(x)[0] is x
    assert gather_batch(x) is x
    assert torch.equal(Noise(1, "a").randn_like(x), Noise(1, "a").randn_like(x))
    assert not torch.equal(Noise(1, "a").randn_like(x), Noise(1, "b").randn_like(x))
    stream = Noise(1, "a")
    assert not torch.equal(stream.randn_like(x), stream.randn_like(x))


def test_dropout() -> None:
    layer, x = Dropout(0.25), torch.ones(400, 100)
    with keyed(0, "train", 0, 0):
        first, second = layer(x), layer(x)
    with keyed(0, "train", 0, 0):
        again = layer(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float((layer(x) == 0).float().mean()) == pytest.approx(0.25, abs=0.01)  # outside of a step
    assert torch.equal(layer.eval()(x), x)


def drawn(monkeypatch: pytest.MonkeyPatch, world: int, draw: Any) -> list[Tensor]:
    """What each of so many ranks draws."""
    monkeypatch.setattr("lightning_ae.exact.noise.world_size", lambda: world)
    found = []
    for number in range(world):
        monkeypatch.setattr("lightning_ae.exact.noise.rank", lambda number=number: number)
        found.append(draw(number))
    return found


@pytest.mark.parametrize("world", [2, 3])
def test_noise_of_rows_that_are_not_the_batch(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    """Seven samples, unevenly shared: each rank's rows of what one process draws."""

    def share(number: int) -> int:
        return len(range(number, 7, world))

    def noise() -> Noise:
        return Noise(1, "a", samples=7)

    one = drawn(monkeypatch, 1, lambda r: noise().randn_like(torch.zeros(7 * 4, 2)))[0]
    for said in (None, "by_sample"):

        def draw(r: int, said: Any = said) -> Tensor:
            x = torch.zeros(share(r) * 4, 2)
            if said is None:
                return noise().randn_like(x)
            with rows(said):
                return noise().randn_like(x)

        for number, found in enumerate(drawn(monkeypatch, world, draw)):
            torch.testing.assert_close(found.view(-1, 4, 2), one.view(7, 4, 2)[number::world], rtol=0, atol=0)
    with rows("by_draw"):
        for number, found in enumerate(
            drawn(monkeypatch, world, lambda r: noise().randn_like(torch.zeros(share(r) * 4, 2)))
        ):
            torch.testing.assert_close(found.view(4, -1, 2), one.view(4, 7, 2)[:, number::world], rtol=0, atol=0)
    one = drawn(monkeypatch, 1, lambda r: noise().rand_like(torch.zeros(share(0) * 2, 2)))[0]
    with rows("shared"):
        for found in drawn(monkeypatch, world, lambda r: noise().rand_like(torch.zeros(len(one), 2))):
            torch.testing.assert_close(found, one, rtol=0, atol=0)


def test_what_rows_are_guessed_to_be_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning_ae.exact import noise

    noise._tell.cache_clear()
    with caplog.at_level(logging.INFO, logger="pytorch_lightning"):
        for count in (8, 8, 3, 3, 9, 9):
            drawn(monkeypatch, 2, lambda r, n=count: Noise(1, samples=8).randn_like(torch.zeros(n, 2)))
        with rows("shared"):
            drawn(monkeypatch, 2, lambda r: Noise(1, samples=8).randn_like(torch.zeros(8, 2)))
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "noise for rows that are not the batch's: taken as 2 rows for each sample, one sample's after the other's",
        "noise for rows that are not the batch's: taken as rows that all ranks share",
    ]


def test_rows_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_ae.exact.noise.world_size", lambda: 2)
    monkeypatch.setattr("lightning_ae.exact.noise.rank", lambda: 1)
    assert Noise(1, samples=7).randn_like(torch.zeros(3, 2)).shape == (3, 2)
    # the other rank has four samples, and would take eight rows for two of each
    with pytest.raises(InputError, match="noise for 8 rows, .* this rank has 3 of 7 samples: .* not tell"):
        Noise(1, samples=7).randn_like(torch.zeros(8, 2))
    with rows("by_sample"), pytest.raises(InputError, match="noise for 5 rows, .* 3 of 7 samples: .* no multiple"):
        Noise(1, samples=7).randn_like(torch.zeros(5, 2))
    with rows("by_draw"), pytest.raises(InputError, match="how many samples the batch has"):
        Noise(1).randn_like(torch.zeros(6, 2))
    with pytest.raises(InputError, match="the same on all ranks needs a key"):
        Noise().choice(5, 2)
    with pytest.raises(InputError, match="rows must be one of .* got 'samples'"), rows("samples"):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("world", [2, 65])
def test_choices_are_the_same_on_all_ranks(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    def draw(number: int) -> Tensor:
        noise = Noise(1, samples=10 * world)
        noise.randn_like(torch.zeros(10, 2))
        return torch.cat([noise.choice(1000, 5), noise.permutation(50)])

    found = drawn(monkeypatch, world, draw)
    assert all(torch.equal(found[0], other) for other in found[1:])
    chosen, order = found[0].split([5, 50])
    assert sorted(order.tolist()) == list(range(50)) != order.tolist()
    assert ((chosen >= 0) & (chosen < 1000)).all()
    assert len(Noise(1).choice(3, 3000).bincount()) == 3


def test_noise_of_very_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 64 ranks each draws for itself, from a stream of its own, but for what all share."""
    x = torch.zeros(2, 3)
    first, second, *_ = drawn(monkeypatch, 65, lambda r: Noise(1, samples=130).randn_like(x))
    assert not torch.equal(first, second)
    with rows("shared"):
        first, second, *_ = drawn(monkeypatch, 65, lambda r: Noise(1, samples=130).randn_like(x))
    assert torch.equal(first, second)


def test_each_draw_of_a_step_is_another() -> None:
    x = torch.zeros(4, 3)
    with keyed(0, "train", 1, 2, samples=4):
        noise = noise_of_step("posterior")
        first, going_on, other = noise.randn_like(x), noise.randn_like(x), noise_of_step("corruption").rand_like(x)
        again = [noise_of_step("posterior").randn_like(x) for _ in range(3)]
        dropped = [Dropout(0.5)(torch.ones(4, 3)) for _ in range(3)]
    draws = torch.stack([first, going_on, *again])
    assert len(draws.flatten().unique()) == draws.numel()
    with keyed(0, "train", 1, 2, samples=4):  # a step begins anew
        assert torch.equal(noise_of_step("posterior").randn_like(x), first)
        assert torch.equal(noise_of_step("posterior").randn_like(x), again[0])
    # as they have been since the first release: what was trained can be trained again
    assert first[0].tolist() == [0.5305602550506592, -0.9154438972473145, -0.8512744903564453]
    assert going_on[0].tolist() == [0.6287827491760254, 0.594216525554657, 1.5988516807556152]
    assert other[1].tolist() == [0.9916436076164246, 0.3906841278076172, 0.9325332045555115]
    assert [(mask > 0).int().flatten().tolist() for mask in dropped] == [
        [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0],
        [1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0],
    ]
