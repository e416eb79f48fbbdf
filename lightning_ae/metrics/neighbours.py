"""Distances between rows, a block at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import check_finite

BLOCK = 1024
_SPARE = 4  # candidates beyond those asked for, of which rounding may have taken one for another


def distances(rows: Tensor, others: Tensor, block: int = BLOCK) -> Iterator[Tensor]:
    """The Euclidean distances of rows (N, F) from others (M, F), a block of rows at a time, (block, M).

    Each is summed by itself, so that it does not depend on the block it is in, and that of two equal rows is zero:
    what compares distances finds the same for any order of the rows, on any number of ranks.
    """
    for part in rows.split(block):
        yield torch.cdist(part, others, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(rows: Tensor, others: Tensor, k: int = 1, block: int = BLOCK, same: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest others (M, F) of each row (N, F), in float64.

    They are found by products of matrices, which are fast, and their distances computed anew, which is exact.

    Args:
        rows: (N, F).
        others: (M, F), M > k.
        k: how many.
        block: how many rows are compared with all others at a time.
        same: whether both are the same rows, of which none is its own neighbour.

    Returns:
        The distances, rising, (N, k), and the numbers of the others, (N, k); of equally near ones any.
    """
    rows, others = rows.double(), others.double()
    # far from the origin products cancel
    centre = others.mean(dim=0)
    centred, squares = others - centre, (others - centre).square().sum(dim=1)
    found = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        far = squares - 2 * (part - centre) @ centred.T  # but for the row's own square
        if same:
            far[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        most = min(k + _SPARE, len(others) - same)
        candidates = far.topk(most, dim=1, largest=False).indices.sort(dim=1).values
        exact = (part.unsqueeze(1) - others[candidates]).square().sum(dim=2).sqrt()
        values, order = exact.sort(dim=1, stable=True)
        found.append((values[:, :k], candidates.gather(1, order[:, :k])))
    return torch.cat([far for far, _ in found]), torch.cat([which for _, which in found])


def check_rows(name: str, rows: Tensor, least: int = 1, why: str = "") -> Tensor:
    """Rows (N, F) in float64.

    Args:
        name: what they are.
        rows: (N, F).
        least: how many there must be.
        why: there must be that many, for the message.

    Raises:
        InputError: for another shape, fewer rows, or values that are not finite.
    """
    if rows.ndim != 2 or not rows.shape[1]:
        raise InputError(f"{name} must have the shape (N, F), got {tuple(rows.shape)}", "flatten(1) makes vectors")
    if len(rows) < least:
        raise InputError(f"{name} has {len(rows)} rows, but {why or 'there must be'} at least {least}")
    check_finite(name, rows)
    return rows.detach().double()


def check_neighbours(k: int, block: int, least: int = 1) -> None:
    """Refuses a number of neighbours, or a size of blocks, that cannot be.

    Raises:
        InputError: naming it.
    """
    for name, value, lowest in (("k", k, least), ("block", block, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise InputError(f"{name} must be an integer of at least {lowest}, got {value!r}")
