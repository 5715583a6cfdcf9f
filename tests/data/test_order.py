import numpy as np
import pytest

from holojax.data import Augment
from holojax.data.augment import draw_view
from holojax.data.order import ByClass, Uniform
from holojax.errors import ConfigError


def cells(rare_at):
    """Two scenes of 4 x 4 cells of 16 pixels: class 0 everywhere, class 1 in one cell of the second, class 2 never."""
    first, second = np.zeros((2, 4, 4, 3), np.uint32)
    first[..., 0] = second[..., 0] = 256
    second[(*rare_at, 1)] = 3
    return first, second


def by_class(rare_at=(2, 1), seed=0):
    return ByClass(cells(rare_at), (16, 16), [(64, 64), (64, 60)], seed)


def test_every_scene_comes_once_an_epoch_and_another_seed_is_another_order():
    order = [Uniform(5, seed=1).pick(number).index for number in range(10)]
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))
    assert order != [Uniform(5, seed=2).pick(number).index for number in range(10)]


def test_classes_come_equally_often_however_rare_they_are():
    picks = [by_class().pick(number) for number in range(400)]
    rare = [pick for pick in picks if pick.index == 1 and 32 <= pick.point[0] < 48 and 16 <= pick.point[1] < 32]
    assert 0.4 < len(rare) / len(picks) < 0.6
    others = [pick.index for pick in picks if pick not in rare]
    assert 0.35 < np.mean(others) < 0.65  # class 0 is as frequent in both


def test_points_lie_in_the_scene_and_keys_differ():
    picks = [by_class(rare_at=(3, 3)).pick(number) for number in range(200)]
    sizes = [(64, 64), (64, 60)]
    for pick in picks:
        assert all(0 <= at <= extent - 1 for at, extent in zip(pick.point, sizes[pick.index], strict=True))
    assert len({pick.key for pick in picks}) == 200  # a scene that comes twice an epoch is drawn anew


def test_picks_follow_from_seed_and_number_alone():
    order = by_class()
    forward = [order.pick(number) for number in range(20)]
    assert [by_class().pick(number) for number in reversed(range(20))] == forward[::-1]
    assert [by_class(seed=1).pick(number) for number in range(20)] != forward


def test_without_labels_no_class_can_be_drawn():
    with pytest.raises(ConfigError, match=r"data\.sampling: 'classes' needs labelled pixels"):
        ByClass([np.zeros((2, 2, 3), np.uint32)], (16,), [(32, 32)], 0)


@pytest.mark.parametrize(
    "augment",
    [Augment(), Augment(scale=(0.5, 2.0)), Augment(angle=180.0, scale=(0.7, 1.5))],
    ids=["grid", "scale", "turn"],
)
def test_a_crop_holds_the_point_it_was_drawn_for_somewhere(augment, rng):
    held, places = [], []
    for number in range(200):
        point = tuple(rng.random(2) * (79, 59))
        view = draw_view(augment, np.random.default_rng(number), (80, 60), (20, 24), point=point)
        rows, cols = view.places(*np.mgrid[: view.size[0], : view.size[1]])
        away = np.hypot(rows + 0.5 - point[0], cols + 0.5 - point[1])
        held.append(away.min() < 2.5)  # pixels of the scene; a scale of 1/2 sees every second
        places.append(np.array(np.unravel_index(away.argmin(), away.shape)) / view.size)
    # The box around a turned crop holds the point, and the crop most of the box.
    assert np.mean(held) >= (1 if augment.angle == 0 else 0.6)
    assert (np.std(places, 0) > 0.2).all()  # not always in the middle
