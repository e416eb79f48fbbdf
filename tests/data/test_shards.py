"""Folders of tar files of samples, as webdataset writes them."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from lightning_ae import HFDataModule
from lightning_ae.errors import InputError

Members = list[tuple[str, bytes]]


def png(level: int) -> bytes:
    to = io.BytesIO()
    PIL.Image.fromarray(np.full((4, 4), level, np.uint8)).save(to, "PNG")
    return to.getvalue()


SAMPLES: Members = [member for i in range(6) for member in ((f"{i}.png", png(i)), (f"{i}.cls", b"%d" % (i % 3)))]


def packed(folder: Path, members: Members, link: str = "", name: str = "train-0.tar") -> Path:
    with tarfile.open(folder / name, "w") as to:
        for each, content in members:
            entry = tarfile.TarInfo(each)
            entry.size = len(content)
            to.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "0.png"
            to.addfile(entry)
    return folder


def test_images_labels_and_keys(tmp_path: Path) -> None:
    packed(tmp_path, SAMPLES[:8])
    packed(tmp_path, SAMPLES[8:], name="train-1.tar")
    data = HFDataModule(tmp_path, val_fraction=0, cache="memory")
    batch = next(data.batches("train"))
    assert torch.equal((255 * batch["png"][:, 0, 0, 0]).round(), torch.arange(6.0))
    assert data.label == "cls"
    assert batch["cls"].tolist() == [0, 1, 2] * 2
    assert data.splits["train"]["__key__"][:] == [str(i) for i in range(6)]


def described(label: Any, **beside: Any) -> Members:
    return [(f"{i}.json", json.dumps({"label": label(i), **beside}).encode()) for i in range(6)]


def in_turn(*members: Members) -> Members:
    return [each[i] for i in range(6) for each in members]


IMAGES, CLASSES = SAMPLES[::2], SAMPLES[1::2]


def test_fields_of_json_are_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packed(tmp_path, in_turn(IMAGES, described(lambda i: ("cat", "dog")[i % 2], caption="a photo", at={"x": 0.5})))
    with caplog.at_level(logging.INFO):
        data = HFDataModule(tmp_path, val_fraction=0, cache="memory")
        batch = next(data.batches("train"))
    said = [each.getMessage() for each in caplog.records if "fields" in each.getMessage()]
    assert said == ["of the samples' json the fields are columns: json.label, json.caption, json.at.x"]
    assert (data.label, data.class_names) == ("json.label", ["cat", "dog"])
    assert batch["json.label"].tolist() == [0, 1] * 3
    assert batch["json.at.x"].tolist() == [0.5] * 6
    assert torch.equal((255 * batch["png"][:, 0, 0, 0]).round(), torch.arange(6.0))


def test_a_class_of_its_own_goes_before_a_field(tmp_path: Path) -> None:
    packed(tmp_path, in_turn(IMAGES, CLASSES, described(lambda i: i % 2)))
    data = HFDataModule(tmp_path, val_fraction=0, cache="memory")
    assert (data.label, data.labels("train").tolist()) == ("cls", [0, 1, 2] * 2)
    data = HFDataModule(tmp_path, val_fraction=0, cache="memory", label="json.label")
    assert data.labels("train").tolist() == [0, 1] * 3


def test_a_stream_says_that_it_leaves_fields_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packed(tmp_path, in_turn(IMAGES, described(lambda i: i % 2)))
    data = HFDataModule(tmp_path, val_fraction=0, cache="none", streaming=True)
    with caplog.at_level(logging.INFO):
        data.prepare_data()
    assert data.label is None
    assert sum("left out: json (a struct)" in each.getMessage() for each in caplog.records) == 1


@pytest.mark.parametrize(
    ("members", "link", "message"),
    [
        ([*SAMPLES, ("../6.png", b""), ("../6.cls", b"1")], "", r"'\.\./6.png', which lies outside"),
        ([*SAMPLES, ("/6.png", b"")], "", "'/6.png', which lies outside"),
        (SAMPLES, "6.png", "'6.png', which is a link"),
        (SAMPLES[:-1], "", "of the sample '5' png, and of the first one, '0', cls, png"),
        ([*SAMPLES, *SAMPLES[:2]], "", "the sample '0' more than once"),
        ([("0.json", b"{}"), ("1.json", b"{label: 1}")], "", "'1.json', which is no JSON: Expecting property name"),
        ([("0.json", b"\xff\xff")], "", "'0.json', which is no JSON: .*utf"),
        ([*SAMPLES[:4], SAMPLES[4], SAMPLES[6], SAMPLES[5], SAMPLES[7]], "", "the sample '2' more than once|'2' png"),
    ],
)
def test_what_is_refused(tmp_path: Path, members: Members, link: str, message: str) -> None:
    with pytest.raises(InputError, match=f"train-0.tar.*{message}"):
        HFDataModule(packed(tmp_path, members, link), val_fraction=0, cache="memory").setup("fit")


@pytest.mark.parametrize("kept", [0.3, 0.55, 0.98])
def test_one_that_is_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    packed(tmp_path, SAMPLES)
    packed(tmp_path, [(f"1{name}", content) for name, content in SAMPLES], name="train-1.tar")
    file = tmp_path / "train-1.tar"
    end = 512 * 2 * len(SAMPLES)  # a header and a block each; then the end's zeros, which may be missing
    file.write_bytes(file.read_bytes()[: int(kept * end)])
    with pytest.raises(InputError, match="train-1.tar.*cannot be read after '1"):
        HFDataModule(tmp_path, val_fraction=0, cache="memory").setup("fit")
