"""Samplers: densities that are fitted to the codes of a trained model, which then generates."""

from lightning_ae.parts.sampling import Density, Sampler, Space
from lightning_ae.samplers.fitting import fit_sampler, store_sampler
from lightning_ae.samplers.flow import FlowSampler
from lightning_ae.samplers.gaussians import GaussianSampler, MixtureSampler
from lightning_ae.samplers.index import IndexSampler
from lightning_ae.samplers.two_stage import TwoStageSampler

__all__ = [
    "Density",
    "FlowSampler",
    "GaussianSampler",
    "IndexSampler",
    "MixtureSampler",
    "Sampler",
    "Space",
    "TwoStageSampler",
    "fit_sampler",
    "store_sampler",
]
