"""What a model is given besides its input: the one rule for batches, and what does not follow it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, Autoencoder, ConditionalVAE, InputError, LadderVAE, get_model, list_models
from lightning_ae.architectures import MLP
from lightning_ae.parts import Bernoulli

SHAPE, N = (1, 4, 4), 6
X, LABEL, CONDITION = torch.rand(N, *SHAPE), torch.arange(N), torch.rand(N, 2, dtype=torch.float64)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


class Two(Autoencoder):
    """Takes two things, and lets the code know nothing of them."""

    given = ("label", "condition")


class Renaming(Two):
    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch["image"], batch["clean"]


class Saying(Two):
    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch["image"], batch["clean"], {"label": batch["a"], "condition": batch["b"]}


class Short(Autoencoder):
    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().loss(x, target)


@pytest.mark.parametrize(
    "batch",
    [
        (X, LABEL, CONDITION),
        [X, LABEL, CONDITION, torch.rand(3)],  # what follows is left alone
        {"anything": X, "condition": CONDITION, "label": LABEL, "more": torch.rand(N, 5), "text": ["a"] * N},
    ],
    ids=["tuple", "longer list", "dict"],
)
def test_tuples_and_dicts_follow_one_rule(batch: Any) -> None:
    x, target, given = Two(SHAPE).read(batch)
    assert torch.equal(x, X)
    assert target is x
    assert list(given) == ["label", "condition"]
    assert torch.equal(given["label"], LABEL)
    assert given["condition"].dtype == torch.float32  # the type of the weights, as the input
    torch.testing.assert_close(given["condition"], CONDITION.float())


def test_a_column_may_play_a_role_by_another_name() -> None:
    model = Two(SHAPE)
    model.columns = {"label": "digit"}
    batch = {"x": X, "digit": LABEL, "condition": CONDITION}
    assert torch.equal(model.read(batch)[2]["label"], LABEL)
    with pytest.raises(InputError, match="takes 'label'.*has none.*x, label, condition"):
        model.read({"x": X, "label": LABEL, "condition": CONDITION})


def test_what_is_given_may_have_the_shape_of_the_input() -> None:
    class Beside(Autoencoder):
        given = ("condition",)

    x, _, given = Beside(SHAPE).read({"condition": X + 1, "image": X})
    assert torch.equal(x, X)
    assert torch.equal(given["condition"], X + 1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "takes 'label'.*has none, it holds 0 further values"),
        ((X,), "has none, it holds 0 further values"),
        ((X, LABEL), "takes 'condition'.*holds 1 further values"),
        ({"x": X, "label": LABEL}, "takes 'condition'.*it holds x, label"),
        ((X, LABEL[:-1], CONDITION), r"one of shape \(5,\)"),
        ((X, LABEL.sum(), CONDITION), r"one of shape \(\)"),
        ((X, LABEL.tolist(), CONDITION), "one list"),
        ({"x": X, "y": X, "label": LABEL, "condition": CONDITION}, "2 entries of the batch"),
    ],
    ids=["tensor", "tuple of one", "short tuple", "dict", "fewer rows", "no rows", "no tensor", "two inputs"],
)
def test_batches_that_lack_something_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Two(SHAPE).read(batch)


@pytest.mark.parametrize("cls", [Renaming, Saying])
def test_an_override_of_unpack_says_it_or_leaves_it_to_the_rule(cls: type[Two]) -> None:
    batch = {"image": X, "clean": X / 2, "label": LABEL, "condition": CONDITION, "a": LABEL + 1, "b": CONDITION + 1}
    x, target, given = cls(SHAPE).read(batch)
    assert torch.equal(x, X)
    assert torch.equal(target, X / 2)
    more = int(cls is Saying)
    assert torch.equal(given["label"], LABEL + more)
    torch.testing.assert_close(given["condition"].double(), CONDITION + more, rtol=1e-6, atol=1e-6)


def test_an_override_that_says_too_much_is_refused() -> None:
    class Wrong(Autoencoder):
        def unpack(self, batch: Any) -> tuple[Any, ...]:
            return batch[0], batch[0], {"label": batch[1]}

    with pytest.raises(InputError, match="Wrong takes nothing besides the input, got label"):
        Wrong(SHAPE).read((X, LABEL))


def test_where_nothing_is_given_a_loss_need_not_say_so(fit: Any) -> None:
    model = Short(SHAPE, latent_dim=2)
    for batch in (X, (X,), (X, LABEL), {"x": X, "label": LABEL}):
        assert model.read(batch)[2] == {}
    trainer = fit(model, X, enable_checkpointing=False)
    assert trainer.global_step == 1
    with pytest.raises(InputError, match="takes nothing besides the input, got label"):
        model(X, label=LABEL)


@pytest.mark.parametrize("method", ["loss", "encode"])
def test_where_something_is_given_they_must_take_it(method: str) -> None:
    short = {"loss": Short.loss, "encode": lambda self, x: self.encoder(x)}[method]
    cls: Any = type("Deaf", (Two,), {method: short, "__module__": __name__})
    with pytest.raises(InputError, match=f"Deaf is given label, condition, which its {method} does not take"):
        cls(SHAPE)


def test_what_nothing_can_stand_for_is_said() -> None:
    with pytest.raises(InputError, match="takes condition, which nothing can stand for"):
        _ = Two(SHAPE).code_shape

    class Standing(Two):
        def stand_ins(self, n: int) -> dict[str, Tensor]:
            return {"label": torch.zeros(n, dtype=torch.long), "condition": torch.zeros(n, 2)}

    assert Standing(SHAPE, latent_dim=3).code_shape == (3,)


@pytest.mark.parametrize("name", [name for name in list_models() if not get_model(name).given])
def test_every_variant_passes_on_what_it_is_given(name: str) -> None:
    # a label that the networks never see changes nothing, and reaches every call
    cls = get_model(name)
    seen: list[str] = []

    def note(method: str) -> Any:
        def call(self: Any, *args: Any, **given: Any) -> Any:
            label = given["label"]
            assert torch.equal(label, LABEL.repeat_interleave(len(label) // N))  # k rows a sample, where it draws k
            seen.append(method)
            return getattr(super(labelled, self), method)(*args, **given)

        return call

    labelled: Any = type(f"Labelled{cls.__name__}", (cls,), {"given": ("label",), "__module__": __name__})
    for method in ("decoder_parameters", "log_likelihood"):
        setattr(labelled, method, note(method))
    if name == "vampprior_vae":
        with pytest.raises(InputError, match="pseudo-inputs, which come without label"):
            labelled(SHAPE, latent_dim=8)
        return
    found = []
    for made in (cls, labelled):
        torch.manual_seed(0)
        options: dict[str, Any] = {"architecture": MLP(tokens=8)} if name == "vq_vae_2" else {}  # of so small images
        model: Any = made(SHAPE, latent_dim=8, **options)
        if model.needs_data_size:
            model.data_size.fill_(100)
        x, target, given = model.read((X, LABEL))
        torch.manual_seed(1)
        found.append((model.loss(x, target, **given)["loss"], model.eval()(x, **given)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert "decoder_parameters" in seen


def test_a_fit_and_predictions_of_a_plain_loader() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE(SHAPE, latent_dim=2, num_classes=6)
    loader = DataLoader(TensorDataset(X, LABEL), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    predicted = trainer.predict(model, loader)
    assert predicted is not None
    found = torch.cat([batch["reconstruction"] for batch in predicted])  # type: ignore[index]
    with torch.no_grad():
        torch.testing.assert_close(found, model.eval()(X, label=LABEL))
        assert not torch.allclose(found, model(X, label=LABEL.flip(0)))
    assert isinstance(model, VAE)


def test_bits_per_dimension_are_not_said_of_what_a_mask_leaves() -> None:
    for base in (VAE, LadderVAE):
        masked = type(f"Masked{base.__name__}", (base,), {"given": ("mask",), "__module__": __name__})
        x = torch.bernoulli(torch.rand(4, 6))
        plain: Any = base((6,), 2, likelihood=Bernoulli()).eval()
        model: Any = masked((6,), 2, likelihood=Bernoulli()).eval()
        assert "bits_per_dimension" in plain.loss(x, x)
        assert "bits_per_dimension" not in model.loss(x, x, mask=x > 0)


def test_an_unpack_that_takes_tensors_gives_features() -> None:
    class Plain(Autoencoder):
        def unpack(self, batch: Any) -> Any:
            return batch.float(), batch.float()

    assert Plain((6,), 2).features(torch.rand(3, 6)).shape == (3, 2)
