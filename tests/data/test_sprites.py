"""Sprites: what is drawn, against polygons and areas; which are drawn, and that they train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from matplotlib.path import Path as Polygon

from lightning_ae import HFDataModule, InputError
from lightning_ae.cli import main
from lightning_ae.data import draw_sprites
from lightning_ae.data.source import load_splits
from lightning_ae.data.sprites import RADIUS, SHAPES, VALUES, draw

MIDDLE = 15.5  # of the numbers of positions


def outline(shape: str) -> np.ndarray:
    """The outline of a shape in a circle of radius 1, with y upwards, (points, 2)."""
    angle = np.linspace(0, 2 * np.pi, 500)
    if shape == "square":
        return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / np.sqrt(2)
    if shape == "ellipse":
        return np.stack([np.cos(angle), np.sin(angle) / 2], axis=1)
    low, high = np.full_like(angle, 0.5), np.full_like(angle, 2.0)  # (r^2 - 1)^3 = r^5 cos^2 sin^3, by bisection
    for _ in range(60):
        r = (low + high) / 2
        inside = (r**2 - 1) ** 3 <= r**5 * np.cos(angle) ** 2 * np.sin(angle) ** 3
        low, high = np.where(inside, r, low), np.where(inside, high, r)
    points = low[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points / np.linalg.norm(points, axis=1).max()


def by_polygon(shape: int, scale: int, orientation: int, x: int, y: int, size: int) -> np.ndarray:
    """The share of each pixel that lies in a polygon, by 10 x 10 points each."""
    turn = 2 * np.pi * orientation / 40
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = outline(SHAPES[shape]) @ rotation.T * RADIUS * (0.5 + 0.1 * scale)
    centre = np.array([0.25 + 0.5 * x / 31, 0.25 + 0.5 * y / 31])
    corners = size * (centre + points * [1, -1])  # rows go down
    fine = (np.arange(10 * size) + 0.5) / 10
    grid = np.stack(np.meshgrid(fine, fine), axis=-1).reshape(-1, 2)
    found = Polygon(corners).contains_points(grid).reshape(size, 10, size, 10)
    return found.mean(axis=(1, 3))


@pytest.mark.parametrize("size", [16, 32])
def test_pixels_are_as_bright_as_the_share_a_polygon_covers(size: int) -> None:
    generator = np.random.default_rng(0)
    factors = np.stack([generator.integers(many, size=12) for many in VALUES.values()], axis=1)
    factors[:, 0] = np.arange(12) % 3
    for one, image in zip(factors, draw(factors, size), strict=True):
        apart = image / 255 - by_polygon(*one, size)
        # a row of 4 points places an edge to an eighth of a pixel, one of 10 to a twentieth
        assert np.abs(apart).max() < 1 / 8 + 1 / 20, one
        assert np.abs(apart[apart != 0]).mean() < (1 / 8 + 1 / 20) / 2, one


def test_no_sprite_is_cut_and_sizes_are_those_of_the_shapes() -> None:
    factors = np.array([[s, 5, 3, x, y] for s in range(3) for x, y in ((0, 0), (31, 0), (0, 31), (31, 31), (16, 15))])
    bright = draw(factors, 64).reshape(3, 5, -1).sum(axis=2) / 255
    radius = 0.25 * 64
    heart = outline("heart").T
    area = abs((heart[0] * np.roll(heart[1], 1) - heart[1] * np.roll(heart[0], 1)).sum()) / 2
    for found, share in zip(bright, [2, np.pi / 2, area], strict=True):
        assert found == pytest.approx(np.full(5, share * radius**2), rel=0.01)
    scales = draw(np.array([[0, k, 3, 16, 16] for k in range(6)]), 64).reshape(6, -1).sum(axis=1) / 255
    assert scales == pytest.approx(2 * (radius * np.linspace(0.5, 1, 6)) ** 2, rel=0.01)


def test_x_counts_from_the_left_and_y_from_the_top() -> None:
    factors = np.array([[1, 2, k, 3 * k, 31 - 2 * k] for k in range(10)])
    images = draw(factors, 32).astype(float)
    middle = np.arange(32) + 0.5
    for (_, _, _, x, y), image in zip(factors, images, strict=True):
        assert (image.sum(axis=0) * middle).sum() / image.sum() == pytest.approx(32 * (0.25 + 0.5 * x / 31), abs=0.05)
        assert (image.sum(axis=1) * middle).sum() / image.sum() == pytest.approx(32 * (0.25 + 0.5 * y / 31), abs=0.05)


@pytest.mark.parametrize("shape", range(3))
def test_ten_steps_of_orientation_are_a_quarter_turn(shape: int) -> None:
    for scale, orientation, x, y in [(0, 0, 4, 20), (3, 7, 30, 9), (5, 29, 16, 16)]:
        one = draw(np.array([[shape, scale, orientation, x, y]]), 32)[0].astype(int)
        turned = draw(np.array([[shape, scale, orientation + 10, y, 31 - x]]), 32)[0].astype(int)
        assert np.abs(np.rot90(one) - turned).max() <= 32  # points on the outline, by rounding
        assert np.abs(np.rot90(one) - turned).mean() < 0.2
        assert np.abs(one - turned).mean() > 1 or shape == 0  # what a quarter turn leaves as it is


def test_twenty_thousand_of_all_combinations() -> None:
    splits = load_splits("sprites")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 16_000, "test": 4_000}
    assert list(splits["train"].features) == ["image", *VALUES]
    rows = [tuple(row.values()) for split in splits.values() for row in split.remove_columns("image").to_list()]
    assert len(set(rows)) == 20_000  # none twice, in either split
    for number, (name, many) in enumerate(VALUES.items()):
        counts = np.bincount([row[number] for row in rows], minlength=many)
        assert len(counts) == many, name
        assert counts == pytest.approx(np.full(many, 20_000 / many), rel=0.25), name
    image = np.asarray(splits["test"][7]["image"])
    row = [splits["test"][7][name] for name in VALUES]
    assert (image == draw(np.array([row]), 32)[0]).all()
    assert len(set(np.unique(image))) > 3  # anti-aliased


def test_the_data_module_has_them() -> None:
    data = HFDataModule("sprites", name="16", cache="memory")
    data.setup("test")
    assert data.input_shape == (1, 16, 16)
    assert data.input_columns == ["image"]
    assert data.class_names == list(SHAPES)
    assert data.factor_names == list(VALUES)
    assert [each.kind for each in data.factor_columns] == ["category", *["number"] * 4]
    assert [len(each.classes or ()) for each in data.factor_columns] == list(VALUES.values())
    factors = data.factors("test")
    assert (factors.shape, factors.dtype) == ((4000, 5), torch.int64)
    first = next(iter(data.batches("test", 100)))
    assert (first["image"] == torch.from_numpy(draw(factors[:100].numpy(), 16))[:, None] / 255).all()
    assert all((first[name] == factors[:100, k]).all() for k, name in enumerate(VALUES))
    assert HFDataModule.from_config(data.config or {}).config == data.config  # as a checkpoint has it


def test_options_of_ones_own() -> None:
    ones = [draw_sprites(30, 10, 16, seed) for seed in (0, 0, 1)]
    numbers = [rows["train"].remove_columns("image").to_list() for rows in ones]
    assert numbers[0] == numbers[1] != numbers[2]
    assert ones[0]["train"]._fingerprint == ones[1]["train"]._fingerprint  # so that the cache knows them again
    assert isinstance(ones[0]["test"], Dataset)
    assert len(ones[0]["test"]) == 10
    assert HFDataModule(ones[0]).input_shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"train": 0}, "train must be positive, got 0"),
        ({"test": -1}, "test must be positive, got -1"),
        ({"train": 737_280}, "train 737280 and test 4000 are more sprites than there are, 737280"),
        ({"train": 1, "test": 1, "size": 7}, "size of sprites must be 8 or more, got 7"),
    ],
)
def test_what_cannot_be_drawn(options: dict[str, int], match: str) -> None:
    with pytest.raises(InputError, match=match):
        draw_sprites(**options)


def test_a_name_that_is_no_size() -> None:
    with pytest.raises(InputError, match="name of 'sprites' is their size in pixels, such as '64', got 'large'"):
        HFDataModule("sprites", name="large").setup("fit")


@pytest.mark.slow
def test_the_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", "beta_vae", "-c", "sprites", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2",
          "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null",
          "--trainer.enable_progress_bar", "false"])  # fmt: skip
    assert list((tmp_path / "runs" / "beta_vae-sprites" / "fit-1").rglob("*.ckpt"))
