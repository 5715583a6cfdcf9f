"""However a scene is cut, its regions show one augmented scene; this notices where they do not."""

import dataclasses

import jax
import numpy as np
import pytest

from holojax.data import Augment, Distortion, RasterScenes, train_batches
from holojax.data.batches import Draws
from holojax.data.geometry import View, Warp
from holojax.data.order import Uniform
from holojax.errors import ConfigError
from holojax.parallel import Layout, RegionGrid

SIZES = [(40, 46), (46, 40), (33, 52)]
EVERYTHING = Augment(
    angle=30.0,
    scale=(0.5, 2.0),
    class_share=0.6,
    brightness=9,
    contrast=0.2,
    center=90,
    distort=Distortion(probability=0.5),
    noise=0.3,
    band_dropout=0.3,
)
ON_GRID = dataclasses.replace(EVERYTHING, angle=0.0, scale=(1.0, 1.0))


@pytest.fixture
def scenes(tiff, rng):
    """Three scenes with holes without data, in smooth classes, so that looking at few labels is worth it."""
    pairs = []
    for number, (height, width) in enumerate(SIZES):
        image = rng.integers(1, 256, (height, width, 3)).astype(np.uint8)
        image[rng.random((height, width)) < 0.05] = 0
        label = np.kron(rng.integers(0, 4, (height // 8 + 1, width // 8 + 1)), np.ones((8, 8)))[:height, :width]
        pair = tiff(f"i{number}.tif", image), tiff(f"l{number}.tif", label.astype(np.uint8))
        pairs.append(pair)
    return RasterScenes(pairs, classes=4, nodata=0)


def whole_batches(scenes, augment, grid, layout, window, start=0, count=3):
    """Return batches with their regions put together, numbered by step."""
    batches = train_batches(scenes, grid, layout, batch=2, window=window, augment=augment, seed=5, start_step=start)
    height, width = window or scenes.largest
    taken = []
    for _ in range(count):
        batch = jax.tree.map(np.asarray, next(batches))
        taken.append({k: grid.stitch(x, height, width) if x.ndim > 3 else x for k, x in batch.items()})
    batches.close()
    return taken


def check_no_seam(scenes, augment, grid, layout, window):
    found = whole_batches(scenes, augment, grid, layout, window)
    wanted = whole_batches(scenes, augment, RegionGrid(1, 1), Layout.create(1, 1), window)
    for a, b in zip(found, wanted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("window", [None, (30, 37), (70, 90)])
@pytest.mark.parametrize("augment", [EVERYTHING, ON_GRID], ids=["warped", "on the grid"])
@pytest.mark.parametrize(("grid", "layout"), [((2, 2), (2, 4)), ((3, 2), (1, 2))])
def test_no_way_to_cut_a_scene_shows_in_it(scenes, window, augment, grid, layout):
    check_no_seam(scenes, augment, RegionGrid(*grid), Layout.create(*layout), window)


@pytest.mark.parametrize("kind", [View, Warp])
def test_a_region_that_draws_for_itself_is_noticed(scenes, kind, monkeypatch):
    look = kind.look

    def moved(view, window, *readers):  # the second row of regions sees a view one pixel to the side
        if window.top:
            if kind is View:
                view = dataclasses.replace(view, flip_cols=not view.flip_cols)
            else:
                view = dataclasses.replace(view, center=(view.center[0], view.center[1] + 1))
        return look(view, window, *readers)

    monkeypatch.setattr(kind, "look", moved)
    augment = EVERYTHING if kind is Warp else ON_GRID
    with pytest.raises(AssertionError, match="image"):
        check_no_seam(scenes, augment, RegionGrid(2, 2), Layout.create(1, 4), (30, 37))


def test_a_scene_is_drawn_from_seed_epoch_and_number_alone(scenes):
    def views(batch, steps):
        plan = Draws(scenes, Uniform(len(scenes), seed=0), batch, (20, 20), (20, 20), EVERYTHING)
        return [(scene.name, view) for step in steps for scene, view in plan.looks(step)[0]]

    first = views(1, range(6))
    assert views(3, range(2)) == first  # not from the batch it comes in
    assert views(1, range(2, 6)) == first[2:]  # not from what came before
    names = [name for name, _ in first]
    assert sorted(names[:3]) == sorted(names[3:]) == ["i0", "i1", "i2"]
    for name in names[:3]:  # another epoch is another draw
        again = [view for other, view in first if other == name]
        assert again[0] != again[1]
    assert len({view.shade.grain for _, view in first}) == 6  # and so is another scene


def test_what_lies_outside_a_view_is_not_valid_and_has_no_label(scenes):
    shrink = Augment(scale=(0.5, 0.5))
    for batch in whole_batches(scenes, shrink, RegionGrid(2, 2), Layout.create(1, 4), (40, 46), count=2):
        image, label, valid = batch["image"], batch["label"], batch["valid"]
        assert not valid[:, 27:].any()
        assert not valid[:, :, 27:].any()
        assert (valid.mean((1, 2)) > 0.15).all()
        assert (image[~valid] == 0).all()
        assert (label[~valid] == 255).all()
        assert (label[valid] < 4).all()


def test_a_batch_has_what_its_augmentation_does_and_no_more(scenes):
    def names(augment):
        batch = next(train_batches(scenes, RegionGrid(1, 1), Layout.create(1, 1), batch=2, augment=augment))
        return {name: (x.shape, x.dtype.name) for name, x in batch.items() if x.ndim < 4}

    always = {"gain": ((2,), "float32"), "offset": ((2,), "float32")}
    assert names(Augment(angle=3)) == always
    assert names(EVERYTHING) == always | {
        "distortion": ((2, 5), "float32"),
        "noise": ((2,), "float32"),
        "grain": ((2,), "uint32"),
        "keep": ((2, 3), "bool"),
    }


def test_colours_of_other_images_are_not_distorted(tiff):
    pair = tiff("wide.tif", np.ones((8, 8, 4), np.uint16)), tiff("l.tif", np.ones((8, 8), np.uint8))
    scenes = RasterScenes([pair], classes=2)
    with pytest.raises(ConfigError, match=r"augment\.distort: expected red.* 4 band\(s\) of uint16 in .*wide\.tif"):
        train_batches(scenes, RegionGrid(1, 1), Layout.create(1, 1), batch=1, augment=EVERYTHING)
