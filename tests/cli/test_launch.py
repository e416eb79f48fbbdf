"""Real launches of one recipe: by the command line, by torchrun on two nodes, sharded. All end in the same weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = RECIPES / "models" / "denoising.yaml"
SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]

pytestmark = pytest.mark.slow


def fit(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    # pictures and probes in each epoch: under sharding all ranks take part in them
    recipe = folder / "denoising.yaml"
    recipe.write_text(RECIPE.read_text().replace("every_n_epochs: 10", "every_n_epochs: 1"))
    otherwise = RECIPES / "data" / "digits" / "denoising.yaml"  # read for the package's own recipe only
    words = ["fit", "-c", recipe, "-c", "digits", "-c", otherwise, *SHORT, *args]
    command = [sys.executable, "-m", "lightning_ae.cli", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | more


def weights(folder: Path) -> torch.Tensor:
    (file,) = folder.rglob("last.ckpt")
    state = torch.load(file, weights_only=True)["state_dict"]
    return torch.cat([state[name].flatten().double() for name in sorted(state)])


def error(folder: Path, expected: Path) -> float:
    ours, theirs = weights(folder), weights(expected)
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = fit(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("overlay", ["cpu2", "fsdp"])
def test_two_processes_by_the_command_line(alone: Path, overlay: str, tmp_path: Path) -> None:
    done = fit(tmp_path, "-c", overlay)
    assert done.returncode == 0, done.stderr
    assert error(tmp_path, alone) < 1e-5
    assert done.stdout.count("Written") == 1
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1
    assert len(list(tmp_path.rglob("pictures/*.png"))) == 3  # of reconstructions, projections and traversals


@pytest.fixture
def two_nodes() -> Iterator[list[tuple[str, ...]]]:
    """Two network namespaces joined by a virtual cable; what runs a command in each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = [f"ae{os.getpid()}{end}" for end in "ab"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "netns", "add", names[1]], check=True)
        cable = ["ip", "link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "veth0", "netns", names[1]]
        subprocess.run(cable, check=True)
        for number, name in enumerate(names, 1):
            inside = ["ip", "-n", name]
            subprocess.run([*inside, "address", "add", f"10.77.0.{number}/24", "dev", "veth0"], check=True)
            subprocess.run([*inside, "link", "set", "veth0", "up"], check=True)
            subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
        yield [("ip", "netns", "exec", name) for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_two_nodes_by_torchrun(alone: Path, two_nodes: list[tuple[str, ...]], tmp_path: Path) -> None:
    script = [str(RECIPES / "launch" / "torchrun.sh"), "-c", "denoising", "-c", "digits", *SHORT]
    nodes = []
    for number, node in enumerate(two_nodes):
        place = {"NODES": "2", "GPUS": "1", "NODE_RANK": str(number), "MASTER": "10.77.0.1"}
        options = environment(**place, GLOO_SOCKET_IFNAME="veth0")
        nodes.append(
            subprocess.Popen(
                [*node, *script], cwd=tmp_path, env=options, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    logs = [node.communicate(timeout=300)[0] for node in nodes]
    print(*logs)
    assert [node.returncode for node in nodes] == [0, 0], logs
    assert "MEMBER: 1/2" in logs[0]
    assert "MEMBER: 2/2" in logs[1]
    assert error(tmp_path, alone) < 1e-5


def test_launch_files_are_sound() -> None:
    for script in (RECIPES / "launch").glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK)
    service, job = yaml.safe_load_all((RECIPES / "launch" / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert int(variables["NODES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(variables["GPUS"]) == pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
