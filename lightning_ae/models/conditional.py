"""The conditional variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.models.vae import VAE, VAEOptions
from lightning_ae.natural import listed
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.posteriors import Posterior
from lightning_ae.parts.priors import Prior


class ConditionalOptions(VAEOptions, total=False):
    """What it passes on to `VAE`: all that one takes."""

    prior: Prior
    posterior: Posterior
    objective: Objective


class ConditionalVAE(VAE):
    r"""A variational autoencoder of each class of data, in one network (Sohn, Lee & Yan 2015).

    Encoder and decoder see a condition y besides: a label, further columns of classes and numbers, or both. It
    minimises, in nats,

    .. math:: -\mathbb E_{q(z \mid x, y)} [\log p(x \mid z, y)] + \beta\, KL(q(z \mid x, y) \,\|\, p(z)),

    which bounds :math:`-\log p(x \mid y)` from above with :math:`\beta = 1`. The prior is independent of the condition,
    as section 4 of the paper admits, so that the code holds what the condition does not say: `sample(n, label=3)` draws
    codes and decodes them as that class.

    Classes are one-hot, and numbers stand as they are, standardised by a data module. For vectors, and inputs that the
    architecture makes a vector of, they stand beside the input and the code; for others each has a plane beside the
    channels.

    Batches hold labels as the data module's label column, or as a tuple (input, label), and further columns as its
    `condition`, (B, columns), or as (input, condition), (input, label, condition): numbers of classes, and numbers.
    What is missing, a label of -1 or a NaN, is refused; with a `condition_dropout` it is zeros for a class, and for a
    number, which has a further plane then, one where it is known. What was trained on, over all ranks, is the buffer
    `seen`; once trained, it refuses classes that were not, and missing values where none were.

    Args:
        num_classes: the number of classes of the label, which are 0 to num_classes - 1; with 0, where there are
            conditions, it takes no label.
        conditions: the columns of a batch's condition, each the number of its classes, or 0 for numbers; of a data
            module `data.conditions`.
        condition_dropout: the probability with which a step hides the label, and each column, of a sample, so that it
            learns what to make of samples without; with 0 it learns it from missing values of the data. None is without
            any.
        condition_encoder: whether the encoder sees the condition, too; else the posterior is q(z | x).
    """

    reference: ClassVar[str] = (
        "Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html"
    )
    given: tuple[str, ...] = ("label",)

    seen: Tensor
    """How often each class was trained on: the label's, then those of each column of classes; with a condition_dropout
    then how often the label, and each column, was missing."""

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        num_classes: int = 10,
        conditions: Sequence[int] = (),
        condition_dropout: float | None = None,
        condition_encoder: bool = True,
        **options: Unpack[ConditionalOptions],
    ) -> None:
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < (0 if conditions else 1):
            raise InputError(f"num_classes must be a positive integer, got {num_classes!r}")
        if any(type(n) is not int or n < 0 for n in conditions):
            raise InputError(
                f"conditions must be a number for each column, got {listed(list(conditions))}",
                "0 for a column of numbers, K for one of the classes 0, ..., K - 1: [2, 0]",
            )
        if condition_dropout is not None and not 0 <= condition_dropout < 1:
            raise InputError(f"condition_dropout must lie in [0, 1), or be None, got {condition_dropout}")
        self.num_classes, self.conditions = num_classes, tuple(conditions)
        self.condition_dropout, self.condition_encoder = condition_dropout, condition_encoder
        named = [role for role in type(self).given if role != "label" or num_classes]
        if conditions and "condition" not in named:
            named.insert(1 if "label" in named else 0, "condition")
        self.given = tuple(named)
        super().__init__(input_shape, latent_dim, **options)
        levels = sum(self.levels) + (0 if condition_dropout is None else len(self.levels))
        self.register_buffer("seen", torch.zeros(levels, dtype=torch.long))

    @property
    def levels(self) -> tuple[int, ...]:
        """How many classes the label, if it takes one, and each column of the condition has; 0 for numbers."""
        return ((self.num_classes,) if self.num_classes else ()) + self.conditions

    @property
    def needs_label(self) -> bool:
        """Whether each sample must have a label."""
        return "label" in self.given and self.condition_dropout is None

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes of the label that it was trained on; all, before."""
        return self._classes_of(0) if self.num_classes else ()

    @property
    def condition_width(self) -> int:
        """How many values the networks see of the condition."""
        return sum(k or (1 if self.condition_dropout is None else 2) for k in self.levels)

    def build_encoder(self) -> nn.Module:
        """The network of the input with the condition beside it, or without it, to (B, encoder_features, ...).

        (B, channels + condition_width, ...), or of what is made a vector (B, values + condition_width).
        """
        if not self.condition_encoder:
            return super().build_encoder()
        shape = (math.prod(self.input_shape),) if self._flattened else self.input_shape
        architecture: Any = self.architecture
        if getattr(architecture, "log1p", False) and 0 in self.conditions:
            raise InputError(
                f"the encoder of {architecture} takes logarithms of all that it sees, and a condition's numbers may be "
                "negative",
                "give condition_encoder=False, so that the decoder alone sees the condition",
            )
        if categories := getattr(architecture, "categories", None):
            architecture = replace(architecture, categories=(*categories, *[0] * self.condition_width))
        wider = (shape[0] + self.condition_width, *shape[1:])
        network: nn.Module = architecture.encoder(wider, self.encoder_features)
        return network

    def build_decoder(self) -> nn.Module:
        """The network from (B, code_features + condition_width, ...) to what the likelihood takes."""
        shape = self.likelihood.output_shape(self.input_shape)
        return self.architecture.decoder(self.code_features + self.condition_width, shape)

    def encoder_input(self, x: Tensor, **given: Tensor) -> Tensor:
        """(B, *input_shape) and the condition to what `build_encoder` says."""
        flat = self._flattened and self.condition_encoder
        return self._beside(x.flatten(1) if flat else x, given, self.condition_encoder)

    def decoder_input(self, z: Tensor, **given: Tensor) -> Tensor:
        """(B, *code_shape) and the condition to (B, code_features + condition_width, ...)."""
        return self._beside(super().decoder_input(z, **given), given)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """As `VAE.loss`, of batches with their labels (B,), condition (B, columns), or both."""
        self.check_given(given)
        if self.training:
            given = self.hidden(given, x.shape[0])
            self.count(given, x.shape[0])
        return super().loss(x, target, **given)

    def sample(self, n: int, *, temperature: float = 1.0, **given: Any) -> Tensor:
        """The means of p(x | z, y) for `n` codes z of `draw_codes`, (n, *input_shape), in data units.

        Codes are drawn whatever the condition is: from the prior, or from a sampler that was fitted to all of them.

        Args:
            n: how many.
            temperature: as of every model.
            given: the `label`, one class for all, or a sequence or tensor (n,) of one each; the `condition`, (columns,)
                for all or (n, columns), in the model's units; or, of a model that a data module trained, a dict of its
                columns in natural units: {"batch": "second", "age": 40}. Where missing values are known to it, a label
                of -1, NaN and a column that is left out are such.

        Raises:
            InputError: without it, or for a class that there is not, or that was not trained on.
        """
        self.check_given(given)
        if "label" in given:
            label = torch.as_tensor(given["label"], device=self.device)
            given["label"] = label.expand(n) if label.ndim == 0 else label
        if "condition" in given:
            value = given["condition"]
            value = self._natural(value) if isinstance(value, Mapping) else torch.as_tensor(value)
            value = value.to(self.device, self.dtype)
            given["condition"] = value.expand(n, -1) if value.ndim == 1 or len(value) == 1 else value
        return super().sample(n, temperature=temperature, **given)

    def stand_ins(self, n: int, **examples: Tensor) -> dict[str, Tensor]:
        """What `given` is where `n` inputs stand alone: classes in turn, and zeros for numbers."""
        first = len(self.levels) - len(self.conditions)
        columns = [
            torch.tensor(self._classes_of(first + i) if k else (0,), device=self.device).repeat(n)[:n].to(self.dtype)
            for i, k in enumerate(self.conditions)
        ]
        condition = {"condition": torch.stack(columns, dim=1)} if columns else {}
        return super().stand_ins(n, **condition, **examples)

    def hidden(self, given: dict[str, Tensor], n: int) -> dict[str, Tensor]:
        """What a step shows of the condition of `n` samples: all, but what `condition_dropout` hides."""
        if not self.condition_dropout:
            return given
        hide = self.noise("condition").rand_like(torch.empty(n, len(self.levels), device=self.device))
        hide, shown = hide < self.condition_dropout, dict(given)
        if self.num_classes:
            shown["label"] = torch.where(hide[:, 0], -1, given["label"])
        if self.conditions:
            shown["condition"] = given["condition"].masked_fill(hide[:, -len(self.conditions) :], torch.nan)
        return shown

    def count(self, given: Mapping[str, Tensor], n: int) -> None:
        """Adds what a step's `n` samples of this rank are given to `seen`."""
        found = []
        missing = []
        for k, column in zip(self.levels, self._columns(given, n), strict=True):
            found += [self._one_hot(column, k).sum(dim=0)] if k else []
            missing.append(column.isnan().sum().view(1) if column.is_floating_point() else (column < 0).sum().view(1))
        counts = torch.cat([*found, *([] if self.condition_dropout is None else missing)])
        self.seen += sum_over_ranks(counts.long())[0]

    # ---- inside -------------------------------------------------------------------------------------------------

    @property
    def _flattened(self) -> bool:
        return self.architecture.flattens

    def weights_of_earlier(self, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """The weights of a checkpoint of any version as this one has them, which compute the same.

        Earlier an input that is made a vector had a plane beside it for each value of the condition.
        """
        name, positions = f"{prefix}encoder.linears.0.weight", math.prod(self.input_shape[1:])
        values, planes = math.prod(self.input_shape), self.condition_width * positions
        weight = weights.get(name)
        if not self._flattened or positions == 1 or weight is None or weight.shape[1] != values + planes:
            return dict(weights)
        own, beside = weight.split([values, planes], dim=1)
        summed = beside.unflatten(1, (self.condition_width, positions)).sum(dim=2)
        return {**weights, name: torch.cat([own, summed], dim=1)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.update(self.weights_of_earlier(state_dict, prefix))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _beside(self, x: Tensor, given: Mapping[str, Tensor], seen: bool = True) -> Tensor:
        """The condition beside the channels: (B, C, ...) to (B, C + condition_width, ...); checked, `seen` or not."""
        columns = self._columns(given, x.shape[0])
        self._refuse_unseen(columns)
        if not seen:
            return x
        planes = []
        for k, column in zip(self.levels, columns, strict=True):
            if k:
                planes.append(self._one_hot(column, k))
                continue
            planes.append(column.nan_to_num(nan=0.0).unsqueeze(1))
            planes += [] if self.condition_dropout is None else [~column.isnan().unsqueeze(1)]
        beside = torch.cat([plane.to(x.dtype) for plane in planes], dim=1)
        return torch.cat([x, beside.view(*beside.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])], dim=1)

    @staticmethod
    def _one_hot(column: Tensor, k: int) -> Tensor:
        """(n,) to (n, k); of none, -1 or NaN, zeros."""
        one_hot: Tensor = column.unsqueeze(1) == torch.arange(k, device=column.device)
        return one_hot

    def _columns(self, given: Mapping[str, Any], n: int) -> list[Tensor]:
        """The label, and each column of the condition, (n,).

        Raises:
            InputError: when they are of another form, a class is none, or a value is missing that may not be.
        """
        columns: list[Tensor] = []
        if self.num_classes:
            columns.append(self._label(given["label"], n))
        if self.conditions:
            columns += self._condition(given["condition"], n)
        return columns

    def _label(self, label: Any, n: int) -> Tensor:
        name = type(self).__name__
        whole = isinstance(label, Tensor) and not (label.is_floating_point() or label.dtype == torch.bool)
        if not whole or label.shape != (n,):
            form = f"{label.dtype} {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
            raise InputError(f"{name} takes labels as whole numbers of shape ({n},), one a sample; got {form}")
        found: Tensor = label
        allowed = (found >= (0 if self.needs_label else -1)) & (found < self.num_classes)
        if not (unread(found) or allowed.all()):
            raise InputError(
                f"labels of {name} are 0 to {self.num_classes - 1}, got {int(found.min())} to {int(found.max())}; "
                f"another in row {int(allowed.int().argmin())} of the batch first (-1: it has none)",
                "set num_classes to the number of classes, and number them from 0"
                + ("; a model with a condition_dropout takes samples without" if -1 in found else ""),
            )
        return found

    def _condition(self, condition: Any, n: int) -> list[Tensor]:
        name, wanted = type(self).__name__, (n, len(self.conditions))
        if not isinstance(condition, Tensor) or condition.shape != wanted:
            form = tuple(condition.shape) if isinstance(condition, Tensor) else type(condition).__name__
            raise InputError(f"{name} takes a condition of shape {wanted}, a row for each sample; got {form}")
        if condition.is_floating_point() and max(self.conditions) - 1 > 2 / torch.finfo(condition.dtype).eps:
            raise InputError(
                f"{condition.dtype} cannot tell {max(self.conditions)} classes apart", 'use precision="32-true"'
            )
        if not condition.is_floating_point():
            condition = condition.to(self.dtype)
        if unread(condition):
            return list(condition.unbind(1))
        classes = torch.tensor(self.conditions, device=condition.device)
        among = (condition >= 0) & (condition < classes) & (condition == condition.floor())
        allowed = torch.where(classes > 0, among, condition.isfinite())
        if self.condition_dropout is not None:
            allowed |= condition.isnan()
        if not allowed.all():
            row, column = (~allowed).nonzero()[0].tolist()
            value, k = float(condition[row, column]), self.conditions[column]
            takes = f"one of {k} classes, 0 to {k - 1}" if k else "a finite number"
            raise InputError(
                f"row {row} of a batch, {self._column_name(column)} of its condition: {value:g}, where {name} takes "
                f"{takes}",
                "number classes from 0" if value == value else
                "leave such rows out, or give the model a condition_dropout, 0.1 say, so that values may be missing",
            )  # fmt: skip
        return list(condition.unbind(1))

    def _refuse_unseen(self, columns: Sequence[Tensor]) -> None:
        """While a fit runs, the classes of its data may still come."""
        if unread(columns[0]) or self._fits() or not self._trained:
            return
        for field, (k, column) in enumerate(zip(self.levels, columns, strict=True)):
            place = field - (len(self.levels) - len(self.conditions))
            of = "" if place < 0 else f" of {self._column_name(place)} of the condition"
            missing = column.isnan() if column.is_floating_point() else column < 0
            if k and (unseen := sorted({int(c) for c in column[~missing].tolist()} - set(self._classes_of(field)))):
                raise InputError(
                    f"{type(self).__name__} was trained on no sample of the classes {unseen}{of}, only on "
                    f"{list(self._classes_of(field))}",
                    "ask for one of those, or train it on data of all classes",
                )
            if self.condition_dropout is not None and not self.seen[sum(self.levels) + field] and missing.any():
                raise InputError(
                    f"{type(self).__name__} was trained on no sample without {of.removeprefix(' of ') or 'a label'}",
                    "give it, or train with a condition_dropout above 0",
                )

    @property
    def _trained(self) -> bool:
        seen: Tensor | None = getattr(self, "seen", None)  # not there while the parts are built
        return seen is not None and not seen.is_meta and bool(seen.any())

    def _classes_of(self, field: int) -> tuple[int, ...]:
        """The classes of the label, or of a column, that it was trained on; all, before."""
        k, first = self.levels[field], sum(self.levels[:field])
        if not self._trained or not (own := self.seen[first : first + k]).any():
            return tuple(range(k))
        return tuple(own.nonzero().flatten().tolist())

    def _column_name(self, column: int) -> str:
        """A column of the condition, in words."""
        condition = None if self.signature is None else self.signature.condition
        return f"column {column}" if condition is None else f"column {condition.names[column]!r}"

    def _natural(self, values: Mapping[str, Any]) -> Tensor:
        """Columns in natural units by their names as the condition, (1, columns) or (n, columns)."""
        condition = None if self.signature is None else self.signature.condition
        if condition is None:
            raise InputError(
                f"{type(self).__name__} does not know its condition's columns by their names",
                "give numbers in their order, (columns,); a model that a data module trained knows the names",
            )
        each = {
            name: [one] if isinstance(one, str) or not hasattr(one, "__len__") else one for name, one in values.items()
        }
        rows = max(map(len, each.values()), default=1)
        each = {name: list(one) * rows if len(one) == 1 else one for name, one in each.items()}
        if unknown := [name for name in each if name not in condition.names]:
            raise InputError(f"the condition has no column {unknown[0]!r}", f"it has {listed(condition.names)}")
        if self.condition_dropout is not None:
            each |= {name: [None] * rows for name in condition.names if name not in each}
        return condition.preprocess(condition.natural(each))


def unread(values: Tensor) -> bool:
    """Whether nobody may look at values: of a graph that is exported, which has no place for it, and without any."""
    return values.is_meta or torch.compiler.is_exporting()
