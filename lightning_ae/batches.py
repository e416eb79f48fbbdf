"""What a model takes of a batch: its input, the target, and what it is given besides."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from lightning_ae.data.signature import Natural, Signature, listed
from lightning_ae.errors import InputError
from lightning_ae.natural import Reading, batch_of, vectors
from lightning_ae.parts.likelihoods import known
from lightning_ae.shapes import check_multiple, fits, is_any
from lightning_ae.training.weights import weights_type


class Batches:
    """Base of the models that read batches of any common form, by one rule; see `unpack`."""

    given: tuple[str, ...] = ()
    """What it takes of a batch besides the input, by role: "label", "condition", "mask" (true where a value is known).

    Each is passed by that name to `loss`, `encode`, `decode` and the like; `read` says where it comes from. A mask
    needs nothing more: the likelihood counts what it marks, and the encoder sees zeros elsewhere. Where a mask is left
    out, all is known.
    """
    optional: ClassVar[tuple[str, ...]] = ("mask",)
    """What of it may be left out: without a mask all is known, without an optional label a sample has none."""
    implied: tuple[str, ...] = ()
    """What it takes besides those, by role, and makes of the sample itself where a batch does not say it: "library".

    `implies` makes it. It must be given where there is no sample, to `decode` and `sample`.
    """
    input_shape: tuple[Any, ...]
    encoder: nn.Module
    columns: dict[str, str]
    signature: Signature | None

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        """The input, the reconstruction's target, (B, *input_shape) each, and what else the model takes of a batch.

        One rule for every DataLoader:

        - a tensor is the input, which a model takes that is `given` nothing;
        - a tuple or list is (input, *given): what follows the input is what the model names in `given`, in that order;
          what follows that is left alone;
        - of a dict the entry whose shape is `input_shape` is the input; an entry "target" of that shape, where there
          is one, is the target; what the model is given has the name of its role ("label"), or of the column that
          `columns` says plays it. So has what is `implied`, where it is there. Other entries are left alone.

        What is given has a row for each sample. An override may return the first two alone, (input, target); what is
        given is then found in the batch by the same rule. Or it returns (input, target, {role: value}).

        Raises:
            InputError: when no such tensor is there, or more than one.
        """
        target = None
        if isinstance(batch, Natural):
            raise InputError(
                "the batch is in natural units, as a data module's own loaders give it",
                "give the trainer the data module (datamodule=data); in a loop of your own take data.batches(split), "
                "or data.on_after_batch_transfer(batch, 0)",
            )
        if isinstance(batch, Mapping):
            taken = {self.columns.get(role, role) for role in (*self.given, *self.implied)}
            fits = {
                k: v for k, v in batch.items() if isinstance(v, Tensor) and self.takes(v.shape[1:]) and k not in taken
            }
            target = fits.pop("target", None) if len(fits) > 1 else None  # alone it is the input
            if len(fits) != 1:
                shapes = {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in batch.items()}
                raise InputError(
                    f"{len(fits)} entries of the batch have the shape (B, *input_shape) with input_shape "
                    f"{self.input_shape}; the batch holds {shapes}",
                    "set input_shape to the data's shape, or override unpack() to choose",
                )
            x = next(iter(fits.values()))
        else:
            x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor):
            raise InputError(
                f"a batch must be a tensor, a tuple that begins with one, or a dict; got {type(batch).__name__}"
            )
        if not self.takes(x.shape[1:]):
            if (multiple := self.multiple) is not None and len(x.shape) == 4 and x.shape[1] == self.input_shape[0]:
                check_multiple(x.shape[2:], multiple)
            raise InputError(
                f"the batch's samples have the shape {tuple(x.shape[1:])}, but input_shape is {self.input_shape}",
                fitting(tuple(x.shape), self.input_shape),
            )
        if not x.is_floating_point():
            raise InputError(f"the batch holds {x.dtype}, but models take floats", "divide images by 255")
        x = x.to(self._type)  # numpy's arrays are float64; autocast converts from float32 by itself
        return x, x if target is None else target.to(x.dtype), self._given_of(batch, len(x))

    @property
    def multiple(self) -> int | None:
        """What height and width must be multiples of, where `input_shape` holds None for them; else None."""
        return None

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a sample of that shape is one of `input_shape`'s."""
        return fits(shape, self.input_shape, self.multiple)

    def read(self, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What `unpack` makes of a batch, with what the model takes besides, whether an override says that or not.

        What a "mask" calls unknown is zero in the input and in the target, whatever the batch has there, NaN too.
        """
        x, target, *rest = self.unpack(batch)
        given: dict[str, Tensor] = rest[0] if rest else self._given_of(batch, len(x))
        self.check_given(given)
        if (mask := given.get("mask")) is not None:
            filled = known(x, mask)
            x, target = filled, filled if target is x else known(target, mask)
        return x, target, self.completed(target, given)

    def read_natural(self, data: Any, given: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What `read` makes of data in natural units, and what the model is given with them; see `features`."""
        model: Any = self
        mask = None if given.get("mask") is None else torch.as_tensor(given["mask"])
        own = self.signature
        if own is not None and own.condition is not None and given.get("condition") is not None:
            natural = own.condition.natural(given["condition"])
            given = {**given, "condition": own.condition.preprocess(natural)}
        if self.signature is not None:
            x = self.signature.preprocess(self.signature.natural(data, mask).to(model.device))
        else:
            read = vectors if len(self.input_shape) == 1 else batch_of
            x = read(data, Reading(mask=mask)).to(model.device)
        self.check_given(given)
        whole = {"mask": ~x.isnan()} if "mask" in self.given else {}
        roles = {role: torch.as_tensor(value, device=model.device) for role, value in {**whole, **given}.items()}
        beside = {self.columns.get(role, role): value for role, value in roles.items()}
        return self.read({"input": x, **beside} if beside else x)

    def completed(self, x: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """What samples are given, and what they imply where that is left out."""
        if all(role in given for role in self.implied):
            return given
        return {**self.implies(x, given), **given}

    def implies(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What samples (B, *input_shape) imply of each role that is `implied`."""
        return {}

    def check_given(self, given: Mapping[str, Any]) -> None:
        """Refuses what the model does not take, and asks for what it does; a mask that is left out knows everything.

        Raises:
            InputError: naming it.
        """
        optional = {*self.optional, *self.implied}
        if given.keys() - optional == set(self.given) - optional and given.keys() <= {*self.given, *self.implied}:
            return
        name = type(self).__name__
        wanted = ", ".join((*self.given, *self.implied)) or "nothing"
        raise InputError(
            f"{name} takes {wanted} besides the input, got {', '.join(given) or 'nothing'}",
            f"pass {', '.join(f'{role}=...' for role in self.given)}" if self.given else "leave it out",
        )

    def _given_of(self, batch: Any, size: int) -> dict[str, Tensor]:
        if not self.given and not self.implied:
            return {}
        if isinstance(batch, Mapping):
            found: dict[str, Any] = {role: batch.get(self.columns.get(role, role)) for role in self.given}
            said = {role: batch.get(self.columns.get(role, role)) for role in self.implied}
            found |= {role: value for role, value in said.items() if value is not None}
            there = ", ".join(map(str, batch))
        else:
            rest = list(batch[1:]) if isinstance(batch, tuple | list) else []
            found = dict(zip(self.given, [*rest, *[None] * len(self.given)], strict=False))
            there = f"{len(rest)} further values"
        for role in self.optional:
            # a mask that a column of the data holds is there
            if found.get(role, batch) is None and (role != "mask" or role not in self.columns):
                del found[role]
                _tell_without(type(self).__name__, role)
        for role, value in found.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (size,):
                form = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"{type(self).__name__} takes {role!r} besides the input, a tensor with a row for each of the "
                    f"{size} samples; the batch has {'none' if value is None else f'one {form}'}, it holds {there}",
                    f"give batches (input, {', '.join(self.given)}), or dicts with such an entry",
                )
            wide = value.is_floating_point() and role != "mask"
            found[role] = value.to(self._type) if wide else value
        return found

    def use_columns_of(self, data: Any) -> None:
        """From now on takes "label", "condition" and "mask" from what a data module has for them.

        Raises:
            InputError: when it has no labels or condition, and the model takes some, or others; when it has
                categories, and the model's network or likelihood takes them for numbers; when values may be missing,
                and a method does not take masks.
        """
        if (mask := getattr(data, "mask", None)) is not None:
            self.columns["mask"] = mask
            self.given = self.given if "mask" in self.given else (*self.given, "mask")
        self.check_takes()
        categories = getattr(data, "categories", None)
        for part in ("architecture", "likelihood") if categories is not None else ():
            own = getattr(getattr(self, part), "categories", None)
            if own != categories:
                raise InputError(
                    f"the data have categories, where the model's {part}, {getattr(self, part)}, takes numbers or "
                    f"others{'' if own is None else f' ({listed(own)})'}",
                    "the model's options that suit the data are data.suits: VAE(**data.suits)",
                )
        if "condition" in self.given and hasattr(data, "condition_key"):
            if data.condition_key is None:
                raise InputError(
                    f"{type(self).__name__} takes a condition, but the data module names no columns of it",
                    "name them: HFDataModule(..., condition=[...])",
                )
            if (own := getattr(self, "conditions", data.conditions)) != data.conditions:
                raise InputError(
                    f"the condition's columns {listed(data.conditioned.names)} have {listed(data.conditions)} classes "
                    f"(0 for numbers), where {type(self).__name__} takes {listed(own)}",
                    f"construct the model with conditions=data.conditions, {list(data.conditions)}",
                )
            self.columns["condition"] = data.condition_key
        if "label" not in self.given or not hasattr(data, "label"):
            return
        if data.label is None:
            if "label" in self.optional and self.signature is not None and "label" in self.columns:
                del self.columns["label"]  # it was trained on data that have some
                return
            raise InputError(
                f"{type(self).__name__} takes labels, but the data set has no label column", "give the data's label"
            )
        self.columns["label"] = data.label

    def check_takes(self) -> None:
        """Refuses a model whose methods do not take what it is given.

        Raises:
            InputError: naming the method.
        """
        roles = (*self.given, *self.implied)
        for name in ("loss", "encode") if roles else ():
            takes = inspect.signature(getattr(type(self), name)).parameters
            lacking = [role for role in roles if role not in takes]
            if lacking and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
                raise InputError(
                    f"{type(self).__name__} is given {', '.join(lacking)}, which its {name} does not take",
                    f"declare it as {name}(self, ..., **given)",
                )

    @property
    def _type(self) -> Any:
        return weights_type(self.encoder, self)  # type: ignore[arg-type]  # a module, too


@cache
def _tell_without(name: str, role: str) -> None:
    counts = "every value counts as known" if role == "mask" else "no sample counts as labelled"
    rank_zero_info(f"{name} takes a {role}, and the batches hold none: {counts}")


def fitting(shape: tuple[int, ...], wanted: tuple[Any, ...]) -> str:
    """How a batch of another shape may become one of samples (wanted), in words."""
    sample = shape[1:]
    if shape == wanted:
        return "one sample is a batch of one: x[None]"
    if len(wanted) == 3 and wanted == (1, *shape):
        return "one image in grey is x[None, None], (1, 1, H, W)"
    if len(wanted) == 3 and wanted == (1, *sample):
        return "images in grey have one channel: x[:, None], (B, 1, H, W)"
    if len(sample) == len(wanted) == 3 and wanted == (sample[2], *sample[:2]):
        return "channels come first: x.transpose(0, 3, 1, 2) of an array, x.permute(0, 3, 1, 2) of a tensor"
    if is_any(wanted):
        return f"give images (B, {wanted[0]}, height, width)"
    if math.prod(sample) == math.prod(wanted) and 1 in (len(sample), len(wanted)):
        return f"give samples that shape: x.reshape(-1, {', '.join(map(str, wanted))})"
    return f"construct the model with input_shape={sample}, or resize the data"


def mask_of(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The "mask" of what a model is given, where there is one."""
    return {role: value for role, value in given.items() if role == "mask"}


def rows_of(given: Mapping[str, Tensor], rows: Any) -> dict[str, Tensor]:
    """These rows, a slice or numbers, of all that a model is given."""
    return {role: value[rows] for role, value in given.items()}
