# %% [markdown]
"""
A codec of sound
================

Windows of a waveform become indices of codebooks, each of which codes what those before it leave (Zeghidour et al.
2021): the more of them are kept, the more bits a second, and the nearer what comes back is to what went in.

:Family: discrete
:Use: compression
:Data: sound, sequences
"""

# %%
import math

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_ae import HFDataModule, ResidualVQVAE
from lightning_ae.architectures import SequenceNet
from lightning_ae.data import Sequence
from lightning_ae.figures import Figure, caption
from lightning_ae.parts import CosineDecay

# %% [markdown]
# Plucked strings at 4000 samples a second: four notes a second, whose partials decay.

# %%
RATE, LENGTH = 4000, 256


def strings(seconds, seed):
    rng = np.random.default_rng(seed)
    sound, t = np.zeros(seconds * RATE), np.arange(RATE // 2) / RATE
    for start in range(0, len(sound) - len(t), RATE // 4):
        pitch, loud = 110 * 2 ** (rng.integers(0, 25) / 12), rng.uniform(0.4, 1)
        for k in range(1, 5):
            phase = 2 * math.pi * (k * pitch * t + rng.random())
            sound[start : start + len(t)] += loud / k * np.exp(-3 * k * t) * np.sin(phase)
    return {"sound": sound}


pl.seed_everything(0, verbose=False)
kind = Sequence(length=LENGTH, stride=LENGTH, columns=("sound",))
data = HFDataModule({"train": strings(80, 0), "test": strings(10, 1)}, kind=kind, cache="memory", batch_size=32)
network = SequenceNet(channels=(16, 32), dilations=(1, 3), stride=4, code="map")
options = {**data.suits, "architecture": network, "layers": 4, "codes": 64}
untrained = ResidualVQVAE(**options)
model = ResidualVQVAE(**options, lr=4e-3, lr_schedule=CosineDecay())
trainer = pl.Trainer(max_epochs=10, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# What comes back of a recording that the model has not heard, by all four codebooks and by the first alone.

# %%
x = torch.cat([model.read(batch)[0] for batch in data.batches("test", 512)])


@torch.no_grad()
def kept(model, layers):
    books = list(model.codebook.layers)[:layers]
    indices = model.encode_indices(x).unbind(1)
    return model.decode(sum(book.lookup(i) for book, i in zip(books, indices)))


def snr(y):
    return 10 * math.log10(float(x.square().sum() / (x - y).square().sum()))


model.eval(), untrained.eval()
bits = float(model.rate(x[:1])) * RATE / LENGTH
part = slice(RATE // 2, RATE // 2 + 400)
figure = Figure((9, 3), dpi=120, layout="constrained")
axes = figure.subplots()
axes.plot(x.flatten()[part], color="0.7", linewidth=3, label="the sound")
for layers in (1, 4):
    y = kept(model, layers)
    axes.plot(y.flatten()[part], linewidth=1, label=f"{layers * bits / 4:.0f} bits a second: {snr(y):.1f} dB")
axes.set(xlabel="sample", ylabel="standardised value")
axes.legend(frameon=False, ncols=3, loc="lower center")
words = f"signal-to-noise ratio at {bits:.0f} bits a second, where the sound has {16 * RATE}"
caption(
    figure, words, snr(kept(model, 4)),
    {"the untrained network": snr(kept(untrained, 4)), "silence": 0.0}, better="higher", unit=" dB",
)  # fmt: skip
