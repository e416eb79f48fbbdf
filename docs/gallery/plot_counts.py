# %% [markdown]
"""
Cells by their counts
=====================

Single cells are counted gene by gene, and most counts are zero. A variational autoencoder whose likelihood is the
negative binomial, with the cell's depth as an offset, takes them as they are, where principal components need them
scaled and logarithms taken.

:Family: variational
:Use: visualisation, features for a classifier
:Data: counts
"""

# %%
import numpy as np
import pytorch_lightning as pl
import torch
from scipy import sparse
from sklearn.decomposition import PCA

from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Counts
from lightning_ae.figures import caption
from lightning_ae.metrics import knn_error
from lightning_ae.uses import projection_figure

# %% [markdown]
# Counts of 2000 cells of six types over 300 genes, in depths that differ tenfold: a sparse matrix, and labels.

# %%
rng = np.random.default_rng(0)
types = rng.integers(0, 6, 2000)
share = rng.dirichlet(np.full(300, 0.3))
shares = share * np.exp(rng.normal(0, 0.7, (6, 300)) * (rng.random((6, 300)) < 0.2))
depth = np.exp(rng.uniform(np.log(150), np.log(1500), 2000))
mean = depth[:, None] * (shares / shares.sum(axis=1, keepdims=True))[types]
cells = sparse.csr_matrix(rng.poisson(rng.gamma(2.0, mean / 2.0)))

pl.seed_everything(0, verbose=False)
data = HFDataModule((cells, types), kind=Counts(), test_fraction=0.25, cache="memory")
model = VAE(**data.suits, latent_dim=8, lr=3e-3)
trainer = pl.Trainer(max_epochs=40, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# Eight numbers for each cell. Both are drawn on their first two principal components, cells of the test split alone.

# %%
model.eval()
inputs, codes, labels = {}, {}, {}
for split in ("train", "test"):
    read = [model.read(batch) for batch in data.batches(split, 500)]
    with torch.no_grad():
        codes[split] = torch.cat([model.encode(x, **given) for x, _, given in read])
    x = torch.cat([x for x, _, _ in read])
    inputs[split] = (1e4 * x / x.sum(dim=1, keepdim=True).clamp(min=1)).log1p()
    labels[split] = data.labels(split)
pca = PCA(8, random_state=0).fit(inputs["train"])
projected = {split: torch.from_numpy(pca.transform(x)) for split, x in inputs.items()}


def error(of):
    return 100 * knn_error(of["train"], labels["train"], of["test"], labels["test"])


panels = {"autoencoder": codes["test"], "PCA of logarithms": projected["test"]}
figure = projection_figure(panels, labels["test"], None)
others = {"eight principal components of logarithms": error(projected)}
caption(figure, "error of a cell's five nearest neighbours about its type", error(codes), others, unit=" %")
