# %% [markdown]
"""
A linear autoencoder is principal component analysis
====================================================

With one linear layer each way and the squared error, nothing is left to learn but a subspace, and the best one is that
of the first principal components (Baldi & Hornik 1989). Gradient descent finds it, too.

:Family: linear
:Use: dimension reduction
:Data: images
"""

# %%
import numpy as np
import pytorch_lightning as pl
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from lightning_ae import HFDataModule, LinearAutoencoder
from lightning_ae.figures import caption
from lightning_ae.uses import sheet

# %% [markdown]
# Handwritten digits of 8 x 8 pixels, and eight numbers for each of them. The untrained model is kept to compare with.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("digits")
untrained = LinearAutoencoder(input_shape=(1, 8, 8), latent_dim=8)
model = LinearAutoencoder(input_shape=(1, 8, 8), latent_dim=8)
trainer = pl.Trainer(max_epochs=200, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# The decoder's columns span a subspace. The angle between it and that of the principal components, which scikit-learn
# computes without any training, is 90 degrees at the most; and reconstructions are alike to the eye.

# %%
x = next(data.batches("train", 2000))["image"]
pca = PCA(8, svd_solver="full").fit(x.flatten(1))


def angle(model):
    with torch.no_grad():
        spanned = model.decode(torch.eye(8)) - model.decode(torch.zeros(8, 8))
    return np.rad2deg(subspace_angles(spanned.flatten(1).T.numpy(), pca.components_.T).max())


test = next(data.batches("test", 12))["image"]
with torch.no_grad():
    ours = model.eval()(test)
theirs = torch.from_numpy(pca.inverse_transform(pca.transform(test.flatten(1)))).view_as(test)
figure = sheet([test, ours, theirs], ["test images", "linear autoencoder", "PCA"])
caption(
    figure, "largest angle to the principal subspace", angle(model), {"the untrained network": angle(untrained)},
    unit=" degrees",
)  # fmt: skip
