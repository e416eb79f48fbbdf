"""Recipes, values and entries: nothing is dropped, and nothing short becomes large."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_ae import InputError
from lightning_ae.cli import main
from lightning_ae.strict_yaml import load_yaml
from lightning_ae.zoo import index

ROOT = Path(__file__).parents[1]
RECIPE = ["-c", "ae", "-c", "digits"]


def bomb(item: str = "[{}]", first: str = "[x, x, x, x, x, x, x, x, x]") -> str:
    """Nine lines that stand for 9 ** 9 values."""
    lines = [f"a: &a {first}"]
    for name, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{name}: &{name} {item.format(', '.join([f'*{before}'] * 9))}")
    return "\n".join(lines)


REFUSED = {
    "twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice (first in line 1)"),
    "nested": ("- b:\n    c: 1\n    'c': 2", "line 3: the key 'c' stands twice"),
    "flow": ("{a: 1, a: 1}", "line 1: the key 'a' stands twice"),
    "json": ('{"a": {"b": [{"c": 1, "c": 2}]}}', "line 1: the key 'c' stands twice"),
    "number": ("1: a\n0x1: b", "line 2: the key '0x1' stands twice"),
    "boolean": ("true: a\nyes: b", "line 2: the key 'yes' stands twice"),
    "dotted": ("t:\n  m: {k: 1}\nt.m.k: 2", "line 3: the key 't.m.k' stands twice (first in line 2)"),
    "half dotted": ("t.m:\n  k: 1\nt:\n  m.k: 2\n  m: {k: 1}", "line 5: the key 'm.k' stands twice (first in line 4)"),
    "bomb": (bomb(), "line 5: with *d, aliases stand for more than 10000 values"),
    "bomb of merges": (bomb("{{<<: [{}]}}", "{x: 1}"), "line 5: with *d, aliases"),
    "bomb of text": (f"a: &a {'x' * 10**6}\nb: [{'*a, ' * 1000}]", "line 2: with *a, aliases"),
    "itself": ("a: &a\n  b: [*a]", "line 2: *a stands inside of what it names"),
    "lists": ("a: 1\nb: " + "[" * 100_000, "line 2: it nests deeper than 100 levels"),
    "maps": ("{a: " * 100_000, "line 1: it nests deeper than 100 levels"),
    "blocks": ("- " * 100_000, "line 1: it nests deeper than 100 levels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_line(case: str) -> None:
    text, reason = REFUSED[case]
    with pytest.raises(InputError, match=re.escape(f"some.yaml: {reason}")):
        load_yaml(text, "some.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: *b", "a: !!python/name:os.system", "a: 2021-13-45", f"a: {'9' * 5000}"])
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_whatever_is_sound_means_what_it_did() -> None:
    texts = [f.read_text() for folder in ("recipes", "zoo/entries") for f in (ROOT / folder).rglob("*.yaml")]
    texts += ["", "3", "a.b: {c: 1}\na: {c: 2}", "{a: 1, b: {a: 2}}", "[[1, 2], {1.5: a, '1.5': b}]"]
    texts.append("x: &x {a: 1, b: [1, 2]}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4}], d: *x}\n<<: *x\nlist: [*x, *x]")
    texts.append(f"a: &a {[0] * 4000}\nb: *a\nc: *a")
    assert len(texts) > 50
    for text in texts:
        if "\n---" not in text:
            assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.slow
def test_pure_python_reads_the_same() -> None:
    program = (
        "import yaml; del yaml.CSafeLoader; from lightning_ae.strict_yaml import load_yaml\n"
        "print(load_yaml('a: &a {b: 1}\\nc: {<<: *a}'))\n"
        "try: load_yaml('a: 1\\na: 2')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    found = done.stdout.splitlines()
    assert found == [
        "{'a': {'b': 1}, 'c': {'b': 1}}",
        "line 2: the key 'a' stands twice (first in line 1); only one would count",
    ]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *RECIPE, *words])
    return capsys.readouterr().err


def test_recipes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(
        "trainer:\n  callbacks:\n    - class_path: ModelCheckpoint\n      init_args: {monitor: val/loss}\n"
        "  max_epochs: 1\n  callbacks: []\n"
    )
    assert f"{file.name}: line 6: the key 'callbacks' stands twice (first in line 2)" in refused(
        capsys, "-c", str(file)
    )
    file.write_text("data:\n  init_args:\n    x:\n" + "".join(f"      {line}\n" for line in bomb().splitlines()))
    assert f"{file.name}: line 8: with *d, aliases" in refused(capsys, "-c", str(file))
    file.write_text("class_path: Autoencoder\ninit_args:\n  latent_dim: 3\n  latent_dim: 4\n")
    assert "line 4: the key 'latent_dim' stands twice" in refused(capsys, "--model", str(file))


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--model.architecture", '{"class_path": "MLP", "class_path": "ConvNet"}', "class_path"),
        ("--trainer", "{max_epochs: 1, max_epochs: 2}", "max_epochs"),
        ("--trainer.callbacks", '[{"class_path": "X", "init_args": {"a": 1, "a": 2}}]', "a"),
        ("--data", '{"class_path": "HFDataModule", "init_args": {"path": "a", "path": "b"}}', "path"),
    ],
)
def test_values_on_the_command_line(capsys: pytest.CaptureFixture[str], option: str, value: str, key: str) -> None:
    assert f"the key '{key}' stands twice" in refused(capsys, option, value)


def test_anchors_and_merges_of_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(
        "trainer:\n  callbacks:\n    - class_path: EarlyStopping\n      init_args: &e {monitor: val/loss, mode: min}\n"
        "    - class_path: ModelCheckpoint\n      init_args: {<<: *e, save_last: true}\n"
    )
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *RECIPE, "-c", str(file), "--print_config"])
    callbacks: list[Any] = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert [c["init_args"]["monitor"] for c in callbacks] == ["val/loss"] * 2
    assert callbacks[1]["init_args"]["save_last"] is True


def test_entries_of_the_zoo(tmp_path: Path) -> None:
    name = "linear_mlp.digits_v1"
    text = (index.zoo_folder() / "entries" / f"{name}.yaml").read_text()
    file = tmp_path / f"{name}.yaml"
    file.write_text(text + "deprecated: another\n")
    with pytest.raises(InputError, match="the key 'deprecated' stands twice"):
        index.read_entry(file)


def test_other_programs_parse_as_they_did() -> None:
    from jsonargparse import ArgumentError, ArgumentParser

    from lightning_ae.cli.parsing import ToolParser

    for cls in (ArgumentParser, ToolParser):
        parser = cls(exit_on_error=False)
        parser.add_argument("--x", type=dict[str, int])
        if cls is ArgumentParser:
            assert parser.parse_args(["--x", "{a: 1, a: 2}"]).x == {"a": 2}
        else:
            with pytest.raises(ArgumentError, match="stands twice"):
                parser.parse_args(["--x", "{a: 1, a: 2}"])
