"""What models are made of: plain data that hold the mathematics, a file a kind."""

from lightning_ae.parts.aggregated import Capacity, DisentangledPrior, FreeBits, MaximumMeanDiscrepancy
from lightning_ae.parts.categorical import Concrete, UniformOnCategories
from lightning_ae.parts.corruptions import Corruption, GaussianNoise, Masking, SaltAndPepper
from lightning_ae.parts.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from lightning_ae.parts.flow_posteriors import IAF, PlanarFlow, SplineFlow
from lightning_ae.parts.gumbel_quantizer import GumbelQuantizer
from lightning_ae.parts.hamiltonian import HamiltonianFlow
from lightning_ae.parts.hyperbolic import CentredWrappedNormal, WrappedNormal
from lightning_ae.parts.hyperspherical import UniformOnSphere, VonMisesFisher
from lightning_ae.parts.importance import CIWAEObjective, IWAEObjective, MIWAEObjective, PIWAEObjective
from lightning_ae.parts.joint import JointCapacity, JointPosterior, JointPrior
from lightning_ae.parts.likelihoods import Bernoulli, Gaussian, Laplace, Likelihood
from lightning_ae.parts.lookup_free import FiniteScalarQuantizer, LookupFreeQuantizer
from lightning_ae.parts.mixed import Categorical, Mixed, StudentT
from lightning_ae.parts.objectives import ELBO, Objective, TotalCorrelation
from lightning_ae.parts.perceptual import FeatureDistance, Perceptual, StructuralDistance
from lightning_ae.parts.posteriors import DiagonalGaussian, FullCovarianceGaussian, Posterior
from lightning_ae.parts.priors import FlowPrior, MixturePrior, Prior, StandardNormal, VampPrior
from lightning_ae.parts.quantizers import Quantizer
from lightning_ae.parts.residual_quantizer import ResidualQuantizer
from lightning_ae.parts.schedules import CosineDecay, LinearDecay, Schedule, Warmup
from lightning_ae.parts.similarity import StructuralSimilarity
from lightning_ae.parts.sparsity import KLSparsity, L1Sparsity, Sparsity, TopK
from lightning_ae.parts.spectral import MultiScaleSpectral
from lightning_ae.parts.unit_interval import ContinuousBernoulli, DiscretizedLogistic
from lightning_ae.parts.vector_quantizers import GradientVectorQuantizer, SimVectorQuantizer, VectorQuantizer

__all__ = [
    "Bernoulli",
    "CIWAEObjective",
    "Capacity",
    "Categorical",
    "CentredWrappedNormal",
    "Concrete",
    "ContinuousBernoulli",
    "Corruption",
    "CosineDecay",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "DisentangledPrior",
    "ELBO",
    "FiniteScalarQuantizer",
    "FeatureDistance",
    "FlowPrior",
    "FreeBits",
    "FullCovarianceGaussian",
    "Gaussian",
    "GaussianNoise",
    "GradientVectorQuantizer",
    "GumbelQuantizer",
    "HamiltonianFlow",
    "IAF",
    "IWAEObjective",
    "JointCapacity",
    "JointPosterior",
    "JointPrior",
    "KLSparsity",
    "L1Sparsity",
    "Laplace",
    "Likelihood",
    "LinearDecay",
    "LookupFreeQuantizer",
    "MIWAEObjective",
    "Masking",
    "MaximumMeanDiscrepancy",
    "Mixed",
    "MixturePrior",
    "MultiScaleSpectral",
    "NegativeBinomial",
    "Objective",
    "PIWAEObjective",
    "Perceptual",
    "PlanarFlow",
    "Poisson",
    "Posterior",
    "Prior",
    "Quantizer",
    "ResidualQuantizer",
    "SaltAndPepper",
    "Schedule",
    "SimVectorQuantizer",
    "Sparsity",
    "SplineFlow",
    "StandardNormal",
    "StructuralDistance",
    "StructuralSimilarity",
    "StudentT",
    "TopK",
    "TotalCorrelation",
    "UniformOnCategories",
    "UniformOnSphere",
    "VampPrior",
    "VectorQuantizer",
    "VonMisesFisher",
    "Warmup",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
]
