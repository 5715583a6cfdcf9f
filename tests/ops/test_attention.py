"""Local attention against the dense formula: blocks, masks, and the choice of the kernel."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from holojax.errors import ConfigError
from holojax.ops import attention, blockwise
from holojax.ops.attention import attend, attend_flash, choose_kernel
from holojax.parallel import DATA, REGION, Layout


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


def check_values_and_gradients(f, q, k, v, mask, grads, atol=5e-6):
    found, pullback = jax.vjp(jax.jit(lambda q, k, v: f(q, k, v, mask)), q, k, v)
    expected, twin = jax.vjp(lambda q, k, v: dense(q, k, v, mask), q, k, v)
    for a, b in zip((*found, *pullback(grads)), (*expected, *twin(grads)), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 7), (33, 64), (64, 41), (16, 16)])
def test_blocks_equal_the_dense_formula_in_values_and_gradients(monkeypatch, n, m, masked):
    for name in ("merge_keys", "add_gradients"):
        monkeypatch.setattr(blockwise, name, functools.partial(getattr(blockwise, name), block=16))
    check_values_and_gradients(attend, *draw(n, m, masked=masked))


@given(size=st.integers(1, 5000), block=st.integers(1, 600))
def test_blocks_are_equal_and_hardly_padded(size, block):
    padded, count = blockwise._padded(size, block), -(-size // block)
    assert padded % count == 0
    assert padded // count <= block
    assert size <= padded < size + 8 * count


@settings(max_examples=12, deadline=None, derandomize=True)
@given(n=st.integers(1, 40), m=st.integers(1, 40), block=st.integers(1, 24), seed=st.integers(0, 99))
def test_any_block_size_gives_the_dense_formula(n, m, block, seed):
    q, k, v, mask, _ = draw(n, m, seed)
    mask = mask.at[1].set(False) if seed % 4 == 0 else mask

    @jax.jit  # one program for each shape, in place of one for each operation
    def both(q, k, v, mask):
        heads = [blockwise.swap_heads(x) for x in (q, k, v)]
        state = blockwise.merge_keys(blockwise.empty_partial(heads[0]), heads[0], (*heads[1:], mask), block)
        out, lse = blockwise.finish(state, q.dtype)
        return (blockwise.swap_heads(out), lse), dense(q, k, v, mask)

    for a, b in zip(*both(q, k, v, mask), strict=True):
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
    with pytest.raises(ConfigError, match=r"at least one query.*found q \(2, 4, 3, 8\) and k \(2, 0, 3, 8\)"):
        attend(q, k[:, :0], v[:, :0])


def test_a_mask_of_numbers_is_refused():
    """A mask that is added to the scores (0 or very low) would read as its own opposite."""
    q, k, v, mask, _ = draw(4, 6)
    for numbers in (jnp.where(mask, 0.0, -1e9), mask.astype(jnp.int32)):
        with pytest.raises(ConfigError, match=rf"kv_mask: expected bool \(2, 6\).*found {numbers.dtype}.*mask == 0"):
            attend(q, k, v, numbers)


def check_hidden_rubbish(f, q, k, v, mask, out_grad):
    """Output and gradients are the same whatever keys and values hold where the mask hides them; there, zero."""
    (k, rubbish), (v, more) = (
        (jnp.where(mask[..., None, None], x, 0), jnp.where(mask[..., None, None], x, bad))
        for x, bad in ((k, jnp.nan), (v, jnp.inf))
    )
    (expected, twins), (found, gradients) = (
        jax.jit(lambda *x: (lambda out, pullback: (out, pullback(out_grad)))(*jax.vjp(f, *x)))(q, *kv)
        for kv in ((k, v), (rubbish, more))
    )
    for a, b in zip((found, *gradients), (expected, *twins), strict=True):
        np.testing.assert_array_equal(a, b)
    for x in gradients[1:]:
        assert not np.any(np.where(mask[..., None, None], 0, x))


def test_nan_and_infinity_behind_the_mask_stay_there():
    q, k, v, mask, (out_grad, _) = draw(9, 14)
    mask = mask.at[1].set(False)
    check_hidden_rubbish(lambda *x: attend(*x, mask)[0], q, k, v, mask, out_grad)


BFLOAT, HALF, SINGLE = (jnp.dtype(x) for x in (jnp.bfloat16, jnp.float16, jnp.float32))


@pytest.mark.parametrize(
    ("platform", "capability", "dtypes", "width", "kernel"),
    [
        ("gpu", (8, 0), [BFLOAT] * 3, 64, "cudnn"),
        ("cuda", (8, 6), [HALF] * 3, 128, "cudnn"),
        ("gpu", (9, 0), [BFLOAT] * 3, 256, "cudnn"),
        ("gpu", (8, 0), [BFLOAT] * 3, 136, "blockwise"),  # too wide before Hopper
        ("gpu", (9, 0), [BFLOAT] * 3, 264, "blockwise"),
        ("gpu", (9, 0), [BFLOAT] * 3, 60, "blockwise"),  # no multiple of 8
        ("gpu", (7, 5), [HALF] * 3, 64, "blockwise"),  # Turing
        ("gpu", (9, 0), [SINGLE] * 3, 64, "blockwise"),
        ("gpu", (9, 0), [BFLOAT, BFLOAT, HALF], 64, "blockwise"),
        ("gpu", None, [BFLOAT] * 3, 64, "blockwise"),  # no CUDA, or no device to ask
        ("cpu", None, [BFLOAT] * 3, 64, "blockwise"),
        ("tpu", None, [BFLOAT] * 3, 64, "blockwise"),
    ],
)
def test_flash_is_chosen_where_cudnn_has_it(platform, capability, dtypes, width, kernel):
    assert choose_kernel(platform, capability, dtypes, width) == kernel


@pytest.fixture
def flash_here(monkeypatch):
    """Take the flash path with the kernel that a CPU has for the same call."""
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: "cudnn")
    monkeypatch.setattr(attention, "attend_flash", functools.partial(attend_flash, implementation="xla"))


@pytest.mark.parametrize("masked", [False, True])
def test_the_flash_path_gives_the_dense_formula_for_any_mask(flash_here, masked):
    check_values_and_gradients(attend, *draw(9, 14, masked=masked))
    q, k, v, _, grads = draw(4, 6)
    mask = jnp.array([[True, False] * 3, [False] * 6])
    check_values_and_gradients(attend, q, k, v, mask, grads)
    assert not np.any(attend(q, k, v, mask)[0][1]), "the scene whose keys are all masked"
    check_hidden_rubbish(lambda *x: attend(*x, mask)[0], q, k, v, mask, grads[0])


def test_a_log_sum_exp_that_nobody_reads_costs_nothing(flash_here):
    q, k, v, mask, _ = draw(2 * blockwise.BLOCK, 2 * blockwise.BLOCK)

    def program(read):
        f = jax.jit(jax.value_and_grad(lambda q, k, v: sum(x.sum() for x in attend(q, k, v, mask)[:read]), (0, 1, 2)))
        return f.lower(q, k, v).compile().as_text()

    assert " while(" in program(2), "the blocks of the log-sum-exp"
    assert " while(" not in program(1)


@pytest.mark.parametrize("masked", [False, True])
def test_flash_lowers_for_cuda_inside_shard_map(monkeypatch, masked):
    """Lowered, not compiled and not run: no GPU is needed."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: "cudnn")
    place, count = P(DATA, REGION), 4 if masked else 3

    def f(*x):
        block = Layout.create(data=2, region=2).shard(
            lambda *x: attend(*x)[0], in_specs=(place,) * count, out_specs=place
        )
        return block(*x).astype(jnp.float32).sum()

    arrays = [jax.ShapeDtypeStruct((2, 64, 4, 64), jnp.bfloat16)] * 3
    arrays += [jax.ShapeDtypeStruct((2, 64), jnp.bool)] * masked
    traced = jax.jit(jax.value_and_grad(f, (0, 1, 2))).trace(*arrays)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text


def test_the_kernel_is_chosen_for_the_devices_of_the_mesh(monkeypatch):
    """A mesh of CPU devices on a machine with a GPU takes what a CPU has."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(compute_capability="9.0")])
    assert attention._hardware() == ("gpu", (9, 0))
    seen = []
    layout = Layout.create(region=2)
    f = layout.shard(lambda x: seen.append(attention._hardware()) or x, in_specs=P(REGION), out_specs=P(REGION))
    jax.eval_shape(f, jax.ShapeDtypeStruct((2,), jnp.float32))
    assert seen[-1] == ("cpu", None)
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(compute_capability="gfx90a")])
    assert attention._hardware() == ("gpu", None), "no CUDA"
