# %% [markdown]
"""
Codes that heed few directions
==============================

A contractive autoencoder is penalised for every reaction of its code to the input (Rifai et al. 2011). What it cannot
do without, to reconstruct, are the directions in which the data vary: those it keeps, and goes deaf to others.

:Family: contractive
:Use: robust features
:Data: images
"""

# %%
import pytorch_lightning as pl
from sklearn.decomposition import PCA

from lightning_ae import ContractiveAutoencoder, HFDataModule
from lightning_ae.figures import Figure, caption
from lightning_ae.models.contractive import jacobian_spectrum
from lightning_ae.parts import Bernoulli

# %% [markdown]
# Two models of 96 sigmoid units for digits of 64 pixels, one with the penalty and one without.

# %%
data = HFDataModule("digits")


def fitted(contraction):
    pl.seed_everything(0, verbose=False)
    model = ContractiveAutoencoder((1, 8, 8), 96, contraction=contraction, likelihood=Bernoulli(), lr=3e-3)
    trainer = pl.Trainer(max_epochs=100, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    return model.eval()


contractive, plain = fitted(0.3), fitted(0.0)
pl.seed_everything(0, verbose=False)
untrained = ContractiveAutoencoder((1, 8, 8), 96, likelihood=Bernoulli())

# %% [markdown]
# The Jacobian of the code at an image has a singular value for each direction, by falling size: how strongly the code
# reacts. The curves are means over test images, divided by the largest value.

# %%
x = next(data.batches("test", 200))["image"]
spectra = {
    "contractive": jacobian_spectrum(contractive, x),
    "without the penalty": jacobian_spectrum(plain, x),
    "untrained": jacobian_spectrum(untrained, x),
}
figure = Figure((6, 4), dpi=120, layout="constrained")
axes = figure.subplots()
for name, values in spectra.items():
    mean = values.mean(dim=0)
    axes.semilogy(range(1, 65), mean / mean[0], label=name)
axes.set(xlabel="singular value", ylabel="share of the largest", ylim=(1e-3, 1.2))
axes.legend(frameon=False)

# %% [markdown]
# In one number: how many directions the code heeds, the participation ratio of the squared values. Principal components
# heed as many as there are of them, each alike.


# %%
def directions(values):
    squares = values.square()
    return float((squares.sum(dim=1).square() / squares.square().sum(dim=1)).mean())


needed = PCA(0.95, svd_solver="full").fit(next(data.batches("train", 2000))["image"].flatten(1)).n_components_
caption(
    figure,
    "directions that a code heeds",
    directions(spectra["contractive"]),
    {
        "the untrained network": directions(spectra["untrained"]),
        "without the penalty": directions(spectra["without the penalty"]),
        "principal components of 95 % of the variance": needed,
    },
)
