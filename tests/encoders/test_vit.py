import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holojax.borders import ISOLATED
from holojax.encoders import ViT
from holojax.encoders.vit import sincos_positions
from holojax.errors import ConfigError


def _vit(**changes):
    sizes = dict(bands=3, dim=16, depth=5, heads=2, patch=8, mlp_ratio=2.0, grid=(3, 3))
    return ViT(**{**sizes, **changes}, rngs=nnx.Rngs(0))


def test_only_the_last_map_is_normalised():
    vit = _vit()
    images = jax.random.normal(jax.random.key(0), (1, 24, 24, 3))
    *others, last = vit(images)
    np.testing.assert_allclose(np.asarray(last).mean(-1), 0, atol=1e-5)
    assert all(float(jnp.abs(x.mean(-1)).max()) > 1e-3 for x in others)


def test_the_last_norm_comes_and_goes_with_the_numerics():
    vit = _vit(output_norms=False)
    assert vit.modules_of(3) == ("blocks.4",)
    images = jax.random.normal(jax.random.key(0), (1, 24, 24, 3))
    bare = vit(images)[-1]
    vit.adopt("transformers", True)
    assert vit.modules_of(3) == ("blocks.4", "norms")
    assert {module.epsilon for _, module in nnx.iter_graph(vit) if isinstance(module, nnx.LayerNorm)} == {1e-12}
    assert float(jnp.abs(bare - vit(images)[-1]).max()) > 0.1


@pytest.mark.parametrize(("depth", "ends"), [(2, (1, 1, 2, 2)), (12, (3, 6, 9, 12)), (1, (1, 1, 1, 1))])
def test_stages_end_where_they_should(depth, ends):
    vit = _vit(depth=depth)
    assert vit.ends == ends
    assert len(vit(jnp.ones((1, 16, 16, 3)))) == 4


@pytest.mark.parametrize("pos", ["learned", "sincos", "none"])
def test_images_are_padded_to_whole_patches(pos):
    vit = _vit(pos=pos, depth=1)
    images = jax.random.normal(jax.random.key(0), (2, 17, 30, 3))
    padded = jnp.pad(images, ((0, 0), (0, 7), (0, 2), (0, 0)))
    for x, y in zip(vit(images), vit(padded), strict=True):
        assert x.shape == (2, 3, 4, 16)
        np.testing.assert_array_equal(x, y)


def test_without_positions_tokens_may_be_in_any_order():
    images = jax.random.normal(jax.random.key(0), (1, 24, 24, 3))
    turned = jnp.roll(images, 8, axis=1)
    for pos, same in (("none", True), ("learned", False), ("sincos", False)):
        vit = _vit(pos=pos, depth=2)
        difference = float(jnp.abs(jnp.roll(vit(images)[-1], 1, axis=1) - vit(turned)[-1]).max())
        assert (difference < 1e-4) == same


def test_sincos_tells_column_then_row_in_sines_then_cosines():
    positions = np.asarray(sincos_positions(jnp.arange(3.0)[None], jnp.arange(5.0)[None], 16)[0])
    wave = 10000.0 ** (-np.arange(4) / 4)
    expected = [f(p * wave) for p in (4, 2) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(positions[2, 4], np.concatenate(expected), atol=1e-5)


def test_class_token_is_no_part_of_the_maps_but_is_seen():
    images = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    vit = _vit(class_token=True, depth=2)
    before = vit(images)
    assert before[-1].shape == (1, 2, 2, 16)
    vit.class_token[...] = jnp.arange(16.0)
    assert float(jnp.abs(vit(images)[-1] - before[-1]).max()) > 1e-4


def test_class_token_stays_with_the_trunk_when_maps_are_mixed():
    vit = _vit(class_token=True, depth=4)
    seen = []

    def mix(i, x):
        seen.append((i, x.shape))
        return x, x * 2

    images = jnp.ones((1, 16, 24, 3))
    doubled, plain = vit(images, mix=mix), vit(images)
    assert seen == [(i, (1, 2, 3, 16)) for i in range(4)]
    np.testing.assert_allclose(doubled[0], 2 * plain[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pos="rope"), "learned, sincos, none"),
        (dict(heads=3), "3 heads"),
        (dict(pos="sincos", dim=18, heads=2), "found 18"),
        (dict(numerics="keras"), "known: timm, mmseg, transformers, torchvision"),
    ],
)
def test_wrong_sizes_say_what_to_change(changes, message):
    with pytest.raises(ConfigError, match=message):
        _vit(**changes)


def test_drop_path_follows_the_keys():
    vit = _vit(drop_path=0.9, depth=4)
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    images = images.at[1].set(images[0])
    keys = jax.random.split(jax.random.key(1), 3)[jnp.array([0, 0, 2])]
    dropped = vit(images, ISOLATED, keys)[-1]
    np.testing.assert_allclose(dropped[0], dropped[1], atol=1e-6)
    assert float(jnp.abs(dropped - vit(images)[-1]).max()) > 1e-3
