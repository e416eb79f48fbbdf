"""The supervised stage: a classifier on a pretrained encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.config import import_class, to_plain
from lightning_ae.data.signature import Signature
from lightning_ae.descriptions import DescribedModule, parameters
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.training.module import ExactModule
from lightning_ae.training.speed import adamw


class FineTuneClassifier(DescribedModule, ExactModule):  # type: ignore[misc]  # Lightning's loader is no classmethod
    r"""A linear softmax layer on the codes of a pretrained autoencoder, trained with its labels.

    The last step of Hinton & Salakhutdinov (2006), Bengio et al. (2007) and Vincent et al. (2010): with pretrained
    encoder :math:`\phi` it minimises

    .. math:: \mathbb E\left[-\log \mathrm{softmax}(A\, \phi(x) + a)_y\right]

    over A and a and, unless it is frozen, over all weights that :math:`\phi` depends on; it gives the code as a vector
    (`model.pool`: a map or tokens by the mean over positions, a hierarchy's codes beside each other). Batches hold
    labels as the data module's label column, or as the entry of a tuple that follows the input and what the
    autoencoder is given besides.

    Args:
        pretrained: the path of an autoencoder's checkpoint, a name in the zoo, or an autoencoder; any variant.
        num_classes: the number of classes; labels are 0 to num_classes - 1.
        freeze: train the softmax layer alone, on codes without randomness.
        lr: the learning rate of AdamW.
        layer_decay: each layer of the encoder learns this much slower than the one above it, in (0, 1].
        weight_decay: AdamW's decoupled weight decay.
        input_shape: of the data, as recipes of data state it: that of the autoencoder, where it is given.

    Raises:
        InputError: when an argument cannot work, naming it.
    """

    reference: ClassVar[str] = "Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html"

    def __init__(
        self,
        pretrained: str | Autoencoder,
        num_classes: int = 10,
        freeze: bool = False,
        lr: float = 1e-3,
        layer_decay: float = 1.0,
        weight_decay: float = 0.0,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        model = _autoencoder(pretrained)
        if input_shape is not None and tuple(input_shape) != model.input_shape:
            raise InputError(
                f"input_shape is {tuple(input_shape)}, but the pretrained {type(model).__name__} takes "
                f"{model.input_shape}",
                "give an autoencoder that was trained on such data, or data of its shape",
            )
        if "label" in model.given:
            raise InputError(
                f"{type(model).__name__} is given the label, which a classifier on its codes could read off again",
                "fine-tune a model that is not",
            )
        # a checkpoint must be able to rebuild the encoder without the file that it came from
        self.save_hyperparameters({"pretrained": to_plain(model, "pretrained")})
        if not isinstance(num_classes, int) or num_classes < 2:
            raise InputError(f"num_classes must be an integer of at least 2, got {num_classes!r}")
        if not lr > 0 or not weight_decay >= 0:
            raise InputError(f"lr must be positive and weight_decay not negative, got {lr} and {weight_decay}")
        if not 0 < layer_decay <= 1:
            raise InputError(f"layer_decay must lie in (0, 1], got {layer_decay}")
        self.model = model
        self.num_classes, self.freeze_encoder = num_classes, freeze
        self.lr, self.layer_decay, self.weight_decay = lr, layer_decay, weight_decay
        self.data_config = model.data_config
        learned = [] if freeze else _encoding_weights(model.eval())
        self.model.requires_grad_(False)
        for parameter in learned:
            parameter.requires_grad_(True)
        self.classifier = nn.Linear(model.feature_dim, num_classes, device=model.device, dtype=model.dtype)
        stages = ("train", "val", "test")  # "train" alone would shadow nn.Module.train
        self.accuracy = nn.ModuleDict(
            {f"{s}_accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False) for s in stages}
        )

    def described(self) -> dict[str, str]:
        """What `repr` says, and a notebook's table; `print(model)` shows torch's tree."""
        return {
            "classes": f"{self.num_classes} classes",
            "encoder": f"{type(self.model).__name__}" + (", frozen" if self.freeze_encoder else ""),
            **{name: value for name, value in self.model.described().items() if name in ("input", "code")},
            "parameters": parameters(self),
        }

    @classmethod
    def from_init_args(cls, init_args: Mapping[str, Any]) -> FineTuneClassifier:
        """The classifier that plain data of a file describe, on the autoencoder that they describe.

        Raises:
            InputError: when they do not; a file never names another.
        """
        plain = init_args.get("pretrained")
        if isinstance(plain, Autoencoder):
            return super().from_init_args(init_args)
        if (
            not isinstance(plain, Mapping)
            or set(plain) != {"class_path", "init_args"}
            or not isinstance(plain["init_args"], Mapping)
        ):
            raise InputError(f"pretrained must describe an autoencoder by class_path and init_args, got {plain!r}")
        found: Any = import_class(plain["class_path"], Autoencoder, "pretrained")
        return super().from_init_args({**init_args, "pretrained": found.from_init_args(plain["init_args"])})

    @property
    def signature(self) -> Signature | None:
        """What goes into the autoencoder."""
        return self.model.signature

    @signature.setter
    def signature(self, signature: Signature | None) -> None:
        self.model.signature = signature

    def forward(self, x: Tensor, **given: Tensor) -> Tensor:
        """The classes' logits: (B, *input_shape) to (B, num_classes); `given` is what else the autoencoder takes."""
        logits: Tensor = self.classifier(self.model.pool(self.model.encode(x, **given)))
        return logits

    def score(self, data: Any, *args: Any, **options: Any) -> Tensor:
        """Refused: it has no likelihood.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{type(self).__name__} classifies, and has no likelihood to score data by",
            "score with the autoencoder inside: classifier.model.score(data)",
        )

    def compile(self, **options: Any) -> None:
        """Compiles the encoder in place, with the options of `torch.compile`."""
        self.model.compile(**options)

    def train(self, mode: bool = True) -> FineTuneClassifier:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.model.eval()
        return self

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The classes' probabilities "probability" (B, num_classes) and the likeliest class "label" (B,)."""
        x, _, given = self.model.read(batch)
        probability = self(x, **given).softmax(dim=1)
        return {"probability": probability, "label": probability.argmax(dim=1)}

    def configure_optimizers(self) -> Any:
        """AdamW with a group for each layer, the encoder's lower ones slower by `layer_decay` each."""
        groups: list[dict[str, Any]] = [{"params": list(self.classifier.parameters()), "lr": self.lr}]
        for depth, layer in enumerate(reversed(_layers(self.model)), start=1):
            groups.append({"params": layer, "lr": self.lr * self.layer_decay**depth})
        return adamw(self, groups, self.lr, self.weight_decay)

    @property
    def needs_label(self) -> bool:
        """Whether each sample needs a label: in all that runs but predictions."""
        return self._trainer is None or not self._trainer.predicting

    def setup(self, stage: str) -> None:
        """Refuses data without labels.

        Raises:
            InputError: when the data module knows of no label column, or rows have no label.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and getattr(data, "label", "") is None:
            raise InputError("fine-tuning needs labels, but the data set has no label column", "give the data's label")
        if data is not None and hasattr(data, "refuse_unlabelled"):
            stages = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}
            data.refuse_unlabelled(stages.get(stage, []))

    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, _, given = self.model.read(batch)
        labels = self._labels(batch)
        logits = self(x, **given)
        stage = "train" if self.training else "test" if self.trainer.testing else "val"
        accuracy: Any = self.accuracy[f"{stage}_accuracy"]
        accuracy(logits, labels)
        if not self.trainer.barebones:
            self.log(f"{stage}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(x))
        return {"loss": F.cross_entropy(at_least_float32(logits), labels)}

    def _labels(self, batch: Any) -> Tensor:
        labels = None
        if isinstance(batch, Mapping):
            column = getattr(getattr(self.trainer, "datamodule", None), "label", None) or "label"
            labels = batch.get(column)
        elif isinstance(batch, tuple | list) and len(batch) > 1 + len(self.model.given):
            labels = batch[1 + len(self.model.given)]
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            found = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise InputError(
                f"fine-tuning needs whole-number labels in each batch, which holds {found}",
                "give a data module with labels, or batches (x, labels)",
            )
        low, high = torch.stack(torch.aminmax(labels)).tolist()
        if low < 0 or high >= self.num_classes:
            row = int(((labels < 0) | (labels >= self.num_classes)).int().argmax())
            raise InputError(
                f"labels are 0 to {self.num_classes - 1}, but row {row} of the batch has {int(labels[row])}",
                "set num_classes to the number of classes, and drop rows that have none (-1)",
            )
        return labels


def _autoencoder(pretrained: str | Autoencoder) -> Autoencoder:
    if isinstance(pretrained, Autoencoder):
        return pretrained
    if isinstance(pretrained, str | os.PathLike):
        from lightning_ae.zoo.artefact import load_trained  # the zoo stands on top of the models

        return load_trained(pretrained)
    raise InputError(
        f"pretrained must be a checkpoint's path, a name in the zoo or an Autoencoder, got {type(pretrained).__name__}"
    )


def _encoding_weights(model: Autoencoder) -> list[nn.Parameter]:
    """The parameters that the code depends on; others would be left without a gradient.

    Raises:
        InputError: when it depends on none.
    """
    parameters = list(model.requires_grad_(True).parameters())
    with torch.enable_grad():
        total = model.pool(model.encode(model.new_inputs(2))).sum()
        found = [None] * len(parameters)
        if total.requires_grad:
            found = torch.autograd.grad(total, parameters, allow_unused=True)  # type: ignore[assignment]
    learned = [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    if not learned:
        raise InputError(f"the code of {type(model).__name__} has no gradient to learn from", "set freeze")
    return learned


def _layers(network: nn.Module) -> list[list[nn.Parameter]]:
    """A network's trained parameters, those of one layer with weights after another, from input to output."""
    seen: set[int] = set()  # tied weights are those of the layer that has them first
    layers = []
    for module in network.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in own)
        layers.append(own)
    return [layer for layer in layers if layer]
