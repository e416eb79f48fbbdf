"""What pictures say of themselves: values of a traversal, collapsed units, classes and errors above columns."""

from typing import Any

import pytest
import torch

from lightning_ae import VAE, Autoencoder
from lightning_ae.architectures import MLP
from lightning_ae.callbacks.pictures import named, reconstruction_figure, told_apart, traversal_figure, traversals

SHAPE = (1, 6, 6)


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def model_of(cls: Any, scales: list[float]) -> Any:
    """A model whose features spread so much, over inputs of normal numbers."""
    torch.manual_seed(0)
    model = cls(SHAPE, len(scales), architecture=MLP(hidden=())).eval()
    (weight,) = [p for name, p in model.encoder.named_parameters() if p.ndim == 2]
    with torch.no_grad():
        weight.zero_()
        for i, scale in enumerate(scales):
            weight[i, i] = scale
    return model


def test_a_traversal_says_its_values_and_what_has_collapsed() -> None:
    model, x = model_of(VAE, [2.0, 0.05, 1.0, 0.02, 0.0]), torch.randn(500, *SHAPE)
    said = texts(traversal_figure(model, x, steps=5, span=2.0))
    assert [text for text in said if "std" not in text and "collapsed" not in text] == ["-1", "0", "+1", "+2"]
    assert said[0].startswith("z0") or said[1].startswith("z0")
    assert "-2 std" in said
    rows, names = traversals(model, x, 5, 2.0, 8)
    assert [name.split()[0] for name in names] == ["z0", "z2", "z1"]  # of three that collapsed the first
    assert names[2].endswith("(collapsed,\nas 2 more)")
    assert len(rows) == 3


@pytest.mark.parametrize(("cls", "scale", "still"), [(VAE, 0.09, True), (VAE, 0.11, False), (Autoencoder, 0.09, False),
                                                    (Autoencoder, 1e-3, True)])  # fmt: skip
def test_what_counts_as_collapsed(cls: Any, scale: float, still: bool) -> None:
    x = torch.randn(4000, 36, generator=torch.Generator().manual_seed(1))
    x = (x - x.mean(0)) / x.std(0, correction=0)
    model = model_of(cls, [1.0, scale])
    with torch.no_grad():
        ways = model.ways(model.pool(model.encode(x.view(-1, *SHAPE))))
    assert bool(told_apart(model, ways)[1]) == still


def test_columns_say_class_and_error() -> None:
    torch.manual_seed(0)
    model, x = Autoencoder(SHAPE, 2).eval(), torch.rand(3, *SHAPE)
    with torch.no_grad():
        errors = (model(x) - x).square().sum((1, 2, 3))
    names = named([0, -1, 1], ["boot", "a very long name of a class"])
    said = texts(reconstruction_figure(model, x, "", names))
    assert [f"{error:.3g}" for error in errors.tolist()] == [text.split("\n")[-1] for text in said if "\n" in text]
    assert [text.split("\n")[0] for text in said if "\n" in text] == ["boot", "-", "a very lo..."]
    assert "squared error" in said
