"""Photographs as small files by the codes of an autoencoder, beside JPEG and WebP: bits per pixel against PSNR.

    python recipes/uses/compression.py                     # on images that it makes
    python recipes/uses/compression.py --images photos/    # on yours

On the command line, `lightning-ae encode photos/ --to codes` and `lightning-ae decode codes --to images` write such
files, and images of them again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_ae import zoo
from lightning_ae.uses import Codec, codec_rates, pillow_rates, rates_figure

FOLDER, MODEL = Path("uses"), "ae_tiny.taef2_v1"
KINDS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def clouds(seed: int, height: int = 160, width: int = 240) -> Image.Image:
    """Colours whose spectrum falls with frequency as that of photographs does, with an edge across."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    noise = np.fft.rfft2(rng.normal(size=(3, height, width))) / np.maximum(frequency, 1 / width) ** 1.3
    planes = np.fft.irfft2(noise, s=(height, width))
    planes = np.tensordot(rng.dirichlet((1, 1, 1), 3), planes, axes=1)  # colours go together
    planes = (planes - planes.mean((1, 2), keepdims=True)) / planes.std((1, 2), keepdims=True)
    y, x = np.mgrid[:height, :width]
    planes += np.where(y + rng.uniform(-0.5, 0.5) * x > height / 2, 1.2, -0.4)
    return Image.fromarray((128 + 45 * planes).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of images (default: six that are made)")
    parser.add_argument("--bits", default="3,4,6,8", help="of each number of a code, with commas between")
    args = parser.parse_args()

    if args.images is None:
        images = [clouds(seed) for seed in range(6)]
    else:
        files = sorted(file for file in args.images.rglob("*") if file.suffix.lower() in KINDS)
        images = [Image.open(file).convert("RGB") for file in files]
    began = time.monotonic()
    rates = codec_rates(Codec(zoo.load(MODEL), MODEL), images, [int(each) for each in args.bits.split(",")])
    for rate in rates:
        print(f"{rate.codec}, {rate.setting} bits   {rate.bits_per_pixel:6.3f} bits per pixel   {rate.psnr:.2f} dB")
    for kind in ("JPEG", "WEBP"):
        own = pillow_rates(images, kind)
        print(f"{kind}: " + ", ".join(f"{rate.bits_per_pixel:.2f} at {rate.psnr:.1f} dB" for rate in own))
        rates += own
    FOLDER.mkdir(exist_ok=True)
    rates_figure(rates).savefig(FOLDER / "compression.png")
    print(f"{len(images)} images in {time.monotonic() - began:.0f} s; written to {FOLDER / 'compression.png'}")


if __name__ == "__main__":
    main()
