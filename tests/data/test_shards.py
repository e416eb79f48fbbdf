"""Folders of tar files of samples, as webdataset writes them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

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


@pytest.mark.parametrize(
    ("members", "link", "message"),
    [
        ([*SAMPLES, ("../6.png", b""), ("../6.cls", b"1")], "", r"'\.\./6.png', which lies outside"),
        ([*SAMPLES, ("/6.png", b"")], "", "'/6.png', which lies outside"),
        (SAMPLES, "6.png", "'6.png', which is a link"),
        (SAMPLES[:-1], "", "of the sample '5' png, and of the first one, '0', cls, png"),
        ([*SAMPLES, *SAMPLES[:2]], "", "the sample '0' more than once"),
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
