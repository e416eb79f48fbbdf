"""What codes are worth, beside what costs no training: their k-nearest-neighbour error, what they tell of factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.metrics.attribution import DCI, MIG, SAP, Explicitness, Modularity
from lightning_ae.metrics.codes import knn_error
from lightning_ae.metrics.interventions import IRS, BetaVAEScore, FactorVAEScore
from lightning_ae.metrics.unsupervised import GaussianTotalCorrelation
from lightning_ae.parts.likelihoods import known

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule


def compare_codes(model: Autoencoder, data: HFDataModule, k: int = 5, seed: int = 0) -> dict[str, float]:
    """The k-nearest-neighbour error of the test split among the training split: the lower, the farther apart classes
    stand.

    Args:
        model: a trained one, which the data feed.
        data: with labels that are classes; rows without one are left out.
        k: the number of neighbours.
        seed: of the untrained model's weights.

    Returns:
        "codes", the model's, as `pool` makes vectors of them; "pca", as many principal components of the inputs, or as
        many as there are; "inputs" as they are; "untrained", the codes of the same model before any training.

    Raises:
        InputError: when there are no classes.

    Example:
        >>> from lightning_ae import Autoencoder, HFDataModule
        >>> from lightning_ae.metrics import compare_codes
        >>> data = HFDataModule("digits")
        >>> sorted(compare_codes(Autoencoder(data.input_shape), data))
        ['codes', 'inputs', 'pca', 'untrained']
    """
    from sklearn.decomposition import PCA

    if not data.has_classes:
        raise InputError("neighbours are judged by their classes, and the data have no label that names any")
    fresh = untrained(model, seed)
    inputs, labels, codes, before = {}, {}, {}, {}
    for split in ("train", "test"):
        taken = data.labels(split) >= 0
        labels[split] = data.labels(split)[taken]
        inputs[split], codes[split] = (each[taken] for each in _encoded(model, data, split))
        before[split] = _encoded(fresh, data, split)[1][taken]
    components = min(model.feature_dim, *inputs["train"].shape)
    pca = PCA(components, svd_solver="full").fit(inputs["train"].numpy())
    projected = {split: torch.from_numpy(pca.transform(each.numpy())) for split, each in inputs.items()}
    found = {"codes": codes, "pca": projected, "inputs": inputs, "untrained": before}
    return {
        name: knn_error(each["train"], labels["train"], each["test"], labels["test"], k) for name, each in found.items()
    }


def untrained(model: Autoencoder, seed: int = 0) -> Any:
    """The same model as it is before any training, its weights drawn by seed; where the model is.

    Example:
        >>> import torch
        >>> from lightning_ae import Autoencoder
        >>> from lightning_ae.metrics import untrained
        >>> model = Autoencoder((4,), latent_dim=2)
        >>> fresh, again = untrained(model), untrained(model)
        >>> torch.equal(fresh(torch.ones(1, 4)), again(torch.ones(1, 4)))
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: Any = type(model).from_init_args(model.init_args)
    fresh.signature, fresh.columns = model.signature, model.columns
    return fresh.to(model.device)


def disentanglement(
    model: Autoencoder, data: HFDataModule, split: str = "test", seed: int = 0, group: int = 64
) -> dict[str, float]:
    """How well the units of a model's codes tell the factors apart that a split was made of.

    Args:
        model: a trained one, which the data feed.
        data: whose factors are known, `data.factors(split)`; rows that lack one are left out.
        split: train, val or test.
        seed: of what is drawn: forests, groups, the halves of rows, and the order of the shuffled codes.
        group: rows of which a group of `FactorVAEScore` is made, and pairs of `BetaVAEScore`.

    Returns:
        Of the codes, as `pool` makes vectors of them, "mig", "sap", "dci_disentanglement", "dci_completeness",
        "dci_informativeness", "explicitness", "irs", "total_correlation" (in nats; only where there are more rows than
        units) and, of several factors, "modularity", "factor_vae_score" and "beta_vae_score". Each comes beside that of
        shuffled codes, "mig_shuffled" and so on: of every unit the same values, drawn apart from those of all other
        units and of the factors. It is what nothing learnt has in this sample.

    Raises:
        InputError: when no factors are known, one has a single value in this split, or a metric asks for more rows.

    Example:
        >>> from lightning_ae import Autoencoder, HFDataModule
        >>> from lightning_ae.data import draw_sprites
        >>> from lightning_ae.metrics import disentanglement
        >>> data = HFDataModule(draw_sprites(train=10, test=2000, size=8), val_fraction=0)
        >>> found = disentanglement(Autoencoder(data.input_shape, latent_dim=5), data, group=16)
        >>> found["mig_shuffled"] < 0.05
        True
    """
    names = data.factor_names
    factors = data.factors(split)
    categorical = [number for number, each in enumerate(data.factor_columns) if each.kind == "category"]
    _, codes = _encoded(model, data, split)
    taken = (factors >= 0).all(dim=1)
    codes, factors = codes[taken], factors[taken]
    if not len(codes):
        raise InputError(f"no row of {split!r} has a value of every factor")
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(codes.shape, generator=generator, dtype=torch.float64).argsort(dim=0)
    found: dict[str, float] = {}
    for ending, each in {"": codes, "_shuffled": codes.gather(0, orders)}.items():
        metrics: dict[str, Any] = {
            "mig": MIG(names=names),
            "sap": SAP(categorical, names=names),
            "dci": DCI(categorical, seed=seed, names=names),
            "explicitness": Explicitness(seed, names=names),
            "irs": IRS(names=names),
        }
        if len(names) > 1:
            metrics |= {
                "modularity": Modularity(names=names),
                "factor_vae_score": FactorVAEScore(group, seed=seed, names=names),
                "beta_vae_score": BetaVAEScore(group, seed=seed, names=names),
            }
        for name, metric in metrics.items():
            value = metric(each, factors)
            parts = {f"{name}_{part}": v for part, v in value.items()} if isinstance(value, dict) else {name: value}
            found |= {f"{part}{ending}": float(v) for part, v in parts.items()}
        if len(each) > each.shape[1]:
            found[f"total_correlation{ending}"] = float(GaussianTotalCorrelation(each.shape[1])(each))
    return found


@torch.no_grad()
def _encoded(model: Autoencoder, data: HFDataModule, split: str) -> tuple[Tensor, Tensor]:
    """The inputs of a split as vectors, and their codes, on the CPU."""
    training, inputs, codes = model.training, [], []
    model.eval()
    for batch in data.batches(split, 1024):
        x, _, given = model.read(move_data_to_device(batch, model.device))
        inputs.append(known(x, given.get("mask")).flatten(1).float().cpu())
        codes.append(model.pool(model.encode(x, **given)).float().cpu())
    model.train(training)
    return torch.cat(inputs), torch.cat(codes)
