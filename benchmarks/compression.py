"""Photographs by the codes of the bundled autoencoder, beside JPEG and WebP, on the Kodak images.

    python benchmarks/compression.py --kodak FOLDER --write benchmarks/compression.md

FOLDER has the 24 images as the split "test" of a data set with a column "image". Beside the page goes its picture.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import PIL
import torch

from lightning_ae import zoo
from lightning_ae.files import whole_file
from lightning_ae.uses import Codec, Rate, codec_rates, pillow_rates, rates_figure
from lightning_ae.zoo.publishing.evaluate import photographs

MODEL = "ae_tiny.taef2_v1"


def at_the_same_psnr(rates: list[Rate], psnr: float) -> str:
    """The bits per pixel of a codec at this PSNR, between its settings; where they lie beyond it, a bound."""
    own = sorted(rates, key=lambda rate: rate.psnr)
    if psnr < own[0].psnr:
        return f"under {own[0].bits_per_pixel:.2f}"
    if psnr > own[-1].psnr:
        return f"over {own[-1].bits_per_pixel:.2f}"
    return f"{np.interp(psnr, [rate.psnr for rate in own], [rate.bits_per_pixel for rate in own]):.2f}"


def page(codes: list[Rate], others: dict[str, list[Rate]], n: int, picture: str) -> str:
    lines = [
        "# Compression of photographs",
        "",
        f"Made by `python benchmarks/compression.py --kodak FOLDER --write benchmarks/compression.md`: the {n} Kodak",
        f"images by the codes of `{MODEL}` in so many bits a number, packed by Zstandard",
        "(`lightning-ae encode`), beside Pillow's JPEG and lossy WebP. Bits per pixel are of whole files; PSNR is of",
        f"images in bytes, the mean over images. Pillow {PIL.__version__}, torch {torch.__version__}.",
        "",
        f"![PSNR over bits per pixel]({picture})",
        "",
        "| codes | bits per pixel | PSNR, dB | JPEG there | WebP there |",
        "|---|---|---|---|---|",
    ]
    for rate in codes:
        there = " | ".join(at_the_same_psnr(own, rate.psnr) for own in others.values())
        lines.append(f"| {rate.setting} bits | {rate.bits_per_pixel:.3f} | {rate.psnr:.2f} | {there} |")
    lines += [
        "",
        "The last columns are the bits per pixel at which those reach the same PSNR, between their qualities. Codes",
        "were trained to serve models of images, not to be small: where the size of a file is all that counts, take",
        "WebP.",
        "",
        "| codec, quality | bits per pixel | PSNR, dB |",
        "|---|---|---|",
    ]
    for name, own in others.items():
        lines += [f"| {name}, {rate.setting} | {rate.bits_per_pixel:.3f} | {rate.psnr:.2f} |" for rate in own]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", required=True, help="the images")
    parser.add_argument("--write", type=Path, help="the page (default: print it)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = list(photographs(args.kodak))
    began = time.monotonic()
    codes = codec_rates(Codec(zoo.load(MODEL), MODEL), images)
    minutes = (time.monotonic() - began) / 60
    others = {"JPEG": pillow_rates(images, "JPEG"), "WebP": pillow_rates(images, "WEBP")}
    picture = args.write.with_suffix(".png") if args.write else Path("compression.png")
    text = page(codes, others, len(images), picture.name)
    print(f"{len(codes)} settings in {minutes:.1f} minutes")
    if args.write is None:
        print(text)
        return
    with whole_file(picture) as part:
        rates_figure([*codes, *others["JPEG"], *others["WebP"]]).savefig(part)
    with whole_file(args.write) as part:
        part.write_text(text)


if __name__ == "__main__":
    main()
