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

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "Corruption",
    "DiscretizedLogistic",
    "Gaussian",
    "GaussianNoise",
    "Laplace",
    "Likelihood",
    "Masking",
    "SaltAndPepper",
]
