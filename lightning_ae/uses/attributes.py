"""What an attribute is in the space of codes, and sums of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.scores import asked
from lightning_ae.uses.units import codes_of, decoded, encoded, vectors


def attribute_vector(model: Autoencoder, data: Any, has: Any, **given: Any) -> Tensor:
    r"""The mean of the codes of samples that have an attribute, less that of those that do not (Larsen et al. 2016).

    .. math:: v = \frac{1}{|A|} \sum_{i \in A} z_i - \frac{1}{|B|} \sum_{i \in B} z_i

    Codes are taken without randomness, all their values as one vector; means are in float64. Codes in a ball are taken
    as vectors at its origin, those on a sphere as points of the space around it.

    Args:
        model: a trained one.
        data: in natural units, as of `model.features`, n rows.
        has: which of them have the attribute, (n,) of true and false: labels == 3, say.
        given: what else the model takes, by the names in `model.given`.

    Returns:
        v, (units,), in float64.

    Raises:
        InputError: where none has it, or all; of codes that do not add up.
    """
    chosen = torch.as_tensor(has).to(model.device)
    with asked(model):
        codes = vectors(model, encoded(model, data, given)[0]).double()
    if chosen.dtype != torch.bool or chosen.shape != (len(codes),):
        raise InputError(
            f"has must be true or false of each of the {len(codes)} rows, got {chosen.dtype} of the shape "
            f"{tuple(chosen.shape)}",
            "labels == 3, say",
        )
    if chosen.all() or not chosen.any():
        which = "all rows have" if chosen.any() else "no row has"
        raise InputError(f"{which} the attribute, so there is no difference", "give rows with it and rows without")
    return codes[chosen].mean(dim=0) - codes[~chosen].mean(dim=0)


def add_attribute(
    model: Autoencoder, data: Any, vector: Tensor, strength: float | Sequence[float] = 1.0, **given: Any
) -> Tensor:
    """What data become when an attribute is added to their codes: z + strength * v, decoded.

    Codes in a ball move as vectors at its origin; on a sphere the sum is brought back to it.

    Args:
        model: a trained one.
        data: in natural units, as of `model.features`, n rows.
        vector: of `attribute_vector`, (units,).
        strength: how much of it; 0 reconstructs, and below 0 it is taken away. Of several there is a sample each.
        given: what else the model takes, by the names in `model.given`.

    Returns:
        (n, *shape), or of k strengths (n, k, *shape), in natural units: of images floats in [0, 1].

    Raises:
        InputError: for a vector of another model; of codes that do not add up.
    """
    several = torch.as_tensor(strength, dtype=torch.float64, device=model.device)
    if several.ndim > 1 or not several.numel() or not several.isfinite().all():
        raise InputError(f"strength must be a number or several, got {strength!r}")
    with asked(model):
        code, roles = encoded(model, data, given)
        values = vectors(model, code)
        _check_vector(model, vector, values.shape[1])
        moved = values.double().unsqueeze(1) + several.view(1, -1, 1) * vector.to(model.device, torch.float64)
        n, k = moved.shape[:2]
        repeated = {role: value.repeat_interleave(k, dim=0) for role, value in roles.items()}
        found = decoded(model, codes_of(model, moved.flatten(0, 1)), repeated)
    return found.unflatten(0, (n, k)) if several.ndim else found


def arithmetic(model: Autoencoder, a: Any, minus: Any, plus: Any, **given: Any) -> Tensor:
    """What the codes of a, less those of `minus`, and with those of `plus` decode to: z_a - z_minus + z_plus.

    Codes are taken without randomness; in a ball as vectors at its origin, and on a sphere the sum is brought back to
    it. Single samples vary: several rows of one kind, and their mean, say more; see `attribute_vector`.

    Args:
        model: a trained one.
        a: data in natural units, as of `model.features`, n rows.
        minus: n rows, or one for all.
        plus: n rows, or one for all.
        given: what else the model takes, by the names in `model.given`, of all three alike.

    Returns:
        (n, *shape), in natural units: of images floats in [0, 1].

    Raises:
        InputError: for another number of rows; of codes that do not add up.
    """
    with asked(model):
        (code, roles), *others = (encoded(model, each, given) for each in (a, minus, plus))
        values, less, more = (vectors(model, each).double() for each in (code, *(other for other, _ in others)))
        for name, each in (("minus", less), ("plus", more)):
            if len(each) not in (1, len(values)):
                raise InputError(f"{name} must have {len(values)} rows as a, or one for all, got {len(each)}")
        return decoded(model, codes_of(model, values - less + more), roles)


def _check_vector(model: Autoencoder, vector: Tensor, units: int) -> None:
    if vector.shape != (units,):
        raise InputError(
            f"vector must have the {units} values of a code of {type(model).__name__}, got the shape "
            f"{tuple(vector.shape)}",
            "attribute_vector(model, data, has) gives it",
        )
