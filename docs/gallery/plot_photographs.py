# %% [markdown]
"""
Photographs of any size as codes
================================

Diffusion models of images work in the codes of an autoencoder. A small one of them, TAEF2, comes with the package: it
takes photographs of any size, makes maps of an eighth of their height and width, and images of those again.

:Family: latent diffusion
:Use: compression
:Data: photographs of any size
"""

# %%
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA

from lightning_ae import zoo
from lightning_ae.figures import Figure, caption
from lightning_ae.uses import Codec, codec_rates, pillow_rates, psnr, rates_figure

# %% [markdown]
# Two photographs that scikit-learn brings, cut to what their subjects fill: of different sizes, in multiples of eight.

# %%
china, flower = load_sample_images().images
photographs = [china[40:296, 128:512], flower[80:400, 200:520]]
model = zoo.load("ae_tiny.taef2_v1")
maps = [model.features(photograph[None]) for photograph in photographs]


def in_bytes(image):
    """(H, W, 3) in [0, 1] as bytes."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


@torch.no_grad()
def decoded(model, maps):
    return in_bytes(model.decode(maps)[0].permute(1, 2, 0).numpy())


again = [decoded(model, each) for each in maps]
{photograph.shape: tuple(each.shape[1:]) for photograph, each in zip(photographs, maps)}

# %% [markdown]
# Each block of 8 x 8 pixels has 32 numbers of its own in the map. The network without its training, and a thumbnail
# with a pixel for each block, are what the number below has to beat. By this number alone, 32 principal components of
# blocks, fitted to each photograph itself, do better: what codes are made for is that other models work in them.


# %%
def enlarged(image):
    """What a thumbnail of an eighth of the height and width has kept."""
    h, w = image.shape[:2]
    small = Image.fromarray(image).resize((w // 8, h // 8), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((w, h), Image.Resampling.LANCZOS))


def projected(image):
    """The image by 32 principal components of its blocks."""
    h, w = image.shape[0] // 8, image.shape[1] // 8
    blocks = image.reshape(h, 8, w, 8, 3).transpose(0, 2, 1, 3, 4).reshape(h * w, 192)
    pca = PCA(32, random_state=0).fit(blocks)
    found = pca.inverse_transform(pca.transform(blocks)).reshape(h, w, 8, 8, 3).transpose(0, 2, 1, 3, 4)
    return in_bytes(found.reshape(image.shape) / 255)


figure = Figure((8, 6), dpi=120, layout="constrained")
for row, image, reconstruction in zip(figure.subplots(2, 2), photographs, again):
    for axes, pixels, name in zip(row, (image, reconstruction), ("photograph", "from its code")):
        axes.imshow(pixels)
        axes.set(title=name)
        axes.set_axis_off()


def mean_psnr(images):
    return float(np.mean([psnr(image, each) for image, each in zip(photographs, images)]))


print(f"32 principal components of the photograph's own blocks: {mean_psnr(map(projected, photographs)):.1f} dB")
pl.seed_everything(0, verbose=False)
untrained = type(model).from_init_args(model.init_args).eval()
untrained.signature = model.signature
others = {
    "the untrained network": mean_psnr(decoded(untrained, untrained.features(each[None])) for each in photographs),
    "thumbnails": mean_psnr(map(enlarged, photographs)),
}
caption(figure, "PSNR of both photographs", mean_psnr(again), others, better="higher", unit=" dB")

# %% [markdown]
# In bits: the codes in whole numbers, beside JPEG, which is made for that and better at it.

# %%
picture = Image.fromarray(china[80:240, 160:400])
rates = codec_rates(Codec(model, "ae_tiny.taef2_v1"), [picture], [3, 4, 6])
rates_figure(rates + pillow_rates([picture], "JPEG"))
