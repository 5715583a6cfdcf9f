import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.borders import ISOLATED
from holojax.encoders import Swin
from holojax.encoders.swin import NUMERICS, PatchMerging, SwinBlock
from holojax.errors import ConfigError
from holojax.parallel import Layout


def _swin(**changes):
    sizes = dict(bands=2, embed_dim=8, depths=(2, 1, 1, 1), heads=(2, 2, 2, 2), window=3, mlp_ratio=2.0)
    return Swin(**{**sizes, **changes}, rngs=nnx.Rngs(0))


def _images(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def _run(swin, images, keys=None, mix=None):
    return nnx.jit(lambda swin, x, keys: swin(x, ISOLATED, keys, mix))(swin, images, keys)


def test_every_stage_halves_the_map_rounding_up():
    swin = _swin()
    maps = _run(swin, _images(1, 54, 90, 2))
    assert [x.shape for x in maps] == [(1, 14, 23, 8), (1, 7, 12, 16), (1, 4, 6, 32), (1, 2, 3, 64)]
    assert swin.channels == (8, 16, 32, 64)
    assert swin.strides == (4, 8, 16, 32)


def test_torchvision_leaves_out_what_makes_no_whole_patch():
    images = _images(1, 35, 49, 2)
    torchvision, timm = (_run(_swin(numerics=numerics), images) for numerics in ("torchvision", "timm"))
    assert [x.shape[1:3] for x in torchvision] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert [x.shape[1:3] for x in timm] == [(9, 13), (5, 7), (3, 4), (2, 2)]
    for x, y in zip(torchvision, _run(_swin(numerics="torchvision"), images[:, :32, :48]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_block_equals_one_written_out_token_by_token():
    # Every token attends, by itself, to the tokens of its shifted window that come from the same place.
    size, shift, h, w, heads = 3, 1, 4, 5, 2
    block = SwinBlock(channels=4, heads=heads, window=size, shift=shift, mlp_ratio=2.0, drop=(0, 0.0), rngs=nnx.Rngs(0))
    table = block.attention.bias_table
    table[...] = jax.random.normal(jax.random.key(1), table.shape)
    x = _images(1, h, w, 4)
    found = block(x, ISOLATED, None, NUMERICS["mmseg"])

    height, width = 6, 6
    normed = np.zeros((height, width, 4), np.float32)
    normed[:h, :w] = block.norm1(x)[0]
    qkv = np.asarray(block.attention.qkv(jnp.asarray(normed))).reshape(height, width, 3, heads, 2)
    y = np.zeros((h, w, 4), np.float32)

    def home(place, extent):
        rolled = (place - shift) % extent
        return rolled // size, rolled % size, rolled >= extent - shift

    for i in range(h):
        for j in range(w):
            window_i, at_i, wrapped_i = home(i, height)
            window_j, at_j, wrapped_j = home(j, width)
            scores, values = [], []
            for p in range(height):
                for q in range(width):
                    row, col = home(p, height), home(q, width)
                    if (row[0], col[0], row[2], col[2]) != (window_i, window_j, wrapped_i, wrapped_j):
                        continue
                    bias = table[...][(at_i - row[1] + size - 1) * (2 * size - 1) + at_j - col[1] + size - 1]
                    scores.append((qkv[i, j, 0] * qkv[p, q, 1]).sum(-1) / np.sqrt(2) + np.asarray(bias))
                    values.append(qkv[p, q, 2])
            weights = np.exp(np.array(scores))
            weights /= weights.sum(0)
            y[i, j] = (weights[..., None] * np.array(values)).sum(0).reshape(-1)
    x = x + block.attention.proj(jnp.asarray(y))[None]
    x = x + block.mlp(block.norm2(x))
    np.testing.assert_allclose(found, x, atol=2e-5)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_merging_orders_channels_as_the_library_and_pads_odd_maps(numerics):
    merging = PatchMerging(channels=2, rngs=nnx.Rngs(0))
    x = _images(1, 3, 2, 2)
    seen = []
    merging.norm = lambda y: (seen.append(np.asarray(y)), y)[1]
    assert merging(x, ISOLATED, NUMERICS[numerics]).shape == (1, 2, 1, 4)
    for i, top in enumerate((0, 2)):
        if numerics == "mmseg":
            order = [(row, col, c) for c in range(2) for row in (0, 1) for col in (0, 1)]
        else:
            order = [(row, col, c) for col in (0, 1) for row in (0, 1) for c in range(2)]
        expected = [x[0, top + row, col, c] if top + row < 3 else 0 for row, col, c in order]
        np.testing.assert_array_equal(seen[0][0, i, 0], expected)


@pytest.mark.parametrize(
    ("numerics", "height", "width", "size", "shift"),
    [
        ("mmseg", 2, 7, (7, 7), (3, 3)),
        ("timm", 8, 15, (7, 7), (3, 3)),
        ("timm", 7, 8, (7, 7), (0, 3)),
        ("timm", 2, 5, (2, 5), (0, 0)),
        ("torchvision", 7, 8, (7, 7), (0, 3)),
        ("torchvision", 2, 5, (7, 7), (0, 0)),
        ("transformers", 2, 5, (7, 7), (3, 3)),
    ],
)
def test_small_maps_change_windows_as_in_the_library(numerics, height, width, size, shift):
    assert NUMERICS[numerics].windows(7, 3, height, width) == (size, shift)


def test_output_norms_come_and_go_with_the_numerics():
    swin = _swin()
    swin.set_options(bands_init="mean", freeze=1, remat="none", dtype="bfloat16")
    before = _run(swin, _images(1, 32, 32, 2))
    assert swin.frozen() == ("patch_embed", "stages.0", "downsamples.0", "norms.0")
    swin.adopt("mmseg", False)
    assert swin.frozen() == ("patch_embed", "stages.0", "downsamples.0")
    bare = _run(swin, _images(1, 32, 32, 2))
    assert not np.array_equal(bare[0], before[0])
    swin.adopt("mmseg", True)
    for x, y in zip(_run(swin, _images(1, 32, 32, 2)), before, strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_array_equal(x, y)


def test_exact_borders_refuse_windows_that_would_follow_a_size_they_do_not_know():
    encoder = dict(name="swin", embed_dim=4, depths=(1, 2, 1, 1), heads=(1, 1, 1, 1), window=4, numerics="timm")
    model = holojax.build_model(
        dict(
            encoder=encoder,
            context=None,
            aux=None,
            decoder=dict(name="fcn", channels=4),
            border="exact",
            regions=(1, 2),
        )
    )
    images = np.ones((1, 32, 64, 3), np.float32)
    # All pixels count: the size of the scene is known, whatever the grid.
    assert holojax.segment(model, images, Layout.create(region=2)).shape == (1, 32, 64, 2)
    with pytest.raises(ConfigError, match=r"4 x 8 tokens is no larger than a window of 4.*larger scenes"):
        holojax.segment(model, images[:, :30], Layout.create(region=2))


def test_every_stage_may_have_its_own_window():
    swin = _swin(window=(5, 4, 3, 2))
    assert [stage[0].attention.bias_table.shape[0] for stage in swin.stages] == [81, 49, 25, 9]


def test_mixers_stand_between_stages():
    swin, images = _swin(), _images(1, 32, 32, 2)
    side = _run(swin, images, mix=lambda i, x: (x, 0 * x) if i == 1 else (x, x))
    trunk = _run(swin, images, mix=lambda i, x: (0 * x, x) if i == 1 else (x, x))
    plain = _run(swin, images)
    assert not np.allclose(side[1], plain[1])
    np.testing.assert_array_equal(side[2], plain[2])
    np.testing.assert_array_equal(trunk[1], plain[1])
    assert not np.allclose(trunk[2], plain[2])


def test_drop_path_grows_linearly_and_follows_the_keys():
    swin = _swin(drop_path=0.4)
    rates = [block.rate for stage in swin.stages for block in stage]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])
    images = _images(2, 16, 16, 2)
    keys = jax.random.split(jax.random.key(3), 2)
    dropped = _run(swin, images, keys=keys)[-1]
    np.testing.assert_array_equal(dropped, _run(swin, images, keys=keys)[-1])
    assert not np.allclose(dropped, _run(swin, images)[-1])


def test_all_parameters_have_a_gradient():
    swin, images = _swin(), _images(1, 48, 48, 2)

    def loss(swin):
        return sum(jnp.sin(3 * x).sum() for x in swin(images))

    for path, grad in nnx.to_flat_state(nnx.jit(nnx.grad(loss))(swin)):
        assert np.isfinite(grad[...]).all(), path
        assert float(jnp.abs(grad[...]).max()) > 0, path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(depths=(1, 1, 1)), "4 depths"),
        (dict(window=(7, 7)), "one window or 4"),
        (dict(heads=(2, 3, 2, 2)), "16 channels .* 3 heads"),
        (dict(numerics="keras"), "known: mmseg, timm, transformers, torchvision"),
    ],
)
def test_wrong_sizes_say_what_to_change(changes, message):
    with pytest.raises(ConfigError, match=message):
        _swin(**changes)
