"""Interruptions: a run goes on as if nothing had happened, and nothing that was written is lost."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError
from lightning_ae.architectures import MLP
from lightning_ae.checkpoint import AtomicCheckpointIO
from lightning_ae.cli import main

FAULTY = """
import os, signal
import pytorch_lightning as pl

class Faulty(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        step, rank, number = map(int, os.environ["FAULT"].split(":"))
        if (trainer.global_step, trainer.global_rank) == (step, rank):
            os.kill(os.getpid(), number)
"""

RECIPE = """
model:
  class_path: VAE
  init_args:
    input_shape: [1, 8, 8]
    latent_dim: 4
    architecture: {class_path: MLP, init_args: {hidden: [32], norm: NORM, dropout: 0.2}}
data: {class_path: HFDataModule, init_args: {path: digits, batch_size: 60}}
lr_scheduler: {class_path: StepLR, init_args: {step_size: 1, gamma: 0.5}}
trainer:
  accelerator: cpu
  max_epochs: 3
  enable_progress_bar: false
  log_every_n_steps: 4
  callbacks:
    - {class_path: ModelCheckpoint, init_args: {every_n_train_steps: 7, save_last: true}}
    - {class_path: faulty.Faulty}
"""
KILLED_AT = 40  # in the middle of the second of three epochs of 22 steps; checkpoints come every 7, the last at 63


class Runs:
    """Runs of one recipe in a folder, by the command line."""

    def __init__(self, folder: Path, norm: str = "batch") -> None:
        self.folder = folder
        (folder / "faulty.py").write_text(FAULTY)
        (folder / "recipe.yaml").write_text(RECIPE.replace("NORM", norm))

    def start(self, name: str, ranks: int = 2, fault: str = "-1:0:0", resume: str | None = None) -> Any:
        args = ["-c", "recipe.yaml", "--run_dir", name, "--trainer.devices", str(ranks)]
        args += ["--trainer.strategy", "ddp"] if ranks > 1 else []
        args += ["--ckpt_path", resume] if resume else []
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_ae.cli", "fit", *args],
            cwd=self.folder,
            env=os.environ | {"FAULT": fault, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *args: Any, **options: Any) -> tuple[int, str]:
        process = self.start(*args, **options)
        text = process.communicate(timeout=240)[0]
        return process.returncode, text

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = torch.load(self.folder / name / "checkpoints" / "last.ckpt", weights_only=True)
        return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(torch.equal(a, b) if isinstance(a, Tensor) else a == b)


def check_bit_for_bit(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["global_step"] == expected["global_step"] == 63
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(found[part], expected[part]), part


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    status, text = runs.finish("whole")
    assert status == 0, text
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank(runs: Runs, rank: int) -> None:
    """kill -9: the others end within seconds and say what to do; the run goes on bit for bit."""
    started = time.monotonic()
    status, text = runs.finish(f"killed-{rank}", fault=f"{KILLED_AT}:{rank}:9")
    assert time.monotonic() - started < 60
    assert status != 0
    if rank:  # the first process, which others wait for, has something to say only if it lives
        assert "another process of the run has ended" in text
        assert "--ckpt_path" in text
        assert "Traceback" not in text
    assert runs.state(f"killed-{rank}")["global_step"] == 35
    status, text = runs.finish(f"again-{rank}", resume=f"killed-{rank}/checkpoints/last.ckpt")
    assert status == 0, text
    check_bit_for_bit(runs.state(f"again-{rank}"), runs.state("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm(runs: Runs, rank: int) -> None:
    """Pre-emption of any rank: all write a checkpoint after one step, and end without a traceback."""
    status, text = runs.finish(f"preempted-{rank}", fault=f"{KILLED_AT}:{rank}:{signal.SIGTERM.value}")
    assert status == 143, text
    assert "Traceback" not in text
    (path,) = re.findall(r"goes on with ckpt_path='(.*)'", text)
    saved = torch.load(runs.folder / path, weights_only=True)
    assert saved["global_step"] in (KILLED_AT + 1, KILLED_AT + 2)
    status, text = runs.finish(f"on-{rank}", resume=path)
    assert status == 0, text
    check_bit_for_bit(runs.state(f"on-{rank}"), runs.state("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
def test_on_another_number_of_ranks(ranks: int, tmp_path: Path) -> None:
    """Begun on two ranks. Without batch normalisation, whose biases get gradients of rounding, which Adam blows up."""
    runs = Runs(tmp_path, norm="layer")
    assert runs.finish("whole")[0] == 0
    assert runs.finish("killed", fault=f"{KILLED_AT}:1:9")[0] != 0
    status, text = runs.finish("again", ranks=ranks, resume="killed/checkpoints/last.ckpt")
    assert status == 0, text
    found, expected = (
        torch.cat([value.flatten() for value in runs.state(name)["state_dict"].values()]) for name in ("again", "whole")
    )
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_sigterm_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Runs(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("FAULT", f"{KILLED_AT}:0:{signal.SIGTERM.value}")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", "recipe.yaml", "--run_dir", "stopped"])
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == handler
    monkeypatch.setenv("FAULT", "-1:0:0")
    main(["fit", "-c", "recipe.yaml", "--run_dir", "on", "--ckpt_path", "stopped/checkpoints/preempted.ckpt"])
    main(["fit", "-c", "recipe.yaml", "--run_dir", "whole"])
    check_bit_for_bit(runs.state("on"), runs.state("whole"))
    # the epoch's means, too, are those of the whole epoch
    means = [(tmp_path / name / "metrics.csv").read_text().splitlines()[-1] for name in ("on", "whole")]
    assert means[0] == means[1]


def test_another_seed_when_it_goes_on(tmp_path: Path) -> None:
    """Noise and order follow the checkpoint, whatever the process's seed is by then."""

    def weights(seed: int, **resume: Any) -> Tensor:
        pl.seed_everything(seed, verbose=False)
        model = VAE((1, 8, 8), 4, architecture=MLP(hidden=(16,), dropout=0.2))
        saving = pl.callbacks.ModelCheckpoint(tmp_path, "at", every_n_train_steps=10, save_top_k=-1)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        trainer = pl.Trainer(max_epochs=2, callbacks=[saving], **quiet)
        trainer.fit(model, datamodule=HFDataModule("digits", batch_size=200), **resume)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = weights(1)
    assert torch.equal(weights(2, ckpt_path=tmp_path / "at.ckpt", weights_only=True), whole)
    assert not torch.equal(weights(2), whole)


# ---- what is written ----------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(4)}, place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"last.ckpt' cannot be written: File too large") as raised:
            AtomicCheckpointIO().save_checkpoint({"a": torch.ones(1_000_000)}, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "earlier checkpoints are untouched" in str(raised.value)
    assert torch.equal(torch.load(place, weights_only=True)["a"], torch.ones(4))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_crash_while_writing_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, place)
    script = (
        "import os, sys, torch, lightning_ae.checkpoint as c\n"
        "def half(checkpoint, file):\n"
        "    file.write(b'x' * 1000); file.flush(); os.kill(os.getpid(), 9)\n"
        "torch.save = half\n"
        "c.AtomicCheckpointIO().save_checkpoint({}, sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(place)]).returncode == -signal.SIGKILL
    assert torch.load(place, weights_only=True) == {"a": 1}


def test_it_is_how_trainers_save(digits: Tensor, fit: Any, tmp_path: Path) -> None:
    trainer = fit(Autoencoder((1, 8, 8)), digits[:128])
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO


def test_broken_weights_are_not_saved(digits: Tensor, fit: Any, tmp_path: Path) -> None:
    model = Autoencoder((1, 8, 8))
    trainer = fit(model, digits[:128])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    good = (tmp_path / "a.ckpt").read_bytes()
    with torch.no_grad():
        model.encoder.linears[0].bias[3] = float("nan")  # type: ignore[index,union-attr]
    with pytest.raises(InputError, match=r"weights are not finite after step 2, .*: encoder\.linears\.0\.bias"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == good
