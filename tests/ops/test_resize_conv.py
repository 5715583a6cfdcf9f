import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from holojax.borders import ISOLATED
from holojax.ops.resize import resize
from holojax.ops.resize_conv import resize_conv

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain(x, kernel, size):
    return lax.conv_general_dilated(resize(x, size), kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


# Whole factors, one of them 1; odd ones; a map of one place; one that hardly grows, or shrinks; a larger kernel.
@pytest.mark.parametrize(
    ("of", "size", "side"),
    [
        ((3, 4), (6, 16), 3),
        ((3, 4), (3, 12), 3),
        ((5, 7), (13, 29), 3),
        ((1, 1), (3, 5), 3),
        ((6, 5), (7, 6), 3),
        ((6, 6), (3, 20), 3),
        ((3, 2), (6, 4), 5),
    ],
)
def test_products_before_resizing_are_those_after_it(of, size, side):
    x, kernel = random(2, *of, 3), random(side, side, 3, 4, seed=1)

    def value_and_gradient(f):
        def loss(x, kernel):
            y = f(x, kernel, size)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)

    found, expected = value_and_gradient(resize_conv), value_and_gradient(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5), found, expected)


def test_a_map_that_grows_has_products_at_its_own_size():
    x, kernel = random(1, 8, 8, 16), random(3, 3, 16, 16)

    def products(f):
        return jax.jit(f, static_argnums=2).lower(x, kernel, (32, 32)).compile().cost_analysis()["flops"]

    assert products(resize_conv) < products(plain) / 5


def test_pooled_maps_meet_their_part_of_a_kernel():
    x, kernel = random(2, 7, 5, 3), random(3, 3, 3, 4, seed=1)
    whole = ISOLATED.map_pooled(lambda y, _: jnp.sin(y), x, 3)
    found = ISOLATED.map_pooled(lambda y, _: jnp.sin(y), x, 3, kernel)
    np.testing.assert_allclose(found, plain(whole, kernel, (7, 5)), atol=2e-5)
