"""What lies between two inputs."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError, unknown
from lightning_ae.parts.moves import slerp
from lightning_ae.scores import asked
from lightning_ae.uses.units import decoded, encoded, of

Path = Literal["shortest", "linear", "spherical"]


def interpolate(model: Autoencoder, a: Any, b: Any, steps: int = 9, path: Path = "shortest", **given: Any) -> Tensor:
    r"""What codes on a path between those of two inputs decode to.

    - "shortest": as the space of the codes has it. In a flat one that is a line, :math:`(1 - t) z_a + t z_b`; on a
      sphere a great circle, in a ball its geodesic; classes are passed through by their probabilities.
    - "linear": a line, of codes in a flat space.
    - "spherical": along a great circle (Shoemake 1985; White 2016),
      :math:`\frac{\sin (1 - t) \theta}{\sin \theta} z_a + \frac{\sin t \theta}{\sin \theta} z_b`, of all values
      of a code as one vector: of codes that lie at about one distance from the origin, as draws of N(0, I) in many
      dimensions do, a line would lead through where none are.

    t goes from 0 to 1 in equal steps. The ends decode to the reconstructions of a and b.

    Args:
        model: a trained one; codes are taken without randomness.
        a: data in natural units, as of `model.features`, n rows.
        b: as many.
        steps: how many places of each path, with both ends.
        path: "shortest", "linear" or "spherical".
        given: what else the model takes, by the names in `model.given`, of a and b alike.

    Returns:
        (n, steps, *shape), in natural units: of images floats in [0, 1].

    Raises:
        InputError: for another number of rows; for a path that the space does not have; of codes of a codebook, between
            which nothing lies.
    """
    if path not in get_args(Path):
        raise unknown("path", str(path), get_args(Path))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise InputError(f"steps must be an integer of 2 or more, which has both ends, got {steps!r}")
    with asked(model):
        (first, roles), (second, _) = encoded(model, a, given), encoded(model, b, given)
        n, other = (len(code[0] if isinstance(code, tuple) else code) for code in (first, second))
        if n != other:
            raise InputError(f"a and b must have as many rows, got {n} and {other}", "repeat the rows of the shorter")
        place = torch.arange(n, device=model.device).repeat_interleave(steps)
        t = torch.linspace(0, 1, steps, device=model.device).repeat(n)
        code = _between(model, of(first, place), of(second, place), t, path)
        each = decoded(model, code, {role: value[place] for role, value in roles.items()})
    return each.unflatten(0, (n, steps))


def _between(model: Autoencoder, a: Any, b: Any, t: Tensor, path: Path) -> Any:
    curved = model.geometry != "flat"
    if path == "shortest" or (path == "linear" and not curved):
        return model.between(a, b, t)
    if curved:
        raise InputError(
            f"path={path!r} is one of a flat space, in which the codes of {type(model).__name__} do not lie",
            "take path='shortest', which is the shortest in theirs",
        )
    return model.from_units(slerp(model.units(a), model.units(b), t))
