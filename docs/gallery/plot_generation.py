# %% [markdown]
"""
Images of clothes that nobody made
==================================

A variational autoencoder has a distribution over codes, whose draws it decodes (Kingma & Welling 2014). Its codes of
data do not quite follow that distribution, so a mixture of Gaussians that is fitted to them gives better images; and
with one, any autoencoder generates (Ghosh et al. 2020).

:Family: variational
:Use: generation
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.figures import caption
from lightning_ae.metrics import FrechetLeNetDistance
from lightning_ae.samplers import MixtureSampler, fit_sampler
from lightning_ae.uses import sheet

# %% [markdown]
# Trained for a few epochs on the embedded images of clothes.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("fashion")
model = VAE(input_shape=(1, 28, 28), latent_dim=16, architecture=MLP(hidden=(256,)), lr=2e-3)
trainer = pl.Trainer(max_epochs=15, logger=False, enable_checkpointing=False)
trainer.fit(model, data)
model.eval()

# %% [markdown]
# A thousand images of each kind. Gaussian draws of as many principal components are what anybody has for nothing.

# %%
real = next(data.batches("train", 6000))["image"]
pca = PCA(16, whiten=True, random_state=0).fit(real.flatten(1))
normal = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
drawn = {"PCA": torch.from_numpy(pca.inverse_transform(normal)).float().view(-1, 1, 28, 28)}
with torch.no_grad():
    drawn["prior"] = model.sample(1000)
    fit_sampler(model, data, MixtureSampler(10))
    drawn["mixture"] = model.sample(1000)

# %% [markdown]
# The distance is the Frechet distance on features of a small classifier that the package brings, from the images that
# the model was trained on. It is no FID, and compares within this page only.

# %%
drawn = {name: images.clamp(0, 1) for name, images in drawn.items()}


def distance(images):
    metric = FrechetLeNetDistance()
    metric.update(real[:2000], "real")
    metric.update(images, "generated")
    return float(metric.compute()["distance"])


figure = sheet([images[:12] for images in drawn.values()], ["PCA, Gaussian", "VAE, its prior", "VAE, mixture"])
others = {"Gaussian principal components": distance(drawn["PCA"]), "the VAE's own prior": distance(drawn["prior"])}
caption(figure, "Frechet LeNet distance of 1000 samples", distance(drawn["mixture"]), others)
