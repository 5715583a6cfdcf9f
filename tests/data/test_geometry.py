"""A view shows the same bytes whichever window asks, and between pixels it shows what lies there."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax.data import Augment, bilinear, geometry
from holojax.data.augment import draw_view, largest_share
from holojax.data.geometry import View, Warp, blank
from holojax.parallel import RegionGrid, Window

FREE = Augment(angle=180.0, scale=(0.5, 2.0))


class Scene:
    """A scene in memory that is read as those on disk are, and notes what was read."""

    def __init__(self, image, label=None, valid=None):
        self.image, self.size, self.windows = image, image.shape[:2], []
        self.label = np.zeros(self.size, np.uint8) if label is None else label
        self.valid = np.ones(self.size, bool) if valid is None else valid

    def cut(self, array, window):
        top, left, height, width = window
        assert 0 <= top <= top + height <= self.size[0]
        assert 0 <= left <= left + width <= self.size[1]
        return array[top : top + height, left : left + width]

    def read_image(self, window):
        self.windows.append(window)
        valid = self.cut(self.valid, window)
        return np.where(valid[..., None], self.cut(self.image, window), 0).astype(self.image.dtype), valid

    def read_label(self, window):
        return self.cut(self.label, window)

    def seen(self, view, window=None):
        window = window or Window(0, 0, *view.size)
        out = blank(window[2:], self.image.shape[-1], self.image.dtype)
        view.look(window, self.read_image, self.read_label, out)
        return out


def random_scene(seed, size, dtype="uint8", holes=0.2):
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 200, (*size, 2)).astype(dtype) if dtype != "float32" else rng.normal(size=(*size, 2))
    return Scene(image.astype(dtype), rng.integers(0, 4, size).astype(np.uint8), rng.random(size) >= holes)


sizes = st.tuples(st.integers(3, 19), st.integers(3, 19))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    size=sizes,
    window=st.none() | sizes,
    regions=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    augment=st.sampled_from([Augment(), FREE, Augment(scale=(0.5, 2.0)), Augment(angle=30.0)]),
    dtype=st.sampled_from(["uint8", "uint16", "int32", "float32"]),
    seed=st.integers(0, 10_000),
)
def test_a_window_of_a_view_is_that_of_the_whole_view_bit_for_bit(size, window, regions, augment, dtype, seed):
    scene = random_scene(seed, size, dtype)
    view = draw_view(augment, np.random.default_rng(seed), size, window)
    whole = scene.seen(view)
    assert [part.dtype.name for part in whole] == [dtype, "bool", "uint8"]
    if max(regions) > min(view.size):
        return
    grid = RegionGrid(*regions)
    for index in range(grid.count):
        window = grid.window(index, *view.size)
        here = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
        for found, wanted in zip(scene.seen(view, window), whole, strict=True):
            np.testing.assert_array_equal(found, wanted[here])


@pytest.mark.parametrize("augment", [FREE, Augment(scale=(0.5, 2.0))])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("holes", [0, 0.1])
def test_the_pieces_that_a_warp_is_read_and_computed_in_do_not_show(monkeypatch, augment, seed, holes):
    scene, view = random_scene(seed, (40, 50), holes=holes), draw_view(augment, np.random.default_rng(seed), (40, 50))
    assert isinstance(view, Warp)
    whole = scene.seen(view)
    monkeypatch.setattr(geometry, "BLOCK", 7)
    monkeypatch.setattr(geometry, "BYTES", 1000)
    monkeypatch.setattr(bilinear, "CACHE", 1000)
    scene.windows.clear()
    for found, wanted in zip(scene.seen(view), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert len(scene.windows) > 2


def by_hand(scene, view):
    """Compute a warp pixel by pixel, in float64."""
    shape = (*view.size, scene.image.shape[-1])
    pixels, valid, labels = np.zeros(shape), np.zeros(view.size, bool), np.full(view.size, 255)
    for i, j in np.ndindex(view.size):
        middle = np.array([i + 0.5 - view.size[0] / 2, j + 0.5 - view.size[1] / 2])
        place = np.array(view.matrix) @ middle + view.center
        row, col = np.floor(place).astype(int)
        if not (0 <= row < scene.size[0] and 0 <= col < scene.size[1] and scene.valid[row, col]):
            continue
        valid[i, j], labels[i, j] = True, scene.label[row, col]
        mass = 0
        for r, c in np.ndindex(scene.size):
            weight = np.prod(np.maximum(1 - np.abs(place - (r + 0.5, c + 0.5)), 0)) * scene.valid[r, c]
            mass += weight
            pixels[i, j] += weight * scene.image[r, c]
        pixels[i, j] /= mass
    return pixels, valid, labels


@pytest.mark.parametrize("augment", [FREE, Augment(scale=(0.5, 2.0)), Augment(angle=40.0, flip=False)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_warp_is_bilinear_between_valid_pixels_and_its_labels_lie_where_its_pixels_do(augment, seed):
    scene = random_scene(seed, (9, 12), "float32")
    view = draw_view(augment, np.random.default_rng(seed), (9, 12), (8, 7))
    for found, wanted in zip(scene.seen(view), by_hand(scene, view), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    # A pixel is never made of what is not there.
    scribbled = np.where(scene.valid[..., None], scene.image, 77)
    found = blank(view.size, 2, np.dtype(np.float32))
    window = Window(0, 0, *view.size)
    view.look(window, lambda w: (scene.cut(scribbled, w), scene.cut(scene.valid, w)), scene.read_label, found)
    np.testing.assert_array_equal(found[0], scene.seen(view)[0])


def test_integers_are_rounded():
    view = Warp((2, 2), ((0.5, 0.0), (0.0, 0.5)), (1.0, 1.0), (2, 2))
    pixels, _, _ = Scene(np.array([[[10], [13]], [[10], [13]]], np.uint8)).seen(view)
    np.testing.assert_array_equal(pixels[..., 0], [[11, 12], [11, 12]])


def test_half_the_scale_is_the_mean_of_four_pixels():
    scene = random_scene(1, (12, 16), "float32", holes=0)
    view = draw_view(Augment(flip=False, rotate=False, scale=(0.5, 0.5)), np.random.default_rng(0), (12, 16), (50, 50))
    assert view.size == (6, 8)
    wanted = scene.image.reshape(6, 2, 8, 2, 2).mean((1, 3))
    pixels, valid, _ = scene.seen(view)
    np.testing.assert_allclose(pixels, wanted, atol=1e-6)
    assert valid.all()


@pytest.mark.parametrize("seed", range(6))
def test_a_warp_that_neither_scales_nor_turns_freely_is_the_view_on_the_grid(seed):
    scene, size = random_scene(seed, (11, 11)), (11, 11)
    still = draw_view(Augment(), np.random.default_rng(seed), size)
    assert isinstance(still, View)
    almost = draw_view(Augment(angle=1e-12), np.random.default_rng(seed), size)
    assert isinstance(almost, Warp)
    for found, wanted in zip(scene.seen(almost), scene.seen(still), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_turned_region_reads_no_more_than_the_rectangle_around_it():
    scene = Scene(np.zeros((1500, 1500, 1), np.uint8))
    view = draw_view(Augment(angle=45.0, flip=False), np.random.default_rng(2), (1500, 1500), (800, 800))
    window = Window(0, 400, 400, 400)
    scene.seen(view, window)
    box = view.source(window)
    assert box.height * box.width < 2 * 400 * 400 + 8 * 800
    assert scene.windows
    for read in scene.windows:
        assert box.top <= read.top <= read.top + read.height <= box.top + box.height
        assert box.left <= read.left <= read.left + read.width <= box.left + box.width


@settings(deadline=None, max_examples=60, derandomize=True)
@given(size=sizes, window=st.none() | sizes, seed=st.integers(0, 10_000))
def test_a_view_is_no_larger_than_its_window_nor_than_what_there_is_to_see(size, window, seed):
    view = draw_view(Augment(scale=(0.5, 2.0)), np.random.default_rng(seed), size, window)
    rows, cols = window or size
    scale = np.linalg.norm(np.linalg.inv(view.matrix)[0])
    assert 1 <= view.size[0] <= rows
    assert 1 <= view.size[1] <= cols
    assert max(view.size) <= scale * max(size) + 1
    # Without a free turn there is no view of what lies beyond the scene.
    assert Scene(np.ones((*size, 1), np.uint8)).seen(view)[1].all()


def test_views_say_where_in_the_file_their_labels_lie():
    label = np.arange(13 * 17, dtype=np.uint8).reshape(13, 17)
    scene = Scene(np.zeros((13, 17, 1), np.uint8), label)
    for seed, augment in enumerate([Augment(), Augment(), Augment(), FREE, FREE, FREE]):
        view = draw_view(augment, np.random.default_rng(seed), (13, 17), (6, 7))
        rows, cols = view.places(*np.indices(view.size))
        inside = (rows >= 0) & (rows < 13) & (cols >= 0) & (cols < 17)
        wanted = np.where(inside, label[rows.clip(0, 12), cols.clip(0, 16)], 255)
        np.testing.assert_array_equal(scene.seen(view)[2], wanted)
        assert (augment is FREE) == isinstance(view, Warp)


def two_halves(share):
    label = np.zeros((64, 256), np.uint8)
    label[:, int(256 * share) :] = 1
    return Scene(np.zeros((64, 256, 1), np.uint8), label)


@pytest.mark.parametrize("augment", [Augment(), Augment(scale=(0.7, 1.4), angle=20.0)])
def test_of_several_crops_one_with_mixed_classes_is_taken(augment):
    scene = two_halves(0.5)
    limited = dataclasses.replace(augment, class_share=0.75)
    shares = {"any": [], "limited": []}
    for seed in range(40):
        for name, what in (("any", augment), ("limited", limited)):
            view = draw_view(what, np.random.default_rng(seed), scene.size, (48, 48), read_label=scene.read_label)
            shares[name].append(largest_share(view, scene.size, scene.read_label))
            labels = scene.seen(view)[2]
            counts = np.bincount(labels.ravel(), minlength=256)[:255]
            assert abs(counts.max() / counts.sum() - shares[name][-1]) < 0.1  # a look is as good as all of it
    assert np.mean(np.array(shares["any"]) > 0.75) > 0.5
    assert np.mean(np.array(shares["limited"]) > 0.75) < 0.35


def test_where_no_crop_is_mixed_the_best_is_taken_and_unlabelled_ones_are_the_last_resort():
    scene = two_halves(1.0)
    scene.label[:, :200] = 255
    limited = Augment(class_share=0.5, rotate=False)
    views = [
        draw_view(limited, np.random.default_rng(seed), scene.size, (64, 32), read_label=scene.read_label)
        for seed in range(30)
    ]
    labelled = [(scene.seen(view)[2] != 255).any() for view in views]
    assert np.mean(labelled) > 0.8
    scene.label[:] = 255
    assert draw_view(limited, np.random.default_rng(0), scene.size, (64, 32), read_label=scene.read_label) is not None


def test_looking_at_labels_changes_nothing_that_is_drawn_but_the_place():
    scene, rng = two_halves(1.0), np.random.default_rng
    plain, limited = Augment(brightness=3, noise=1), Augment(brightness=3, noise=1, class_share=0.5)
    for seed in range(20):
        a = draw_view(plain, rng(seed), scene.size, (20, 20))
        b = draw_view(limited, rng(seed), scene.size, (20, 20), read_label=scene.read_label)
        assert dataclasses.replace(b, area=a.area) == a
