"""The names that people use find the variant."""

from __future__ import annotations

import pytest

from lightning_ae import InputError, get_model, registry

NAMES = {
    "betavae": "BetaVAE", "beta_vae": "BetaVAE", "beta-VAE": "BetaVAE", "BetaVAE": "BetaVAE", "cvae": "ConditionalVAE",
    "CVAE": "ConditionalVAE", "conditional-vae": "ConditionalVAE", "scVI": "ConditionalVAE", "iwae": "IWAE",
    "IWAE": "IWAE", "miwae": "MissingDataIWAE", "M2": "SemiSupervisedVAE", "ssvae": "SemiSupervisedVAE",
    "ss-vae": "SemiSupervisedVAE", "vanilla_vae": "VAE", "dipvae": "DIPVAE", "dip-vae-ii": "DIPVAE",
    "factorvae": "FactorVAE", "betatcvae": "BetaTCVAE", "infovae": "InfoVAE", "mmd-vae": "InfoVAE", "vqvae": "VQVAE",
    "vampprior": "VampPriorVAE", "lvae": "LadderVAE", "svae": "HypersphericalVAE", "gumbel_vae": "CategoricalVAE",
    "dae": "DenoisingAutoencoder", "cae": "ContractiveAutoencoder", "aae": "AdversarialAutoencoder",
    "rvq": "ResidualVQVAE", "RQ-VAE": "ResidualVQVAE", "FSQ": "FSQVAE", "LFQ": "LFQVAE", "SimVQ": "SimVQVAE",
    "dVAE": "GumbelVQVAE", "VQ-VAE-2": "VQVAE2", "vqvae2": "VQVAE2",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_elsewhere_finds_its_variant(name: str) -> None:
    assert get_model(name).__name__ == NAMES[name]


def test_names_lead_somewhere_and_none_is_missing_too() -> None:
    plain = {registry._plain(name) for name in (*registry.MODELS, *registry.ALIASES)}
    assert set(registry.ALIASES.values()) | set(registry.NEAREST.values()) <= registry.MODELS.keys()
    assert registry.SETTINGS.keys() <= registry.ALIASES.keys()
    assert not {registry._plain(name) for name in registry.NEAREST} & plain


def test_what_is_not_here_names_the_nearest() -> None:
    for name, nearest in {"NVAE": "top_down_vae", "rae_l2": "ae", "not-MIWAE": "missing_data_iwae"}.items():
        with pytest.raises(InputError, match=f"the nearest is '{nearest}'"):
            get_model(name)
