import jax.numpy as jnp
import numpy as np
import pytest

from holojax.ops import windows


def test_merging_undoes_cutting():
    x = jnp.arange(2 * 6 * 9 * 2.0).reshape(2, 6, 9, 2)
    cut = windows.cut_windows(x, 3)
    assert cut.shape == (2 * 2 * 3, 9, 2)
    np.testing.assert_array_equal(cut[1, 4], x[0, 1, 4])
    np.testing.assert_array_equal(windows.merge_windows(cut, 3, 6, 9), x)


@pytest.mark.parametrize(("height", "width", "size", "shift"), [(14, 21, 7, 3), (7, 7, 7, 3), (4, 8, 4, 2)])
def test_origins_are_those_of_slicing_the_rolled_map(height, width, size, shift):
    # The first Swin code paints nine rectangles of the rolled map with nine numbers.
    painted, number = np.zeros((1, height, width, 1)), 0
    cuts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    for rows in cuts:
        for cols in cuts:
            painted[:, rows, cols] = number
            number += 1
    expected = windows.cut_windows(jnp.asarray(painted), size)[..., 0]
    origins = windows.window_origins(height, width, size, shift)
    np.testing.assert_array_equal(windows.same_origin(origins, 1), expected[:, :, None] == expected[:, None, :])


def test_every_token_may_see_itself():
    allowed = windows.same_origin(windows.window_origins(14, 14, 7, 3), 3)
    assert allowed.shape == (12, 49, 49)
    assert np.diagonal(np.asarray(allowed), axis1=1, axis2=2).all()


def test_relative_index_depends_on_the_distance_alone_and_uses_every_row():
    index = windows.relative_index(7)
    assert index.shape == (49, 49)
    np.testing.assert_array_equal(np.unique(index), np.arange(169))
    rows, cols = np.divmod(np.arange(49), 7)
    distance = np.stack([rows[:, None] - rows, cols[:, None] - cols], -1).reshape(-1, 2)
    pairs = {(*d, i) for d, i in zip(distance.tolist(), index.ravel().tolist(), strict=True) for d in [tuple(d)]}
    assert len(pairs) == 169
    # As torch checkpoints store it: first row of the table = key at the far corner.
    assert index[0, 48] == 0
    assert index[48, 0] == 168


def test_windows_may_have_two_sides():
    x = jnp.arange(2 * 6 * 10.0).reshape(1, 6, 10, 2)
    cut = windows.cut_windows(x, (3, 5))
    assert cut.shape == (4, 15, 2)
    np.testing.assert_array_equal(cut[3, 7], x[0, 4, 7])
    np.testing.assert_array_equal(windows.merge_windows(cut, (3, 5), 6, 10), x)
    # Not shifted along rows, which lie in one window: only columns have two origins.
    origins = windows.window_origins(3, 10, (3, 5), (0, 2))
    assert [len(np.unique(window)) for window in np.asarray(origins)] == [1, 2]
    index = windows.relative_index((2, 3))
    assert index.shape == (6, 6)
    np.testing.assert_array_equal(np.unique(index), np.arange(15))


@pytest.mark.parametrize(("source", "target"), [(7, 7), (7, 4), (7, 1), (4, 7), (1, 3)])
def test_resizing_a_table_averages_its_entries_and_keeps_it_symmetric(source, target):
    steps = windows.table_steps(source, target)
    assert steps.shape == (2 * target - 1, 2 * source - 1)
    np.testing.assert_allclose(steps.sum(1), 1)
    np.testing.assert_allclose(steps, steps[::-1, ::-1], atol=1e-12)
