"""What models are made of: plain data that hold the mathematics, a file a kind."""

from lightning_ae.parts.corruptions import Corruption, GaussianNoise, Masking, SaltAndPepper
from lightning_ae.parts.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
)
from lightning_ae.parts.objectives import ELBO, IWAEObjective, Objective, TotalCorrelation
from lightning_ae.parts.posteriors import DiagonalGaussian, Posterior
from lightning_ae.parts.priors import MixturePrior, Prior, StandardNormal, VampPrior
from lightning_ae.parts.schedules import CosineDecay, LinearDecay, Schedule, Warmup

__all__ = [
    "ELBO",
    "Bernoulli",
    "ContinuousBernoulli",
    "Corruption",
    "CosineDecay",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "Gaussian",
    "GaussianNoise",
    "IWAEObjective",
    "Laplace",
    "Likelihood",
    "LinearDecay",
    "Masking",
    "MixturePrior",
    "Objective",
    "Posterior",
    "Prior",
    "SaltAndPepper",
    "Schedule",
    "StandardNormal",
    "TotalCorrelation",
    "VampPrior",
    "Warmup",
]
