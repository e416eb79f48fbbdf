"""A codec of sound: waveforms as indices of residual codebooks, and how far what comes back is from what went in.

    python recipes/uses/codec.py
    python recipes/uses/codec.py --layers 8

It makes plucked strings, notes whose partials decay, at 8000 samples a second, learns a codec of windows of them, and
says for each number of layers that are kept the bits a second, the signal-to-noise ratio in dB and the distance of the
spectra on strings that it did not see. One recording more is written as it was and as it comes back.
"""

from __future__ import annotations

import argparse
import math
import wave
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import HFDataModule, ResidualVQVAE
from lightning_ae.architectures import SequenceNet
from lightning_ae.callbacks import CodebookMetrics
from lightning_ae.data import Sequence
from lightning_ae.parts import CosineDecay, MultiScaleSpectral

FOLDER = Path("uses")
RATE, LENGTH = 8000, 512


def strings(seconds: float, seed: int) -> np.ndarray:
    """Four notes a second, each of six partials that decay the faster the higher they are."""
    rng = np.random.default_rng(seed)
    found, note = np.zeros(int(seconds * RATE)), RATE // 4
    for start in range(0, len(found), note):
        t = np.arange(min(2 * note, len(found) - start)) / RATE
        pitch, loud = 110 * 2 ** (rng.integers(0, 25) / 12), rng.uniform(0.4, 1)
        for k in range(1, 7):
            phase = rng.uniform(0, 2 * math.pi)
            found[start : start + len(t)] += loud / k * np.exp(-3 * k * t) * np.sin(2 * math.pi * k * pitch * t + phase)
    return found


@torch.no_grad()
def kept(model: ResidualVQVAE, x: Tensor, layers: int) -> Tensor:
    """What the first layers of indices say of windows (B, 1, LENGTH)."""
    indices = model.encode_indices(x)
    books = list(model.codebook.layers)[:layers]
    z = torch.stack([book.lookup(i) for book, i in zip(books, indices.unbind(1), strict=False)]).sum(dim=0)
    return model.decode(z)


def snr(x: Tensor, y: Tensor) -> float:
    """Of all windows together, in dB."""
    return 10 * math.log10(float(x.square().sum() / (x - y).square().sum()))


def write(path: Path, x: np.ndarray) -> None:
    """16 bits a sample."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((32767 * x / max(1.0, np.abs(x).max())).astype("<i2").tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="codebooks, each of what those before leave")
    parser.add_argument("--codes", type=int, default=128, help="of each codebook")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    FOLDER.mkdir(exist_ok=True)
    rows = {"train": {"sound": strings(120, seed=0)}, "test": {"sound": strings(20, seed=1)}}
    data = HFDataModule(
        rows, kind=Sequence(length=LENGTH, stride=LENGTH, columns=("sound",)), cache="memory", batch_size=32
    )
    model = ResidualVQVAE(
        **{**data.suits, "architecture": SequenceNet(channels=(24, 48), dilations=(1, 3), stride=4, code="map")},
        layers=args.layers,
        codes=args.codes,
        spectral=MultiScaleSpectral((32, 128, 512), weight=10.0),
        lr=4e-3,
        lr_schedule=CosineDecay(),
    )
    trainer = pl.Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[CodebookMetrics()],
    )  # fmt: skip
    trainer.fit(model, data)

    model = model.cpu().eval()
    x = torch.cat([model.read(batch)[0] for batch in data.batches("test", 256)])
    distance, bits = MultiScaleSpectral((32, 128, 512)), float(model.rate(x[:1])) * RATE / LENGTH / args.layers
    for layers in range(1, args.layers + 1):
        y = kept(model, x, layers)
        print(
            f"{layers} of {args.layers} layers {layers * bits:7.0f} bits/s {snr(x, y):6.2f} dB SNR, "
            f"spectral distance {float(distance(y, x).mean()):.3f}"
        )
    print(f"the sound itself {16 * RATE:8.0f} bits/s, in 16 bits a sample")
    print(f"{100 * float(trainer.callback_metrics['val/codebook_use']):.0f} % of the codes are in use")
    long = torch.from_numpy(strings(4, seed=2)).float()[: 4 * RATE // LENGTH * LENGTH].view(-1, 1, LENGTH)
    scaled = data.preprocess(long) if data.preprocess is not None else long
    back = kept(model, scaled, args.layers)
    back = data.preprocess.inverse(back) if data.preprocess is not None else back
    write(FOLDER / "strings.wav", long.flatten().numpy())
    write(FOLDER / "strings_coded.wav", back.flatten().numpy())
    print(f"written: {FOLDER / 'strings.wav'} and {FOLDER / 'strings_coded.wav'}")


if __name__ == "__main__":
    main()
