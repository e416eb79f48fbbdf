"""How samplers with networks are trained: a short loop of their own, the same from the same seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_ae.errors import InputError
from lightning_ae.parts.sampling import Density

Loss = Callable[[Tensor, torch.Generator], Tensor]
"""-log p, or a bound on it, in nats, of a batch of codes (B, units): (B,); draws come from the generator."""
HELD_OUT, EVALUATIONS, LARGEST = 10, 20, 5.0
"""One code of so many is held out, so often is looked at them, and no longer is a gradient."""


def train(density: Density, codes: Tensor, loss: Loss, *, updates: int, batch_size: int, lr: float, seed: int) -> None:
    """Minimises a loss by Adam, whose learning rate falls to zero along half a cosine.

    A tenth of the codes is held out; the weights are those under which the loss of these was the smallest, looked at
    twenty times in the course of the training. That loss is kept as `held_out`. Gradients longer than 5 are shortened
    to that.

    Args:
        density: whose parameters are trained.
        codes: (N, units), as the loss takes them.
        loss: of a batch.
        updates: how many steps.
        batch_size: codes in a step.
        lr: the learning rate.
        seed: of batches and draws.

    Raises:
        InputError: when the loss is not finite.
    """
    name, device = type(density.config).__name__, codes.device
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed)).to(device)
    held = max(1, len(codes) // HELD_OUT)
    apart, rows = codes[order[:held]], codes[order[held:]]
    batches = torch.Generator().manual_seed(seed + 1)
    draws = torch.Generator(device).manual_seed(seed + 2)
    parameters = list(density.requires_grad_(True).train().parameters())
    optimizer = torch.optim.Adam(parameters, lr)
    best, kept = math.inf, copy.deepcopy(density.state_dict())
    with torch.enable_grad():
        # a bar appears where this takes more than two seconds
        for step in tqdm(range(1, updates + 1), f"fitting {name}", delay=2, leave=False):
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * (step - 1) / updates)) / 2
            chosen = torch.randint(len(rows), (min(batch_size, len(rows)),), generator=batches)
            optimizer.zero_grad()
            value = loss(rows[chosen.to(device)], draws).mean()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, LARGEST)
            optimizer.step()
            if step * EVALUATIONS // updates > (step - 1) * EVALUATIONS // updates:
                now = _mean(density, apart, loss, seed + 3)
                if not math.isfinite(now):
                    raise InputError(f"{name} has a loss of {now} after {step} updates", f"give a smaller lr than {lr}")
                if now < best:
                    best, kept = now, copy.deepcopy(density.state_dict())
    density.load_state_dict(kept)
    density.held_out.fill_(best)
    rank_zero_info(f"{name}: {best:.4g} nats for each of {held} codes that were held out")


@torch.no_grad()
def _mean(density: Density, codes: Tensor, loss: Loss, seed: int) -> float:
    """The mean loss, by the same draws each time."""
    density.eval()
    draws = torch.Generator(codes.device).manual_seed(seed)
    total = sum(float(loss(part, draws).double().sum()) for part in codes.split(1024))
    density.train()
    return total / len(codes)
