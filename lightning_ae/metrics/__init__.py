"""Metrics that torchmetrics lacks."""

from lightning_ae.metrics.codes import ActiveUnits, knn_error, linear_probe_error
from lightning_ae.metrics.reconstruction import SquaredErrorPerSample

__all__ = ["ActiveUnits", "SquaredErrorPerSample", "knn_error", "linear_probe_error"]
