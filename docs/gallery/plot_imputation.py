# %% [markdown]
"""
Gaps in a table, filled in
==========================

A table of orders: prices, weights, days, and what was ordered where. One number in ten is missing. A variational
autoencoder learns from what is known how the columns hang together, and says what is to be expected in the gaps.

:Family: variational
:Use: imputation
:Data: table with mixed columns
"""

# %%
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Tabular
from lightning_ae.figures import Figure, caption

# %% [markdown]
# Numbers of different scales, categories by name, and NaN where a value is missing.

# %%
rng = np.random.default_rng(0)
product, size = rng.integers(0, 4, 2000), rng.normal(0, 1, 2000)
known = pd.DataFrame(
    {
        "price": np.exp(3 + np.array([0.8, 2.4, 0.2, 1.6])[product] + 0.5 * size + rng.normal(0, 0.1, 2000)),
        "weight": np.array([2, 9, 5, 3])[product] + size + rng.normal(0, 0.3, 2000),
        "days": np.array([30, 10, 25, 5])[product] + 3 * size + rng.normal(0, 1, 2000),
    }
)
hidden = rng.random(known.shape) < 0.1
table = known.mask(hidden).assign(product=np.array(["lamp", "sofa", "chair", "desk"])[product])
table.head()

# %% [markdown]
# The data module reads the table, and says which options suit a model of it: a vector for each category, a likelihood
# for each kind of column.

# %%
pl.seed_everything(0, verbose=False)
kind = Tabular(categories=("product",), missing="masked", scaling="quantile")
data = HFDataModule(table, kind=kind, cache="memory")
model = VAE(**data.suits, latent_dim=4, lr=3e-3)
trainer = pl.Trainer(max_epochs=50, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# What is expected in the gaps. Principal components fill them in by turns: a projection, the gaps anew, a projection.

# %%
model.eval()
with torch.no_grad():
    expected = data.preprocess.inverse(model.decode(model.features(table))).numpy()
ours = expected[:, [data.input_columns.index(name) for name in known]]
truth, std = known.to_numpy(), known.to_numpy().std(axis=0)
dummies = pd.get_dummies(table["product"]).to_numpy(float)
numbers = (table[known.columns].fillna(table[known.columns].mean()) - truth.mean(axis=0)) / std
by_pca = np.hstack([numbers.to_numpy(), dummies])
gaps = np.hstack([hidden, np.zeros_like(dummies, bool)])
for _ in range(30):
    pca = PCA(3).fit(by_pca)
    by_pca[gaps] = pca.inverse_transform(pca.transform(by_pca))[gaps]


def error(filled):
    """The squared error in the gaps, as a share of the column's variance: 1 is the mean's."""
    return float((((filled - truth) / std)[hidden] ** 2).mean())


figure = Figure((9, 3), dpi=120, layout="constrained")
for axes, name, i in zip(figure.subplots(1, 3), known, range(3)):
    gap = hidden[:, i]
    axes.plot(truth[gap, i], ours[gap, i], ".", markersize=4)
    axes.axline((truth[gap, i].mean(),) * 2, slope=1, color="0.7", zorder=0)
    axes.set(xlabel=f"{name}, hidden", ylabel="filled in")
others = {
    "three principal components": error(by_pca[:, :3] * std + truth.mean(axis=0)),
    "the column's mean": error(np.broadcast_to(table[known.columns].mean(), truth.shape)),
}
caption(figure, "squared error in the gaps, of the column's variance", error(ours), others)
