"""Metrics that torchmetrics lacks, or computes in another way."""

from lightning_ae.metrics.base import SampleMetric
from lightning_ae.metrics.baselines import compare_codes
from lightning_ae.metrics.cka import LinearCKA
from lightning_ae.metrics.codes import ActiveUnits, Sparsity, knn_error, linear_probe_error
from lightning_ae.metrics.geometry import (
    Alignment,
    EffectiveRank,
    cluster_scores,
    intrinsic_dimension,
    two_nn_dimension,
    uniformity,
)
from lightning_ae.metrics.lenet import load_lenet
from lightning_ae.metrics.manifolds import DensityCoverage, PrecisionRecall
from lightning_ae.metrics.memorisation import DataCopying, nearest_figure, nearest_training
from lightning_ae.metrics.reconstruction import ExplainedVariance, PSNRPerImage, RSquared, SquaredErrorPerSample
from lightning_ae.metrics.samples import FrechetDistance, FrechetLeNetDistance, frechet_distance

__all__ = [
    "ActiveUnits",
    "Alignment",
    "DataCopying",
    "DensityCoverage",
    "EffectiveRank",
    "ExplainedVariance",
    "FrechetDistance",
    "FrechetLeNetDistance",
    "LinearCKA",
    "PSNRPerImage",
    "PrecisionRecall",
    "RSquared",
    "SampleMetric",
    "Sparsity",
    "SquaredErrorPerSample",
    "cluster_scores",
    "compare_codes",
    "frechet_distance",
    "intrinsic_dimension",
    "knn_error",
    "linear_probe_error",
    "load_lenet",
    "nearest_figure",
    "nearest_training",
    "two_nn_dimension",
    "uniformity",
]
