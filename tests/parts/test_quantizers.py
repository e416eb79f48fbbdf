"""Codebooks against brute force, closed forms, a loop in NumPy, and several ranks against one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ae import InputError
from lightning_ae.config import from_earlier, from_plain, to_plain
from lightning_ae.exact import Noise
from lightning_ae.parts import GradientVectorQuantizer, Quantizer, VectorQuantizer
from lightning_ae.parts.quantizers import VectorCodebook as Codebook
from lightning_ae.training import processes

SHAPES = [(), (5,), (4, 3)]
QUANTIZERS = [VectorQuantizer(codes=9), GradientVectorQuantizer(codes=9)]
STATE = ("vectors", "counts", "sums")


def build(quantizer: Quantizer, latent_dim: int = 6, dtype: torch.dtype = torch.float64) -> Codebook:
    torch.manual_seed(0)
    return quantizer.build(latent_dim).to(dtype)


def hidden(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(h: Tensor) -> Tensor:
    """(B, C, ...) to (B * positions, C), by hand."""
    return torch.stack([h[(b, slice(None), *at)] for b in range(len(h)) for at in np.ndindex(*h.shape[2:])])


def step(book: Codebook, h: Tensor, key: int = 0) -> Tensor:
    indices = book.nearest(h)
    book.update(h, indices, Noise(1, key, samples=len(h)))
    return indices


# ---- quantising -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
def test_nearest_is_that_of_brute_force(quantizer: Quantizer, shape: tuple[int, ...]) -> None:
    book, h = build(quantizer), hidden(7, 6, *shape)
    z, indices, _ = book(h)
    z = z.detach()
    e = book.vectors.detach()
    expected = [int(np.argmin([float((row - each).square().sum()) for each in e])) for row in rows(h)]
    assert indices.dtype == torch.int64
    assert indices.shape == (7, *shape)
    assert indices.flatten().tolist() == expected
    assert z.shape == h.shape
    torch.testing.assert_close(rows(z), e[expected], rtol=0, atol=0)
    torch.testing.assert_close(book.lookup(indices).detach(), z, rtol=0, atol=0)


def test_nearest_far_from_the_origin() -> None:
    """In float32 the squares alone would leave no digits of the differences."""
    book, h = build(VectorQuantizer(codes=32), dtype=torch.float32), hidden(200, 6).float()
    book.vectors += 1000
    expected = torch.cdist((h + 1000).double(), book.vectors.double()).argmin(dim=1)
    assert torch.equal(book.nearest(h + 1000), expected)


def test_distances_are_of_float32_under_autocast() -> None:
    book, h = build(VectorQuantizer(codes=512), 16, torch.float32), hidden(2000, 16).float()
    exact = torch.cdist(h.double(), book.vectors.double()).argmin(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        z, indices, terms = book(h)
        book.update(h, indices, Noise(1))
        careless = torch.addmm(book.vectors.square().sum(1), h, book.vectors.T, alpha=-2).argmin(dim=1)
    assert torch.equal(indices, exact)
    assert (careless != exact).double().mean() > 0.01  # what it would be
    assert {z.dtype, terms["commitment"].dtype, book.vectors.dtype} == {torch.float32}
    assert book(h.bfloat16())[0].dtype == torch.float32


def test_the_state_stays_in_float32() -> None:
    book = build(VectorQuantizer(codes=9), dtype=torch.float32)
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64), (torch.half, torch.float64)):
        before = book.vectors.clone()
        book.to(dtype)
        assert {getattr(book, name).dtype for name in STATE} == {kept}
        torch.testing.assert_close(book.vectors, before.to(kept), rtol=0, atol=0)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
def test_gradients(quantizer: Quantizer) -> None:
    """Straight through; the commitment draws the encoder alone, the codebook's term the codebook alone."""
    book, h = build(quantizer), hidden(7, 6, 4, 3).requires_grad_()
    z, indices, terms = book(h)
    weights = hidden(*z.shape, seed=2)
    (through,) = torch.autograd.grad((z * weights).sum(), h, retain_graph=True)
    assert torch.equal(through, weights)
    e = book.lookup(indices).detach()
    assert terms["commitment"].item() == pytest.approx(0.25 * (h - e).square().sum().item() / 7)
    (pull,) = torch.autograd.grad(terms["commitment"], h, retain_graph=True)
    torch.testing.assert_close(pull, 2 * 0.25 * (h.detach() - e) / 7)
    if isinstance(quantizer, GradientVectorQuantizer):
        wanted = torch.zeros_like(book.vectors)
        for row, k in zip(rows(h.detach()), indices.flatten(), strict=True):
            wanted[k] += 2 * (book.vectors[k].detach() - row) / 7
        of_h, of_book = torch.autograd.grad(terms["codebook"], [h, book.vectors], allow_unused=True, retain_graph=True)
        assert of_h is None
        torch.testing.assert_close(of_book, wanted)
        assert torch.autograd.grad(terms["commitment"], book.vectors, allow_unused=True)[0] is None
    else:
        assert set(terms) == {"commitment"}
        assert not list(book.parameters())


def test_perplexity() -> None:
    book = build(VectorQuantizer(codes=8))
    assert float(book.perplexity(torch.arange(8).repeat(3).view(3, 8))) == pytest.approx(8)
    assert float(book.perplexity(torch.full((5, 2, 2), 3))) == pytest.approx(1)
    p = np.array([5, 2, 1]) / 8
    found = float(book.perplexity(torch.tensor([0, 0, 0, 0, 0, 7, 7, 4])))
    assert found == pytest.approx(float(np.exp(-(p * np.log(p)).sum())))


# ---- the running means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.0])
def test_running_means_are_those_of_a_loop(decay: float) -> None:
    book = build(VectorQuantizer(codes=20, decay=decay, revive=0.0))
    book.vectors[15:] += 100  # never the nearest
    e, n, m = book.vectors.numpy().copy(), np.zeros(20), np.zeros((20, 6))
    for number in range(12):
        h = hidden(5, 6, 2, seed=number)
        found = step(book, h)
        indices = []
        for row in rows(h).numpy():
            indices.append(int(np.argmin(np.square(row - e).sum(axis=1))))  # the old codebook
        assert found.flatten().tolist() == indices
        for k in range(20):
            mine = rows(h).numpy()[np.array(indices) == k]
            n[k] = decay * n[k] + (1 - decay) * len(mine)
            m[k] = decay * m[k] + (1 - decay) * mine.sum(axis=0)
        smoothed = (n + 1e-5) / (n.sum() + 20 * 1e-5) * n.sum()
        for k in range(20):
            if n[k] > 0:
                e[k] = m[k] / smoothed[k]
        for name, expected in zip(STATE, (e, n, m), strict=True):
            np.testing.assert_allclose(getattr(book, name).numpy(), expected, rtol=1e-10, atol=1e-12)
    assert set(np.flatnonzero(n == 0)) >= {15, 16, 17, 18, 19}


@pytest.mark.parametrize(("restart", "weight"), [(None, 0.1), (0.4, 0.4), (1.0, 1.0)])
def test_dead_codes_start_again_from_vectors_of_the_batch(restart: float | None, weight: float) -> None:
    book, h = build(VectorQuantizer(codes=20, revive=0.1, restart=restart)), hidden(6, 6, 2)
    book.vectors[5:] += 100  # never the nearest
    plain = copy.deepcopy(book)
    plain.revive = 0.0
    used = step(plain, h).unique()
    step(book, h)
    dead = torch.tensor([k for k in range(20) if k not in used])
    revived, waiting = dead[:12], dead[12:]  # the batch has 12 vectors
    assert len(waiting) > 0
    chosen = torch.cdist(book.vectors[revived], rows(h)).min(dim=1)
    assert float(chosen.values.max()) == 0
    assert chosen.indices.unique().numel() == 12
    share = weight * plain.counts.sum() / 20
    torch.testing.assert_close(book.counts[revived], share.expand(12))
    torch.testing.assert_close(book.sums[revived], share * book.vectors[revived])
    for name in STATE:  # the others are as without
        for codes in (used, waiting):
            torch.testing.assert_close(getattr(book, name)[codes], getattr(plain, name)[codes], rtol=0, atol=0)
    step(book, hidden(6, 6, 2, seed=5), key=1)
    assert (book.vectors.abs() < 50).all()  # those that waited have their turn


@pytest.mark.parametrize(("restart", "weight"), [(None, 0.1), (1.0, 1.0)])
def test_how_soon_a_code_that_starts_again_follows_what_it_is_used_for(restart: float | None, weight: float) -> None:
    book = build(VectorQuantizer(codes=2, decay=0.9, revive=0.1, restart=restart))
    book.vectors.copy_(torch.tensor([[0.0] * 6, [1000.0] * 6]))
    first = 10 * torch.eye(6, dtype=torch.float64)
    step(book, first)  # the second code starts again at one of these
    share, began = 0.1 * 6 / 2, book.vectors[1].clone()
    assert (began == first).all(1).any()
    step(book, (began + 1).expand(8, 6), key=1)
    moved = 0.1 * 8 / (0.1 * 8 + 0.9 * weight * share)
    torch.testing.assert_close(book.vectors[1], began + moved, rtol=1e-4, atol=0)


def test_files_of_earlier_versions_start_codes_again_with_an_even_share() -> None:
    plain = to_plain(VectorQuantizer(codes=8), "quantizer")
    del plain["init_args"]["restart"]
    assert from_plain(Quantizer, from_earlier(plain), "quantizer") == VectorQuantizer(codes=8, restart=1.0)


def test_a_code_dies_below_its_part_of_an_even_share() -> None:
    book = build(VectorQuantizer(codes=4, decay=0.5, revive=0.2))
    centres = 10 * torch.eye(6, dtype=torch.float64)[:4]
    book.vectors.copy_(centres)
    step(book, centres)
    three, alive = centres[:3], []
    for number in range(4):  # the fourth is used no more: its share of 4 is 1, 1/2, 1/4, ... over a mean near 3/4
        step(book, three, key=number)
        alive.append(bool(torch.equal(book.vectors[3].round(), centres[3])))
    counts, expected = np.full(4, 0.5), []
    for _ in range(4):
        counts = 0.5 * counts + 0.5 * np.array([1, 1, 1, 0])
        expected.append(bool(counts[3] >= 0.2 * counts.sum() / 4))
        if not expected[-1]:
            break
    assert alive[: len(expected)] == expected
    assert expected[0]
    assert not expected[-1]


def test_a_codebook_starts_from_the_first_batch() -> None:
    book, h = build(VectorQuantizer(codes=12, start="batch", revive=0.0)), hidden(6, 6, 2)
    step(book, h)
    assert torch.cdist(book.vectors, rows(h)).argmin(dim=1).unique().numel() == 12
    assert float(torch.cdist(book.vectors, rows(h)).min(dim=1).values.max()) == 0
    before = book.vectors.clone()
    step(book, h, key=1)
    torch.testing.assert_close(book.vectors, before, rtol=1e-4, atol=0)  # each is its own mean; once only


def test_a_codebook_larger_than_the_first_batch_is_refused() -> None:
    book, h = build(VectorQuantizer(codes=13, start="batch")), hidden(6, 6, 2)
    with pytest.raises(InputError, match=r"codes = 13 .* first batch, which has 12 vectors .*\n.*start=\"uniform\""):
        step(book, h)
    step(book := build(VectorQuantizer(codes=12, start="batch")), h)
    step(book, h[:2], key=1)  # the last batch of an epoch may be smaller


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (VectorQuantizer, {"codes": 1}, "codes of VectorQuantizer"),
        (VectorQuantizer, {"codes": 8.0}, "codes of VectorQuantizer"),
        (GradientVectorQuantizer, {"codes": 0}, "codes of GradientVectorQuantizer"),
        (VectorQuantizer, {"decay": 1.0}, "decay of VectorQuantizer"),
        (VectorQuantizer, {"revive": -0.1}, "revive of VectorQuantizer"),
        (VectorQuantizer, {"revive": 0.3, "restart": 0.2}, "restart of VectorQuantizer"),
        (VectorQuantizer, {"restart": 1.5}, "restart of VectorQuantizer"),
        (VectorQuantizer, {"commitment": -1.0}, "commitment of VectorQuantizer"),
        (VectorQuantizer, {"start": "bach"}, "did you mean 'batch'"),
    ],
)
def test_what_cannot_work_is_refused(kind: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        kind(**options)


def test_plain_data() -> None:
    for quantizer in QUANTIZERS:
        assert from_plain(Quantizer, to_plain(quantizer, "quantizer"), "quantizer") == quantizer


# ---- several ranks --------------------------------------------------------------------------------------------------


def several_steps(world: int, number: int) -> dict[str, Tensor]:
    """Seven samples, unevenly shared, of which one code is used by the first sample alone."""
    found = {}
    for start, codes in (("uniform", 24), ("batch", 14), ("uniform", 6)):
        book = build(VectorQuantizer(codes=codes, decay=0.8, revive=0.3, start=start))  # type: ignore[arg-type]
        book.vectors[2] += 50
        perplexities = []
        for key in range(5):
            h = hidden(7, 6, 2, seed=key)
            h[0] += 50
            mine = h[number::world]
            indices = book.nearest(mine)
            assert start == "batch" or codes != 6 or (2 in indices) == (number == 0)
            perplexities.append(book.perplexity(indices))
            book.update(mine, indices, Noise(1, key, samples=7))
        found |= {f"{start} {codes} {name}": getattr(book, name).clone() for name in STATE}
        found[f"{start} {codes} perplexity"] = torch.stack(perplexities)
    return found


def work(index: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=world)
    torch.save(several_steps(world, index), f"{folder}/{index}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_ranks_have_the_codebook_of_one(world: int, tmp_path: Path) -> None:
    processes.run(work, (world, str(tmp_path)), world)
    expected = several_steps(1, 0)
    found = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(world)]
    for name, value in expected.items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        assert all(torch.equal(other[name], found[0][name]) for other in found), name
