"""The base class: batches, refusals, logging, noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import VAE, Autoencoder, DenoisingAutoencoder, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.parts.likelihoods import Bernoulli, Gaussian

QUIET = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
}  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def test_squared_error_is_the_gaussian_with_fixed_variance() -> None:
    torch.manual_seed(0)
    model = Autoencoder((12,), latent_dim=3, likelihood=Gaussian(scale=0.5**0.5))
    x = torch.randn(7, 12)
    model.loss(x, x)["loss"].backward()
    ours = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    ((model(x) - x) ** 2).sum(dim=1).mean().backward()
    assert len(ours) == len(list(model.parameters()))
    for gradient, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_vae_kl_against_torch_distributions() -> None:
    torch.manual_seed(0)
    model = VAE((12,), latent_dim=3)
    x = torch.randn(7, 12)
    found = model.infer(x)
    q = torch.distributions.Normal(found.mean, (0.5 * found.log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    terms = model.loss(x, x)
    torch.testing.assert_close(terms["kl"], expected)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


def test_vae_variance_is_bounded_and_its_gradient_survives() -> None:
    model = VAE((4,), latent_dim=2, architecture=MLP(hidden=()))
    last = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias[2:] = 500.0
    x = torch.rand(3, 4)
    log_variance = model.infer(x).log_variance
    assert (log_variance == 20).all()
    log_variance.sum().backward()
    assert last.bias.grad is not None
    torch.testing.assert_close(last.bias.grad[2:], torch.full((2,), 3.0))


def test_elbo_bounds_the_exact_likelihood_of_a_linear_gaussian_model() -> None:
    # z ~ N(0, 1), x = W z + b + N(0, s^2): p(x) is Gaussian and the ELBO is tight at the true posterior
    torch.manual_seed(0)
    model = VAE((3,), latent_dim=1, architecture=MLP(hidden=()), likelihood=Gaussian(scale=0.7)).double()
    decoder = next(m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear))
    encoder = next(m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear))
    w, b = decoder.weight[:, 0], decoder.bias
    precision = 1 + (w @ w) / 0.49
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[0] = w / 0.49 / precision
        encoder.bias[0] = -(w @ b) / 0.49 / precision
        encoder.bias[1] = -precision.log()
    x = torch.randn(1, 3, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(
        b, torch.outer(w, w) + 0.49 * torch.eye(3, dtype=torch.float64)
    ).log_prob(x)
    with torch.no_grad():
        many = x.expand(100, 3)  # a draw of its own for each
        bound = torch.stack([model.loss(many, many)["loss"] for _ in range(200)])
    error = 5 * bound.std() / len(bound) ** 0.5
    assert abs(bound.mean() + exact) < error


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"latent_dim": 2.5}, "latent_dim"),
        ({"input_shape": ()}, "input_shape"),
        ({"input_shape": (0,)}, "input_shape"),
        ({"lr": 0.0}, "lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"architecture": "MLP"}, "architecture"),
        ({"architecture": {"class_path": "ConvNett"}}, "ConvNet"),
        ({"architecture": {"class_path": "os.path.join"}}, "architecture"),
        ({"architecture": {"class_path": "MLP", "init_args": {"hiden": [3]}}}, "hidden"),
        ({"architecture": ConvNet(), "input_shape": (64,)}, "MLP"),
        ({"likelihood": torch.nn.Linear(1, 1)}, "likelihood"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Autoencoder(**{"input_shape": (1, 8, 8), **options})


def test_plain_autoencoder_says_how_to_sample() -> None:
    with pytest.raises(InputError, match="fit_sampler"):
        Autoencoder((4,)).sample(3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.rand(5, 1, 9, 9), r"\(1, 9, 9\)"),
        (torch.zeros(5, 1, 8, 8, dtype=torch.uint8), "255"),
        ({"label": torch.zeros(5)}, "input_shape"),
        ({"a": torch.rand(5, 1, 8, 8), "b": torch.rand(5, 1, 8, 8)}, "unpack"),
        ("text", "str"),
        ([], "list"),
    ],
)
def test_bad_batches_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Autoencoder((1, 8, 8)).unpack(batch)


def test_target_of_a_dict() -> None:
    noisy, clean = torch.rand(5, 4), torch.rand(5, 4)
    x, target, given = Autoencoder((4,)).unpack({"noisy": noisy, "target": clean, "label": torch.zeros(5)})
    assert x is noisy
    assert target is clean
    assert given == {}


def test_values_that_the_likelihood_does_not_admit(fit: Any) -> None:
    with pytest.raises(InputError, match="Bernoulli"):
        fit(VAE((4,), likelihood=Bernoulli()), 255 * torch.rand(64, 4))


def test_nan_says_which_batch() -> None:
    data = torch.rand(256, 4)
    data[200, 1] = float("nan")
    model = Autoencoder((4,))
    trainer = pl.Trainer(max_epochs=1, logger=False, **QUIET)
    with pytest.raises(InputError, match="train data hold NaN or infinite values in batch 3 of epoch 0"):
        trainer.fit(model, DataLoader(data, batch_size=64))
    assert all(torch.isfinite(p).all() for p in model.parameters()), "the bad batch must not reach the weights"


def test_divergence_names_the_term() -> None:
    class Diverging(Autoencoder):
        def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
            terms = super().loss(x, target)
            return {**terms, "loss": terms["loss"] * float("inf"), "other": terms["loss"] * float("inf")}

    with pytest.raises(InputError, match="terms: loss, other"):
        pl.Trainer(max_epochs=1, logger=False, **QUIET).fit(
            Diverging((4,)), DataLoader(torch.rand(64, 4), batch_size=64)
        )


def test_logged_values_are_the_loss_itself() -> None:
    torch.manual_seed(0)
    data = torch.rand(100, 6)
    model = Autoencoder((6,), latent_dim=2, lr=1e-12)  # so small that the weights stay put
    trainer = pl.Trainer(max_epochs=1, logger=False, log_every_n_steps=1, **QUIET)
    with torch.no_grad():
        expected = model.loss(data, data)["loss"]
        batches = [model.loss(b, b)["loss"] for b in data.split(32)]
    trainer.fit(model, DataLoader(data, batch_size=32), DataLoader(data, batch_size=32))
    # validation: exactly the mean over samples, though the last batch is smaller
    torch.testing.assert_close(trainer.callback_metrics["val/loss"], expected)
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], batches[-1])
    torch.testing.assert_close(trainer.callback_metrics["train/loss_epoch"], expected)


def test_noise_in_evaluation_repeats_and_in_training_does_not() -> None:
    seen: dict[str, list[Tensor]] = {"train": [], "val": []}

    class Recording(DenoisingAutoencoder):
        def corrupt(self, x: Tensor) -> Tensor:
            corrupted = super().corrupt(x)
            seen["train" if self.training else "val"].append(corrupted)
            return corrupted

    torch.manual_seed(3)
    loader = DataLoader(torch.rand(8, 50), batch_size=8)
    trainer = pl.Trainer(max_epochs=2, logger=False, num_sanity_val_steps=0, **QUIET)
    trainer.fit(Recording((50,)), loader, loader)
    assert torch.equal(seen["val"][0], seen["val"][1])
    assert not torch.equal(seen["train"][0], seen["train"][1])
    assert not torch.equal(seen["train"][0], seen["val"][0])


def test_same_seed_same_run(digits: Tensor, fit: Any) -> None:
    def weights(seed: int) -> Tensor:
        pl.seed_everything(seed, verbose=False)
        model = VAE((1, 8, 8))
        fit(model, digits, max_epochs=1)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


class Widened(VAE):
    """A subclass with an argument of its own, and the rest passed on."""

    def __init__(self, *args: Any, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma


def test_a_subclass_with_its_own_argument_reloads(tmp_path: Path, fit: Any) -> None:
    model = Widened((6,), 3, gamma=0.25, lr=0.01, architecture=MLP(hidden=(7,)))
    fit(model, torch.rand(64, 6)).save_checkpoint(tmp_path / "m.ckpt")
    loaded = Widened.load_from_checkpoint(tmp_path / "m.ckpt")
    assert (loaded.gamma, loaded.latent_dim, loaded.lr) == (0.25, 3, 0.01)
    assert loaded.architecture == MLP(hidden=(7,))


def test_hyper_parameters_that_no_checkpoint_can_hold_are_refused() -> None:
    class WithModule(Autoencoder):
        def __init__(self, input_shape: tuple[int, ...], net: Any) -> None:
            super().__init__(input_shape)

    with pytest.raises(InputError, match="net is a set"):
        WithModule((4,), net={1, 2})


# ---- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path, fit: Any) -> Path:
    fit(VAE((6,), latent_dim=2), torch.rand(64, 6)).save_checkpoint(tmp_path / "vae.ckpt")
    return tmp_path / "vae.ckpt"


def test_another_class_is_refused(checkpoint: Path, fit: Any) -> None:
    with pytest.raises(InputError, match=r"holds a lightning_ae.VAE, not a lightning_ae.Autoencoder"):
        Autoencoder.load_from_checkpoint(checkpoint)
    with pytest.raises(InputError, match="DenoisingAutoencoder"):
        pl.Trainer(max_epochs=2, logger=False, **QUIET).fit(
            DenoisingAutoencoder((6,), latent_dim=4), DataLoader(torch.rand(8, 6)), ckpt_path=checkpoint
        )


def test_damaged_and_missing_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    cut = tmp_path / "cut.ckpt"
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match="truncated"):
            load_model(cut)
    with pytest.raises(InputError, match="no checkpoint at"):
        load_model(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, cut)
    with pytest.raises(InputError, match="which autoencoder"):
        VAE.load_from_checkpoint(cut)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "mark"), "w"))

    torch.save({"state_dict": {}, "lightning_ae": {"class_path": Payload()}}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="more than weights"):
        load_model(tmp_path / "evil.ckpt")
    assert not (tmp_path / "mark").exists()


def test_a_checkpoint_cannot_name_any_class(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for path in ("antigravity.Model", "torch.nn.Linear"):
        content["lightning_ae"]["class_path"] = path
        torch.save(content, tmp_path / "m.ckpt")
        with pytest.raises(InputError, match=path):
            load_model(tmp_path / "m.ckpt")


def test_a_missing_weight_is_not_passed_over(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "m.ckpt")
    with pytest.raises(InputError, match="its weights lack"):
        load_model(tmp_path / "m.ckpt")
