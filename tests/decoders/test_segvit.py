"""SegViT's decoder: a query for every class; numbers of the library in tests/parity, whole scenes in test_norms.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holojax.borders import ISOLATED
from holojax.decoders import SegViT
from holojax.errors import ConfigError

CHANNELS = (4, 6, 8)


@pytest.fixture(scope="module")
def decoded():
    """A decoder, its maps, and its answers in evaluation and in training."""
    decoder = SegViT(channels_in=CHANNELS, classes=3, channels=4, layers=1, heads=2, stages=(1, 2), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(2, 8 >> i, 12 >> i, c)), jnp.float32) for i, c in enumerate(CHANNELS)]
    # The weights begin so small that nothing would show.
    nnx.update(decoder, jax.tree.map(lambda x: 20 * x if x.ndim == 2 else x, nnx.state(decoder, nnx.Param)))
    graph, state = nnx.split(decoder)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def run(state, maps):
        module = nnx.merge(graph, state)
        answer = module.decode(maps)
        scores = module(maps, (16, 24))
        module.train()
        return answer, scores, module.decode(maps), module.decode(maps, ISOLATED, keys)

    return run, state, maps, run(state, maps)


def test_every_class_has_a_query_with_a_mask_at_the_first_map_that_is_read(decoded):
    *_, (answer, scores, trained, dropped) = decoded
    assert answer.by_class
    assert (answer.classes.shape, answer.masks.shape) == ((2, 3, 4), (2, 4, 6, 3))
    assert (scores.shape, scores.dtype) == ((2, 16, 24, 3), jnp.float32)
    assert (answer.earlier, len(trained.earlier)) == ((), 1)
    np.testing.assert_allclose(trained.masks, answer.masks, atol=1e-6)
    assert float(jnp.abs(dropped.masks - answer.masks).max()) > 1e-4


def test_maps_that_are_not_named_are_not_read(decoded):
    run, state, maps, (answer, *_) = decoded
    np.testing.assert_array_equal(run(state, [maps[0] + 1, *maps[1:]])[0].masks, answer.masks)
    assert not np.allclose(run(state, [*maps[:2], maps[2] + 1])[0].masks, answer.masks)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="heads=3 do not divide channels=4"):
        SegViT(channels_in=CHANNELS, classes=3, channels=4, heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="0 to 2, found 3"):
        SegViT(channels_in=CHANNELS, classes=3, channels=4, heads=2, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="a map at least"):
        SegViT(channels_in=CHANNELS, classes=3, channels=4, heads=2, stages=(), rngs=nnx.Rngs(0))
