"""The command line: its commands, its errors, its run folders."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import ImageOps

from lightning_ae import VAE, HFDataModule, load_model, zoo
from lightning_ae.cli import app, tools
from lightning_ae.cli.app import COMMANDS, main

ROOT = Path(__file__).parents[2]
RECIPE = ["-c", "vae", "-c", "digits"]
SHORT = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one short run, in which commands on its checkpoint are tried."""
    folder = tmp_path_factory.mktemp("cli")
    before = Path.cwd()
    os.chdir(folder)
    try:
        main(["fit", *RECIPE, "--trainer.max_epochs", "25", *SHORT[2:]])
    finally:
        os.chdir(before)
    return folder / "runs" / "vae-digits" / "fit-1"


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What a command that must be refused says on standard error: one line and a hint."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("Seed set", "Generating"))]
    lines = [line for line in lines if line and "available:" not in line and " on digits: " not in line]
    assert len(lines) <= 2, lines
    assert lines[0].startswith("error: ")
    return "\n".join(lines)


def test_help_is_short_and_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert len(text.splitlines()) < 40
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "completion"])
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"lightning-ae {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "named"), [(["--epochs", "0"], "epochs must be positive"), (["--output", "."], ". exists")]
)
def test_quickstart_refuses_what_it_cannot_do(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["quickstart", *args])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


STEPS = ["fit", "reconstruct", "sample", "neighbours"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError])
@pytest.mark.parametrize("stopped", STEPS)
def test_quickstart_says_where_ctrl_c_came(
    stopped: str, error: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        "my run/checkpoints/best.ckpt",
        "my run/pictures/test_reconstructions.png",
        "my run/pictures/test_samples.png",
    ]
    place = STEPS.index(stopped)

    def step(name: str) -> Any:
        def run(*args: Any, **options: Any) -> None:
            if name == stopped:
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(5)
                except KeyboardInterrupt:
                    raise error from None  # of which a library that is being imported makes an error of its own
            for file in made[STEPS.index(name) :][:1]:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                Path(file).touch()

        return run

    quickstart, run = app.run, step("fit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "run", lambda name, args: run() if name == "fit" else quickstart(name, args))
    for name in STEPS[1:]:
        monkeypatch.setattr(tools, name, step(name))
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", "--output", "my run"])
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert f"stopped in {stopped}, step {place + 1} of 4" in said
    assert [file in said for file in made] == [number < place for number in range(3)]
    assert ("nothing is written" in said) == (place == 0)
    rest = re.findall(r"lightning-ae (\w+) 'my run/checkpoints/best.ckpt'", said)
    assert rest == (STEPS[place:] if place else [])
    assert said.endswith("interrupted\n")


@pytest.mark.slow
def test_quickstart_works_from_the_wheel_alone(tmp_path: Path) -> None:
    root, env = Path(__file__).parents[2], tmp_path / "env"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    made = subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, root], capture_output=True, text=True)
    if made.returncode and "hatchling" in made.stderr:
        pytest.skip("hatchling, which builds the wheel, cannot be had here")
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size <= 45 * 2**20
    # what the wheel needs is what is installed here; the package itself is the wheel's
    subprocess.run([*pip, "install", "--no-deps", "--target", env, wheel], check=True)
    here = {**os.environ, "PYTHONPATH": str(env)}
    command = [sys.executable, "-c", "from lightning_ae.cli import main; main()"]
    words = ["quickstart", "--epochs", "1", "--output", "run", "--show", "false"]
    out = subprocess.run([*command, *words], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert {"test_reconstructions.png", "test_samples.png"} <= {p.name for p in (tmp_path / "run/pictures").iterdir()}
    where = subprocess.run(
        [sys.executable, "-c", "import lightning_ae; print(lightning_ae.__file__)"],
        cwd=tmp_path, env=here, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(env) in where.stdout


def test_a_run_writes_its_folder(run: Path) -> None:
    assert {"config.yaml", "metrics.csv", "checkpoints", "pictures"} <= {p.name for p in run.iterdir()}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/kl", "val/loss", "val/reconstruction", "val/mse", "val/psnr", "val/ssim",
            "val/active_units"} <= set(header)  # fmt: skip


def test_runs_are_numbered_and_never_overwritten(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parents[2])
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    main(["fit", "-c", str(run / "config.yaml"), *SHORT])  # a run's own configuration runs again
    assert (run.parent / "fit-2" / "metrics.csv").is_file()
    main(["fit", *RECIPE, "--run_dir", "runs/named/here", *SHORT])
    main(["fit", "-c", "runs/named/here/config.yaml", *SHORT])
    assert Path("runs/named/fit-1/metrics.csv").is_file()
    assert "runs never overwrite" in fails(capsys, "fit", *RECIPE, "--run_dir", str(run))
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_test_agrees_with_a_computation_by_hand(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.csv

    from lightning_ae.data import HFDataModule

    monkeypatch.chdir(run.parents[2])
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["test", *RECIPE, "--ckpt_path", checkpoint, "--run_dir", "runs/t", *SHORT[2:]])
    logged = pyarrow.csv.read_csv("runs/t/metrics.csv").to_pylist()[-1]
    model = load_model(checkpoint)
    x = torch.cat([batch["image"] for batch in HFDataModule("digits").batches("test")])
    with torch.no_grad():
        mse = (model(x) - x).square().sum(dim=(1, 2, 3)).mean()
        q = model.infer(x)
        kl = 0.5 * (q.mean**2 + q.log_variance.exp() - q.log_variance - 1).sum(1).mean()
    assert logged["test/mse"] == pytest.approx(float(mse), rel=1e-5)
    assert logged["test/kl"] == pytest.approx(float(kl), rel=1e-5)
    assert logged["test/loss"] == pytest.approx(logged["test/kl"] + logged["test/reconstruction"], rel=1e-5)


def test_features(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq
    from datasets import Dataset
    from sklearn.neighbors import KNeighborsClassifier

    from lightning_ae.data import HFDataModule

    monkeypatch.chdir(run.parents[2])
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["features", checkpoint])
    said = capsys.readouterr().out
    sets = {s: Dataset.from_parquet(str(run / "features" / f"{s}.parquet")) for s in ("train", "val", "test")}
    data = HFDataModule("digits")
    assert sets["test"].column_names == ["code", "row", "label"]
    assert sorted([*sets["train"]["row"], *sets["val"]["row"]]) == list(range(len(data.splits["train"])))
    assert data.splits["train"][sets["val"]["row"][:]]["label"] == sets["val"]["label"][:]
    schema = pq.read_schema(run / "features" / "test.parquet")
    assert schema.metadata[b"lightning_ae.signature"].decode() == load_model(checkpoint).signature.hash
    assert sets["test"]["label"][:] == data.dataset("test")["label"][:]
    images = data.dataset("test")[:20]["image"]
    codes = torch.tensor(sets["test"][:20]["code"])
    torch.testing.assert_close(codes, load_model(checkpoint).features(images))
    knn = KNeighborsClassifier(5).fit(sets["train"]["code"][:], sets["train"]["label"][:])
    error = 100 * (1 - knn.score(sets["test"]["code"][:], sets["test"]["label"][:]))
    assert f"{error:.2f} %" in said
    assert "exists already" in fails(capsys, "features", checkpoint)


def test_pictures(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    checkpoint = str(run / "checkpoints" / "best.ckpt")
    for command, file in (("reconstruct", "reconstructions.png"), ("sample", "samples.png")):
        main([command, checkpoint])
        with Image.open(run / file) as picture:
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors() or []) > 20
        assert file in capsys.readouterr().out
        assert "exists already" in fails(capsys, command, checkpoint)
        main([command, checkpoint, "--overwrite", "true"])


def test_predict(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[2])
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["predict", *RECIPE, "--ckpt_path", checkpoint, "--run_dir", "runs/p", *SHORT[2:]])
    written = torch.load("runs/p/predictions-rank0.pt", weights_only=True)
    assert written["code"].shape == (360, 8)
    assert written["reconstruction"].shape == (360, 1, 8, 8)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fti"], "did you mean 'fit'"),
        (["fit"], "required"),
        (["fit", "-c", "none.yaml"], "none.yaml"),
        (["fit", *RECIPE, "--model.latent_dimm", "3"], "latent_dimm"),
        (["fit", *RECIPE, "--model.latent_dim", "0"], "latent_dim must be a positive integer, got 0"),
        (["fit", *RECIPE, "--model.latent_dim", "many"], "many"),
        (["fit", *RECIPE, "--model.architecture", "ConvNet", "--model.input_shape", "[64]"], "use MLP"),
        (["fit", *RECIPE, "--model.input_shape", "[1, 9, 9]", *SHORT], "{'image': (64, 1, 8, 8), 'label': (64,)}"),
        (["fit", *RECIPE, "--data.path", "./none", *SHORT], "local folder"),
        (["fit", *RECIPE, "--data.val_split", "valid", *SHORT], "it has 'train', 'test', and no further one"),
        (["fit", *RECIPE, "--data.kind", "Image", "--data.kind.column", "img", *SHORT], "['image', 'label']"),
        (["features", "none.ckpt"], "no checkpoint at 'none.ckpt'"),
        (["completion", "fish"], "unknown shell"),
    ],
)
def test_errors_are_one_line_and_a_hint(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, *args)


def test_checkpoints_that_cannot_be_used(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = run / "checkpoints" / "best.ckpt"
    other = ["-c", "ae", "-c", "digits"]
    assert "lightning_ae.VAE" in fails(capsys, "fit", *other, "--ckpt_path", str(checkpoint), *SHORT)
    Path("cut.ckpt").write_bytes(checkpoint.read_bytes()[:-100])
    assert "truncated" in fails(capsys, "features", "cut.ckpt")
    assert "truncated" in fails(capsys, "test", *RECIPE, "--ckpt_path", "cut.ckpt", *SHORT[2:])


def test_the_supervised_stage(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ["fit", "-c", "finetune", "-c", "digits"]
    assert "pretrained" in fails(capsys, *recipe, *SHORT)
    pretrained = str(run / "checkpoints" / "best.ckpt")
    main([*recipe, "--model.pretrained", pretrained, "--run_dir", "r", *SHORT])
    other = ["fit", "-c", "finetune", "-c", "mnist", "--model.pretrained", pretrained]
    assert "input_shape is (1, 28, 28), but the pretrained VAE takes (1, 8, 8)" in fails(capsys, *other, *SHORT)
    classifier = load_model("r/checkpoints/best.ckpt")
    assert classifier.model.latent_dim == 8
    assert "FineTuneClassifier, not an autoencoder" in fails(capsys, "features", "r/checkpoints/best.ckpt")


def test_resume(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[2])
    args = ["fit", *RECIPE, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--run_dir", "runs/resumed"]
    main([*args, "--trainer.max_epochs", "26", *SHORT[2:]])
    assert torch.load("runs/resumed/checkpoints/last.ckpt", weights_only=True)["epoch"] == 25


def test_optimizer_and_scheduler_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", *RECIPE, "--optimizer", "SGD", "--optimizer.lr", "0.01", "--lr_scheduler", "StepLR",
          "--lr_scheduler.step_size", "1", "--lr_scheduler.gamma", "0.5", "--run_dir", "r", *SHORT])  # fmt: skip
    saved = torch.load("r/checkpoints/last.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.01
    assert "momentum" in saved["optimizer_states"][0]["param_groups"][0]
    assert saved["lr_schedulers"]


def test_a_model_trained_by_the_command_line_needs_only_its_path(run: Path) -> None:
    model = VAE.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert (model.latent_dim, model.input_shape) == (8, (1, 8, 8))
    assert (type(model.likelihood).__name__, model.likelihood.scale) == ("Gaussian", "optimal")


def test_the_installed_command(tmp_path: Path) -> None:
    done = started(tmp_path, "-m", "lightning_ae.cli", "fit", "--no_such_option", "1")
    assert done.returncode == 2
    assert "no_such_option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def completion() -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["completion", "bash"])
    return printed.getvalue()


COMPLETED = {
    "fe": "features",
    "fit -c vampp": "vampprior_vae",
    "fit -c mine.y": "mine.yaml",
    "fit --model VampP": "VampPriorVAE",
    "fit --model.code_a": "--model.code_activation",
    "fit --model.penalty k": "kl",
    "fit --model.likelihood Stud": "StudentT",
    "fit --data.path mi": "mine.yaml",
    "fit --trainer.max_e": "--trainer.max_epochs",
    "test --ckp": "--ckpt_path",
    "reconstruct --spl": "--split",
    "certify VAE --strategy f": "fsdp",
    "zoo pub": "publish",
    "zoo publish --lic": "--licence",
}


@pytest.mark.parametrize("typed", COMPLETED)
def test_completion(completion: str, typed: str, tmp_path: Path) -> None:
    """As bash asks for it, of a script that a shell's start-up file can afford."""
    (tmp_path / "mine.yaml").touch()
    words = f"lightning-ae {typed}".split()
    asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_lightning_ae; echo ${{COMPREPLY[*]}}"
    shell = ["bash", "--norc", "-c", f"{completion}\n{asked}"]
    assert subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True).stdout.split() == [COMPLETED[typed]]
    assert len(completion) < 100_000


def test_features_of_a_checkpoint_that_names_no_data(fit: Any, digits: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "plain.ckpt"
    fit(VAE((1, 8, 8), 2), digits).save_checkpoint(checkpoint)
    with pytest.raises(SystemExit):
        main(["features", str(checkpoint)])
    main(["features", str(checkpoint), "--path", "digits", "--splits", "[test]"])
    assert (tmp_path / "features" / "test.parquet").is_file()


def test_features_of_data_that_an_entry_was_not_made_for_are_told_of_once(tmp_path: Path) -> None:
    rows = HFDataModule("digits").splits["test"]
    turned = [{"image": ImageOps.invert(row["image"])} for row in rows.select(range(40))]
    Dataset.from_list(turned).to_parquet(tmp_path / "turned.parquet")
    for words in ([], ["--shard_rows", "20"]):
        with pytest.warns(UserWarning, match="far from what ae_mlp.digits_v1 was made for") as said:
            main(
                ["features", "ae_mlp.digits_v1", "--path", str(tmp_path / "turned.parquet"), *words]
                + ["--output", str(tmp_path / f"{len(words)}")]
            )
        assert sum("far from" in str(each.message) for each in said) == 1


MARKING = "open(r'{mark}', 'a').write(__name__ + ' ')\n"


def started(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python, started in a folder that is not on its path."""
    return subprocess.run([sys.executable, "-P", *words], cwd=folder, capture_output=True, text=True, timeout=120)


def test_only_what_is_named_is_imported_where_one_stands(tmp_path: Path) -> None:
    for module in ("pydantic", "datasets", "tensorboard", "onnx", "torchmetrics", "unnamed"):
        (tmp_path / f"{module}.py").write_text(MARKING.format(mark=tmp_path / "mark"))
    (tmp_path / "helpers.py").write_text("WIDTH = 3\n")
    for module in ("mine", "other"):
        (tmp_path / f"{module}.py").write_text(
            "from helpers import WIDTH\nfrom lightning_ae import VAE\n"
            "class Mine(VAE):\n    def __init__(self) -> None:\n        super().__init__((1, 8, 8), WIDTH)\n"
        )
    (tmp_path / "recipe.yaml").write_text("model:\n  class_path: other.Mine\n")
    program = """
import sys
import time
from lightning_ae.cli import main
before = list(sys.path)
rest = ["--data.path", "digits", "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
main(["zoo", "list"])
for words in (["--model", "VAE"], ["--model", "mine.Mine"], ["-c", "recipe.yaml"]):
    main(["fit", *words, *rest])
    assert (sys.path == before) == (words[1] == "VAE"), words
    sys.path[:] = before
    sys.modules.pop("helpers", None)
"""
    done = started(tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()


def test_the_zoo_is_listed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    listed = [words[0] for line in lines if (words := line.split()) and words[0] in zoo.list_models()]
    assert sorted(listed) == zoo.list_models()
    (row,) = (line.split() for line in lines if "vae_conv.mnist_v1" in line)
    assert row == ["vae_conv.mnist_v1", "20", "7.3", "3.0", "1,226", "features,", "sampling"]
    main(["zoo", "list", "mnist", "--model", "VAE", "--json"])
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [
        "vae_conv.mnist_v1",
        "vae_conv.fashion_mnist_v1",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError])
def test_ctrl_c_is_one_line(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a library that is being imported makes an error of its own of it."""

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr("lightning_ae.cli.tools.cache", work)
    with pytest.raises(SystemExit) as stopped:
        main(["cache"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_runs_without_a_logger_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = ["--trainer.logger", "false", *SHORT, "--trainer.limit_train_batches", "1"]
    for _ in range(2):
        main(["fit", *RECIPE, *quiet])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["runs"]
    found = sorted(str(path.relative_to("runs/vae-digits")) for path in Path("runs").rglob("*.*"))
    files = ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "run.json"]
    assert found == [f"fit-{number}/{file}" for number in (1, 2) for file in files]
    for _ in range(2):
        main(["test", "--ckpt_path", "runs/vae-digits/fit-1/checkpoints/last.ckpt", *quiet[:2], *SHORT[2:]])
    assert len(list(Path("runs/vae-digits").iterdir())) == 2


def test_what_the_source_says_is_what_classes_take() -> None:
    import inspect

    from lightning_ae.cli.source import options, place_of
    from lightning_ae.config import import_class, import_own
    from lightning_ae.registry import CLASSES

    import_own()
    for name in (*CLASSES, "FineTuneClassifier"):
        found = options(place_of(name)) or {}
        assert list(found) == list(inspect.signature(import_class(name, torch.nn.Module, "model")).parameters), name
        assert all(option.help for option in found.values()), name


def test_help_is_of_the_model_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, there, not_there in (
        (["-c", "topk_dictionary"], "--model.k ", "--model.beta "),
        ([], "--data.path", "--model.k "),
    ):
        with pytest.raises(SystemExit):
            main(["fit", *words, "--help"])
        text = capsys.readouterr().out
        assert len(text.splitlines()) < 80
        assert max(map(len, text.splitlines())) <= 100
        assert there in text
        assert not_there not in text


def test_a_checkpoint_says_what_is_evaluated(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    quiet = ["--trainer.logger", "false", *SHORT[2:]]
    main(["test", *checkpoint, *quiet])
    assert "test/loss" in capsys.readouterr().out
    said = fails(capsys, "test", *RECIPE, "--model.beta", "4", *checkpoint, *quiet)
    assert "beta = 1.0, and --model.beta says 4.0" in said
    assert "latent_dim = 8, and the recipe vae says 20" in fails(capsys, "test", "-c", "vae", *checkpoint, *quiet)
    assert "and the recipe ae says Autoencoder" in fails(capsys, "test", "-c", "ae", *checkpoint, *quiet)


def test_the_data_say_the_input_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--model", "vae", "--data.path", "digits", "--run_dir", "r", *SHORT])
    assert load_model("r/checkpoints/last.ckpt").input_shape == (1, 8, 8)


def test_a_list_of_one_needs_no_brackets(run: Path, tmp_path: Path) -> None:
    main(["features", str(run / "checkpoints" / "best.ckpt"), "--splits", "test", "--output", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["test.parquet"]


def test_codes_of_a_folder_are_traced_to_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of photographs, given to a model of the zoo that takes small grey images."""
    import PIL.Image
    from datasets import Dataset

    for i, name in enumerate(("b/two", "a/one", "a/three")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (20, 30), (80 * i, 10, 200)).save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="colour 30 x 20 for a model that takes grey 8 x 8"):
        main(["features", "ae_mlp.digits_v1", "--path", "photos", "--output", "codes"])
    found = Dataset.from_parquet("codes/train.parquet")
    assert sorted(found["path"]) == ["a/one.png", "a/three.png", "b/two.png"]
    for row in found:
        image = PIL.Image.open(tmp_path / "photos" / row["path"])
        with pytest.warns(UserWarning, match="colour 30 x 20"):
            expected = zoo.load("ae_mlp.digits_v1").features([image])[0]
        torch.testing.assert_close(torch.tensor(row["code"]), expected)


def test_data_of_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset, Image

    from lightning_ae.data import HFDataModule

    monkeypatch.chdir(tmp_path)
    rows = HFDataModule("digits").splits["test"].select(range(40)).cast_column("image", Image())
    (tmp_path / "data").mkdir()
    rows.to_parquet("data/validation-0.parquet")
    main(["features", "vae_mlp.digits_v1", "--path", "data", "--output", "codes"])
    assert Dataset.from_parquet("codes/test.parquet")["row"][:] == list(range(40))
    main(["reconstruct", "vae_mlp.digits_v1", "--path", "data", "--output", "r.png"])
    main(["rate-distortion", "vae_mlp.digits_v1", "--path", "data", "--output", "."])
    assert (tmp_path / "r.png").is_file()
    assert "test" in (tmp_path / "rate_distortion.csv").read_text()


def test_rows_are_drawn_over_classes() -> None:
    from lightning_ae.data import HFDataModule

    data = HFDataModule("digits", cache="memory")
    drawn = data.some_rows("test", 20, seed=0)
    assert sorted(drawn["label"].tolist()) == sorted([*range(10)] * 2)
    assert torch.equal(data.some_rows("test", 20, seed=0)["image"], drawn["image"])
    assert not torch.equal(data.some_rows("test", 20, seed=1)["image"], drawn["image"])


def test_a_model_is_summed_up_without_columns_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
    main(["fit", *RECIPE, *options, "--trainer.accelerator", "cpu", "--trainer.callbacks", "[]"])
    said = capsys.readouterr()
    text = said.out + said.err
    model = load_model(next(tmp_path.rglob("last.ckpt")))
    assert f"{sum(parameter.numel() for parameter in model.parameters()) // 1000} K parameters, 0.4 MB" in text
    for part in ("encoder", "decoder"):
        assert part in text
    for column in ("FLOPs", "Mode", "0.00it/s"):
        assert column not in text
