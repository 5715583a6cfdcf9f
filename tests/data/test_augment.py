import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax.data import NO_AUGMENT, Augment
from holojax.data.augment import draw_view
from holojax.data.geometry import View
from holojax.data.photometry import NEUTRAL
from holojax.errors import ConfigError
from holojax.parallel import RegionGrid, Window


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(4, 23), st.integers(4, 23)),
    window=st.none() | st.tuples(st.integers(4, 26), st.integers(4, 26)),
    regions=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 10_000),
)
def test_regions_are_slices_of_one_augmented_scene(size, window, regions, seed):
    scene = np.arange(size[0] * size[1]).reshape(*size, 1)
    view = draw_view(Augment(), np.random.default_rng(seed), size, window)
    area = view.area
    assert 0 <= area.top <= area.top + area.height <= size[0]
    assert 0 <= area.left <= area.left + area.width <= size[1]
    cut = scene[area.top : area.top + area.height, area.left : area.left + area.width]
    whole = view.orient(cut)
    assert whole.shape[:2] == view.size
    if window is not None:
        assert view.size[0] <= window[0]
        assert view.size[1] <= window[1]
    grid = RegionGrid(*regions)
    parts = []
    h, w = grid.region_size(*view.size)
    for index in range(grid.count):
        piece = view.source(grid.window(index, *view.size))
        pixels = view.orient(scene[piece.top : piece.top + piece.height, piece.left : piece.left + piece.width])
        parts.append(np.pad(pixels, [(0, h - pixels.shape[0]), (0, w - pixels.shape[1]), (0, 0)]))
    np.testing.assert_array_equal(grid.stitch(np.stack(parts)[None], *view.size)[0], whole)


def test_all_eight_ways_to_lay_a_square_come_up_equally_often():
    square = np.arange(9).reshape(3, 3)
    seen = {}
    for seed in range(800):
        view = draw_view(Augment(), np.random.default_rng(seed), (3, 3))
        key = view.orient(square).tobytes()
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 60


@pytest.mark.parametrize(("augment", "ways"), [(Augment(rotate=False), 4), (Augment(flip=False), 4), (NO_AUGMENT, 1)])
def test_what_is_not_asked_for_is_not_drawn(augment, ways):
    square = np.arange(9).reshape(3, 3)
    views = [draw_view(augment, np.random.default_rng(seed), (3, 3)) for seed in range(60)]
    assert len({view.orient(square).tobytes() for view in views}) == ways
    assert all(view.shade == NEUTRAL for view in views)


def test_rotations_turn_as_numpy_turns():
    square = np.arange(12).reshape(3, 4)
    turned = set()
    for seed in range(60):
        view = draw_view(Augment(flip=False), np.random.default_rng(seed), (9, 9), (3, 3))
        turned.add(view.orient(square).tobytes())
    assert turned == {np.rot90(square, k).tobytes() for k in range(4)}


def test_a_long_window_turns_only_where_the_turned_crop_fits():
    def views(size):
        return [draw_view(Augment(), np.random.default_rng(seed), size, (4, 8)) for seed in range(60)]

    assert {view.transpose for view in views((8, 9))} == {True, False}
    assert {view.transpose for view in views((7, 9))} == {False}
    assert all(view.size == (4, 8) for view in views((8, 9)) + views((7, 9)))


def test_contrast_leaves_the_center_alone_and_brightness_shifts():
    draws = [draw_view(Augment(contrast=0.3, center=100), np.random.default_rng(seed), (4, 4)) for seed in range(99)]
    gains = np.array([view.shade.gain for view in draws])
    np.testing.assert_allclose([100 * view.shade.gain + view.shade.offset for view in draws], 100)
    assert 0.7 <= gains.min() < 0.75
    assert 1.25 < gains.max() <= 1.3
    offsets = [
        draw_view(Augment(brightness=20), np.random.default_rng(seed), (4, 4)).shade.offset for seed in range(99)
    ]
    assert -20 <= min(offsets) < -15
    assert 15 < max(offsets) <= 20


def test_free_turns_and_scales_are_drawn_from_all_that_is_allowed():
    augment = Augment(flip=False, rotate=False, angle=30, scale=(0.5, 2.0))
    views = [draw_view(augment, np.random.default_rng(seed), (40, 50)) for seed in range(200)]
    steps = np.array([view.matrix for view in views])  # in the file, for one pixel of the view
    scales = 1 / np.hypot(steps[:, 0, 0], steps[:, 1, 0])
    angles = np.degrees(np.arctan2(steps[:, 1, 0], steps[:, 0, 0]))
    np.testing.assert_allclose(np.linalg.det(steps), scales**-2)
    for found, low, high in ((scales, 0.5, 2), (angles, -30, 30)):
        assert low <= found.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < found.max() <= high
        assert abs(found.mean() - (low + high) / 2) < 0.1 * (high - low)


def test_nonsense_is_refused():
    with pytest.raises(ConfigError, match="contrast < 1"):
        Augment(contrast=1.5)


def test_a_view_maps_corners_where_they_belong():
    view = View(Window(10, 20, 4, 6), transpose=True, flip_rows=True)
    assert view.size == (6, 4)
    assert view.source(Window(0, 0, 1, 1)) == Window(10, 25, 1, 1)
    assert view.source(Window(5, 3, 1, 1)) == Window(13, 20, 1, 1)
