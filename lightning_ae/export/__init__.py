"""Models as graphs of ONNX or torch, with their preprocessing inside."""

from lightning_ae.export.model import export

__all__ = ["export"]
