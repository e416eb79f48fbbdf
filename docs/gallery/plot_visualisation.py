# %% [markdown]
"""
A map of digits
===============

Two numbers for each digit make a map. Principal components lay the classes over each other; an autoencoder that was
never told of classes keeps most of them apart.

:Family: deep
:Use: visualisation
:Data: images
"""

# %%
import pytorch_lightning as pl

from lightning_ae import Autoencoder, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.figures import caption
from lightning_ae.metrics import compare_codes
from lightning_ae.parts import CosineDecay
from lightning_ae.uses import projection_figure

# %% [markdown]
# Four layers each way. The labels that the data have are not used.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("digits")
model = Autoencoder(
    input_shape=(1, 8, 8),
    latent_dim=2,
    architecture=MLP(hidden=(256, 128, 64), activation="tanh"),
    lr=3e-3,
    lr_schedule=CosineDecay(),
)
trainer = pl.Trainer(max_epochs=100, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# How far apart the classes lie, a classifier by the five nearest neighbours tells: the error on digits of the test
# split, whose neighbours are those of the training split.

# %%
model.eval()
batch = next(data.batches("test", 2000))
panels = {"autoencoder": model.encode(batch["image"]).detach(), "PCA": batch["image"].flatten(1)}
errors = compare_codes(model, data)
figure = projection_figure(panels, batch["label"], data.class_names)
caption(
    figure,
    "error of the five nearest neighbours in the plane",
    100 * errors["codes"],
    {"two principal components": 100 * errors["pca"], "the untrained network": 100 * errors["untrained"]},
    unit=" %",
)
