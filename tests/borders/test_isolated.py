import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.borders import ISOLATED, Isolated
from holojax.errors import ConfigError
from holojax.parallel import Layout


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_pad_adds_zeros_and_roll_stays_inside():
    x = _random(1, 2, 3, 1)
    padded = ISOLATED.pad(x, 1, 2, 0, 1)
    assert padded.shape == (1, 5, 4, 1)
    np.testing.assert_array_equal(padded[:, 1:3, :3], x)
    assert float(jnp.abs(padded).sum()) == pytest.approx(float(jnp.abs(x).sum()))
    with pytest.raises(ConfigError, match="at least 0, found top=0, bottom=0, left=-1"):
        ISOLATED.pad(x, 0, 0, -1, 0)
    assert ISOLATED.pad(x, 0, 0, 0, 0) is x
    np.testing.assert_array_equal(ISOLATED.roll(x, -1, 1), np.roll(x, (-1, 1), (1, 2)))


@pytest.mark.parametrize("shape", [(7, 14), (9, 5), (3, 3)])
@pytest.mark.parametrize("shift", [0, 3])
def test_windows_come_back_to_where_they_were_cut(shape, shift):
    x = _random(2, *shape, 4)
    y = ISOLATED.map_windows(lambda windows, allowed: windows, x, 7, shift)
    np.testing.assert_array_equal(y, x)


def test_windows_hold_the_padding_and_only_shifted_ones_are_masked():
    x = jnp.ones((1, 9, 5, 1))
    seen = []
    ISOLATED.map_windows(lambda windows, allowed: (seen.append((windows, allowed)), windows)[1], x, 7, 0)
    windows, allowed = seen.pop()
    assert allowed is None
    assert windows.shape == (2, 49, 1)
    assert float(windows.sum()) == 45
    ISOLATED.map_windows(lambda windows, allowed: (seen.append((windows, allowed)), windows)[1], x, 7, 3)
    windows, allowed = seen.pop()
    assert allowed.shape == (2, 49, 49)
    assert not bool(allowed.all())


def test_a_map_smaller_than_a_window_is_shifted_all_the_same():
    x = _random(1, 3, 3, 1)
    seen = []
    ISOLATED.map_windows(lambda windows, allowed: (seen.append(windows), windows)[1], x, 7, 3)
    padded = np.zeros((7, 7))
    padded[:3, :3] = x[0, ..., 0]
    np.testing.assert_array_equal(seen[0].reshape(7, 7), np.roll(padded, (-3, -3), (0, 1)))


def test_statistics_are_of_the_region():
    x = _random(2, 3, 4, 5)
    for name, expected in [("sum", np.sum), ("mean", np.mean), ("max", np.max)]:
        np.testing.assert_allclose(
            getattr(ISOLATED, name)(x), expected(x, axis=(1, 2), keepdims=True), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(ISOLATED.norm(x), np.sqrt((np.asarray(x) ** 2).sum((1, 2), keepdims=True)), rtol=1e-5)


def test_gradient_of_the_norm_of_zero_is_zero():
    np.testing.assert_array_equal(
        jax.grad(lambda x: ISOLATED.norm(x).sum())(jnp.zeros((1, 2, 2, 3))), np.zeros((1, 2, 2, 3))
    )


def test_scan_runs_along_rows_or_columns():
    b = jnp.ones((1, 3, 4, 1))
    np.testing.assert_array_equal(ISOLATED.scan(b, b, "rows")[0, :, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(ISOLATED.scan(b, b, "cols", reverse=True)[0, 0, :, 0], [4, 3, 2, 1])
    with pytest.raises(ConfigError, match="rows, cols"):
        ISOLATED.scan(b, b, "depth")


def test_attend_is_softmax_attention_over_the_region():
    q, k, v = (_random(2, 6, 3, 4, seed=s) for s in range(3))
    mask = jnp.array([[True] * 6, [True, False] * 3])
    expected = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None])
    np.testing.assert_allclose(ISOLATED.attend(q, k, v, mask), expected, atol=1e-5)


def test_moments_leave_invalid_places_out():
    x, valid = (
        _random(2, 4, 6, 3) + 5,
        jnp.zeros((2, 16, 24), bool).at[0, :9, :24].set(True).at[1, :16, :8].set(True),
    )
    mean, variance, count = Isolated(valid=valid, strides=(4,)).moments(x)
    kept = np.concatenate([x[0, :3].reshape(-1, 3), x[1, :, :2].reshape(-1, 3)])
    assert float(count) == len(kept)
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, kept.var(0), rtol=1e-5)


def test_moments_of_nothing_valid_are_zero():
    mean, variance, count = Isolated(valid=jnp.zeros((1, 8, 8), bool), strides=(4,)).moments(_random(1, 2, 2, 3))
    assert float(count) == 0
    assert not mean.any()
    assert not variance.any()


def test_moments_and_their_gradient_do_not_depend_on_the_mesh():
    x, valid = _random(2, 4, 3, 2, 5) + 3, _random(2, 4, 12, 8, seed=1) > 0.9

    def loss(x, valid, axes):
        borders = Isolated(valid=valid.reshape(-1, 12, 8), strides=(4,), axes=axes)
        mean, variance, count = borders.moments(x.reshape(-1, 3, 2, 5))
        return (jnp.sin(mean) / (variance + 0.1)).sum() + 0 * count, (mean, variance, count)

    (expected, stats), grad = jax.value_and_grad(loss, has_aux=True)(x, valid, ())
    layout = Layout.create(data=2, region=4)
    regions = P("data", "region")

    def local(x, valid):
        return loss(x, valid, ("data", "region"))

    sharded = layout.shard(local, in_specs=(regions, regions), out_specs=(P(), P()))
    (value, sharded_stats), sharded_grad = jax.jit(jax.value_and_grad(sharded, has_aux=True))(x, valid)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sharded_stats, stats)
    np.testing.assert_allclose(sharded_grad, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 10), 9 * 10), ((5, 5), 5 * 5), ((3, 3), 9), ((2, 2), 4), ((1, 1), 1), ((20, 20), 17 * 20)],
)
def test_a_token_is_valid_if_it_covers_any_valid_pixel(size, expected):
    # 20 x 20 pixels, the last 3 rows are padding. At stride 8, 3 x 3 rounds up and 2 x 2 rounds down.
    valid = jnp.ones((1, 20, 20), bool).at[:, 17:].set(False)
    tokens = Isolated(valid=valid, strides=(2, 4, 8)).valid_tokens(*size)
    assert tokens.shape == (1, *size)
    assert int(tokens.sum()) == expected


def test_pooled_maps_are_valid_bin_by_bin():
    valid = jnp.zeros((1, 7, 7), bool).at[0, 2, 6].set(True)
    tokens = Isolated(valid=valid, strides=(4, 32)).valid_tokens(3, 3)
    expected = np.zeros((3, 3), bool)
    expected[:2, 2] = True  # rows 0-2 and 2-4 share row 2; columns 4-6
    np.testing.assert_array_equal(tokens[0], expected)


def test_without_a_mask_every_token_is_valid():
    assert ISOLATED.valid_tokens(3, 4) is None
