"""Metrics that torchmetrics lacks, or computes in another way."""

from lightning_ae.metrics.attribution import DCI, MIG, SAP, Explicitness, Modularity
from lightning_ae.metrics.base import SampleMetric
from lightning_ae.metrics.baselines import compare_codes, disentanglement, untrained
from lightning_ae.metrics.cka import LinearCKA
from lightning_ae.metrics.codebooks import CodebookUse
from lightning_ae.metrics.codes import ActiveUnits, Sparsity, knn_error, linear_probe_error
from lightning_ae.metrics.geometry import (
    Alignment,
    EffectiveRank,
    cluster_scores,
    intrinsic_dimension,
    two_nn_dimension,
    uniformity,
)
from lightning_ae.metrics.interventions import IRS, BetaVAEScore, FactorVAEScore
from lightning_ae.metrics.lenet import load_lenet
from lightning_ae.metrics.manifolds import DensityCoverage, PrecisionRecall
from lightning_ae.metrics.memorisation import DataCopying, nearest_figure, nearest_training
from lightning_ae.metrics.reconstruction import ExplainedVariance, PSNRPerImage, RSquared, SquaredErrorPerSample
from lightning_ae.metrics.samples import FrechetDistance, FrechetLeNetDistance, frechet_distance
from lightning_ae.metrics.unsupervised import UDR, GaussianTotalCorrelation

__all__ = [
    "ActiveUnits",
    "Alignment",
    "BetaVAEScore",
    "CodebookUse",
    "DCI",
    "DataCopying",
    "DensityCoverage",
    "EffectiveRank",
    "ExplainedVariance",
    "Explicitness",
    "FactorVAEScore",
    "FrechetDistance",
    "FrechetLeNetDistance",
    "GaussianTotalCorrelation",
    "IRS",
    "LinearCKA",
    "MIG",
    "Modularity",
    "PSNRPerImage",
    "PrecisionRecall",
    "RSquared",
    "SAP",
    "SampleMetric",
    "Sparsity",
    "SquaredErrorPerSample",
    "UDR",
    "cluster_scores",
    "compare_codes",
    "disentanglement",
    "frechet_distance",
    "intrinsic_dimension",
    "knn_error",
    "linear_probe_error",
    "load_lenet",
    "nearest_figure",
    "nearest_training",
    "two_nn_dimension",
    "uniformity",
    "untrained",
]
