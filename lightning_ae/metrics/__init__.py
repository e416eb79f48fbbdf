"""Metrics that torchmetrics lacks."""

from lightning_ae.metrics.codes import ActiveUnits, Sparsity, knn_error, linear_probe_error
from lightning_ae.metrics.reconstruction import ExplainedVariance, SquaredErrorPerSample

__all__ = ["ActiveUnits", "ExplainedVariance", "Sparsity", "SquaredErrorPerSample", "knn_error", "linear_probe_error"]
