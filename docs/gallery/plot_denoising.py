# %% [markdown]
"""
Taking noise out of images
==========================

A denoising autoencoder sees a spoilt image and learns to give back the one that it was (Vincent et al. 2008). It knows
what clothes look like; a median filter, which does not, gives up where most of what is around a pixel is wrong.

:Family: denoising
:Use: denoising
:Data: images
"""

# %%
import pytorch_lightning as pl
import torch
from scipy.ndimage import median_filter
from sklearn.decomposition import PCA

from lightning_ae import DenoisingAutoencoder, HFDataModule
from lightning_ae.architectures import MLP
from lightning_ae.figures import caption
from lightning_ae.metrics import PSNRPerImage
from lightning_ae.parts import CosineDecay, SaltAndPepper
from lightning_ae.uses import sheet

# %% [markdown]
# Of the pixels 40 % become black or white, others at each step.

# %%
pl.seed_everything(0, verbose=False)
data = HFDataModule("fashion")
model = DenoisingAutoencoder(
    input_shape=(1, 28, 28),
    latent_dim=64,
    corruption=SaltAndPepper(0.4),
    architecture=MLP(hidden=(512,)),
    lr=2e-3,
    lr_schedule=CosineDecay(),
)
trainer = pl.Trainer(max_epochs=20, logger=False, enable_checkpointing=False)
trainer.fit(model, data)

# %% [markdown]
# Spoilt test images, and what becomes of them. Projections on the number of principal components that does best on
# these very images take noise out, too.

# %%
train, clean = (next(data.batches(split, 6000))["image"] for split in ("train", "test"))
chance = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0))
noisy = torch.where(chance < 0.2, 0.0, torch.where(chance < 0.4, 1.0, clean))
with torch.no_grad():
    ours = model.eval()(noisy)
median = torch.from_numpy(median_filter(noisy.numpy(), size=(1, 1, 3, 3)))
pca = PCA(128, random_state=0).fit(train.flatten(1))
codes, mean = torch.from_numpy(pca.transform(noisy.flatten(1))), torch.from_numpy(pca.mean_)
by_number = [
    (codes[:, :k] @ torch.from_numpy(pca.components_[:k]) + mean).view_as(clean) for k in (2, 4, 8, 16, 24, 32, 64, 128)
]


def psnr(images):
    return float(PSNRPerImage()(images.clamp(0, 1), clean))


projected = max(by_number, key=psnr)
rows = {"spoilt": noisy, "autoencoder": ours, "median filter": median, "PCA": projected, "as it was": clean}
figure = sheet([row[:12] for row in rows.values()], list(rows))
others = {"as it is": psnr(noisy), "a median filter": psnr(median), "PCA": psnr(projected)}
caption(figure, "PSNR of test images", psnr(ours), others, better="higher", unit=" dB")
