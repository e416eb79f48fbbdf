"""The benchmark of quantizers: what it trains, that both packages' losses are in the same units, and what it says."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "quantizers.py"))


def args(**options: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"steps": 7, "seeds": [0, 1], "python": "python", "data": "x", "write": None, **options}
    )


@torch.no_grad()
@pytest.mark.parametrize("name", SCRIPT["RATES"])
def test_every_row_is_a_model_whose_indices_decode(name: str) -> None:
    torch.manual_seed(0)
    model, x = SCRIPT["RATES"][name]().eval(), torch.rand(2, 1, 28, 28)
    y, rows = SCRIPT["seen"](model, x)
    torch.testing.assert_close(y, model(x))
    bits = sum(each.numel() for each in rows) / 2 * torch.tensor(float(model.codebook.codes)).log2()
    assert float(model.rate(x)[0]) == pytest.approx(float(bits))


@pytest.mark.parametrize("name", [name for name in SCRIPT["PEERS"] if not name.startswith("FSQ")])
def test_both_packages_draw_the_encoder_alike(name: str) -> None:
    """With the same codebooks the gradients are, but for a factor, which Adam does not see."""
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    peer, ours, x = SCRIPT["Peer"](name), SCRIPT["RATES"][name](), torch.rand(3, 1, 28, 28)
    ours.encoder.load_state_dict(peer.model.encoder.state_dict())
    ours.decoder.load_state_dict(peer.model.decoder.state_dict())
    theirs = peer.quantizer.layers if name.startswith("residual") else [peer.quantizer]
    books = ours.codebook.layers if name.startswith("residual") else [ours.codebook]
    for book, other in zip(books, theirs, strict=True):
        book.vectors.copy_(other._codebook.embed[0])
    peer.train().loss(x, x)["loss"].backward()
    ours.loss(x, x)["loss"].backward()
    for one, other in zip(ours.encoder.parameters(), peer.model.encoder.parameters(), strict=True):
        torch.testing.assert_close(len(books) * one.grad, other.grad, rtol=1e-3, atol=1e-4)
    for one, other in zip(ours.decoder.parameters(), peer.model.decoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


def measured(**values: float) -> dict[str, float]:
    return {"error": 10.0, "bits": 441.0, "use": 1.0, "perplexity": 300.0, "codes": 512, "ms": 50.0, **values}


def test_rates_are_told_and_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(python: str, name: str, who: str, seed: int, given: Any) -> dict[str, float]:
        return measured(use=0.5, error=12.0) if name in ("VQ, 512 codes", "residual VQ, 2 x 64 codes") else measured()

    monkeypatch.setitem(SCRIPT["rates"].__globals__, "run", run)
    text = SCRIPT["rates"](args(write=tmp_path / "page.md"))
    assert "](page.png)" in text
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "](" not in SCRIPT["rates"](args())
    assert text.count("\n| ") == len(SCRIPT["RATES"]) + 1
    assert "| VQ, 64 codes | 9.0 | 441 | 10.00 | 18.94 | 100.0 | 300 of 512 |" in text
    assert "FSQ uses all of its codes: 8 x 6 x 5 yes, 100.0 %, 8 x 8 x 8 yes" in text
    assert "95 % of 512: no, 50.0 %" in text
    assert "12 a position: no, 12.00 (2 x 64) against 10.00 (4096)" in text


def test_peers_are_told_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(python: str, name: str, who: str, seed: int, given: Any) -> dict[str, float]:
        ours = who == SCRIPT["OURS"]
        if name.startswith("FSQ"):
            return measured(ms=60.0 if ours else 50.0)
        return measured(error=9.0 if ours else 10.0, ms=(25.0 if ours else 50.0) * (1 + seed))

    monkeypatch.setitem(SCRIPT["peers"].__globals__, "run", run)
    text = SCRIPT["peers"](args())
    assert "| VQ, 512 codes | lightning_ae | 9.00 | 9.00 to 9.00 | 100.0 | 300 | 37.5 | 0.50 |" in text
    assert "- VQ, 512 codes: distortion not worse: yes; use not lower: yes; a step not slower: yes." in text
    assert "- FSQ, 8 x 8 x 8: distortion not worse: yes; use not lower: yes; a step not slower: no." in text
