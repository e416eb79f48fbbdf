"""What models, encoders and data modules say of themselves, in a line and in a notebook."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lightning_ae import (
    VAE,
    Autoencoder,
    FineTuneClassifier,
    HFDataModule,
    StackedAutoencoder,
    get_model,
    list_models,
    zoo,
)
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.data import Image
from lightning_ae.descriptions import brief, count
from lightning_ae.parts import Gaussian, IWAEObjective, VampPrior
from lightning_ae.samplers import MixtureSampler, fit_sampler


def cells(html: str) -> dict[str, str]:
    """The rows of a table; ElementTree refuses what is not well-formed."""
    table = ElementTree.fromstring(html)
    return {row[0].text or "": row[1].text or "" for row in table.iter("tr") if len(row) == 2}


def test_a_model_says_what_it_is() -> None:
    model = VAE((1, 8, 8), 8, architecture=MLP(hidden=(100,)))
    size = (64 * 100 + 100) + (100 * 16 + 16) + (8 * 100 + 100) + (100 * 64 + 64)
    assert count(size) == "15.5 thousand"
    said = repr(model)
    assert said.startswith("VAE(input (1, 8, 8), code (8,), 15.5 thousand parameters, architecture MLP(hidden=(100,))")
    assert "likelihood Gaussian(scale='optimal')" in said
    assert "\n" not in said
    assert cells(model._repr_html_())["prior"] == "StandardNormal()"


def test_torch_has_its_tree() -> None:
    model = VAE((1, 8, 8), 8)
    assert str(model) == nn.Module.__repr__(model)
    assert "(encoder): Layers(" in f"{model}"
    assert "(0): VAE(input (1, 8, 8)" in repr(nn.Sequential(model))
    encoder = zoo.load_encoder("vae_mlp.digits_v1")
    assert str(encoder).startswith("Encoder(\n")


@pytest.mark.parametrize("name", list_models())
def test_every_variant_has_one(name: str) -> None:
    model = get_model(name)((1, 8, 8))
    said = repr(model)
    assert said.startswith(f"{type(model).__name__}(input (1, 8, 8), code {model.code_shape}, ")
    assert len(said) < 500
    assert set(cells(model._repr_html_())) >= {"input", "code", "parameters", "likelihood"}


def test_to_say_it_changes_nothing() -> None:
    model = Autoencoder((4,), architecture=MLP(norm="batch", dropout=0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    repr(model)
    assert model.training
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_of_any_size_with_networks_of_their_own_and_half_built() -> None:
    maps = Autoencoder((3, None, None), 4, architecture=ConvNet((8, 8), code="map"))
    assert "in multiples of 4, code 4 channels" in repr(maps)
    assert "architecture" not in repr(StackedAutoencoder((4,)))  # MLP() would not be true
    assert repr(object.__new__(VAE)) == "<VAE>"
    on_meta = VAE((4,)).to("meta")
    assert "code" not in on_meta.described()


def test_a_classifier_says_whose_codes_it_has() -> None:
    said = repr(FineTuneClassifier(VAE((1, 8, 8), 8), num_classes=3, freeze=True))
    assert (
        said == "FineTuneClassifier(3 classes, encoder VAE, frozen, input (1, 8, 8), code (8,), 79 thousand parameters)"
    )


def test_parts_say_what_is_not_default() -> None:
    assert brief(VampPrior(30)) == "VampPrior(pseudo_inputs=30)"
    assert brief(IWAEObjective()) == "IWAEObjective()"
    assert brief(Gaussian(scale=0.5)) == "Gaussian(scale=0.5)"
    assert [count(n) for n in (0, 999, 1000, 83_456, 999_499, 999_500, 1_234_567)] == [
        "0", "999", "1 thousand", "83.5 thousand", "999 thousand", "1 million", "1.23 million",
    ]  # fmt: skip


def test_a_sampler_shows() -> None:
    data = HFDataModule({"train": np.random.default_rng(0).normal(size=(200, 4))}, cache="memory")
    model = Autoencoder((4,), 2)
    fit_sampler(model, data, MixtureSampler(3))
    assert repr(model).endswith("sampler MixtureSampler(components=3))")


def test_an_encoder_says_where_it_is_from() -> None:
    encoder = zoo.load_encoder("vae_mlp.digits_v1", normalize=True)
    said = repr(encoder)
    assert said.startswith("Encoder(entry vae_mlp.digits_v1, input (1, 8, 8), 8 features of mean, standardised, ")
    assert said.endswith("frozen weights, trained on digits)")
    assert cells(encoder._repr_html_())["entry"] == "vae_mlp.digits_v1"
    assert "weights that train" in repr(encoder.unfreeze())


def test_data_say_what_is_known_and_load_nothing() -> None:
    data = HFDataModule("nobody/nothing", kind=Image(size=(32, 32)), batch_size=64)  # no such set: to load it fails
    assert repr(data) == "HFDataModule(set 'nobody/nothing', kind Image(size=(32, 32)), batches of 64)"
    assert str(data) == repr(data)
    digits = HFDataModule("digits")
    assert "rows" not in repr(digits)
    assert digits._splits is None
    digits.setup("fit")
    said = cells(digits._repr_html_())
    assert said["rows"] == "train 1293, val 144, test 360"
    assert said["shape"] == "(1, 8, 8)"
    assert said["label"] == "label (10 classes)"
    digits.setup("fit")
    assert repr(digits).startswith("HFDataModule(set 'digits', kind Image(), rows train 1293, val 144, test 360, sh")


def test_data_in_memory_and_names_that_are_no_html() -> None:
    data = HFDataModule(pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), val_fraction=0)
    assert repr(data).startswith("HFDataModule(set DataFrame in memory, kind Tabular(scaling='standard'), rows train 2")
    assert data.input_shape == (2,)
    assert "shape (2,)" in repr(data)
    assert "&lt;b&gt;" in HFDataModule("<b>")._repr_html_()
