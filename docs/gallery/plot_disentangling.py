# %% [markdown]
"""
One unit for each thing that varies
===================================

A disc that is somewhere, in some size: three numbers make each of these images. Where units of a code are made
independent (Chen et al. 2018), each comes to follow one of them. Principal components of pixels cannot.

:Family: disentangling, variational
:Use: interpretation
:Data: images
"""

# %%
import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import BetaTCVAE, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.figures import caption
from lightning_ae.metrics import MIG
from lightning_ae.parts import Bernoulli, CosineDecay
from lightning_ae.uses import traversal_figure

# %% [markdown]
# The data module learns from the columns' names which of them are factors.


# %%
def discs(n, seed):
    """Columns of n discs with soft edges, grey, 16 x 16 pixels."""
    numbers = np.random.default_rng(seed).integers(0, (10, 10, 4), (n, 3))
    x, y, size = (numbers * (0.8, 0.8, 0.8) + (4, 4, 2)).T[..., None, None]
    down, right = np.mgrid[:16, :16]
    images = 255 * np.clip(size - np.hypot(right - x, down - y) + 0.5, 0, 1)
    return {"image": images[:, None].astype(np.uint8), **dict(zip("xy", numbers.T)), "size": numbers[:, 2]}


pl.seed_everything(0, verbose=False)
data = HFDataModule({"train": discs(4000, 0), "test": discs(1000, 1)}, factors=["x", "y", "size"], cache="memory")
options = {"input_shape": (1, 16, 16), "latent_dim": 6, "architecture": MLP((256, 256)), "likelihood": Bernoulli()}
untrained = BetaTCVAE(**options)
model = BetaTCVAE(**options, beta=6.0, lr=4e-3, lr_schedule=CosineDecay())
trainer = pl.Trainer(max_epochs=40, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# From the code of one image, each unit moves by itself. Units that carry nothing leave the image as it is.

# %%
x = next(data.batches("test", 1000))["image"]
figure = traversal_figure(model, x, span=2.0, dims=6)

# %% [markdown]
# The mutual information gap: how much more the best unit knows of a factor than the second best, 1 at the most.

# %%
train, factors = next(data.batches("train", 4000))["image"], data.factors("test")
pca = PCA(6, random_state=0).fit(train.flatten(1))


@torch.no_grad()
def gap(codes):
    return float(MIG(names=data.factor_names)(codes, factors))


codes = torch.from_numpy(pca.transform(x.flatten(1)))
others = {"six principal components": gap(codes), "the untrained network": gap(untrained.eval().encode(x).detach())}
caption(figure, "mutual information gap", gap(model.eval().encode(x).detach()), others, better="higher")
