"""The registry: every variant by its name, and those that other packages register.

A package registers classes of its own by an entry point: `[project.entry-points."lightning_ae.models"]` in its
pyproject.toml, with lines such as `my_vae = "my_package:MyVAE"`.
"""

from __future__ import annotations

import importlib
import re
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from lightning_ae.errors import InputError, unknown

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder

MODELS: dict[str, str] = {
    "ae": "lightning_ae.autoencoder:Autoencoder",
    "linear": "lightning_ae.models.linear:LinearAutoencoder",
    "sparse": "lightning_ae.models.sparse:SparseAutoencoder",
    "k_sparse": "lightning_ae.models.sparse:KSparseAutoencoder",
    "topk_dictionary": "lightning_ae.models.dictionary:TopKDictionary",
    "denoising": "lightning_ae.models.denoising:DenoisingAutoencoder",
    "contractive": "lightning_ae.models.contractive:ContractiveAutoencoder",
    "stacked": "lightning_ae.models.stacked:StackedAutoencoder",
    "score_matching": "lightning_ae.models.score_matching:ScoreMatchingAutoencoder",
    "vae": "lightning_ae.models.vae:VAE",
    "conditional_vae": "lightning_ae.models.conditional:ConditionalVAE",
    "semi_supervised_vae": "lightning_ae.models.semi_supervised:SemiSupervisedVAE",
    "adversarial": "lightning_ae.models.adversarial:AdversarialAutoencoder",
    "ladder_vae": "lightning_ae.models.hierarchical:LadderVAE",
    "top_down_vae": "lightning_ae.models.top_down:TopDownVAE",
    "vq_vae": "lightning_ae.models.vq:VQVAE",
    "residual_vq_vae": "lightning_ae.models.vq_variants:ResidualVQVAE",
    "fsq_vae": "lightning_ae.models.vq_variants:FSQVAE",
    "lfq_vae": "lightning_ae.models.vq_variants:LFQVAE",
    "sim_vq_vae": "lightning_ae.models.vq_variants:SimVQVAE",
    "gumbel_vq_vae": "lightning_ae.models.vq_variants:GumbelVQVAE",
    "vq_vae_2": "lightning_ae.models.vq_levels:VQVAE2",
    "autoencoder_kl": "lightning_ae.models.latent_diffusion:AutoencoderKL",
    "vqgan": "lightning_ae.models.latent_diffusion:VQGAN",
    "vampprior_vae": "lightning_ae.models.vae_variants:VampPriorVAE",
    "iwae": "lightning_ae.models.vae_variants:IWAE",
    "ciwae": "lightning_ae.models.vae_variants:CIWAE",
    "piwae": "lightning_ae.models.vae_variants:PIWAE",
    "hamiltonian_vae": "lightning_ae.models.vae_variants:HamiltonianVAE",
    "missing_data_iwae": "lightning_ae.models.missing:MissingDataIWAE",
    "beta_tc_vae": "lightning_ae.models.vae_variants:BetaTCVAE",
    "beta_vae": "lightning_ae.models.vae_variants:BetaVAE",
    "dip_vae": "lightning_ae.models.vae_variants:DIPVAE",
    "factor_vae": "lightning_ae.models.factor:FactorVAE",
    "info_vae": "lightning_ae.models.vae_variants:InfoVAE",
    "hyperspherical_vae": "lightning_ae.models.latent_spaces:HypersphericalVAE",
    "categorical_vae": "lightning_ae.models.latent_spaces:CategoricalVAE",
    "joint_vae": "lightning_ae.models.latent_spaces:JointVAE",
    "poincare_vae": "lightning_ae.models.latent_spaces:PoincareVAE",
}
ALIASES: dict[str, str] = {
    "autoencoder": "ae", "vanilla": "ae", "deep_ae": "ae", "pca": "linear", "linear_ae": "linear",
    "sae": "sparse", "sparse_ae": "sparse", "ksae": "k_sparse", "k_sparse_ae": "k_sparse",
    "topk": "topk_dictionary", "topk_sae": "topk_dictionary", "sparse_dictionary": "topk_dictionary",
    "dictionary": "topk_dictionary", "dae": "denoising", "denoising_ae": "denoising", "cae": "contractive",
    "contractive_ae": "contractive", "sdae": "stacked", "stacked_ae": "stacked", "dsm": "score_matching",
    "variational": "vae", "vanilla_vae": "vae", "plain_vae": "vae", "vae_iaf": "vae",
    "annealed_vae": "beta_vae", "capacity_vae": "beta_vae",
    "cvae": "conditional_vae", "conditional": "conditional_vae",
    "scvi": "conditional_vae", "count_vae": "conditional_vae",
    "m2": "semi_supervised_vae", "ssvae": "semi_supervised_vae", "ss_vae": "semi_supervised_vae",
    "semi_supervised": "semi_supervised_vae", "ssl_vae": "semi_supervised_vae",
    "aae": "adversarial", "adversarial_ae": "adversarial", "lvae": "ladder_vae", "ladder": "ladder_vae",
    "top_down": "top_down_vae", "hierarchical_vae": "top_down_vae", "two_level_vae": "top_down_vae",
    "vq": "vq_vae", "rvq": "residual_vq_vae", "rq_vae": "residual_vq_vae", "rvq_vae": "residual_vq_vae",
    "residual_vq": "residual_vq_vae", "fsq": "fsq_vae", "finite_scalar": "fsq_vae", "lfq": "lfq_vae",
    "lookup_free": "lfq_vae", "magvit": "lfq_vae", "sim_vq": "sim_vq_vae", "dvae": "gumbel_vq_vae",
    "discrete_vae": "gumbel_vq_vae", "gumbel_vq": "gumbel_vq_vae", "vq_2": "vq_vae_2",
    "vamp": "vampprior_vae", "vampprior": "vampprior_vae", "vamp_vae": "vampprior_vae",
    "kl_vae": "autoencoder_kl", "ldm_vae": "autoencoder_kl", "kl_autoencoder": "autoencoder_kl",
    "stable_diffusion_vae": "autoencoder_kl", "sd_vae": "autoencoder_kl",
    "vq_gan": "vqgan", "vq_model": "vqgan", "taming": "vqgan",
    "importance_weighted": "iwae", "combination_iwae": "ciwae", "partially_iwae": "piwae",
    "miwae": "missing_data_iwae", "hvae": "hamiltonian_vae", "hamiltonian": "hamiltonian_vae",
    "tc_vae": "beta_tc_vae", "btc_vae": "beta_tc_vae",
    "mmd_vae": "info_vae", "disentangled_beta_vae": "beta_vae", "dip_vae_i": "dip_vae", "dip_vae_ii": "dip_vae",
    "dip_vae_1": "dip_vae", "dip_vae_2": "dip_vae", "info_vae_mmd": "info_vae", "dreg_iwae": "iwae", "stl_iwae": "iwae",
    "svae": "hyperspherical_vae", "s_vae": "hyperspherical_vae", "vmf_vae": "hyperspherical_vae",
    "hyperspherical": "hyperspherical_vae", "gumbel_vae": "categorical_vae", "concrete_vae": "categorical_vae",
    "cat_vae": "categorical_vae", "gumbel_softmax_vae": "categorical_vae",
    "p_vae": "poincare_vae", "hyperbolic_vae": "poincare_vae", "wrapped_normal_vae": "poincare_vae",
}  # fmt: skip
"""What variants are called elsewhere; case, "_" and "-" do not matter."""
_SCVI = (
    "read the data by HFDataModule(..., kind=Counts(), condition=['batch']), and give num_classes 0, conditions "
    "data.conditions, condition_encoder False, and the likelihood ZeroInflatedNegativeBinomial(library=True, "
    "dispersion='feature_batch'); recipes/uses/batches.py does"
)
SETTINGS = {
    "annealed_vae": "give capacity, 25.0 nats say, and a capacity_schedule",
    "capacity_vae": "give capacity, 25.0 nats say, and a capacity_schedule",
    "disentangled_beta_vae": "give capacity, 25.0 nats say, and a capacity_schedule",
    "mmd_vae": "give alpha 1, which leaves out the divergence of each sample",
    "dip_vae_ii": "give kind II",
    "hvae": "a hierarchical one, which has that name, too, is top_down_vae",
    "miwae": "the multiply importance-weighted autoencoder is a VAE with objective MIWAEObjective",
    "dip_vae_2": "give kind II",
    "dreg_iwae": "give gradient 'dreg'",
    "stl_iwae": "give gradient 'stl'",
    "vae_iaf": "give the posterior IAF()",
    "scvi": _SCVI,
    "count_vae": _SCVI,
}
"""What makes an alias more than another name."""
NEAREST: dict[str, str] = {
    "mae": "denoising", "masked": "denoising", "wae": "info_vae",
    "nvae": "top_down_vae", "vd_vae": "top_down_vae", "rae": "ae", "rae_l2": "ae", "rae_gp": "ae",
    "wae_mmd": "info_vae", "vae_gan": "adversarial", "gm_vae": "vampprior_vae", "m1": "vae",
    "hi_vae": "missing_data_iwae", "not_miwae": "missing_data_iwae",
    "gated_sae": "topk_dictionary", "jump_relu": "topk_dictionary", "batch_topk": "topk_dictionary",
}  # fmt: skip
"""Of what is not here, the variant that comes nearest."""
CLASSES: dict[str, str] = {name: module for module, _, name in (place.partition(":") for place in MODELS.values())}
"""The module of each class."""


def list_models() -> list[str]:
    """The names of all variants: this package's, then those of installed packages."""
    return [*MODELS, *(name for name in sorted(_registered()) if name not in MODELS)]


def variant(name: str) -> str:
    """The name here of a variant that is known elsewhere under another, "vqvae" or "beta-VAE" say.

    Raises:
        InputError: when there is no such variant, with the nearest one suggested.
    """
    known = list_models()
    if name in known:
        return name
    plain = _plain(name)
    classes = {place.rpartition(":")[2]: own for own, place in MODELS.items()}
    for names in ({each: each for each in known}, ALIASES, classes):
        for other, own in names.items():
            if _plain(other) == plain:
                return own
    if (nearest := lacking(name)) is not None:
        raise InputError(f"there is no model {name!r} here yet", f"the nearest is {nearest!r}")
    raise unknown("model", name, known)


def lacking(name: str) -> str | None:
    """The variant that comes nearest to a known one that is not here."""
    return next((nearest for other, nearest in NEAREST.items() if _plain(other) == _plain(name)), None)


def class_path(name: str) -> str:
    """The class of a variant, for a recipe: its bare name, or of another package's the import path."""
    place = MODELS[name] if name in MODELS else _registered()[name].value
    return place.rpartition(":")[2] if name in MODELS else place.replace(":", ".")


def setting(name: str) -> str:
    """What is to be set besides for a name of elsewhere, in words; "" for most."""
    return next((text for other, text in SETTINGS.items() if _plain(other) == _plain(name)), "")


def get_model(name: str) -> type[Autoencoder]:
    """The class of the variant `name`, which may be one of its names elsewhere; see `ALIASES`.

    Raises:
        InputError: for an unknown name, with the nearest one suggested; for a registered one that is no autoencoder.
    """
    from lightning_ae.autoencoder import Autoencoder

    if text := setting(name):
        from pytorch_lightning.utilities import rank_zero_info

        rank_zero_info(f"{name} is {variant(name)} here; {text}")
    name = variant(name)
    if name in MODELS:
        module, _, cls_name = MODELS[name].partition(":")
        own: type[Autoencoder] = getattr(importlib.import_module(module), cls_name)
        return own
    found = _registered()[name]
    cls: Any = found.load()
    if not (isinstance(cls, type) and issubclass(cls, Autoencoder)):
        raise InputError(f"the model {name!r} is registered as {found.value!r}, which is no subclass of Autoencoder")
    return cls


def model_name(cls: type[Autoencoder]) -> tuple[str, str | None]:
    """The name of a class in the registry, and the package that registers it, where it is not this one.

    Raises:
        InputError: when nobody registers it.
    """
    place = f"{cls.__module__}:{cls.__qualname__}"
    for name, known in MODELS.items():
        if known == place:
            return name, None
    for name, point in _registered().items():
        if point.value == place:
            return name, None if point.dist is None else point.dist.name
    raise InputError(
        f"{cls.__name__} is not in the registry",
        f"""register it in its package's pyproject.toml, [project.entry-points."lightning_ae.models"], """
        f'my_name = "{place}", and install the package',
    )


def _plain(name: str) -> str:
    return re.sub(r"[_\-\s]", "", name).lower()


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="lightning_ae.models")}
