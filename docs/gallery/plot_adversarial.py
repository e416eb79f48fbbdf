# %% [markdown]
"""
Codes in a shape that you choose
================================

A critic learns to tell the codes of data from draws of a distribution, and the encoder learns to fool it (Makhzani et
al. 2015). In the end the codes lie as the distribution does, and its draws decode to digits. No second optimizer is
needed for that, and no loop by hand.

:Family: adversarial
:Use: generation, visualisation
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from sklearn.decomposition import PCA

from lightning_ae import AdversarialAutoencoder, HFDataModule
from lightning_ae.architectures import MLP, Critic
from lightning_ae.figures import Figure, caption
from lightning_ae.metrics import frechet_distance

# %% [markdown]
# Digits again, with codes of two numbers that are to lie as N(0, I).

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("digits")
options = {"input_shape": (1, 8, 8), "latent_dim": 2, "architecture": MLP(hidden=(256, 128))}
untrained = AdversarialAutoencoder(**options)
model = AdversarialAutoencoder(**options, critic=Critic(hidden=(128, 128)), adversarial_weight=0.5, critic_lr=1e-3)
trainer = pl.Trainer(max_epochs=80, logger=False, enable_checkpointing=False)
trainer.fit(model, data)
model.eval()

# %% [markdown]
# Left the codes of test images, by class; right what lies at each place of the plane: images that nobody wrote.

# %%
batch = next(data.batches("test", 2000))
codes = model.encode(batch["image"]).detach()
figure = Figure((9.6, 4.8), dpi=120, layout="constrained")
left, right = figure.subplots(1, 2)
for c in range(10):
    left.plot(*codes[batch["label"] == c].T, ".", label=str(c))
left.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", title="codes")
left.legend(frameon=False, loc="upper left", fontsize=7)
place = torch.linspace(-2, 2, 12)
with torch.no_grad():
    images = model.decode(torch.cartesian_prod(place.flip(0), place).flip(1)).clamp(0, 1)
right.imshow(images.view(12, 12, 8, 8).permute(0, 2, 1, 3).reshape(96, 96).numpy(), cmap="gray", extent=(-2, 2, -2, 2))
right.set(title="decoded")

# %% [markdown]
# The squared Frechet distance from the codes to N(0, I): of means and covariances.


# %%
def distance(codes):
    codes = codes.double()
    identity = torch.eye(2, dtype=torch.double)
    return float(frechet_distance(codes.mean(dim=0), codes.T.cov(), torch.zeros(2, dtype=torch.double), identity))


pca = PCA(2).fit(next(data.batches("train", 2000))["image"].flatten(1))
others = {
    "two principal components": distance(torch.from_numpy(pca.transform(batch["image"].flatten(1)))),
    "the untrained network": distance(untrained.eval().encode(batch["image"]).detach()),
}
caption(figure, "Frechet distance of the codes to N(0, I)", distance(codes), others)
