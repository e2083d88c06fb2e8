"""The multi-block masks: what I-JEPA demands of them, and that an image's masks are its seed's alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.models.hjepa.masks import Masks, MaskSampler, NoRoom, block_sizes

GRIDS = [(4, 4), (5, 7), (8, 8), (9, 16), (14, 14)]


def seeds(count: int, start: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(start).integers(-(2**63), 2**63 - 1, count)


def covered(masks: Masks, grid: tuple[int, int]) -> NDArray[np.int64]:
    """Return how many target blocks lie on each position, [N, rows, columns]."""
    count = np.zeros((len(masks.target), grid[0] * grid[1]), dtype=np.int64)
    image = np.arange(len(count))[:, None, None]
    np.add.at(count, (np.broadcast_to(image, masks.target.shape), masks.target), masks.is_target)
    return count.reshape(-1, *grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_context_never_holds_a_target(grid: tuple[int, int]) -> None:
    masks = MaskSampler(grid)(seeds(2000))
    hits = np.take_along_axis(covered(masks, grid).reshape(2000, -1), masks.context, axis=1)
    assert not hits.any()


@pytest.mark.parametrize("grid", GRIDS)
def test_shapes_are_constant_and_indices_distinct(grid: tuple[int, int]) -> None:
    sampler = MaskSampler(grid)
    for draw in range(5):
        masks = sampler(seeds(100, draw))
        assert masks.context.shape == (100, sampler.context_tokens)
        assert masks.target.shape == masks.is_target.shape == (100, 4, sampler.target_tokens)
        assert (np.diff(masks.context, axis=1) > 0).all()
        assert masks.context.min() >= 0
        assert masks.context.max() < grid[0] * grid[1]
        assert covered(masks, grid).max() <= 4, "each position at most once in each of the four blocks"


@pytest.mark.parametrize("grid", GRIDS)
def test_targets_are_rectangles_of_one_allowed_size(grid: tuple[int, int]) -> None:
    sampler = MaskSampler(grid)
    masks = sampler(seeds(300))
    allowed = {tuple(size) for size in sampler.target_sizes.tolist()}
    for image in range(300):
        sizes = set()
        for block, real in zip(masks.target[image], masks.is_target[image], strict=True):
            rows, columns = np.divmod(block[real], grid[1])
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(set(block[real])) == height * width == real.sum(), "a full rectangle"
            assert set(block) == set(block[real]), "padding repeats"
            sizes.add((height, width))
        assert len(sizes) == 1
        assert sizes <= allowed


def test_places_are_uniform_and_reach_every_edge() -> None:
    grid = (14, 14)
    sampler = MaskSampler(grid, target_scale=(0.15, 0.15), target_aspect=(1.0, 1.0))
    (height, width) = sampler.target_sizes[0]
    masks = sampler(seeds(5000))
    top, left = np.divmod(masks.target[:, :, 0].ravel(), grid[1])
    for start, count in ((top, grid[0] - height + 1), (left, grid[1] - width + 1)):
        share = np.bincount(start, minlength=count) / len(start)
        assert len(share) == count
        # 20,000 places: 4 standard deviations, and a little for the masks without room for a context
        assert share == pytest.approx(1 / count, abs=4 * (1 / count / len(start)) ** 0.5 + 0.1 / count)


def test_context_reaches_every_position_evenly() -> None:
    grid = (14, 14)
    context = MaskSampler(grid)(seeds(4000)).context
    share = np.bincount(context.ravel(), minlength=196).reshape(grid) / 4000
    assert share.min() > 0.05
    assert share == pytest.approx(share[::-1, ::-1], abs=0.05), "the bottom as often as the top"
    assert share == pytest.approx(share.T, abs=0.08), "columns as often as rows, blocks being a bit tall"


def test_sizes_are_the_papers() -> None:
    sizes = block_sizes((14, 14), (0.15, 0.2), (0.75, 1.5))
    area, aspect = sizes.prod(axis=1) / 196, sizes[:, 0] / sizes[:, 1]
    assert area.mean() == pytest.approx(0.175, abs=0.005)
    assert aspect.mean() == pytest.approx(1.125, abs=0.03)
    assert area.min() > 0.12
    assert area.max() < 0.23
    context = block_sizes((14, 14), (0.85, 1.0), (1.0, 1.0))
    assert {tuple(size) for size in context.tolist()} == {(13, 13), (14, 14)}


def test_an_image_has_its_masks_in_any_company() -> None:
    sampler, all_seeds = MaskSampler((8, 8)), seeds(400)
    together = sampler(all_seeds)
    order = np.random.default_rng(1).permutation(400)
    shuffled = sampler(all_seeds[order])
    alone = [sampler(all_seeds[image : image + 1]) for image in range(0, 400, 7)]
    for field in ("context", "target", "is_target"):
        expected = getattr(together, field)
        assert np.array_equal(getattr(shuffled, field), expected[order])
        assert np.array_equal(np.concatenate([getattr(masks, field) for masks in alone]), expected[::7])


def test_draws_without_room_are_drawn_again() -> None:
    """On 8x8 about one draw in 150 leaves too little: among 3,000 some are redrawn, and all are full."""
    sampler, all_seeds = MaskSampler((8, 8), min_context=20), seeds(3000)
    _, visible = sampler._draw(all_seeds, attempt=0)
    assert (visible.sum(axis=1) < sampler.context_tokens).any()
    masks = sampler(all_seeds)
    assert masks.context.shape == (3000, 20)
    assert not np.take_along_axis(covered(masks, (8, 8)).reshape(3000, -1), masks.context, axis=1).any()


def test_different_seeds_differ() -> None:
    masks = MaskSampler((14, 14))(np.arange(1000))
    assert len(np.unique(masks.context, axis=0)) == 1000
    assert len(np.unique(masks.target.reshape(1000, -1), axis=0)) > 990


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 3)])
def test_no_room_is_said(grid: tuple[int, int]) -> None:
    with pytest.raises(NoRoom, match="masks leave 4 tokens of context"):
        MaskSampler(grid)
