# %% [markdown]
"""
From one digit to another
=========================

Half-way between two images lies a double exposure. Half-way between their codes lies a digit, and the difference
between the codes of two kinds can be added to others.

:Family: variational
:Use: interpolation, attribute vectors
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.figures import caption
from lightning_ae.metrics import nearest_training
from lightning_ae.uses import attribute_figure, attribute_vector, interpolate, sheet

# %% [markdown]
# A small variational autoencoder.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("digits")
model = VAE(input_shape=(1, 8, 8), latent_dim=8, architecture=MLP(hidden=(256, 256)), lr=2e-3)
trainer = pl.Trainer(max_epochs=60, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# Between a zero and a one, and so on; below each path that of principal components, which is a fade.

# %%
train, test = (next(data.batches(split, 2000)) for split in ("train", "test"))
x, labels = test["image"], test["label"]
a, b = (torch.cat([x[labels == c][:20] for c in digits]) for digits in ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9)))
ours = interpolate(model, a, b, 9)
pca = PCA(8).fit(train["image"].flatten(1))
ends = (torch.from_numpy(pca.transform(each.flatten(1))) for each in (a, b))
between = torch.lerp(*(each.float()[:, None] for each in ends), torch.linspace(0, 1, 9)[None, :, None])
theirs = torch.from_numpy(pca.inverse_transform(between.flatten(0, 1))).float().view_as(ours)
rows = [each[20 * pair] for pair in range(3) for each in (ours, theirs)]
figure = sheet(rows, ["codes", "PCA"] * 3)

# %% [markdown]
# The middle of a path should look like data: its squared distance to the nearest image of the training split says how
# far it is from looking so, the mean over a hundred pairs.


# %%
def apart(middles):
    return float(nearest_training(middles.flatten(1), train["image"].flatten(1)).distances.square().mean())


others = {"principal components": apart(theirs[:, 4]), "pixels": apart((a + b) / 2)}
caption(figure, "squared distance from the middle to the nearest image", apart(ours[:, 4]), others)

# %% [markdown]
# What makes an eight a three: the mean difference of their codes. Added to eights, it takes the left strokes away.

# %%
chosen = (train["label"] == 3) | (train["label"] == 8)
less = attribute_vector(model, train["image"][chosen], train["label"][chosen] == 3)
attribute_figure(model, x[labels == 8][:4], less, name="a 3, less an 8")
