# %% [markdown]
"""
Which way to the data
=====================

A denoising autoencoder moves every point towards the data, and how far it moves it is a score: the gradient of the
log-density of the data with noise (Vincent 2011; Alain & Bengio 2014). In the plane the arrows can be seen, and where
the density is known, they can be checked.

:Family: score matching
:Use: density estimation, generation
:Data: vectors
"""

# %%
import pytorch_lightning as pl
import torch

from lightning_ae import ScoreMatchingAutoencoder
from lightning_ae.architectures import MLP
from lightning_ae.figures import Figure, caption
from lightning_ae.parts import CosineDecay

# %% [markdown]
# Eight clusters on a ring. With noise of standard deviation 0.3 their density is a mixture of eight Gaussians, whose
# score has a closed form.

# %%
pl.seed_everything(0, verbose=False)
angles = torch.arange(8) * torch.pi / 4
centres, width, sigma = 2 * torch.stack([angles.cos(), angles.sin()], dim=1), 0.1, 0.3
x = centres[torch.randint(8, (20_000,))] + width * torch.randn(20_000, 2)


def true_score(x):
    apart, variance = centres - x[:, None], width**2 + sigma**2
    return (torch.softmax(-apart.square().sum(dim=2) / (2 * variance), dim=1)[:, :, None] * apart).sum(dim=1) / variance


# %% [markdown]
# The model is an ordinary LightningModule: any loader of tensors trains it.

# %%
options = {"input_shape": (2,), "latent_dim": 64, "sigma": sigma, "architecture": MLP((128, 128), activation="relu")}
untrained = ScoreMatchingAutoencoder(**options)
model = ScoreMatchingAutoencoder(**options, lr=3e-3, lr_schedule=CosineDecay())
tensors = torch.utils.data.TensorDataset(x[:-2000]), torch.utils.data.TensorDataset(x[-2000:])
train = torch.utils.data.DataLoader(tensors[0], batch_size=512, shuffle=True)
validation = torch.utils.data.DataLoader(tensors[1], batch_size=2000)
trainer = pl.Trainer(max_epochs=18, logger=False, enable_checkpointing=False)
trainer.fit(model, train, validation)

# %% [markdown]
# Arrows are the learned score, black dots are samples that follow it from noise.

# %%
model.eval()
around = torch.cartesian_prod(torch.linspace(-3, 3, 21), torch.linspace(-3, 3, 21))
with torch.no_grad():
    learned, drawn = model.grad_log_density(around), model.sample(500)
figure = Figure((5, 5), dpi=120, layout="constrained")
axes = figure.subplots()
axes.quiver(*around.T, *learned.T, angles="xy", color="tab:blue", width=0.003)
axes.plot(*drawn.T, "k.", markersize=2)
axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# The error is judged where the data with noise are. A single Gaussian, of the data's mean and covariance, has a score,
# too; that is what principal components know of a density.

# %%
new = centres[torch.randint(8, (5000,))] + (width**2 + sigma**2) ** 0.5 * torch.randn(5000, 2)
truth = true_score(new)
one = -(new - x.mean(dim=0)) @ torch.linalg.inv(x.T.cov() + sigma**2 * torch.eye(2))


@torch.no_grad()
def error(score):
    return float((score - truth).square().sum().sqrt() / truth.square().sum().sqrt())


caption(
    figure,
    "relative error of the score",
    error(model.grad_log_density(new)),
    {"one Gaussian": error(one), "the untrained network": error(untrained.eval().grad_log_density(new))},
)
