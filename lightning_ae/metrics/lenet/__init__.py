"""A small classifier of digits and clothes, whose features the package's Frechet distance is of: see README.md."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import check_finite
from lightning_ae.preprocess.images import ImagePreprocess

WEIGHTS = Path(__file__).parent / "model.safetensors"
SHA256 = "dbf5c78b76599ad05c660d8f37f3d01bbc580f484d6a94c0f1c0a18ca6466404"
"""Of the file of weights."""

CLASSES = 20
"""The ten digits of MNIST, then the ten kinds of clothes of Fashion-MNIST."""

_IMAGES = ImagePreprocess(size=(28, 28), channels=1)


class LeNet(nn.Module):
    """A network in the manner of LeNet-5 (LeCun et al. 1998, https://doi.org/10.1109/5.726791), in float64.

    Two convolutions of 6 and 16 channels with 5 x 5 kernels, each with a ReLU and the maximum of 2 x 2, then layers of
    120 and 84 units with ReLUs, and 20 logits. It computes in float64, whatever type the images have, which
    autocast leaves alone, so that features on one machine are those on another.

    `load_lenet` gives the trained one.
    """

    feature_dim = 84

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.hidden1 = nn.Linear(400, 120)
        self.hidden2 = nn.Linear(120, self.feature_dim)
        self.output = nn.Linear(self.feature_dim, CLASSES)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        """The activations of the last hidden layer, (B, 84).

        Args:
            images: (B, C, H, W) in [0, 1], grey or in colour, of any size. Colours become the luma of ITU-R BT.601;
                other sizes than 28 x 28 are brought to it with the antialiased bilinear filter, whatever the
                proportions.

        Raises:
            InputError: for another shape or type, or values outside [0, 1].
        """
        return torch.cat([self.hidden(part) for part in _grey(images).split(128)])  # in memory that stays bounded

    def hidden(self, x: Tensor) -> Tensor:
        """The same, (B, 84), of images (B, 1, 28, 28), which are taken as they are, in the type of the weights."""
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        found: Tensor = self.hidden2(self.hidden1(x.flatten(1)).relu()).relu()
        return found

    def logits(self, images: Tensor) -> Tensor:
        """What the classes get before the softmax, (B, 20), of images as `forward` takes them."""
        found: Tensor = self.output(self(images))
        return found


def load_lenet() -> LeNet:
    """The trained classifier, in evaluation mode and without gradients, from the file that the package brings.

    Of the 10 000 test images of MNIST it knows 98.97 %, of those of Fashion-MNIST 90.47 %, among all 20 classes
    (measured; the file states it, too). How it was trained: `python -m lightning_ae.metrics.lenet.make`.

    Raises:
        InputError: when the file has another hash than it must, since distances would compare with no others.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import load_lenet
        >>> load_lenet()(torch.rand(5, 3, 32, 32)).shape
        torch.Size([5, 84])
    """
    from safetensors.torch import load

    data = WEIGHTS.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise InputError(
            f"the weights of the LeNet, {str(WEIGHTS)!r}, have the hash {found[:12]}... instead of {SHA256[:12]}...",
            "the file is damaged or was changed: install lightning_ae again",
        )
    model = LeNet()
    model.load_state_dict(load(data))
    return model.eval().requires_grad_(False)


def _grey(images: Tensor) -> Tensor:
    """Images as the network takes them, (B, 1, 28, 28) in float64.

    Raises:
        InputError: for what is no batch of images in [0, 1].
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"images must have the shape (B, 1, H, W) or (B, 3, H, W), got {tuple(images.shape)}",
            "one image is a batch of one, x.unsqueeze(0); of other channels choose one, x[:, :1]",
        )
    if not images.is_floating_point():
        raise InputError(f"images must be floats in [0, 1], got {images.dtype}", "bytes: x.float() / 255")
    check_finite("images", images)
    outside = (images < 0) | (images > 1)
    if outside.any():
        raise InputError(
            f"{int(outside.sum())} of the {images.numel()} values of images lie outside [0, 1], between "
            f"{float(images.min()):g} and {float(images.max()):g}",
            "undo the model's preprocessing, model.preprocess.inverse(x); what a decoder draws beyond: x.clamp(0, 1)",
        )
    return _IMAGES(images.float()).double()
