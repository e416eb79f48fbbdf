"""Converts the weights of TAEF2, a tiny autoencoder of photographs, and publishes them as ae_tiny.taef2_v1.

    python zoo/import_taef2.py --weights FOLDER --kodak FOLDER

FOLDER of the weights has taef2_encoder.pth, taef2_decoder.pth and LICENSE, as the authors give them, and
golden.safetensors: an image, and what the authors' code gives for it in float32. That of Kodak has the 24 images as the
split "test" of a data set with a column "image".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from lightning_ae import Autoencoder
from lightning_ae.architectures import TinyNet
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.zoo.publishing.evaluate import digest_of, measure_photographs, photographs
from lightning_ae.zoo.publishing.imported import check_given, publish_imported, read_state_dict, take_in_order

ROOT = Path(__file__).parent.parent
NAME = "ae_tiny.taef2_v1"
NETWORKS = ("encoder", "decoder")


@torch.no_grad()
def converted(folder: Path) -> Autoencoder:
    """The model, which gives what the authors' code gives: the code to 1e-4, the reconstruction to 1e-3."""
    model = Autoencoder((3, None, None), 32, architecture=TinyNet()).eval()
    for each in NETWORKS:
        file = folder / f"taef2_{each}.pth"
        take_in_order(getattr(model, each), read_state_dict(file), file.name)
    model.preprocess = ImagePreprocess(channels=3, multiple=model.multiple)
    golden = load_file(folder / "golden.safetensors")
    code = model.features(golden["image"])
    check_given("code", code, golden["latent"], 1e-4)
    check_given("reconstruction", model.decode(code), golden["reconstruction"], 1e-3)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="the authors' files")
    parser.add_argument("--kodak", required=True, help="the images to measure on")
    parser.add_argument("--to", type=Path, default=ROOT / "zoo", help="the zoo's folder")
    args = parser.parse_args()
    model, images = converted(args.weights), photographs(args.kodak)
    entry = publish_imported(
        model,
        NAME,
        originals={f"taef2_{each}.pth": args.weights / f"taef2_{each}.pth" for each in NETWORKS},
        metrics=measure_photographs(model, images, "kodak"),
        licence_text=(args.weights / "LICENSE").read_text(),
        images=images,
        to=args.to,
        stored="float16",
        authors="Ollin Boer Bohan",
        source="https://github.com/madebyollin/taesd",
        stated={"psnr": 30.19},
        command="python zoo/import_taef2.py --weights FOLDER --kodak FOLDER",
        licence={"weights": "MIT", "data": "NOASSERTION"},
        data={
            "id": None,
            "provenance": "images that the authors do not name, into the latent space of FLUX.2's autoencoder; "
            "measured on the 24 Kodak photographs, which Eastman Kodak released for unrestricted usage",
            "digest": digest_of(images),
        },
        paper={"title": "TAESD, Ollin Boer Bohan 2023", "url": "https://github.com/madebyollin/taesd"},
    )
    print(f"published {entry.name}: {entry.metric('psnr')} dB")


if __name__ == "__main__":
    main()
