"""`save_pretrained` and `from_pretrained`: what travels, which class comes back, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import given_of, variants
from huggingface_hub import HfApi
from pages import ROOT, run_page
from safetensors.torch import load_file, save_file

from lightning_ae import VAE, VQVAE, Autoencoder, BetaVAE, HFDataModule, InputError, VampPriorVAE, get_model
from lightning_ae.architectures import MLP
from lightning_ae.cli import main
from lightning_ae.data.signature import Signature
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.samplers import GaussianSampler, fit_sampler
from lightning_ae.thresholds import Threshold
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import load_trained
from lightning_ae.zoo.fetch import hub_file
from lightning_ae.zoo.places import place_of


class Mine(VAE):
    """A user's own."""

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 3, *, width: int = 8) -> None:
        super().__init__(input_shape, latent_dim, architecture=MLP((width,)))


def build(cls: Any = VAE, **options: Any) -> Any:
    torch.manual_seed(0)
    return cls((1, 8, 8), 3, **{"architecture": MLP((8,)), **options}).eval()


def same(a: Autoencoder, b: Autoencoder) -> None:
    assert type(a) is type(b)
    assert a.init_args == b.init_args
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
        assert value.dtype == b.state_dict()[name].dtype, name


@pytest.mark.parametrize("name", variants())
def test_every_model_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_model(name)((1, 8, 8)).eval()
    assert model.save_pretrained(tmp_path / "model") == tmp_path / "model"
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    loaded = Autoencoder.from_pretrained(tmp_path / "model")
    same(loaded, model)
    assert not loaded.training
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x, **given_of(model, 2)), model(x, **given_of(model, 2)))


def test_what_travels_along(tmp_path: Path) -> None:
    model = build()
    model.signature = Signature(ImagePreprocess((8, 8), 1, mean=(0.2,), std=(0.5,)))
    model.threshold = Threshold(12.5, 0.99, 100, 1)
    model.data_config = {"class_path": "lightning_ae.data.HFDataModule", "init_args": {"path": "/secret/place"}}
    fit_sampler(model, HFDataModule("digits"), GaussianSampler())
    loaded = VAE.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.signature == model.signature
    assert loaded.threshold == model.threshold
    assert loaded.sampler is not None
    image = (255 * np.random.default_rng(0).random((2, 30, 20))).astype(np.uint8)
    assert torch.equal(loaded.features(image), model.features(image))
    torch.manual_seed(1)
    expected = model.sample(3)
    torch.manual_seed(1)
    assert torch.equal(loaded.sample(3), expected)
    assert "secret" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_weights_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = build().to(dtype)
    same(VAE.from_pretrained(model.save_pretrained(tmp_path)), model)


def test_the_class_that_is_asked_for(tmp_path: Path) -> None:
    folder = build(BetaVAE).save_pretrained(tmp_path / "beta")
    for cls in (Autoencoder, VAE, BetaVAE):
        assert type(cls.from_pretrained(folder)) is BetaVAE
    for cls in (VQVAE, VampPriorVAE):
        with pytest.raises(InputError, match=f"holds a BetaVAE, which is no {cls.__name__}"):
            cls.from_pretrained(folder)
    own = Mine((1, 8, 8), width=5).save_pretrained(tmp_path / "mine")
    assert type(VAE.from_pretrained(own)) is Mine
    with pytest.raises(InputError, match="holds a VAE, which is no Mine"):
        Mine.from_pretrained(build().save_pretrained(tmp_path / "vae"))


def test_an_entry_of_the_zoo_and_its_folder(tmp_path: Path) -> None:
    entry = "vae_mlp.digits_v1"
    model = Autoencoder.from_pretrained(entry)
    assert type(model) is VAE
    same(VAE.from_pretrained(index.zoo_folder() / "weights" / entry), model)
    same(VAE.from_pretrained(model.save_pretrained(tmp_path)), model)
    assert VAE.from_pretrained(tmp_path).signature == model.signature
    with pytest.raises(InputError, match="an entry of the zoo, which has no revision"):
        VAE.from_pretrained(entry, revision="main")
    with pytest.raises(InputError, match="which is no VQVAE"):
        VQVAE.from_pretrained(entry)


def test_the_command_line_takes_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build().save_pretrained(tmp_path / "model")
    same(load_trained(folder), build())
    main(["zoo", "import", str(folder), "--to", str(tmp_path / "copy"), "--json"])
    assert json.loads(capsys.readouterr().out)["class"] == "VAE"
    same(VAE.from_pretrained(tmp_path / "copy"), build())


def test_a_model_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"holds config.json and model.safetensors already"):
        build(BetaVAE).save_pretrained(tmp_path)
    assert type(Autoencoder.from_pretrained(tmp_path)) is VAE
    build(BetaVAE).save_pretrained(tmp_path, overwrite=True)
    assert type(Autoencoder.from_pretrained(tmp_path)) is BetaVAE
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        build().save_pretrained(tmp_path / "file")


def test_what_would_never_load_is_not_written(tmp_path: Path) -> None:
    changed, broken, half = build(), build(), build().half()
    changed.encoder = torch.nn.Linear(64, 6)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    for model, message in ((changed, "would never load"), (broken, "not finite"), (half, "float16")):
        with pytest.raises(InputError, match=message):
            model.save_pretrained(tmp_path / "model")
        assert not (tmp_path / "model").exists()


# ---- what is no model -----------------------------------------------------------------------------------------------


def change(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lightning_ae": {"format": 2}}, "the format 2, of which this version knows 1"),
        ({"lightning_ae": 1}, "the format None"),
        ({"colour": "red"}, "says 'colour'"),
        ({"class_path": "os.system"}, "no subclass of Autoencoder|not imported"),
        ({"class_path": "lightning_ae.architectures.MLP"}, "no subclass of Autoencoder"),
        ({"class_path": None}, "lacks class_path"),
        ({"init_args": []}, "init_args in its config.json is a list"),
        ({"init_args": {"input_shape": [1, 8, 8], "depth": 3}}, "depth"),
        ({"init_args": {"input_shape": [1, 8, 8], "latent_dim": 10**9}}, "has the shape|asks for"),
        ({"init_args": {"input_shape": [1, 8, 8], "lr": {"class_path": "os.system"}}}, "cannot be loaded"),
        ({"dtype": "int8"}, "weights in 'int8'"),
        ({"signature": {"columns": 3}}, "cannot be loaded"),
        ({"threshold": {"value": "high"}}, "cannot be loaded"),
    ],
)
def test_a_config_that_is_none(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = change(build().save_pretrained(tmp_path), **changes)
    with pytest.raises(InputError, match=message):
        Autoencoder.from_pretrained(folder)


@pytest.mark.parametrize(("version", "later"), [("99.0", True), ("0.0.1", False)])
def test_a_folder_of_a_later_version_says_so(version: str, later: bool, tmp_path: Path) -> None:
    folder = build().save_pretrained(tmp_path)
    for about, changes in ((1, {"novelty": 1}), (1, {"class_path": "lightning_ae.Novel"}), (2, {})):
        change(folder, lightning_ae={"format": about, "version": version}, **changes)
        with pytest.raises(InputError, match="cannot be loaded") as caught:
            Autoencoder.from_pretrained(folder)
        assert ("it was written by lightning_ae 99.0" in caught.value.hint) == later


def test_weights_that_are_others(tmp_path: Path) -> None:
    folder = build().save_pretrained(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.linears.0.weight"
    save_file({**weights, "more": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="weights add more"):
        Autoencoder.from_pretrained(folder)
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(InputError, match=f"weights lack {name}"):
        Autoencoder.from_pretrained(folder)
    save_file({**weights, name: weights[name] * float("nan")}, folder / "model.safetensors")
    with pytest.raises(InputError, match="not finite"):
        Autoencoder.from_pretrained(folder)
    torch.save(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="holds no safetensors file"):
        Autoencoder.from_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(InputError, match=r"as model.bin only, a pickle, which may run code"):
        Autoencoder.from_pretrained(folder)


def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no config.json"):
        Autoencoder.from_pretrained(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{'a': 1}")
    with pytest.raises(InputError, match="is no JSON"):
        Autoencoder.from_pretrained(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        Autoencoder.from_pretrained(tmp_path / "empty")
    with pytest.raises(InputError, match="is a file, not a folder"):
        Autoencoder.from_pretrained(tmp_path / "empty" / "config.json")
    with pytest.raises(InputError, match="there is no folder 'nothing/at/all'"):
        Autoencoder.from_pretrained("nothing/at/all")
    with pytest.raises(InputError, match="has no folder 'vae'"):
        Autoencoder.from_pretrained(tmp_path, subfolder="vae")
    with pytest.raises(InputError, match="leads out"):
        Autoencoder.from_pretrained(tmp_path, subfolder="../vae")
    with pytest.raises(InputError, match="is a folder, which has no revision"):
        Autoencoder.from_pretrained(tmp_path, revision="main")


def test_a_subfolder(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "parts" / "vae")
    same(VAE.from_pretrained(tmp_path, subfolder="parts/vae"), build())


# ---- the hub --------------------------------------------------------------------------------------------------------


class Hub:
    """One repository, in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, []
        monkeypatch.setattr("lightning_ae.zoo.places.hub_file", self.file)
        monkeypatch.setattr(HfApi, "model_info", lambda api, repo, revision: self.info(repo, revision))

    def file(self, repo: str, commit: str, name: str, most: int = 0) -> Path:
        self.asked.append((repo, commit, name))
        return self.folder / name

    def info(self, repo: str, revision: str) -> Any:
        class Info:
            sha = "1" * 40
            siblings = [
                type("File", (), {"rfilename": "vae/config.json"}),
                type("File", (), {"rfilename": "vae/x.bin"}),
            ]

        return Info


def test_a_branch_is_resolved_to_a_commit_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(tmp_path, monkeypatch)
    build().save_pretrained(tmp_path / "vae")
    with caplog.at_level("INFO"):
        place = place_of("someone/model", subfolder="vae")
    assert f"'main' is the commit {'1' * 40}" in caplog.text
    assert place.names == ["config.json", "x.bin"]
    place.names.append("model.safetensors")
    assert place.config()["class_path"] == "lightning_ae.VAE"
    assert hub.asked == [("someone/model", "1" * 40, "vae/config.json")]
    same(VAE.from_pretrained("someone/model", revision="2" * 40, subfolder="vae"), build())
    same(VAE.from_pretrained(f"hf://someone/model@{'3' * 40}", subfolder="vae"), build())
    assert {commit[0] for _, commit, _ in hub.asked} == {"1", "2", "3"}
    with pytest.raises(InputError, match="says its commit, and so does revision"):
        place_of(f"hf://someone/model@{'3' * 40}", revision="main")


def test_offline_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_AE_OFFLINE", "1")
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **kwargs: pytest.fail("the network was asked"))
    with pytest.raises(InputError, match="LIGHTNING_AE_OFFLINE forbids asking the hub which commit 'main' is"):
        Autoencoder.from_pretrained("someone/model")


def test_a_network_that_is_down_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    def down(*args: Any, **kwargs: Any) -> Any:
        raise httpx2.ConnectError("Name or service not known")

    for name in ("LIGHTNING_AE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(HfApi, "model_info", down)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", down)
    with pytest.raises(InputError, match="the hub does not give it: ConnectError: Name or service not known"):
        Autoencoder.from_pretrained("someone/model")
    with pytest.raises(InputError, match="cannot be fetched: ConnectError"):
        hub_file("someone/model", "1" * 40, "config.json")


def test_weights_of_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/howto_weights.md has it: a plain network's weights, by `load_state_dict`."""
    found = run_page(ROOT / "docs" / "howto_weights.md", tmp_path, monkeypatch)
    x = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(found["model"](x), found["plain"](x))
    image = np.zeros((2, 40, 40), dtype=np.uint8)
    assert found["model"].features(image).shape == (2, 16)
