"""What looks like this image: nearest neighbours among the codes that `lightning-ae features` wrote.

    python recipes/uses/neighbours.py
    python recipes/uses/neighbours.py --checkpoint runs/vae-mnist/fit-1/checkpoints/best.ckpt --path photos/
    python recipes/uses/neighbours.py --checkpoint best.ckpt --path photos/ --codes features/    # written before

Without options it takes a pretrained encoder of clothes and the images that come with the package. scikit-learn
searches; where faiss is installed it does, with the same results (pip install faiss-cpu). hits.csv says by the keys of
the files, "row" and "path", which images were found; the picture is drawn from what those keys lead to.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from pyarrow import parquet
from sklearn.neighbors import NearestNeighbors

from lightning_ae.cli import tools, trained

FOLDER = Path("uses")
SPLITS = ("train", "val", "test")


def read(made: dict[str, Path]) -> tuple[np.ndarray, pd.DataFrame]:
    """The codes of each split's file, or folder of shards, (N, values), and beside them keys and labels."""
    codes, others = [], []
    for split, place in made.items():
        for file in [place] if place.is_file() else sorted(place.glob("*.parquet")):
            table = parquet.read_table(file)
            code = table.column_names[0]  # it comes first, whatever it had to be called
            codes.append(np.stack(table[code].to_numpy()))
            others.append(table.drop_columns([code]).to_pandas().assign(_split=split))
    return np.concatenate(codes), pd.concat(others, ignore_index=True)


def search(codes: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """The positions of the k codes nearest to each of those asked for, (len(asked), k), none of which is itself."""
    some, codes = min(k + 8, len(codes)), codes - codes.mean(axis=0)
    try:
        import faiss
    except ImportError:
        print("searched by scikit-learn")
        nearest = NearestNeighbors(n_neighbors=some, algorithm="brute").fit(codes)
        found = nearest.kneighbors(codes[asked], return_distance=False)
    else:
        print("searched by faiss")
        index = faiss.IndexFlatL2(codes.shape[1])
        index.add(codes)
        found = index.search(codes[asked], some)[1]
    # of those few the distances in float64 decide, and the position between equal ones, whoever searched
    apart = codes[found].astype(np.float64) - codes[asked][:, None]
    distance = np.where(found == asked[:, None], np.inf, np.square(apart).sum(axis=2))
    order = np.lexsort((found, distance))[:, : min(k, len(codes) - 1)]
    return np.take_along_axis(found, order, axis=1)


def image(data: Any, key: Any) -> Any:
    """The image that a key leads to: its file, where it is one, else its row of the data set."""
    file = Path(str(data.path)) / str(key.get("path", ""))
    if file.is_file():
        return Image.open(file)
    (position,) = np.flatnonzero(data.keys(key["_split"])["row"] == key["row"])
    return data.dataset(key["_split"])[int(position)][data.input_columns[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", default="vae_conv.fashion_mnist_v1", help="a checkpoint, or an entry of the zoo"
    )
    parser.add_argument("--path", default="fashion", help="a folder of images, a hub id, digits or fashion")
    parser.add_argument("--codes", type=Path, help="what features wrote of them; by default it is called")
    parser.add_argument("--n", type=int, default=6, help="how many images to ask for")
    parser.add_argument("--k", type=int, default=8, help="how many neighbours of each")
    args = parser.parse_args()

    if args.codes is None:
        made = tools.features(args.checkpoint, args.path, output=str(FOLDER / "codes"), overwrite=True)
    else:
        places = [args.codes / name for split in SPLITS for name in (split, f"{split}.parquet")]
        made = {place.stem: place for place in places if place.exists()}
        if not made:
            parser.error(f"--codes {args.codes} holds none; lightning-ae features CHECKPOINT --output {args.codes}")
    codes, rows = read(made)
    model = trained.load(args.checkpoint, "cpu")
    trained.check_images(model)
    data = trained.data_of(model, args.checkpoint, args.path)  # as features read them

    asking = np.flatnonzero(rows["_split"] == ("test" if "test" in set(rows["_split"]) else "train"))
    hits = search(codes, asking, args.k)
    if data.has_classes:
        label = rows[data.label].to_numpy()
        same = 100 * (label[hits] == label[asking][:, None]).mean()
        print(f"{same:.1f} % of the {args.k} nearest are of the class of the image asked for ({len(asking)} images)")

    FOLDER.mkdir(exist_ok=True)
    drawn = np.random.default_rng(0).choice(len(asking), min(args.n, len(asking)), replace=False)
    keys = ["_split", *[name for name in ("row", "path") if name in rows]]
    listed = []
    columns = hits.shape[1] + 1
    figure, axes = plt.subplots(
        len(drawn), columns, figsize=(columns, 1.2 * len(drawn)), layout="constrained", squeeze=False
    )
    for line, query in zip(axes, drawn, strict=True):
        for place, (axis, position) in enumerate(zip(line, [asking[query], *hits[query]], strict=True)):
            key = rows.loc[position, keys]
            axis.imshow(image(data, key), cmap="gray")
            axis.set_axis_off()
            axis.set_title(Path(str(key.get("path", f"{key['_split']} {key['row']}"))).name, fontsize=6)
            listed.append({"query": query, "place": place, **key.rename({"_split": "split"})})
    figure.suptitle("left: an image; right of it its nearest neighbours by their codes")
    figure.savefig(FOLDER / "hits.png", dpi=110)
    pd.DataFrame(listed).to_csv(FOLDER / "hits.csv", index=False)
    print(f"written to {FOLDER}: hits.png, hits.csv (place 0 is the image asked for)")


if __name__ == "__main__":
    main()
