# %% [markdown]
"""
A dictionary of strokes
=======================

A code wider than the image, of which only few units may speak at a time: each of them comes to stand for a part, of
digits a stroke. Principal components, which all speak at a time, look like nothing in particular.

:Family: sparse, k-sparse, dictionary
:Use: interpretation
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import HFDataModule, KSparseAutoencoder, TopKDictionary
from lightning_ae.figures import caption
from lightning_ae.uses import sheet

# %% [markdown]
# Two ways to allow six units at a time out of 128: the k-sparse autoencoder (Makhzani & Frey 2014), whose decoder is
# its encoder transposed, and a dictionary that revives what died (Gao et al. 2024).

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("digits")
models = {
    "k-sparse": KSparseAutoencoder((1, 8, 8), 128, k=6, k_start=40, k_epochs=40, lr=3e-3),
    "dictionary": TopKDictionary((1, 8, 8), 128, k=6, dead_after=5000, lr=3e-3),
}
for model in models.values():
    trainer = pl.Trainer(max_epochs=80, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    model.eval()

# %% [markdown]
# What a unit adds to an image: twelve of those that are in use most often, and the first principal components.

# %%
train, test = (next(data.batches(split, 2000))["image"] for split in ("train", "test"))
pca = PCA(12).fit(train.flatten(1))


def shown(directions):
    """Directions (N, 64) as images: zero is grey."""
    return 0.5 + 0.5 * (directions / directions.abs().amax(dim=1, keepdim=True)).view(-1, 1, 8, 8)


@torch.no_grad()
def atoms(model):
    use = (model.encode(train) != 0).float().mean(dim=0)
    units = torch.eye(128)[use.topk(12).indices]
    return (model.decode(units) - model.decode(torch.zeros_like(units))).flatten(1)


rows = [shown(atoms(model)) for model in models.values()]
figure = sheet([*rows, shown(torch.from_numpy(pca.components_))], [*models, "PCA"])

# %% [markdown]
# In six numbers an image: which units speak differs from one image to the next, so they can say more than the same six
# principal components for all.

# %%
pca = PCA(6).fit(train.flatten(1))
of_pca = torch.from_numpy(pca.inverse_transform(pca.transform(test.flatten(1)))).view_as(test)


@torch.no_grad()
def error(reconstruction):
    return float((reconstruction - test).square().flatten(1).sum(dim=1).mean())


worst = max(error(model(test).detach()) for model in models.values())
caption(
    figure, "squared error of a test image, of the worse of both", worst, {"six principal components": error(of_pca)}
)
