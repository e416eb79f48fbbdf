"""What models are made of: plain data that hold the mathematics, a file a kind."""

from lightning_ae.parts.categorical import Concrete, UniformOnCategories
from lightning_ae.parts.corruptions import Corruption, GaussianNoise, Masking, SaltAndPepper
from lightning_ae.parts.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from lightning_ae.parts.hyperspherical import UniformOnSphere, VonMisesFisher
from lightning_ae.parts.likelihoods import Bernoulli, Gaussian, Laplace, Likelihood
from lightning_ae.parts.mixed import Categorical, Mixed, StudentT
from lightning_ae.parts.objectives import ELBO, IWAEObjective, Objective, TotalCorrelation
from lightning_ae.parts.posteriors import DiagonalGaussian, Posterior
from lightning_ae.parts.priors import MixturePrior, Prior, StandardNormal, VampPrior
from lightning_ae.parts.quantizers import GradientVectorQuantizer, Quantizer, VectorQuantizer
from lightning_ae.parts.schedules import CosineDecay, LinearDecay, Schedule, Warmup
from lightning_ae.parts.sparsity import KLSparsity, L1Sparsity, Sparsity, TopK
from lightning_ae.parts.unit_interval import ContinuousBernoulli, DiscretizedLogistic

__all__ = [
    "Bernoulli",
    "Categorical",
    "Concrete",
    "ContinuousBernoulli",
    "Corruption",
    "CosineDecay",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "ELBO",
    "Gaussian",
    "GaussianNoise",
    "GradientVectorQuantizer",
    "IWAEObjective",
    "KLSparsity",
    "L1Sparsity",
    "Laplace",
    "Likelihood",
    "LinearDecay",
    "Masking",
    "Mixed",
    "MixturePrior",
    "NegativeBinomial",
    "Objective",
    "Poisson",
    "Posterior",
    "Prior",
    "Quantizer",
    "SaltAndPepper",
    "Schedule",
    "Sparsity",
    "StandardNormal",
    "StudentT",
    "TopK",
    "TotalCorrelation",
    "UniformOnCategories",
    "UniformOnSphere",
    "VampPrior",
    "VectorQuantizer",
    "VonMisesFisher",
    "Warmup",
    "ZeroInflatedNegativeBinomial",
]
