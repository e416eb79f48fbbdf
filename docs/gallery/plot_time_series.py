# %% [markdown]
"""
Faults of a machine, in time
============================

Three sensors of a machine swing together. A sequence model learns how, from a log without faults; in another log one of
them falls out of step now and then. By itself it looks as ever: what is strange is how it goes with the others.

:Family: variational
:Use: anomaly scores
:Data: time series
"""

# %%
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Sequence
from lightning_ae.figures import Figure, caption

# %% [markdown]
# A row for each step of time. In a fault the hum is out of step for 20 steps.

# %%


def log(steps, seed, faults=0):
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(rng.normal(1 / 25, 1 / 250, steps))
    fault, late = np.zeros(steps, bool), np.zeros(steps)
    for start in rng.choice(steps // 100, faults, replace=False) * 100 + 30:
        fault[start : start + 20], late[start : start + 20] = True, rng.uniform(1.5, 4.5)
    values = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase - late)], axis=1) + rng.normal(0, 0.1, (steps, 3))
    return pd.DataFrame({"load": values[:, 0], "speed": values[:, 1], "hum": values[:, 2], "fault": fault})


pl.seed_everything(0, verbose=False)
test = log(3000, 1, 10)
kind = Sequence(length=16, columns=("load", "speed", "hum"))
data = HFDataModule({"train": log(4000, 0), "test": test}, kind=kind, label="fault", cache="memory")
model = VAE(**data.suits, latent_dim=4, lr=2e-3)
trainer = pl.Trainer(max_epochs=30, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# A score for each window, in nats; red where a fault touches the window.

# %%
model.eval()
scores = torch.cat([found.score for found in model.score_rows(data, "test", draws=8)]).numpy()
row = data.keys("test")["row"]
fault = np.array([test["fault"][first : first + 16].any() for first in row])
figure = Figure((10, 3), dpi=120, layout="constrained")
axes = figure.subplots()
axes.plot(row, scores, linewidth=0.7)
axes.plot(row[fault], scores[fault], "r.", markersize=3, label="touched by a fault")
axes.set(xlabel="first row of the window", ylabel="score (nats)")
axes.legend(frameon=False)

# %% [markdown]
# Beside it the squared error of as many principal components of windows, which take each sensor's swings as they come.

# %%
windows = [torch.cat([model.read(batch)[0] for batch in data.batches(split, 512)]) for split in ("train", "test")]
train, new = (each.flatten(1).numpy() for each in windows)
pca = PCA(4).fit(train)
errors = ((new - pca.inverse_transform(pca.transform(new))) ** 2).sum(axis=1)
area, of_pca = (float(roc_auc_score(fault, each)) for each in (scores, errors))
caption(figure, "area under the curve of windows that a fault touches", area, {"PCA": of_pca}, better="higher")
