"""Further quantizers against the formulas of their papers in NumPy, autograd and scikit-learn, and on several ranks."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from lightning_ae import InputError
from lightning_ae.config import from_plain, to_plain
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    CosineDecay,
    FiniteScalarQuantizer,
    GradientVectorQuantizer,
    GumbelQuantizer,
    LookupFreeQuantizer,
    Quantizer,
    ResidualQuantizer,
    SimVectorQuantizer,
    VectorQuantizer,
)
from lightning_ae.parts.quantizers import nearest_rows, rotated
from lightning_ae.training import processes

SHAPES = [(), (5,), (4, 3)]
ALL: list[Quantizer] = [
    VectorQuantizer(codes=9, distance="cosine", gradient="rotation"),
    GradientVectorQuantizer(codes=9, distance="cosine"),
    SimVectorQuantizer(codes=9),
    ResidualQuantizer(3, VectorQuantizer(codes=5)),
    ResidualQuantizer(1, GradientVectorQuantizer(codes=5)),
    FiniteScalarQuantizer((4, 3)),
    FiniteScalarQuantizer((2, 3, 4, 5, 6, 7)),
    LookupFreeQuantizer(bits=3),
    LookupFreeQuantizer(bits=6),
    GumbelQuantizer(codes=9),
]


def build(quantizer: Quantizer, latent_dim: int = 6, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    return quantizer.build(latent_dim).to(dtype)


def hidden(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(h: Tensor) -> Tensor:
    """(B, C, ...) to (B * positions, C), by hand."""
    return torch.stack([h[(b, slice(None), *at)] for b in range(len(h)) for at in np.ndindex(*h.shape[2:])])


# ---- what all have in common ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("quantizer", ALL, ids=str)
def test_indices_lead_to_the_code_and_back(quantizer: Quantizer, shape: tuple[int, ...]) -> None:
    book, h = build(quantizer), hidden(7, 6, *shape)
    z, indices, terms = book(h)
    wanted = (7, *shape) if book.depth == 1 else (7, book.depth, *shape)
    assert indices.shape == wanted
    assert indices.dtype == torch.int64
    assert ((indices >= 0) & (indices < book.codes)).all()
    assert torch.equal(book.nearest(h), indices)
    assert z.shape == h.shape
    assert torch.equal(book.lookup(indices), z)
    assert torch.equal(book.quantised(h), z)
    if not isinstance(quantizer, ResidualQuantizer) or book.depth == 1:
        assert torch.equal(book.indices_of(z.detach()), indices)
    assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
    assert 1 <= float(book.perplexity(indices)) <= book.codes
    assert from_plain(Quantizer, to_plain(quantizer, "quantizer"), "quantizer") == quantizer


@pytest.mark.parametrize("quantizer", ALL, ids=str)
def test_indices_are_those_of_float32_under_autocast(quantizer: Quantizer) -> None:
    book, h = build(quantizer, dtype=torch.float32), hidden(200, 6).float()
    plain = book.nearest(h)
    with torch.autocast("cpu", torch.bfloat16):
        z, indices, terms = book(h, Noise(1), 0.5)
    assert torch.equal(indices, plain)
    assert {z.dtype, *(value.dtype for value in terms.values())} == {torch.float32}


@pytest.mark.parametrize("quantizer", ALL, ids=str)
def test_a_sample_is_quantised_as_alone(quantizer: Quantizer) -> None:
    """And positions in their order, which flattening must not mix up."""
    book, h = build(quantizer), hidden(4, 6, 3, 2)
    whole = book.nearest(h)
    for b, i, j in itertools.product(range(4), range(3), range(2)):
        assert torch.equal(book.nearest(h[b : b + 1, :, i, j])[0], whole[b, ..., i, j])


# ---- the gradient ---------------------------------------------------------------------------------------------------


def test_rotation_is_that_of_the_matrix() -> None:
    """R = I - 2 w w' + 2 e^ h^' is orthogonal and turns h^ to e^; the gradient is that of its transpose, scaled."""
    h, e, weights = hidden(5, 6).requires_grad_(), hidden(5, 6, seed=2), hidden(5, 6, seed=3)
    (found,) = torch.autograd.grad((rotated(h, e) * weights).sum(), h)
    assert torch.equal(rotated(h, e), e)
    for x, q, g, mine in zip(*(part.detach().numpy() for part in (h, e, weights, found)), strict=True):
        x_hat, q_hat = x / np.linalg.norm(x), q / np.linalg.norm(q)
        w = (q_hat + x_hat) / np.linalg.norm(q_hat + x_hat)
        turn = np.eye(6) - 2 * np.outer(w, w) + 2 * np.outer(q_hat, x_hat)
        np.testing.assert_allclose(turn @ turn.T, np.eye(6), atol=1e-12)
        np.testing.assert_allclose(turn @ x_hat, q_hat, atol=1e-12)
        np.testing.assert_allclose(mine, np.linalg.norm(q) / np.linalg.norm(x) * turn.T @ g, rtol=1e-10, atol=1e-12)


def test_rotation_where_there_is_no_direction() -> None:
    h = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 0.0]], requires_grad=True)
    e = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])
    z = rotated(h, e)
    (found,) = torch.autograd.grad(z.sum(), h)
    assert torch.equal(z, e)
    assert found.isfinite().all()
    assert torch.equal(found[:2], torch.ones(2, 2))  # straight through


@pytest.mark.parametrize("kind", [VectorQuantizer, GradientVectorQuantizer])
def test_the_gradient_is_an_option(kind: Any) -> None:
    h, weights = hidden(7, 6, 4).requires_grad_(), hidden(7, 6, 4, seed=2)
    found = {}
    for gradient in ("straight_through", "rotation"):
        z = build(kind(codes=9, gradient=gradient))(h)[0]
        (found[gradient],) = torch.autograd.grad((z * weights).sum(), h)
    assert torch.equal(found["straight_through"], weights)
    assert not torch.allclose(found["rotation"], weights)


# ---- the cosine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VectorQuantizer, GradientVectorQuantizer, SimVectorQuantizer])
def test_nearest_by_the_cosine(kind: Any) -> None:
    book, h = build(kind(codes=9, distance="cosine")), hidden(30, 6)
    with torch.no_grad():
        z, indices, _ = book(h)
        expected = F.cosine_similarity(h[:, None], book.vectors[None], dim=2).argmax(dim=1)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(30, dtype=torch.float64))
    assert torch.equal(indices, expected)
    if kind is not VectorQuantizer:  # whose vectors are of unit length, so that both are the same
        assert not torch.equal(indices, torch.cdist(h, book.vectors.detach()).argmin(dim=1))
    assert torch.equal(book.nearest(100 * h), indices)


def test_running_means_of_directions() -> None:
    book = build(VectorQuantizer(codes=3, distance="cosine", decay=0.0, revive=0.0), 2)
    book.vectors.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    h = torch.tensor([[2.0, 0.5], [8.0, -1.0], [0.5, 4.0]], dtype=torch.float64)
    book.update(h, book.nearest(h), Noise(1))
    directions = F.normalize(h, dim=1)
    expected = F.normalize(torch.stack([directions[:2].sum(0), directions[2]]), dim=1)
    torch.testing.assert_close(book.vectors[:2], expected)
    assert book.vectors[2].tolist() == [-1, 0]
    torch.testing.assert_close(book.vectors.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_of_several_nearest_vectors_it_is_the_first(offset: float) -> None:
    rows = offset + torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    once = offset + torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    found = nearest_rows(rows, once.repeat(3, 1))
    assert torch.equal(found, torch.cdist(rows.double(), once.double()).argmin(dim=1))


# ---- k-means --------------------------------------------------------------------------------------------------------


def test_kmeans_is_that_of_scikit_learn() -> None:
    """From the same vectors, with as many steps."""
    h = hidden(80, 6)
    book = build(VectorQuantizer(codes=7, start="kmeans", revive=0.0))
    first = h[Noise(3, samples=80).permutation(80)[:7]].numpy()
    before = float(((h - book.lookup(book.nearest(h))) ** 2).sum())
    book.update(h, book.nearest(h), Noise(3, samples=80))
    found = KMeans(7, init=first, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(h.numpy())
    # the running means' smoothing, of 1e-5 in 1
    np.testing.assert_allclose(book.vectors.numpy(), found.cluster_centers_, rtol=2e-2, atol=1e-3)
    assert torch.equal(book.nearest(h), torch.from_numpy(found.predict(h.numpy())).long())
    assert float(((h - book.lookup(book.nearest(h))) ** 2).sum()) < 0.75 * before
    kept = book.vectors.clone()
    book.update(h, book.nearest(h), Noise(4, samples=80))
    assert (book.vectors - kept).norm() < 0.2 * kept.norm()  # once only


def test_a_codebook_larger_than_the_data_of_kmeans_is_refused() -> None:
    book, h = build(VectorQuantizer(codes=13, start="kmeans")), hidden(6, 6, 2)
    with pytest.raises(InputError, match=r"codes = 13 .* first batch, which has 12 vectors"):
        book.update(h, book.nearest(h), Noise(1, samples=6))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_vectors_with_a_gradient_start_from_kmeans(distance: Any, dtype: torch.dtype) -> None:
    """Those of scikit-learn, spherical by hand; the first batch is quantised by them."""
    h = hidden(80, 6).to(dtype)
    book = build(GradientVectorQuantizer(codes=7, start="kmeans", distance=distance), dtype=dtype)
    before = book.vectors.detach().clone()
    book(h), book.quantised(h), book.update(h, book.nearest(h), Noise(3, samples=80))  # nothing is drawn: not a step
    assert torch.equal(book.vectors, before)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        _, indices, terms = book(h, Noise(3, samples=80))
    x = (h if distance == "euclidean" else F.normalize(h, dim=1)).numpy()
    first = x[Noise(3, samples=80).permutation(80)[:7].numpy()]
    if distance == "euclidean":
        centres = KMeans(7, init=first, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(x).cluster_centers_
    else:
        centres = first
        for _ in range(10):
            chosen = (x @ centres.T).argmax(axis=1)
            means = np.stack([x[chosen == k].mean(axis=0) for k in range(7)])
            centres = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(book.vectors.detach().numpy(), centres, rtol=1e-4, atol=1e-6)
    apart = np.square(x[:, None] - centres[None]).sum(axis=2)
    assert indices.tolist() == apart.argmin(axis=1).tolist()
    assert terms["codebook"].item() == pytest.approx(apart.min(axis=1).mean(), rel=1e-4)
    # a step of gradient descent, of these vectors and not of those before
    terms["codebook"].backward()
    (moves,) = book.parameters()
    assert moves.grad is not None
    if distance == "euclidean":
        counts = np.bincount(indices.numpy(), minlength=7)[:, None]
        sums = np.stack([x[indices.numpy() == k].sum(axis=0) for k in range(7)])
        expected = 2 * (counts * centres - sums) / 80
        np.testing.assert_allclose(moves.grad.numpy(), expected, rtol=1e-3, atol=1e-6)
    started = book.vectors.detach().clone()
    book(hidden(80, 6, seed=2).to(dtype), Noise(4, samples=80))
    assert torch.equal(book.vectors, started)  # once only


@pytest.mark.parametrize("kind", [VectorQuantizer, GradientVectorQuantizer])
def test_what_is_loaded_says_whether_a_codebook_has_begun(kind: Any) -> None:
    h, other = hidden(20, 6), hidden(20, 6, seed=2)

    def train(book: Any, h: Tensor, key: int) -> None:
        book.update(h, book(h, Noise(key, samples=20))[1], Noise(key, samples=20))

    book, untrained = (build(kind(codes=5, start="batch")) for _ in range(2))
    train(book, h, 1)
    assert float(torch.cdist(book.vectors.detach(), h).min(dim=1).values.max()) == 0
    again = build(kind(codes=5, start="batch"))
    again.load_state_dict(book.state_dict())
    train(again, other, 2)
    assert float(torch.cdist(again.vectors.detach(), other).min(dim=1).values.min()) > 0.01
    train(book, h, 3)  # it has asked and knows
    book.load_state_dict(untrained.state_dict())  # as after a search for a learning rate
    train(book, other, 2)
    assert float(torch.cdist(book.vectors.detach(), other).min(dim=1).values.max()) == 0


def test_vectors_with_a_gradient_of_more_codes_than_data_are_refused() -> None:
    for quantizer in (
        GradientVectorQuantizer(codes=13, start="batch"),
        ResidualQuantizer(2, GradientVectorQuantizer(codes=13, start="kmeans")),
    ):
        book, h = build(quantizer), hidden(6, 6, 2)
        before = copy.deepcopy(book.state_dict())
        with pytest.raises(InputError, match=r"codes = 13 .* first batch, which has 12 vectors .*\n.*start=\"unif"):
            book(h, Noise(1, samples=6))
        assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())
        book(h)  # in evaluation none is needed


def test_a_start_from_data_in_bfloat16() -> None:
    """Weights of which are so: the start keeps its digits, and small steps are not lost on it."""
    h = hidden(9, 6).float()
    book = build(GradientVectorQuantizer(codes=5, start="batch"), dtype=torch.bfloat16)
    book(h, Noise(1, samples=9))
    assert float(torch.cdist(book.vectors.detach(), h).min(dim=1).values.max()) == 0
    (moves,) = book.parameters()
    assert moves.dtype == torch.bfloat16
    with torch.no_grad():
        moves += 1e-4
    assert float(torch.cdist(book.vectors.detach(), h).min(dim=1).values.min()) > 1e-4


# ---- residual -------------------------------------------------------------------------------------------------------


def test_residuals_by_hand() -> None:
    book, h = build(ResidualQuantizer(3, GradientVectorQuantizer(codes=8))), hidden(20, 6).requires_grad_()
    z, indices, terms = book(h)
    tables = [layer.vectors.detach().numpy() for layer in book.layers]
    left, total, commitment, pull = h.detach().numpy(), np.zeros((20, 6)), 0.0, np.zeros((20, 6))
    for table, chosen in zip(tables, indices.unbind(1), strict=True):
        nearest = np.square(left[:, None] - table[None]).sum(axis=2).argmin(axis=1)
        assert chosen.tolist() == nearest.tolist()
        e = table[nearest]
        commitment += 0.25 * np.square(left - e).sum() / 20
        pull += 0.5 * (left - e) / 20  # of each layer's commitment, also of those after the first
        left, total = left - e, total + e
    np.testing.assert_allclose(z.detach().numpy(), total)
    assert terms["commitment"].item() == pytest.approx(commitment)
    (found,) = torch.autograd.grad(terms["commitment"], h, retain_graph=True)
    np.testing.assert_allclose(found.numpy(), pull)
    (through,) = torch.autograd.grad(z.sum(), h, retain_graph=True)
    assert torch.equal(through, torch.ones_like(h))  # once, whatever the layers
    grads = torch.autograd.grad(terms["codebook"], [layer.vectors for layer in book.layers])
    assert all(grad.abs().sum() > 0 for grad in grads)


def test_more_layers_leave_less() -> None:
    h, left = hidden(400, 6), []
    for layers in (1, 2, 4):
        book = build(ResidualQuantizer(layers, VectorQuantizer(codes=16, start="kmeans", decay=0.5)))
        for key in range(20):
            book.update(h, book.nearest(h), Noise(key, samples=400))
        left.append(float((h - book.lookup(book.nearest(h))).square().sum(dim=1).mean()))
    assert left[1] < 0.75 * left[0]
    assert left[2] < 0.75 * left[1]


@pytest.mark.parametrize(
    "quantizer",
    [VectorQuantizer(codes=60, start="batch", revive=0.0), GradientVectorQuantizer(codes=60, start="batch")],
    ids=lambda q: type(q).__name__,
)
def test_each_layer_begins_with_what_the_one_before_leaves(quantizer: Quantizer) -> None:
    h = hidden(60, 6)
    book = build(ResidualQuantizer(2, quantizer))
    book.update(h, book(h, Noise(1, samples=60))[1], Noise(1, samples=60))
    first, second = book.layers
    assert float(torch.cdist(first.vectors.detach(), h).min(dim=1).values.max()) < 1e-6
    assert float(second.vectors.detach().abs().max()) == 0  # sixty codes leave nothing of sixty vectors


# ---- finite scalars -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(2,), (3, 2), (8, 5, 5, 5), (7, 6, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_index_is_reached_and_exact(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    book = build(FiniteScalarQuantizer(levels), len(levels), dtype)
    every = torch.arange(math.prod(levels))
    codes = book.lookup(every)
    assert torch.equal(book.indices_of(codes), every)
    assert codes.unique(dim=0).shape == codes.shape
    # an input that becomes each: the inverse of the bounded scale at the levels' numbers
    reach = (torch.tensor(levels).double() - 1) * 1.001 / 2
    offset = torch.tensor([0.0 if n % 2 else 0.5 for n in levels]).double()
    numbers = codes.double() * (torch.tensor(levels) // 2)
    h = ((numbers + offset) / reach).atanh() - (offset / reach).atanh()
    assert torch.equal(book.nearest(h.to(dtype)), every)
    torch.testing.assert_close(book(h.to(dtype))[0], codes, rtol=0, atol=0)
    assert book.codes == math.prod(levels)
    assert not book(h.to(dtype))[2]


def test_finite_scalars_are_those_of_the_formula() -> None:
    levels, h = (8, 5, 6), 2 * hidden(50, 3)
    half = (np.array(levels) - 1) * (1 + 1e-3) / 2
    offset = np.where(np.array(levels) % 2 == 0, 0.5, 0.0)
    bounded = np.tanh(h.numpy() + np.arctanh(offset / half)) * half - offset
    x = h.clone().requires_grad_()
    z = build(FiniteScalarQuantizer(levels), 3)(x)[0]
    np.testing.assert_allclose(z.detach().numpy(), np.round(bounded) / (np.array(levels) // 2), rtol=1e-12)
    (found,) = torch.autograd.grad(z.sum(), x)
    slope = (1 - np.tanh(h.numpy() + np.arctanh(offset / half)) ** 2) * half / (np.array(levels) // 2)
    np.testing.assert_allclose(found.numpy(), slope, rtol=1e-9)


def test_values_beyond_one_index_make_several() -> None:
    h = 2 * hidden(9, 6, 4)
    together = build(FiniteScalarQuantizer((4, 3))).nearest(h)
    for i in range(3):
        alone = build(FiniteScalarQuantizer((4, 3)), 2).nearest(h[:, 2 * i : 2 * i + 2])
        assert torch.equal(together[:, i], alone)


# ---- signs ----------------------------------------------------------------------------------------------------------


def entropies(h: np.ndarray, bits: int, temperature: float) -> tuple[float, float]:
    """E[H(p)] and H(E[p]) over all codes, one by one."""
    codes = np.array(list(itertools.product([-1, 1], repeat=bits)))
    logits = -np.square(h[:, None] - codes[None]).sum(axis=2) / temperature
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    return float(-(p * np.log(p + 1e-300)).sum(axis=1).mean()), float(-(mean * np.log(mean + 1e-300)).sum())


@pytest.mark.parametrize("bits", [2, 6])
def test_signs_and_their_entropies(bits: int) -> None:
    quantizer = LookupFreeQuantizer(bits, commitment=0.5, entropy_weight=0.3, diversity=1.5, temperature=0.7)
    book, h = build(quantizer), 0.5 * hidden(11, 6, 4)
    z, indices, terms = book(h)
    assert torch.equal(z, torch.where(h > 0, 1.0, -1.0).double())
    first = sum(2**j * (h[:, j] > 0).long() for j in range(bits))
    assert torch.equal(indices if bits == 6 else indices[:, 0], first)
    expected = 0.0
    for i in range(6 // bits):
        sure, varied = entropies(rows(h[:, i * bits : (i + 1) * bits]).numpy(), bits, 0.7)
        expected += 0.3 * 4 * (sure - 1.5 * varied)  # of the four vectors of a sample
    assert float(terms["entropy"]) == pytest.approx(expected, rel=1e-9)
    assert float(terms["commitment"]) == pytest.approx(0.5 * float((h - z).square().sum()) / 11)


def test_entropies_of_sure_codes_have_gradients() -> None:
    book, h = build(LookupFreeQuantizer(6), dtype=torch.float32), (1000 * hidden(5, 6)).float().requires_grad_()
    (found,) = torch.autograd.grad(book(h)[2]["entropy"], h)
    assert found.isfinite().all()


# ---- a basis that is turned -----------------------------------------------------------------------------------------


def test_the_map_moves_codes_that_nobody_uses() -> None:
    book, h = build(SimVectorQuantizer(codes=9)), hidden(3, 6)
    before = book.vectors.detach().clone()
    np.testing.assert_allclose(before.numpy(), book.basis.numpy() @ book.map.detach().numpy().T)
    _, indices, terms = book(h)
    assert [name for name, _ in book.named_parameters()] == ["map"]
    terms["codebook"].backward()
    assert book.map.grad is not None
    with torch.no_grad():
        book.map -= 0.01 * book.map.grad
    unused = [k for k in range(9) if k not in indices]
    assert unused
    assert ((book.vectors - before)[unused].abs().sum(dim=1) > 0).all()


# ---- codes that are drawn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("straight", [False, True])
def test_gumbel_softmax_by_hand(straight: bool) -> None:
    quantizer = GumbelQuantizer(codes=9, temperature=0.8, kl_weight=0.3, straight_through=straight)
    book, h = build(quantizer), hidden(12, 6, 2)
    z, indices, terms = book(h, Noise(1, "x", samples=12), 0.5)
    logits = torch.einsum("kd,bdp->bkp", book.logits.weight, h) + book.logits.bias.view(1, -1, 1)
    q = logits.softmax(dim=1).detach()
    uniform = Noise(1, "x", samples=12).rand_like(q)
    y = ((q.log() - (-uniform.log()).log()) / (0.8 * 0.5)).softmax(dim=1)
    expected = torch.einsum("kd,bkp->bdp", book.vectors, y)
    if straight:
        expected = book.vectors[y.argmax(dim=1)].movedim(-1, 1)
    torch.testing.assert_close(z, expected)
    assert terms["kl"].item() == pytest.approx(0.3 * float((q * (9 * q).log()).sum()) / 12)
    assert torch.equal(indices, q.argmax(dim=1))
    assert torch.equal(book(h)[0], book.vectors[indices].movedim(-1, 1))  # in evaluation
    grads = torch.autograd.grad(z.square().sum(), list(book.parameters()))
    assert all(grad.abs().sum() > 0 for grad in grads)


# ---- several ranks --------------------------------------------------------------------------------------------------

SHARED: dict[str, Quantizer] = {
    "k-means": VectorQuantizer(codes=5, start="kmeans", decay=0.8, revive=0.3),
    "cosine": VectorQuantizer(codes=5, distance="cosine", decay=0.8, revive=0.3),
    "residual": ResidualQuantizer(2, VectorQuantizer(codes=5, start="kmeans", decay=0.8, revive=0.3)),
    "trained": ResidualQuantizer(2, GradientVectorQuantizer(codes=5, start="kmeans")),
    "signs": LookupFreeQuantizer(3),
}


def several_steps(world: int, number: int) -> dict[str, Tensor]:
    """Seven samples, unevenly shared; the first alone uses a code, which so dies on one rank only when it is gone."""
    found = {}
    for name, quantizer in SHARED.items():
        book = build(quantizer)
        for key in range(6):
            h = hidden(7, 6, 2, seed=key)
            if key < 3:
                h[0] += 20
            mine = h[number::world].clone().requires_grad_()
            terms = book(mine, Noise(2, key, samples=7))[2]
            book.update(mine.detach(), book.nearest(mine), Noise(1, key, samples=7))
            for term, value in terms.items():
                total = value.detach() * len(mine) / 7
                if world > 1:
                    dist.all_reduce(total)
                found[f"{name} {key} {term}"] = total
            if name == "signs":  # as a trainer weights a rank's loss, and averages gradients
                (grad,) = torch.autograd.grad(terms["entropy"] * len(mine) * world / 7, mine)
                whole = torch.zeros(7, 6, 2, dtype=torch.float64)
                whole[number::world] = grad / world
                if world > 1:
                    dist.all_reduce(whole)
                found[f"signs {key} gradient"] = whole
        found |= {f"{name} {key}": value.clone() for key, value in book.named_buffers()}
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
        torch.testing.assert_close(found[0][name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        assert all(torch.equal(other[name], found[0][name]) for other in found), name


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FiniteScalarQuantizer((8, 1)), "levels of FiniteScalarQuantizer must be integers from 2 on"),
        (lambda: FiniteScalarQuantizer(()), "levels of FiniteScalarQuantizer"),
        (lambda: FiniteScalarQuantizer((8, 5.0)), "levels of FiniteScalarQuantizer"),  # type: ignore[arg-type]
        (lambda: FiniteScalarQuantizer((16,) * 8), "more than an index holds"),
        (lambda: FiniteScalarQuantizer(gain=0.0), "gain of FiniteScalarQuantizer"),
        (lambda: FiniteScalarQuantizer((8, 5)).build(5), r"multiple of 2, .*levels of Finite.*got 5"),
        (lambda: LookupFreeQuantizer(0), "bits of LookupFreeQuantizer must be an integer of at least 1"),
        (lambda: LookupFreeQuantizer(40), "bits of LookupFreeQuantizer must be at most 14"),
        (lambda: LookupFreeQuantizer(temperature=0.0), "temperature of LookupFreeQuantizer"),
        (lambda: LookupFreeQuantizer(diversity=-1.0), "diversity of LookupFreeQuantizer"),
        (lambda: LookupFreeQuantizer(4).build(6), r"multiple of 4, .*bits of Lookup.*got 6"),
        (lambda: ResidualQuantizer(0), "layers of ResidualQuantizer"),
        (lambda: ResidualQuantizer(2, FiniteScalarQuantizer()), "quantizer of ResidualQuantizer"),
        (lambda: ResidualQuantizer(2, VectorQuantizer(distance="cosine")), "quantizer of ResidualQuantizer"),
        (lambda: ResidualQuantizer(2, ResidualQuantizer()), "quantizer of ResidualQuantizer"),
        (lambda: ResidualQuantizer(2, "vq"), "quantizer of ResidualQuantizer"),  # type: ignore[arg-type]
        (lambda: GumbelQuantizer(temperature=-1.0), "temperature of GumbelQuantizer"),
        (lambda: GumbelQuantizer(kl_weight=-1.0), "kl_weight of GumbelQuantizer"),
        (lambda: GumbelQuantizer(schedule=CosineDecay()), "schedule of GumbelQuantizer ends at a temperature of 0"),
        (lambda: VectorQuantizer(distance="cosin"), "did you mean 'cosine'"),  # type: ignore[arg-type]
        (lambda: VectorQuantizer(gradient="rotated"), "gradient of VectorQuantizer"),  # type: ignore[arg-type]
        (lambda: GradientVectorQuantizer(distance="l2"), "distance of GradientVectorQuantizer"),  # type: ignore[arg-type]
        (
            lambda: GradientVectorQuantizer(start="kmean"),
            r"start of GradientVectorQuantizer.*\n.*did you mean 'kmeans'",
        ),  # type: ignore[arg-type]
        (lambda: SimVectorQuantizer(codes=1), "codes of SimVectorQuantizer"),
        (
            lambda: from_plain(Quantizer, {"class_path": "SimVectorQuantizer", "init_args": {"start": "kmeans"}}, "q"),
            "SimVectorQuantizer.*start",
        ),
        (lambda: VectorQuantizer(commitment=math.nan), "commitment of VectorQuantizer"),
    ],
)
def test_what_cannot_work_is_refused(make: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()
