import jax
import jax.numpy as jnp
import numpy as np

from holojax.ops.sample import bilinear_sample
from tests.parity import FIXTURES, assert_close


def test_whole_positions_read_pixels_and_beyond_the_map_is_zero():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 5, 3)), jnp.float32)
    positions = jnp.array([[[2.0, 3.0], [-1.0, 0.0], [0.0, 5.0], [3.0, 4.0]]])
    y = bilinear_sample(x, positions)
    np.testing.assert_allclose(y[0], [x[0, 2, 3], jnp.zeros(3), jnp.zeros(3), x[0, 3, 4]], atol=1e-7)


def test_between_pixels_is_bilinear_and_fades_out_at_the_edge():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1) + 1
    y = bilinear_sample(x, jnp.array([[[0.5, 0.5], [-0.25, 0.0], [1.0, 1.5]]]))
    np.testing.assert_allclose(y[0, :, 0], [2.5, 0.75, 2.0], rtol=1e-6)


def test_positions_have_a_gradient():
    x = (jnp.arange(5.0)[:, None] * 2 + jnp.arange(5.0) * 3)[None, ..., None]
    grad = jax.grad(lambda p: bilinear_sample(x, p).sum())(jnp.array([[[1.3, 2.6]]]))
    np.testing.assert_allclose(grad[0, 0], [2.0, 3.0], rtol=1e-5)


def test_sampling_equals_torchs():
    numbers = np.load(FIXTURES / "ops.npz")
    found = bilinear_sample(jnp.asarray(numbers["x"]), jnp.asarray(numbers["positions"]))
    assert_close(found, numbers["sampled"], 5e-6)
