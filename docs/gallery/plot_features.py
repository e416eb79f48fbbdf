# %% [markdown]
"""
Features for a classifier of few labels
=======================================

Labels are dear, images are not. A stack of denoising autoencoders learns from all images, layer by layer, without
labels (Vincent et al. 2010); a linear classifier then learns from its codes, of a hundred images that have one.

:Family: stacked, denoising
:Use: features for a classifier
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from lightning_ae import HFDataModule, StackedAutoencoder
from lightning_ae.figures import Figure, caption
from lightning_ae.models.stacked import Denoising
from lightning_ae.parts import Bernoulli, Masking

# %% [markdown]
# Each layer learns to reconstruct the one below, of which a quarter is hidden; the last epochs train all together.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("digits")
options = {
    "input_shape": (1, 8, 8),
    "hidden": (256,),
    "latent_dim": 128,
    "objective": Denoising(Masking(0.25)),
    "epochs_per_layer": 40,
    "likelihood": Bernoulli(),
    "lr": 3e-3,
}
untrained, model = StackedAutoencoder(**options), StackedAutoencoder(**options)
trainer = pl.Trainer(max_epochs=100, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# The same classifier on each kind of features, the mean over ten draws of the images that have a label. On images as
# small as these twenty principal components do about as well, now better, now worse by the seed; what the number below
# has to beat is the same network without its training.

# %%
train, test = (next(data.batches(split, 2000)) for split in ("train", "test"))
pca = PCA(20).fit(train["image"].flatten(1))
features = {
    "codes": lambda x: model.eval().encode(x).detach(),
    "20 principal components": lambda x: torch.from_numpy(pca.transform(x.flatten(1))),
    "the untrained network": lambda x: untrained.eval().encode(x).detach(),
}


def error(of, per_class, draw):
    order = torch.randperm(len(train["label"]), generator=torch.Generator().manual_seed(draw))
    rows = torch.cat([order[train["label"][order] == c][:per_class] for c in range(10)])
    seen, new = of(train["image"]), of(test["image"])
    mean, std = seen.mean(dim=0), seen.std()
    classifier = LogisticRegression(max_iter=2000).fit((seen[rows] - mean) / std, train["label"][rows])
    return 100 - 100 * classifier.score((new - mean) / std, test["label"])


labels = (2, 5, 10, 20)
figure = Figure((6, 4), dpi=120, layout="constrained")
axes = figure.subplots()
of_ten = {}
for name, of in features.items():
    errors = [sum(error(of, n, draw) for draw in range(10)) / 10 for n in labels]
    axes.plot(labels, errors, marker="o", label=name)
    of_ten[name] = errors[labels.index(10)]
axes.set(xlabel="labels of each class", ylabel="error on test images, %", ylim=(0, None))
axes.legend(frameon=False)
others = {"the untrained network": of_ten["the untrained network"]}
caption(figure, "error with ten labels of each class", of_ten["codes"], others, unit=" %")
