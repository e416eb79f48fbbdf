"""What makes a run the same on any number of ranks: sums and gathers, noise, layers."""

from lightning_ae.exact.collectives import (
    GLOBAL_BATCH_SIZE,
    gather,
    gather_batch,
    gather_rows,
    rank,
    sum_over_ranks,
    use_group,
    world_size,
)
from lightning_ae.exact.layers import Dropout, synchronise_batch_norm
from lightning_ae.exact.noise import EXACT_NOISE_RANKS, Noise, Rows, keyed, noise_of_step, rows

__all__ = [
    "EXACT_NOISE_RANKS",
    "GLOBAL_BATCH_SIZE",
    "Dropout",
    "Noise",
    "Rows",
    "gather",
    "gather_batch",
    "gather_rows",
    "keyed",
    "noise_of_step",
    "rank",
    "rows",
    "sum_over_ranks",
    "synchronise_batch_norm",
    "use_group",
    "world_size",
]
