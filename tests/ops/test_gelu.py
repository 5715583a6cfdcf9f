"""GELU and its gradient against JAX's own, and where JAX's own is refused."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from holojax.ops.gelu import erf, gelu
from holojax.parallel import REGION, Layout


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-8, 8, 4001)
    exact = jax.nn.gelu(x, approximate=False)
    np.testing.assert_allclose(erf(x), jax.lax.erf(x), atol=3e-7)
    np.testing.assert_allclose(gelu(x), exact, atol=2e-6)
    assert np.abs(gelu(x) - jax.nn.gelu(x, approximate=True)).max() > 1e-4, "the tanh form would have been noticed"
    slope = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope, atol=2e-6)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_gelu_can_be_differentiated_inside_shard_map():
    x = jnp.linspace(-2, 2, 8)

    def slope(x):
        return jax.grad(lambda x: jax.lax.psum(gelu(x).sum(), REGION))(x)

    f = Layout.create(region=4).shard(slope, in_specs=P(REGION), out_specs=P(REGION))
    np.testing.assert_allclose(jax.jit(f)(x), jax.vmap(jax.grad(gelu))(x), atol=1e-6)
