import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from holojax.ops.depthwise import depthwise


def _expected(x, kernel):
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", None, None, names, feature_group_count=x.shape[-1])


@pytest.mark.parametrize(
    ("shape", "window"), [((2, 11, 12, 3), (7, 7)), ((1, 7, 9, 2), (7, 7)), ((1, 6, 6, 4), (3, 2))]
)
def test_values_and_gradients_are_those_of_a_grouped_convolution(shape, window):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (*window, 1, shape[-1]))

    def run(f):
        found, pullback = jax.vjp(f, x, kernel)
        return found, *pullback(jnp.sin(found))

    for found, expected in zip(jax.jit(lambda: run(depthwise))(), jax.jit(lambda: run(_expected))(), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_sums_of_16_bits_are_kept_in_32():
    # 49 times 1 + 1/128: kept in bfloat16 the sum would stop growing finely at 32.
    x = jnp.full((1, 8, 8, 1), 1 + 1 / 128, jnp.bfloat16)
    found = jax.jit(depthwise)(x, jnp.ones((7, 7, 1, 1), jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.bfloat16(49 * (1 + 1 / 128)))
