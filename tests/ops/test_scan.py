import jax.numpy as jnp
import numpy as np
import pytest

from holojax.ops.scan import linear_scan


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_equals_the_recurrence(axis, reverse):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.2, 1, (2, 5, 6, 3)), rng.normal(size=(2, 5, 6, 3))
    moved_a, moved_b = (np.moveaxis(x, axis, 0)[:: -1 if reverse else 1] for x in (a, b))
    state, expected = np.zeros(moved_a.shape[1:]), []
    for decay, value in zip(moved_a, moved_b, strict=True):
        state = decay * state + value
        expected.append(state)
    expected = np.moveaxis(np.stack(expected)[:: -1 if reverse else 1], 0, axis)
    y = linear_scan(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), axis, reverse)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
