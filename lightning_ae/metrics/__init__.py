"""Metrics that torchmetrics lacks, or computes in another way."""

from lightning_ae.metrics.attribution import DCI, MIG, SAP, Explicitness, Modularity
from lightning_ae.metrics.base import SampleMetric
from lightning_ae.metrics.baselines import compare_codes, disentanglement
from lightning_ae.metrics.codes import ActiveUnits, Sparsity, knn_error, linear_probe_error
from lightning_ae.metrics.interventions import IRS, BetaVAEScore, FactorVAEScore
from lightning_ae.metrics.reconstruction import ExplainedVariance, PSNRPerImage, RSquared, SquaredErrorPerSample
from lightning_ae.metrics.unsupervised import UDR, GaussianTotalCorrelation

__all__ = [
    "ActiveUnits",
    "BetaVAEScore",
    "DCI",
    "ExplainedVariance",
    "Explicitness",
    "FactorVAEScore",
    "GaussianTotalCorrelation",
    "IRS",
    "MIG",
    "Modularity",
    "PSNRPerImage",
    "RSquared",
    "SAP",
    "SampleMetric",
    "Sparsity",
    "SquaredErrorPerSample",
    "UDR",
    "compare_codes",
    "disentanglement",
    "knn_error",
    "linear_probe_error",
]
