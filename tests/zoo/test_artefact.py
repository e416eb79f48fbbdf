"""Hostile and broken artefacts: refused with a reason, before anything runs or takes memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_ae import InputError, zoo
from lightning_ae.zoo import artefact, index
from lightning_ae.zoo.artefact import plain_weights
from lightning_ae.zoo.schema import Entry

NAME = "ae_mlp.digits_v1"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of an artefact."""
    return Path(shutil.copytree(index.zoo_folder() / "weights" / NAME, tmp_path / "artefact"))


def change(folder: Path, edit: Change) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_copy_loads_as_the_entry_does(folder: Path) -> None:
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(zoo.load(folder)(x), zoo.load(NAME)(x))
    assert not zoo.load(folder).training


def test_loading_draws_nothing() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    zoo.load(NAME)
    assert torch.equal(torch.rand(2), expected)


class Payload:
    """What would leave a mark if a pickle were read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_under_a_safetensors_name(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    data = pickle.dumps(Payload(mark))
    pickle.loads(data)
    assert mark.exists()  # the payload works
    mark.unlink()
    for kind in ("pickle", "torch"):
        if kind == "pickle":
            (folder / "model.safetensors").write_bytes(data)
        else:
            torch.save({"weight": Payload(mark)}, folder / "model.safetensors")
            assert zipfile.is_zipfile(folder / "model.safetensors")
        with pytest.raises(InputError, match="holds no safetensors file"):
            zoo.load(folder)
        assert not mark.exists()


def test_a_checkpoint_is_no_artefact(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"state_dict": Payload(mark)}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="is a file, not an artefact"):
        zoo.load(tmp_path / "model.ckpt")
    from lightning_ae import load_model

    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_model(tmp_path / "model.ckpt")
    assert not mark.exists()


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'vae_mlp.digits_v1'"):
        zoo.load("vae_mpl.digits_v1")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c.update(model="os.system"), "model"),
        (lambda c: c.update(model="aee"), "did you mean"),
        (lambda c: c.update(surprise=1), "surprise: Extra inputs"),
        (lambda c: c["config"].update(surprise=1), "unknown argument of Autoencoder"),
        (lambda c: c["config"].update(self=1), "unknown argument of Autoencoder"),
        (lambda c: c["config"]["architecture"].update(class_path="os.system"), "os.system"),
        (lambda c: c["config"]["architecture"].update(class_path="subprocess.Popen"), "no subclass of Architecture"),
        (lambda c: c["config"]["architecture"].update(class_path="__import__('os')"), "no import path"),
        (lambda c: c["config"]["architecture"].update(class_path="antigravity.fly"), "is not imported"),
        (lambda c: c["config"]["architecture"]["init_args"].update(surprise=1), "unknown option of MLP"),
        (lambda c: c["config"].update(latent_dim=10**12), "at most 1048576"),
        (lambda c: c["config"].update(latent_dim=1 << 20), "the shape"),
        (lambda c: c["config"].update(latent_dim=9), "the shape"),
        (lambda c: c["config"].update(latent_dim="many"), "latent_dim"),
        (lambda c: c["config"].update(lr=float("inf")), "number"),
        (lambda c: c["config"].update(input_shape=[1 << 20] * 3), "the model takes the input_shape"),
        (lambda c: c["config"].update(input_shape="many"), "positive integers"),
        (lambda c: c["preprocess"].update(size=[16384, 16384]), "the model takes the input_shape"),
        (lambda c: c["preprocess"].update(channels=3), "the model takes the input_shape"),
        (lambda c: c.update(preprocess={"kind": "tabular"}), "preprocess gives vectors"),
        (lambda c: c["config"].pop("input_shape"), "input_shape"),
        (lambda c: c["config"]["architecture"]["init_args"].update(hidden=[8] * 100_000), "a list of 100000"),
        (lambda c: c["config"]["architecture"]["init_args"].update(hidden=[8] * 250), "more layers"),
        (
            lambda c: c["config"].update(
                architecture={
                    "class_path": "lightning_ae.architectures.ResNet",
                    "init_args": {"channels": [8], "blocks": 1 << 20},
                }
            ),
            "more layers",
        ),
        (lambda c: c.update(name="../../x"), "name"),
        (lambda c: c["preprocess"].update(size=[10**9, 10**9]), "size"),
    ],
)
def test_configs_that_are_refused(folder: Path, edit: Change, reason: str) -> None:
    change(folder, edit)
    start = time.perf_counter()
    with pytest.raises(InputError, match=reason):
        zoo.load(folder)
    assert time.perf_counter() - start < 10  # nothing that size was built


def test_a_config_that_nests_without_end(folder: Path) -> None:
    (folder / "config.json").write_text('{"config": ' + '{"a": ' * 100_000 + "1" + "}" * 100_001)
    with pytest.raises(InputError, match="no JSON|nests deeper"):
        zoo.load(folder)
    change_to: dict[str, Any] = {}
    config = json.loads((index.zoo_folder() / "weights" / NAME / "config.json").read_text())
    config["config"]["architecture"] = change_to
    for _ in range(20):
        change_to["a"] = {}
        change_to = change_to["a"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="nests deeper"):
        zoo.load(folder)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "dtype", "truncated"])
def test_weights_that_do_not_fit(folder: Path, fault: str) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    reasons = {"missing": f"lack {name}", "extra": "add surprise", "shape": "has the shape", "dtype": "has the dtype"}
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        if fault == "missing":
            del weights[name]
        elif fault == "extra":
            weights["surprise"] = torch.zeros(1)
        elif fault == "shape":
            weights[name] = weights[name][:-1].contiguous()
        else:
            weights[name] = weights[name].half()
        save_file(weights, file)
    with pytest.raises(InputError, match=reasons.get(fault, "no safetensors file")):
        zoo.load(folder)


def test_an_artefact_without_its_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json.* cannot be read"):
        zoo.load(folder)


@pytest.mark.parametrize("name", [n for n in index.names() if n.endswith("digits_v1")])
def test_shared_tensors_are_written_once_and_loaded_as_one(name: str) -> None:
    model = zoo.load(name)
    shared = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    assert len(plain_weights(model)) == len(shared)
    parameters = sum(parameter.numel() for parameter in model.parameters())  # counts a shared one once
    buffers = sum(buffer.numel() for name, buffer in model.named_buffers() if name in model.state_dict())
    assert sum(tensor.numel() for tensor in plain_weights(model).values()) == parameters + buffers


# ---- files that are large, or none -----------------------------------------------------------------------------------


def test_a_folder_of_links(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in ("config.json", "model.safetensors"):
        (snapshot / file).symlink_to(folder / file)
    assert zoo.load(snapshot).latent_dim == zoo.load(NAME).latent_dim


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "sparse"])
def test_files_that_are_none_or_huge(folder: Path, file: str, kind: str, in_time: Any) -> None:
    place = folder / file
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        with open(place, "wb") as opened:
            opened.truncate(200 << 30)
    reason = "has 214748364800 bytes; at most" if kind == "sparse" else "is no plain file"
    with pytest.raises(InputError, match=reason):
        in_time(lambda: zoo.load(folder))


def packed(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file of that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def tensor(shape: Any, start: Any = 0, end: Any = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HEADERS: dict[str, tuple[bytes, str]] = {
    "many empty tensors": (packed({str(i): tensor([0]) for i in range(20_000)}), "lists 20000 tensors"),
    "a header of no end": (packed({}, size=1 << 62), "its header has"),
    "longer than the file": (packed({"a": tensor([1], 0, 4)}, size=1 << 20), "holds no safetensors file"),
    "less than a size": (b"\0\0\0", "holds no safetensors file"),
    "nothing": (b"", "holds no safetensors file"),
    "zeros": (bytes(1 << 16), "holds no safetensors file"),
    "a key twice": (packed(f'{{"a":{EMPTY},"a":{EMPTY}}}'.encode()), "the key 'a' stands twice"),
    "a key of a tensor twice": (packed(f'{{"a":{EMPTY[:-1]},"shape":[1]}}}}'.encode()), "the key 'shape' stands twice"),
    "a list": (packed([1, 2]), "holds no safetensors file"),
    "deep": (packed(b"[" * 100_000), "holds no safetensors file"),
    "no JSON": (packed(b"{'a'"), "holds no safetensors file"),
    "no text": (packed(b"\xff\xfe{}"), "holds no safetensors file"),
    "no tensor": (packed({"a": 3}), "holds no safetensors file"),
    "no shape": (packed({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), "the shape of a"),
    "a shape of many": (packed({"a": tensor([1] * 100_000, 0, 4)}, bytes(4)), "the shape of a"),
    "a negative shape": (packed({"a": tensor([-1, -1], 0, 4)}, bytes(4)), "holds no safetensors file"),
    "a broken shape": (packed({"a": tensor([1.5], 0, 4)}, bytes(4)), "holds no safetensors file"),
    "an overflowing shape": (packed({"a": tensor([1 << 62, 4], 0, 0)}), "holds no safetensors file"),
    "a shape beyond 64 bits": (packed({"a": tensor([1 << 80], 0, 0)}), "holds no safetensors file"),
    "nothing times much": (packed({"a": tensor([0, 1 << 63 - 1])}), "holds no safetensors file|its weights"),
    "a huge shape": (packed({"a": tensor([1 << 40], 0, 4)}, bytes(4)), "holds no safetensors file"),
    "negative offsets": (packed({"a": tensor([1], -4, 0)}, bytes(4)), "holds no safetensors file"),
    "reversed offsets": (packed({"a": tensor([1], 4, 0)}, bytes(4)), "holds no safetensors file"),
    "overflowing offsets": (packed({"a": tensor([1], (1 << 64) - 2, 2)}, bytes(4)), "holds no safetensors file"),
    "overlapping": (packed({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)), "holds no safetensors file"),
    "the same twice": (packed({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, bytes(8)), "holds no safetensors file"),
    "a hole": (packed({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)), "holds no safetensors file"),
    "more than it says": (packed({"a": tensor([1], 0, 4)}, bytes(8)), "holds no safetensors file"),
    "beyond the end": (packed({"a": tensor([2], 0, 8)}, bytes(4)), "holds no safetensors file"),
    "an unknown type": (packed({"a": tensor([1], 0, 4, "PY")}, bytes(4)), "holds no safetensors file"),
    "a number for a type": (packed({"a": tensor([1], 0, 4) | {"dtype": 3}}, bytes(4)), "holds no safetensors file"),
    "another size": (packed({"a": tensor([3], 0, 4)}, bytes(4)), "holds no safetensors file"),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "holds no safetensors file"),
    "an empty name": (packed({"": tensor([1], 0, 4)}, bytes(4)), "its weights"),
    "half a byte": (packed({"a": tensor([2], 0, 1, "F4")}, bytes(1)), "holds no safetensors file|its weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_of_all_sorts(folder: Path, case: str) -> None:
    data, reason = HEADERS[case]
    (folder / "model.safetensors").write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(InputError, match=reason):
        zoo.load(folder)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", ["a million empty tensors", "metadata"])
def test_headers_that_take_much_to_read(folder: Path, kind: str) -> None:
    if kind == "metadata":
        data = packed({"__metadata__": {"a": "x" * (100 << 20)}})
    else:
        data = packed(("{" + ",".join(f'"{i}":{EMPTY}' for i in range(1_000_000)) + "}").encode())
    (folder / "model.safetensors").write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(InputError, match=f"its header has {len(data) - 8} bytes; at most"):
        zoo.load(folder)
    assert time.perf_counter() - start < 5


def test_a_key_that_stands_twice_in_the_config(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"schema": 1,', 1))
    with pytest.raises(InputError, match="the key 'schema' stands twice"):
        zoo.load(folder)


# ---- of later versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "later"), [("99.0", True), ("0.0.1", False), (None, False)])
def test_an_entry_of_a_later_version_says_so_where_it_does_not_load(version: str | None, later: bool) -> None:
    entry, weights = artefact.read(NAME)
    assert isinstance(entry, Entry)
    assert entry.recipe is not None
    versions = {} if version is None else {"lightning_ae": version}
    recipe = entry.recipe.model_copy(update={"versions": versions})
    for changed in ({"model": "novel"}, {"config": {**entry.config, "novelty": 1}}):
        with pytest.raises(InputError) as caught:
            artefact.build(entry.model_copy(update={"recipe": recipe, **changed}), weights, NAME)
        assert ("it was written by lightning_ae 99.0" in caught.value.hint) == later


def test_a_config_of_a_later_schema_says_so(folder: Path) -> None:
    change(folder, lambda config: config.update(schema=2))
    with pytest.raises(InputError, match="schema: .*\n  hint: it was written by a later version of lightning_ae"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("not-here", "is not installed\n  hint: pip install not"),
        ("pytest", "(?s)is installed and .*install --upgrade py"),
    ],
)
def test_a_model_of_a_package_that_lacks_it(package: str, message: str, folder: Path) -> None:
    change(folder, lambda config: config.update(model="novel", requires=package))
    with pytest.raises(InputError, match=message):
        zoo.load(folder)
