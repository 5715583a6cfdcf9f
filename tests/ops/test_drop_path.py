import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.ops.drop_path import derive_keys, drop_channels, drop_path


def test_without_keys_or_rate_nothing_is_dropped():
    x, keys = jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 2)
    assert drop_path(x, None, 0.5) is x
    assert drop_path(x, keys, 0.0) is x
    assert derive_keys(None, 3) is None


def test_a_branch_is_kept_whole_and_scaled_or_dropped_whole():
    x = jnp.ones((400, 2, 2, 3))
    y = np.asarray(drop_path(x, jax.random.split(jax.random.key(0), 400), 0.25))
    assert (np.ptp(y.reshape(400, -1), axis=1) == 0).all()
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    assert abs((y[:, 0, 0, 0] == 0).mean() - 0.25) < 0.08


def test_channels_are_dropped_whole():
    y = np.asarray(drop_channels(jnp.ones((8, 3, 3, 50)), jax.random.split(jax.random.key(1), 8), 0.1))
    assert (np.ptp(y, axis=(1, 2)) == 0).all()
    assert abs((y[:, 0, 0] == 0).mean() - 0.1) < 0.06


@pytest.mark.parametrize("drop", [drop_path, drop_channels])
def test_equal_keys_drop_equally_and_full_rate_gives_zero(drop):
    keys = jax.random.split(jax.random.key(0), 3)[jnp.array([0, 0, 1])]
    y = drop(jnp.ones((3, 2, 2, 64)), keys, 0.5)
    np.testing.assert_array_equal(y[0], y[1])
    assert (drop(jnp.ones((3, 2, 2, 4)), keys, 1.0) == 0).all()


def test_derived_keys_differ_between_modules():
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = derive_keys(keys, 0), derive_keys(keys, 1)
    assert not (jax.random.key_data(first) == jax.random.key_data(second)).all()
