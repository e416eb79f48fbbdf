"""A sampler in a checkpoint, in an entry of the zoo, and on the command line: bit for bit, and nothing else let in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import VAE, VQVAE, Autoencoder, HFDataModule, InputError, get_model, list_models, load_model, zoo
from lightning_ae.architectures import MLP
from lightning_ae.cli import main
from lightning_ae.config import to_plain
from lightning_ae.exact import Noise
from lightning_ae.parts import VectorQuantizer
from lightning_ae.parts.sampling import Density, Sampler, Space
from lightning_ae.samplers import (
    FlowSampler,
    GaussianSampler,
    IndexSampler,
    MixtureSampler,
    TwoStageSampler,
    fit_sampler,
    store_sampler,
)
from lightning_ae.training.checkpoint_file import METADATA_KEY, read_checkpoint
from lightning_ae.training.rebuild import skeleton
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import load

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip
SHORT: dict[str, Any] = {"updates": 20, "batch_size": 64}
SAMPLERS = [
    GaussianSampler(),
    MixtureSampler(2),
    FlowSampler(steps=1, hidden=8, **SHORT),
    FlowSampler("iaf", steps=1, hidden=8, **SHORT),
    TwoStageSampler(hidden=(8,), **SHORT),
]
INDEX = IndexSampler(width=8, layers=1, heads=2, **SHORT)


@pytest.fixture(scope="module")
def data() -> HFDataModule:
    return HFDataModule("digits", val_fraction=0)


def trained(model: Any, folder: Path) -> Path:
    trainer = pl.Trainer(max_epochs=1, default_root_dir=folder, **QUIET)
    trainer.fit(model, HFDataModule("digits", val_fraction=0))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a plain autoencoder, without a sampler."""
    return trained(Autoencoder((1, 8, 8), 4, architecture=MLP(hidden=(32,))), tmp_path_factory.mktemp("ae"))


@pytest.fixture(scope="module")
def of_indices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = VQVAE((1, 8, 8), 4, architecture=MLP(hidden=(32,), tokens=3), quantizer=VectorQuantizer(codes=8))
    return trained(model, tmp_path_factory.mktemp("vq"))


def samples(model: Any) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found: Tensor = model.sample(7)
        return found


def alike(a: Any, b: Any) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value.nan_to_num(), second[name].nan_to_num()), name
    assert torch.equal(samples(a), samples(b))
    assert a.sampler.config == b.sampler.config
    assert not any(parameter.requires_grad for parameter in b.sampler.parameters())


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [*SAMPLERS, INDEX], ids=lambda s: f"{type(s).__name__}{getattr(s, 'kind', '')}")
def test_it_comes_back_bit_for_bit(
    sampler: Sampler, checkpoint: Path, of_indices: Path, data: HFDataModule, tmp_path: Path
) -> None:
    source = of_indices if sampler.discrete else checkpoint
    model = load_model(source)
    assert model.sampler is None
    fit_sampler(model, data, sampler)
    store_sampler(model, source, tmp_path / "kept.ckpt")
    loaded = load_model(tmp_path / "kept.ckpt")
    alike(model, loaded)
    alike(model, type(model).load_from_checkpoint(tmp_path / "kept.ckpt").eval())
    assert loaded.generates
    # nothing but weights and plain data, and all else as it was
    content = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    before = read_checkpoint(source)
    assert content.keys() == before.keys()
    assert content[METADATA_KEY]["sampler"]["class_path"] == f"lightning_ae.samplers.{type(sampler).__name__}"
    assert {k: v for k, v in content[METADATA_KEY].items() if k != "sampler"} == before[METADATA_KEY]
    # and away again
    loaded.sampler = None
    store_sampler(loaded, tmp_path / "kept.ckpt")
    assert load_model(tmp_path / "kept.ckpt").sampler is None
    assert not [name for name in read_checkpoint(tmp_path / "kept.ckpt")["state_dict"] if name.startswith("sampler")]


def test_a_trainer_saves_it_and_evaluates_with_it(data: HFDataModule, tmp_path: Path) -> None:
    model = VAE((1, 8, 8), 4, architecture=MLP(hidden=(32,)))
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(model, data)
    fit_sampler(model.eval(), data, MixtureSampler(2))
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    alike(model, load_model(tmp_path / "kept.ckpt"))
    # test(ckpt_path=...) of a model that has none, or another
    fresh = VAE((1, 8, 8), 4, architecture=MLP(hidden=(32,)))
    pl.Trainer(**QUIET).test(fresh, data, ckpt_path=tmp_path / "kept.ckpt", verbose=False)
    alike(model, fresh)
    fit_sampler(fresh, data, GaussianSampler())
    pl.Trainer(**QUIET).test(fresh, data, ckpt_path=tmp_path / "kept.ckpt", verbose=False)
    alike(model, fresh)


def test_a_fit_drops_it_and_says_so(
    checkpoint: Path, data: HFDataModule, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(checkpoint)
    fit_sampler(model, data, GaussianSampler())
    store_sampler(model, checkpoint, tmp_path / "kept.ckpt")
    with caplog.at_level("INFO"):
        pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(model, data)
    assert model.sampler is None
    assert "GaussianSampler is fitted to codes that this fit of Autoencoder will move: it is dropped" in caplog.text
    # a fit that goes on from a checkpoint that holds one is the fit that goes on from one that holds none
    fitted = []
    for source in (checkpoint, tmp_path / "kept.ckpt"):
        going_on = Autoencoder.from_init_args(load_model(source).init_args)  # which never had one
        trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET)
        trainer.fit(going_on, HFDataModule("digits", val_fraction=0), ckpt_path=source)
        trainer.save_checkpoint(tmp_path / "after.ckpt")
        assert load_model(tmp_path / "after.ckpt").sampler is None
        fitted.append(going_on.state_dict())
    assert fitted[0].keys() == fitted[1].keys()
    assert all(torch.equal(value, fitted[1][name]) for name, value in fitted[0].items())


class Louder(Autoencoder):
    """A user's class."""

    def __init__(self, input_shape: Any, gain: float = 2.0) -> None:
        super().__init__(input_shape, 4, architecture=MLP(hidden=(32,)))
        self.gain = torch.nn.Parameter(torch.tensor(gain))


def test_of_a_class_of_ones_own(data: HFDataModule, tmp_path: Path) -> None:
    model = Louder((1, 8, 8))
    source = trained(model, tmp_path)
    fit_sampler(model.eval(), data, GaussianSampler())
    store_sampler(model, source)
    alike(model, load_model(source))


def test_what_a_file_cannot_hold(checkpoint: Path, data: HFDataModule, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    fit_sampler(model, data, MixtureSampler(2))
    place = tmp_path / "kept.ckpt"
    store_sampler(model, checkpoint, place)

    def broken(change: Any) -> Path:
        content = read_checkpoint(place, mmap=False)
        change(content[METADATA_KEY]["sampler"], content["state_dict"], content[METADATA_KEY])
        torch.save(content, tmp_path / "broken.ckpt")
        return tmp_path / "broken.ckpt"

    def without_plain(plain: Any, weights: Any, about: Any) -> None:
        del about["sampler"]

    for change, said in (
        (lambda plain, weights, about: weights.pop("sampler.weights"), "weights lack sampler.weights"),
        (lambda plain, weights, about: weights.update({"sampler.more": torch.ones(1)}), "add sampler.more"),
        (
            lambda plain, weights, about: plain["init_args"].update(components=3),
            r"the tensor sampler.weights has the shape \(2,\), but its config asks for \(3,\)",
        ),
        (
            lambda plain, weights, about: plain.update(class_path="lightning_ae.parts.Gaussian"),
            "no subclass of Sampler",
        ),
        (lambda plain, weights, about: plain.update(class_path="os.system"), "sampler names"),
        (lambda plain, weights, about: plain["init_args"].update(nope=1), "unknown option of MixtureSampler"),
        (lambda plain, weights, about: plain["init_args"].update(components=10**9), "cannot be loaded"),
        (without_plain, "weights add sampler"),
    ):
        with pytest.raises(InputError, match=said):
            load_model(broken(change))
    other = load_model(checkpoint)
    other.encoder.linears[0].weight.data += 1
    with pytest.raises(InputError, match="holds other weights than the model"):
        store_sampler(other, checkpoint, tmp_path / "none.ckpt")
    assert not (tmp_path / "none.ckpt").exists()


@dataclass(frozen=True)
class Corners(Sampler):
    """A user's sampler: each value is one of two."""

    def build(self, space: Space) -> Density:
        return CornerDensity(self, space)

    def estimate(self, density: Any, codes: Tensor, seed: int) -> None:
        density.ends.copy_(torch.stack([codes.amin(0), codes.amax(0)]))


class CornerDensity(Density):
    def __init__(self, config: Sampler, space: Space) -> None:
        super().__init__(config, space)
        self.register_buffer("ends", torch.zeros(2, space.units))

    def sample(self, n: int, noise: Noise) -> Tensor:
        which = noise.rand_like(torch.zeros(n, self.space.units)) < 0.5
        ends: Any = self.ends
        return torch.where(which, ends[0], ends[1])


def test_a_sampler_of_ones_own(checkpoint: Path, data: HFDataModule, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    fit_sampler(model, data, Corners())
    store_sampler(model, checkpoint, tmp_path / "kept.ckpt")
    alike(model, load_model(tmp_path / "kept.ckpt"))


# ---- the zoo --------------------------------------------------------------------------------------------------------


def test_an_entry_keeps_it(
    checkpoint: Path,
    data: HFDataModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = load_model(checkpoint)
    fit_sampler(model, data, MixtureSampler(2))
    store_sampler(model, checkpoint, tmp_path / "kept.ckpt")
    to, name = tmp_path / "zoo", "ae_mlp.digits_v9"
    place = to / "weights" / name
    zoo.publish(tmp_path / "kept.ckpt", name, to=str(to), dry_run=False)
    alike(model, load(place))
    card = (place / "README.md").read_text()
    assert "A `MixtureSampler` is fitted to its codes: `model.sample(n)` draws from it." in card
    monkeypatch.setattr(index, "zoo_folder", lambda: to)
    index.read_entry.cache_clear()
    alike(model, zoo.load(name))
    assert zoo.verify() == [name]
    assert zoo.load_encoder(name).model.sampler is None  # which features do not need
    main(["zoo", "list"])
    assert "sampling" in capsys.readouterr().out
    main(["sample", name, "--n", "4", "--output", str(tmp_path / "s.png"), "--device", "cpu"])
    assert (tmp_path / "s.png").is_file()

    config = json.loads((place / "config.json").read_text())
    assert config["sampler"]["class_path"] == "lightning_ae.samplers.MixtureSampler"
    assert config["sampler"]["init_args"]["components"] == 2
    for change, said in (
        ({"class_path": "os.system", "init_args": {}}, "sampler names"),
        ({"class_path": "../x", "init_args": {}}, "no import path"),
        ({**config["sampler"], "init_args": {"components": 3}}, "sampler.weights"),
        (None, "sampler"),
    ):
        (place / "config.json").write_text(json.dumps({**config, "sampler": change}))
        with pytest.raises(InputError, match=said):
            load(place)


def test_entries_of_before_have_none() -> None:
    assert zoo.load("vae_mlp.digits_v1").sampler is None
    assert zoo.info("vae_mlp.digits_v1").sampler is None


# ---- the command line -----------------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main(list(words))
    return capsys.readouterr().err


def test_the_command_line(
    checkpoint: Path, of_indices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, kept, cpu = tmp_path / "s.png", tmp_path / "kept.ckpt", ["--device", "cpu"]
    said = fails(capsys, "sample", str(checkpoint), "--output", str(picture), *cpu)
    assert "no distribution over codes" in said
    assert "--sampler mixture" in said
    main(["sample", str(checkpoint), "--sampler", "mixture", "--n", "9", "--output", str(picture), *cpu])
    assert picture.is_file()
    assert load_model(checkpoint).sampler is None  # not kept
    options = json.dumps({"components": 3})
    main(["fit-sampler", str(checkpoint), "--options", options, "--output", str(kept), *cpu])
    assert "with a MixtureSampler" in capsys.readouterr().out
    loaded = load_model(kept)
    assert loaded.sampler.config == MixtureSampler(3)
    # what Python fits is the same
    own = load_model(checkpoint)
    fit_sampler(own, HFDataModule.from_config(own.data_config), MixtureSampler(3))
    alike(own, loaded)
    main(["sample", str(kept), "--n", "9", "--output", str(tmp_path / "t.png"), *cpu])
    assert "exists already" in fails(capsys, "fit-sampler", str(checkpoint), "--output", str(kept), *cpu)
    main(["fit-sampler", str(kept), "--sampler", "gaussian", *cpu])  # in its place
    assert load_model(kept).sampler.config == GaussianSampler()

    said = fails(capsys, "sample", str(of_indices), "--sampler", "mixture", "--output", str(tmp_path / "u.png"), *cpu)
    assert "the codes of VQVAE are indices" in said
    assert "IndexSampler" in said
    short = json.dumps({"updates": 10})
    main(["fit-sampler", str(of_indices), "--sampler", "index", "--options", short, "--output", str(kept),
          "--overwrite", "true", *cpu])  # fmt: skip
    assert load_model(kept).generates
    assert "components" in fails(capsys, "fit-sampler", str(checkpoint), "--options", '{"component": 3}', *cpu)
    assert "mixture" in fails(capsys, "fit-sampler", str(checkpoint), "--sampler", "mixtrue", *cpu)
    assert "is none" in fails(capsys, "fit-sampler", "vae_mlp.digits_v1", *cpu)
    assert "none is named" in fails(capsys, "sample", str(checkpoint), "--path", "digits", *cpu)


def test_a_model_that_does_not_know_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: Any) -> None:
    fit(Autoencoder((1, 8, 8), 4), torch.rand(64, 1, 8, 8)).save_checkpoint(tmp_path / "m.ckpt")
    said = fails(capsys, "fit-sampler", str(tmp_path / "m.ckpt"), "--device", "cpu")
    assert "does not say what it was trained on" in said
    assert "give path" in said


# ---- every variant --------------------------------------------------------------------------------------------------


WITHOUT = {
    **dict.fromkeys(("sparse", "k_sparse", "topk_dictionary"), "are sparse"),
    "joint_vae": "parts of several kinds",
}


@pytest.mark.parametrize("name", list_models())
def test_every_variant_is_made_with_its_sampler_before_it_takes_memory(name: str) -> None:
    """Where codes have a density; the others say at once that they have none."""
    cls: Any = get_model(name)

    def make() -> Any:
        module = cls((1, 8, 8))
        module.take_sampler(plain)
        return module

    model = cls((1, 8, 8))
    if name in WITHOUT:
        with pytest.raises(InputError, match=WITHOUT[name]):
            _ = model.code_space
        return
    space = model.code_space
    plain = to_plain(INDEX if space.classes else GaussianSampler(), "sampler")
    bare = skeleton(make, 1000, own=True)
    assert bare is not None
    assert bare.sampler.space == space
    assert {each.device.type for each in bare.state_dict().values()} == {"meta"}
    model.take_sampler(plain)
    assert {n: t.shape for n, t in bare.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
