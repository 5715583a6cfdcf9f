import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holojax.ops.layer_norm import LayerNorm, layer_norm


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 4, 5, 16)])
def test_values_and_gradients_are_those_of_the_formula(shape):
    keys = jax.random.split(jax.random.key(0), 4)
    x, grad = (3 + 2 * jax.random.normal(key, shape) for key in keys[:2])
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[2:])

    def plain(x, scale, bias):
        distance = x - x.mean(-1, keepdims=True)
        return distance / jnp.sqrt(jnp.square(distance).mean(-1, keepdims=True) + 1e-5) * scale + bias

    expected, pull = jax.vjp(plain, x, scale, bias)
    found, pull_back = jax.vjp(lambda *arrays: layer_norm(*arrays, 1e-5), x, scale, bias)
    np.testing.assert_allclose(found, expected, atol=3e-6)
    for a, b in zip(pull_back(grad), pull(grad), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_a_large_mean_costs_no_digits_of_the_variance():
    x = jax.random.normal(jax.random.key(0), (8, 32))
    norm = LayerNorm(32, epsilon=1e-6, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(norm(x + 1000), norm(x), atol=2e-3)


def test_half_precision_is_normalised_in_float32():
    norm = LayerNorm(32, epsilon=1e-6, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (8, 32)).astype(jnp.bfloat16)
    assert norm(x).dtype == jnp.float32
    np.testing.assert_array_equal(norm(x), norm(x.astype(jnp.float32)))
    norm.set_attributes(dtype=jnp.dtype(jnp.bfloat16))
    assert norm(x).dtype == jnp.bfloat16
