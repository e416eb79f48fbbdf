# %% [markdown]
"""
A deep autoencoder keeps more in as many numbers
================================================

Sixteen numbers for an image of clothes: principal components are the best that linear maps can do. Layers with a
non-linearity between them can do better, since images of clothes fill no subspace (Hinton & Salakhutdinov 2006).

:Family: undercomplete, deep
:Use: dimension reduction
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import Autoencoder, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.figures import caption
from lightning_ae.parts import CosineDecay
from lightning_ae.uses import sheet

# %% [markdown]
# The data are a part of Fashion-MNIST that comes with the package: 6000 images to learn from and 1000 to test with.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("fashion")
model = Autoencoder(
    input_shape=(1, 28, 28), latent_dim=16, architecture=MLP(hidden=(256, 128)), lr=2e-3, lr_schedule=CosineDecay()
)
model

# %% [markdown]
# Two dozen passes over the images, with a learning rate that falls to zero.

# %%
trainer = pl.Trainer(max_epochs=24, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# Both are judged on images that neither has seen.

# %%
train, test = (next(data.batches(split, 6000))["image"] for split in ("train", "test"))
pca = PCA(16, random_state=0).fit(train.flatten(1))
with torch.no_grad():
    ours = model.eval()(test)
theirs = torch.from_numpy(pca.inverse_transform(pca.transform(test.flatten(1)))).view_as(test)


def error(reconstruction):
    return float((reconstruction - test).square().flatten(1).sum(dim=1).mean())


figure = sheet([each[:12] for each in (test, ours, theirs)], ["test images", "autoencoder", "PCA"])
caption(figure, "squared error of a test image", error(ours), {"16 principal components": error(theirs)})
