"""The semi-supervised variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.errors import InputError
from lightning_ae.exact import rows, sum_over_ranks
from lightning_ae.models.conditional import ConditionalVAE, unread
from lightning_ae.models.vae_variants import ObjectiveSettled
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.posteriors import Distribution
from lightning_ae.scores import Coded


class SemiSupervisedVAE(ConditionalVAE):
    r"""A variational autoencoder of data of which few have labels, and a classifier (Kingma et al. 2014, their M2).

    The class y, uniform beforehand, and a code z make a sample; q(y | x) is a classifier, q(z | x, y) the encoder. With

    .. math:: L(x, y) = -\mathbb E_{q(z \mid x, y)} [\log p(x \mid y, z)] + \beta\, KL(q(z \mid x, y) \,\|\, p(z))
        - \log p(y),

    which bounds :math:`-\log p(x, y)`, it minimises the mean over all samples of L(x, y), where the label is known, and

    .. math:: U(x) = \sum_y q(y \mid x)\, (L(x, y) + \log q(y \mid x)),

    where it is not: a bound on :math:`-\log p(x)`, whose sum over the classes is taken as it stands (equations 6, 7).
    To it comes the classifier's error, :math:`\alpha` times the mean of :math:`-\log q(y \mid x)` over those samples of
    the batch of all ranks that have a label (equation 9; as the loss here is a mean over samples, alpha is the paper's
    divided by their number, 0.1 there; the default is more, since beside bounds of tens of nats that leaves the labels
    little to say). A batch without labels has no such error. A step computes every sample with every class, so it costs
    as many times a conditional autoencoder's.

    Batches hold labels of -1 where there is none; a step refuses batches without that column, which evaluation takes. A
    code is the mean of q(z | x, y) for the label, or for the likeliest class where it is not given; so is a
    reconstruction. Of a code without a label `decode` gives the mean over the classes. The `score` is U(x) with
    beta = 1, whatever label is given. `class_log_probabilities` is the classifier.

    Args:
        num_classes: the number of classes; labels are 0 to num_classes - 1.
        alpha: the weight of the classifier's error.
    """

    reference: ClassVar[str] = "Kingma et al. 2014, https://arxiv.org/abs/1406.5298"
    optional: ClassVar[tuple[str, ...]] = ("mask", "label")
    encodes_with: ClassVar[tuple[str, ...]] = ("encoder", "classifier")

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        num_classes: int = 10,
        alpha: float = 10.0,
        **options: Unpack[ObjectiveSettled],
    ) -> None:
        if not 0 <= alpha < math.inf:
            raise InputError(f"alpha must not be negative, got {alpha}")
        self.alpha = alpha
        super().__init__(input_shape, latent_dim, num_classes=num_classes, **options)
        self.classifier = self.architecture.encoder(self.input_shape, num_classes)

    @property
    def needs_label(self) -> bool:
        """No: labels of -1 are what it is for."""
        return False

    @property
    def drawn_objective(self) -> str:
        """The bounds, from draws, and the classifier's error."""
        return "semi_supervised_loss"

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """log q(y | x): of (B, *input_shape), in the model's units, (B, num_classes), in float32 at least."""
        logits = at_least_float32(self.classifier(x))
        return (logits.flatten(2).mean(dim=2) if logits.ndim > 2 else logits).log_softmax(dim=1)

    @torch.no_grad()
    def predict_proba(self, data: Any, **given: Any) -> Tensor:
        """q(y | x) of data in natural units, (B, num_classes); data and what else is given as of `features`."""
        return self.class_log_probabilities(self.read_natural(data, given)[0]).exp()

    def infer(self, x: Tensor, **given: Tensor) -> Distribution:
        """q(z | x, y), of the label where it is known and of the likeliest class elsewhere."""
        return super().infer(x, **self._labelled(x, given))

    def forward(self, x: Tensor, **given: Tensor) -> Tensor:
        """The reconstruction of `x`, as of its label or of its likeliest class: (B, *input_shape) to the same shape."""
        return super().forward(x, **self._labelled(x, given))

    def decoder_parameters(self, z: Tensor, **given: Tensor) -> Tensor:
        """As of `ConditionalVAE`, of a label for each sample."""
        if (label := given.get("label")) is None or not (unread(label) or (label >= 0).all()):
            raise InputError(
                f"p(x | y, z) of {type(self).__name__} needs a label for each sample",
                "give the likeliest, model.class_log_probabilities(x).argmax(1)",
            )
        return super().decoder_parameters(z, **given)

    def decode(self, z: Any, **given: Tensor) -> Tensor:
        """The mean of p(x | y, z), or where there is no label of p(x | z): (B, *code_shape) to (B, *input_shape)."""
        label = self._known(given, z.shape[0])
        super()._refuse_unseen([label])
        if unread(label) or (label >= 0).all():
            return super().decode(z, **given)
        each = [super(SemiSupervisedVAE, self).decode(z, **{**given, "label": torch.full_like(label, c)})
                for c in range(self.num_classes)]  # fmt: skip
        own = super().decode(z, **{**given, "label": label.clamp(min=0)})
        return torch.where((label >= 0).view(-1, *[1] * (own.ndim - 1)), own, torch.stack(each).mean(dim=0))

    def sample(self, n: int, *, temperature: float = 1.0, **given: Any) -> Tensor:
        """As `ConditionalVAE.sample`; without a label each sample is of a class that is drawn of those with labels."""
        if given.get("label") is None:
            classes = torch.tensor(self.classes, device=self.device)
            given["label"] = classes[torch.randint(len(classes), (n,), device=self.device)]
        return super().sample(n, temperature=temperature, **given)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """As of every model, and the classes' probabilities "probability" (B, num_classes)."""
        x, _, given = self.read(batch)
        given = self._labelled(x, given)
        code = self.encode(x, **given)
        probability = self.class_log_probabilities(x).exp()
        return {"code": code, "reconstruction": self.decode(code, **given), "probability": probability}

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms "reconstruction", "kl" and "label_kl", of the bounds; "classification", the error; and "loss".

        In nats. The first two are means over the classes where there is no label. "label_kl" is log num_classes where
        there is one, else KL(q(y | x) || p(y)).
        """
        self.check_given(given)
        if self.training and given.get("label") is None:
            raise InputError(
                f"{type(self).__name__} takes 'label' besides the input, and the batch has none",
                "give batches (input, label), with -1 where there is no label; without any, train a VAE",
            )
        label, log_q = self._known(given, x.shape[0]), self.class_log_probabilities(x)
        known = label >= 0
        own = self._one_hot(label, self.num_classes)
        if self.training:
            self.seen += sum_over_ranks(own.sum(dim=0))[0]
        weights = torch.where(known.unsqueeze(1), own.to(log_q.dtype), log_q.exp())
        pairs = self._pairs(x, given, "posterior")
        coded = Coded(pairs.z, weights=weights, given={"label": pairs.label})
        with self.head.weighing(weights.detach().flatten()):
            log_p = coded.log_likelihoods(self, target, **given)
        reconstruction = -(weights * log_p).sum(dim=1).mean()
        kl = (weights * pairs.kl).sum(dim=1).mean()
        entropy = torch.where(known, 0.0, -(log_q.exp() * log_q).sum(dim=1))
        label_kl = (math.log(self.num_classes) - entropy).mean()
        error = F.nll_loss(log_q, label.clamp(min=0), reduction="none")
        total, count = sum_over_ranks(torch.where(known, error, 0.0).sum(), known.to(error.dtype).sum())
        classification = total / count.clamp(min=1)
        loss = reconstruction + self.kl_weight * kl + label_kl + self.alpha * classification
        terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl, "label_kl": label_kl}
        return {**terms, "classification": classification}

    def coded(self, x: Tensor, draws: int = 1, **given: Tensor) -> Iterator[Coded]:
        """Draws for every class, with what they cost: of the bound on -log p(x) with beta = 1, whatever the label."""
        self.check_given(given)
        log_q = self.class_log_probabilities(x)
        weights = log_q.exp()
        for _ in range(draws):
            if draws == 1:
                pairs = self._pairs(x, given, "score")
                cost = (weights * (pairs.kl + log_q)).sum(dim=1) + math.log(self.num_classes)
                yield Coded(pairs.z, divergence=cost, weights=weights, given={"label": pairs.label})
            else:
                pairs = self._pairs(x, given, "score", drawn=True)
                ratio = pairs.kl + math.log(self.num_classes)
                yield Coded(pairs.z, log_ratio=ratio, weights=weights, given={"label": pairs.label})

    # ---- inside -------------------------------------------------------------------------------------------------

    def _pairs(self, x: Tensor, given: dict[str, Tensor], purpose: str, drawn: bool = False) -> _Pairs:
        """A draw for each sample and class, a sample's beside each other, and its divergence or, `drawn`, log ratio."""
        n, k = x.shape[0], self.num_classes
        label = torch.arange(k, device=x.device).repeat(n)
        repeated = {role: value.repeat_interleave(k, dim=0) for role, value in given.items()} | {"label": label}
        noise = self.noise(purpose)
        with rows("by_sample"):
            q = ConditionalVAE.infer(self, x.repeat_interleave(k, dim=0), **repeated)
            if drawn:
                z, log_q = q.draw_with_log_prob(noise)
                kl = log_q - self.prior.log_prob(self, z)
            else:
                z, density = self.prior.draw_for_kl(self.posterior, q, noise)
                kl = self.prior.kl(self, q, z, density)
        return _Pairs(z, label, kl.unflatten(0, (-1, k)))

    def _known(self, given: dict[str, Tensor], n: int) -> Tensor:
        """The labels (n,), -1 where there is none."""
        label = given.get("label")
        return torch.full((n,), -1, device=self.device) if label is None else self._label(label, n)

    def _labelled(self, x: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is given, with the likeliest class where there is no label."""
        label = self._known(given, x.shape[0])
        super()._refuse_unseen([label])
        if not unread(label) and (label >= 0).all():
            return given
        return {**given, "label": torch.where(label < 0, self.class_log_probabilities(x).argmax(dim=1), label)}

    def _refuse_unseen(self, columns: Sequence[Tensor]) -> None:
        """Nothing: the bounds ask for every class, labelled or not; what a user asks for is looked at before."""


class _Pairs(NamedTuple):
    """Of each sample and class: codes (B * k, *code_shape), labels (B * k,), and what a code costs, (B, k)."""

    z: Tensor
    label: Tensor
    kl: Tensor
