"""Sparse autoencoders: penalised activations, and the k largest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor
from typing_extensions import Unpack

from lightning_ae.architectures import MLP
from lightning_ae.autoencoder import Autoencoder, LikelihoodOptions, Options
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.sparsity import KLSparsity, L1Sparsity, Sparsity, TopK


class SparseAutoencoder(Autoencoder):
    r"""A code, often wider than the input, of which few units are active at a time.

    It minimises :math:`\mathbb E[-\log p(x \mid \psi(z))] + \lambda\, \Omega`, with one of two penalties:

    - "kl" (Ng 2011, CS294A lecture notes): sigmoid units, whose mean activation :math:`\hat\rho_j` over the batch is
      drawn to a small target :math:`\rho`,

      .. math:: \Omega = \sum_j \rho \log \frac{\rho}{\hat\rho_j} + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho_j};

    - "l1": rectified units, and :math:`\Omega = \mathbb E \sum_j |z_j|`.

    The mean activation is that of the whole batch, over all ranks: the gradient on W ranks is that of one process
    with the batch of all. With gradient accumulation each part is a batch of its own, since its mean is. The penalty
    is computed from the pre-activations, so units that are dead or saturated have their gradient, also under bf16.

    The L1 penalty alone can be cheated by small codes and large decoder weights; weight decay keeps those in bounds.

    Args:
        latent_dim: the number of units of the code.
        penalty: "kl" or "l1".
        sparsity_weight: lambda, in nats per sample.
        rho: the target of "kl", in (0, 1).
    """

    reference: ClassVar[str] = "Ng 2011, https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf"

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        penalty: Literal["kl", "l1"] = "kl",
        sparsity_weight: float = 0.1,
        rho: float = 0.05,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_shape, latent_dim, **options)
        if penalty not in ("kl", "l1"):
            raise InputError(f"penalty must be 'kl' or 'l1', got {penalty!r}")
        if not sparsity_weight >= 0:
            raise InputError(f"sparsity_weight must not be negative, got {sparsity_weight}")
        of_kl = KLSparsity(sparsity_weight, rho)  # rho is checked for "l1", too
        self.sparsity: Sparsity = of_kl if penalty == "kl" else L1Sparsity(sparsity_weight)
        self.penalty, self.sparsity_weight, self.rho = penalty, sparsity_weight, rho
        check_reaches_loss(self, SparseAutoencoder, {"encode": "pre_activation"})

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The activations: (B, *input_shape) to (B, *code_shape), in (0, 1) for "kl", in [0, inf) for "l1"."""
        return self.sparsity(self.pre_activation(x, **given)).to(self.dtype)

    def pre_activation(self, x: Tensor, **given: Tensor) -> Tensor:
        """What the units' activations are made of, (B, *input_shape) to (B, *code_shape), in float32 at least.

        The loss takes its code from here: a subclass with another way to it overrides this, not `encode`.
        """
        self.check_given(given)
        return at_least_float32(self.encoder(x))

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms "reconstruction" and "sparsity" (without its weight), and their sum "loss"."""
        pre_activation = self.pre_activation(x, **given)
        code = self.sparsity(pre_activation)
        reconstruction = self.reconstruction_loss(code, target, **given)
        terms = self.sparsity.terms(self, target, pre_activation, code)
        return {"loss": reconstruction + terms.pop("loss"), "reconstruction": reconstruction, **terms}

    def active(self, code: Tensor) -> Tensor:
        """The units whose activation exceeds 0.1 for "kl", since no sigmoid is zero, and 0 for "l1"."""
        return self.sparsity.active(code)


def check_reaches_loss(model: Autoencoder, ours: type[Autoencoder], instead: Mapping[str, str]) -> None:
    """Refuses a subclass that overrides what the loss of `ours` does not call, and neither what it calls instead.

    Args:
        model: the model at hand.
        ours: the class whose loss it is.
        instead: for the name of each such method that of the one which the loss calls.
    """
    cls = type(model)

    def overrides(name: str) -> bool:
        return getattr(cls, name) is not getattr(ours, name)

    for name, other in instead.items():
        if overrides(name) and not overrides(other) and not overrides("loss"):
            raise InputError(
                f"{cls.__name__} overrides {name}, of which the loss would see nothing",
                f"override {other}, which the loss calls; or loss, too",
            )


class KSparseAutoencoder(Autoencoder):
    r"""A linear autoencoder with tied weights that keeps the k largest units of its code (Makhzani & Frey 2014).

    .. math:: z = \mathrm{top}_k(W x + b), \qquad \hat x = W^\top z + b'

    The gradient flows through the units that are kept. After training, :math:`\alpha k` units are kept instead, a
    little more than in training, which makes better features. With a small k from the start, some units are never
    chosen and die; so k can fall linearly from `k_start` over the first `k_epochs` epochs (section 3.2 of the paper).

    It minimises the negative log-likelihood; with the default Gaussian, half the squared error.

    Args:
        latent_dim: the number of units of the code.
        k: how many of them are kept in training.
        alpha: alpha * k, rounded, are kept afterwards.
        k_start: how many are kept in the first epoch; by default k.
        k_epochs: the number of epochs until k is reached.
    """

    reference: ClassVar[str] = "Makhzani & Frey 2014, https://arxiv.org/abs/1312.5663"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        k: int = 4,
        alpha: float = 1.0,
        k_start: int | None = None,
        k_epochs: int = 0,
        **options: Unpack[LikelihoodOptions],
    ) -> None:
        super().__init__(input_shape, latent_dim, architecture=MLP(hidden=(), tied=True), **options)
        for name, value in {"k": k, "k_start": k if k_start is None else k_start}.items():
            if not 1 <= value <= latent_dim:
                raise InputError(
                    f"{name} must lie between 1 and the number of units, latent_dim = {latent_dim}; got {value}"
                )
        if not alpha > 0:
            raise InputError(f"alpha must be positive, got {alpha}")
        if k_epochs < 0:
            raise InputError(f"k_epochs must not be negative, got {k_epochs}")
        self.k, self.alpha, self.k_epochs = k, alpha, k_epochs
        self.k_start = k if k_start is None else k_start

    @property
    def kept(self) -> int:
        """How many units are kept at present: by the schedule in training, alpha * k otherwise."""
        if not self.training:
            return min(self.latent_dim, max(1, round(self.alpha * self.k)))
        progress = min(1.0, self.current_epoch / self.k_epochs) if self.k_epochs else 1.0
        return round(self.k_start + (self.k - self.k_start) * progress)

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        """The code with all but its largest units zero: (B, *input_shape) to (B, latent_dim)."""
        self.check_given(given)
        return TopK(self.kept)(self.encoder(x))

    def active(self, code: Tensor) -> Tensor:
        """The units that are kept."""
        return code != 0
