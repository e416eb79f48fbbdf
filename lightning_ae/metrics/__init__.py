"""Metrics that torchmetrics lacks, or computes in another way."""

from lightning_ae.metrics.base import SampleMetric
from lightning_ae.metrics.baselines import compare_codes
from lightning_ae.metrics.codes import ActiveUnits, Sparsity, knn_error, linear_probe_error
from lightning_ae.metrics.reconstruction import ExplainedVariance, PSNRPerImage, RSquared, SquaredErrorPerSample

__all__ = [
    "ActiveUnits",
    "ExplainedVariance",
    "PSNRPerImage",
    "RSquared",
    "SampleMetric",
    "Sparsity",
    "SquaredErrorPerSample",
    "compare_codes",
    "knn_error",
    "linear_probe_error",
]
