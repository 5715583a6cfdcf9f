import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.errors import ConfigError
from holojax.ops.resize import bin_edges, pool, resize
from tests.parity import FIXTURES, assert_close


def _random(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size", [(5, 7), (20, 28), (10, 7), (13, 11), (3, 2), (1, 1), (15, 29)])
def test_bilinear_equals_sampling_at_pixel_centres(size):
    x = _random(2, 5, 7, 3)
    expected = jax.image.resize(x, (2, *size, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(resize(x, size), expected, atol=2e-6)


def test_enlarging_one_pixel_repeats_it():
    x = _random(2, 1, 1, 3)
    np.testing.assert_allclose(resize(x, (4, 6)), jnp.broadcast_to(x, (2, 4, 6, 3)), rtol=1e-6)


@pytest.mark.parametrize("size", [(10, 14), (7, 9)])
def test_gradient_of_bilinear_is_its_transpose(size):
    x, y = _random(1, 5, 7, 2), _random(1, *size, 2)
    (back,) = jax.linear_transpose(lambda x: resize(x, size), x)(y)
    np.testing.assert_allclose((resize(x, size) * y).sum(), (x * back).sum(), rtol=1e-4)


def test_bicubic_keeps_constants_and_uses_torchs_kernel():
    np.testing.assert_allclose(resize(jnp.ones((1, 5, 4, 1)), (13, 9), "bicubic"), 1, rtol=1e-6)
    # Keys' kernel at a = -0.75, half a pixel and one and a half away.
    impulse = jnp.zeros((1, 8, 1, 1)).at[0, 4].set(1)
    shrunk = resize(impulse, (4, 1), "bicubic")[0, :, 0, 0]
    np.testing.assert_allclose(shrunk, [0, -0.09375, 0.59375, 0], atol=1e-6)


def test_nearest_takes_the_pixel_it_falls_into():
    x = jnp.arange(4.0).reshape(1, 4, 1, 1)
    np.testing.assert_array_equal(resize(x, (6, 1), "nearest")[0, :, 0, 0], [0, 0, 1, 2, 2, 3])


def test_unknown_method_names_the_known_ones():
    with pytest.raises(ConfigError, match="bilinear, bicubic, nearest"):
        resize(_random(1, 2, 2, 1), (4, 4), "lanczos")


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pool_averages_adaptive_bins(bins):
    x = _random(2, 7, 4, 3)
    expected = np.zeros((2, bins, bins, 3))
    (top, bottom), (left, right) = bin_edges(7, bins), bin_edges(4, bins)
    for i in range(bins):
        for j in range(bins):
            expected[:, i, j] = x[:, top[i] : bottom[i], left[j] : right[j]].mean((1, 2))
    np.testing.assert_allclose(pool(x, bins), expected, atol=1e-6)


def test_bins_are_torchs():
    start, stop = bin_edges(7, 3)
    assert (start.tolist(), stop.tolist()) == ([0, 2, 4], [3, 5, 7])


def test_resizing_and_pooling_equal_torchs():
    numbers = np.load(FIXTURES / "ops.npz")
    x = jnp.asarray(numbers["x"])
    cases = [name.split(":") for name in numbers if ":" in name]
    assert len(cases) == 22
    for method, *size in cases:
        found = pool(x, *map(int, size)) if method == "pool" else resize(x, tuple(map(int, size)), method)
        assert_close(found, numbers[":".join([method, *size])], 5e-6)
