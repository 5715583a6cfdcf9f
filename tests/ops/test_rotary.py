"""Rotary positions against complex numbers, and what they are for: scores that know distances alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.errors import ConfigError
from holojax.ops.rotary import rotate

ROWS, COLS = jnp.array([0.0, 3.0, 3.5, 6000.0]), jnp.array([7.0, 0.0, 120.5, 5999.0])


def draw(seed, width=16):
    return jax.random.normal(jax.random.key(seed), (2, 4, 3, width))


def by_complex_numbers(x, rows, cols):
    x, quarter = np.asarray(x, np.float64), x.shape[-1] // 4
    speed = 10_000.0 ** (-np.arange(quarter) / quarter)
    halves = []
    for place, half in zip((rows, cols), np.split(x, 2, -1), strict=True):
        number = half[..., :quarter] + 1j * half[..., quarter:]
        number = number * np.exp(1j * np.asarray(place, np.float64)[:, None] * speed)[:, None]
        halves += [number.real, number.imag]
    return np.concatenate(halves, -1)


def test_a_pair_of_features_turns_as_a_complex_number():
    x = draw(0)
    # float32 angles of positions up to 6000 are known to 2.4e-4 radians
    np.testing.assert_allclose(rotate(x, ROWS, COLS), by_complex_numbers(x, ROWS, COLS), atol=2e-3)
    near = ROWS / 100, COLS / 100
    np.testing.assert_allclose(rotate(x, *near), by_complex_numbers(x, *near), atol=2e-5)


def test_scores_depend_on_distances_in_rows_and_columns_alone():
    q, k = draw(1), draw(2)

    def scores(down, right):
        q_turned, k_turned = (rotate(x, ROWS[:4] % 50 + down, COLS % 50 + right) for x in (q, k))
        return jnp.einsum("bnkd,bmkd->bknm", q_turned, k_turned)

    np.testing.assert_allclose(scores(0, 0), scores(100, 41.5), atol=2e-4)
    plain = jnp.einsum("bnkd,bmkd->bknm", q, k)
    np.testing.assert_allclose(jnp.diagonal(scores(9, 9), 0, 2, 3), jnp.diagonal(plain, 0, 2, 3), atol=2e-5)
    assert np.abs(scores(0, 0) - plain).max() > 0.1
    turned = jnp.linalg.norm(rotate(q, ROWS, COLS), axis=-1)
    np.testing.assert_allclose(turned, jnp.linalg.norm(q, axis=-1), rtol=1e-5)


def test_the_gradient_turns_back():
    x, weights = draw(3), draw(4)
    gradient = jax.jit(jax.grad(lambda x: (rotate(x, ROWS, COLS) * weights).sum()))(x)
    np.testing.assert_allclose(gradient, rotate(weights, -ROWS, -COLS), atol=1e-5)


def test_angles_stay_float32_for_bfloat16_heads():
    x = draw(5).astype(jnp.bfloat16)
    found = rotate(x, ROWS, COLS)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), rotate(x.astype(jnp.float32), ROWS, COLS), rtol=8e-3, atol=1e-5
    )


def test_a_width_that_cannot_be_halved_twice_is_named():
    with pytest.raises(ConfigError, match=r"multiple of 4, found 6. Use a width of 8"):
        rotate(draw(6, width=6), ROWS, COLS)
