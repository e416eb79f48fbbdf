"""Features of a pretrained encoder in scikit-learn, beside raw pixels.

python recipes/zoo/sklearn_pipeline.py
python recipes/zoo/sklearn_pipeline.py --encoder k_sparse_mlp.mnist_v1 --data ylecun/mnist
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from lightning_ae import HFDataModule
from lightning_ae.zoo.transformer import EncoderTransformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="k_sparse_mlp.digits_v1", help="an entry: lightning-ae zoo list")
    parser.add_argument("--data", default="digits", help="a hub id, a local folder, digits or fashion")
    parser.add_argument("--samples", type=int, default=1000, help="labelled images to learn from")
    args = parser.parse_args()

    data = HFDataModule(args.data, val_fraction=0)
    data.prepare_data()
    images, labels = {}, {}
    for split, n in (("train", args.samples), ("test", None)):
        rows = data.dataset(split)
        rows = rows.select(range(min(len(rows), n or len(rows))))
        images[split] = np.stack([np.asarray(image) for image in rows["image"]])
        labels[split] = np.array(rows["label"])

    flat = FunctionTransformer(lambda x: x.reshape(len(x), -1))
    for name, features in (("raw pixels", flat), (args.encoder, EncoderTransformer(args.encoder))):
        pipeline = make_pipeline(features, StandardScaler(), LogisticRegression(max_iter=1000))
        pipeline.fit(images["train"], labels["train"])
        error = 1 - pipeline.score(images["test"], labels["test"])
        print(f"{name:<28} test error {100 * error:5.2f} %")


if __name__ == "__main__":
    main()
