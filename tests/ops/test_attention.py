"""Blockwise attention against the dense formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.errors import ConfigError
from holojax.ops import attention
from holojax.ops.attention import attend


def dense(q, k, v, kv_mask=None):
    score = jnp.einsum("bnkd,bmkd->bknm", q, k) / np.sqrt(q.shape[-1])
    if kv_mask is not None:
        score = jnp.where(kv_mask[:, None, None], score, -1e30)
    top = score.max(-1, keepdims=True)
    part = jnp.exp(score - top)
    if kv_mask is not None:
        part = jnp.where(kv_mask[:, None, None], part, 0)
    weight = part.sum(-1, keepdims=True)
    out = jnp.einsum("bknm,bmkd->bnkd", part / jnp.where(weight > 0, weight, 1), v)
    return out, jnp.where(weight > 0, top + jnp.log(jnp.where(weight > 0, weight, 1)), -1e30)[..., 0]


def draw(n, m, seed=0, masked=True):
    keys = jax.random.split(jax.random.key(seed), 6)
    q, out_grad = (jax.random.normal(key, (2, n, 3, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (2, m, 3, 8)) for key in keys[2:4])
    mask = jax.random.bernoulli(keys[4], 0.7, (2, m)) if masked else None
    return q, k, v, mask, (out_grad, jax.random.normal(keys[5], (2, 3, n)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 7), (33, 64), (64, 41), (16, 16)])
def test_blocks_equal_the_dense_formula_in_values_and_gradients(monkeypatch, n, m, masked):
    for name in ("merge_keys", "key_gradients"):
        f = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda *a, f=f: f(*a, block=16))
    q, k, v, mask, grads = draw(n, m, masked=masked)
    found, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, mask), q, k, v)
    expected, twin = jax.vjp(lambda q, k, v: dense(q, k, v, mask), q, k, v)
    for a, b in zip((*found, *pullback(grads)), (*expected, *twin(grads)), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_a_query_without_keys_gives_zeros_and_zero_gradient():
    q, k, v, _, (out_grad, _) = draw(4, 6)
    mask = jnp.array([[True] * 6, [False] * 6])
    (out, _), pullback = jax.vjp(lambda q, k, v: attend(q, k, v, mask), q, k, v)
    gradients = pullback((out_grad, jnp.zeros((2, 3, 4))))
    assert np.abs(out[0]).min() > 0
    for x in (out, *gradients):
        assert not np.any(x[1]), "the scene whose keys are all masked"
        assert np.all(np.isfinite(x))


def test_bfloat16_sums_stay_float32():
    q, k, v, _, _ = draw(8, 1500, masked=False)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out, lse = attend(*half)
    exact, exact_lse = dense(*(x.astype(jnp.float32) for x in half))
    assert out.dtype == jnp.bfloat16
    assert lse.dtype == jnp.float32
    np.testing.assert_allclose(lse, exact_lse, atol=1e-5)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=4e-3)


def test_inputs_that_do_not_fit_are_named():
    q, k, v, mask, _ = draw(4, 6)
    with pytest.raises(ConfigError, match=r"found q \(2, 4, 3, 8\), k \(2, 6, 2, 8\)"):
        attend(q, k[:, :, :2], v[:, :, :2])
    with pytest.raises(ConfigError, match="floating-point"):
        attend(q.astype(jnp.int32), k, v)
    with pytest.raises(ConfigError, match=r"kv_mask: expected shape \[b m\] = \(2, 6\)"):
        attend(q, k, v, mask[:, :5])
