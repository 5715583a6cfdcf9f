"""The selective scan against a loop over single places, in NumPy and in autodiff; its memory, its softplus."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from holojax.borders import ISOLATED
from holojax.errors import ConfigError
from holojax.ops.selective_scan import selective_scan, softplus


def draw(n, t, lines, d, s, scans=1):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    u, steps = normal(n, t, lines, d), np.log1p(np.exp(normal(scans, n, t, lines, d)))
    arrays = u, steps, -np.exp(normal(scans, d, s)), normal(scans, n, t, lines, s), normal(scans, n, t, lines, s)
    return tuple(map(jnp.asarray, arrays))


def sequence(x):
    """Line after line of [n t l d]: [n l*t d]."""
    return x.swapaxes(1, 2).reshape(x.shape[0], -1, x.shape[-1])


def as_map(y, like):
    """Undo `sequence`."""
    n, t, lines, d = like.shape
    return y.reshape(n, lines, t, d).swapaxes(1, 2)


def by_hand(u, delta, a, b, c, reverse=(False,)):
    """One place after the other, float64."""
    return sum(one_by_hand(u, *scan, back) for *scan, back in zip(delta, a, b, c, reverse, strict=True))


def one_by_hand(u, delta, a, b, c, reverse):
    y = np.zeros(sequence(u).shape)
    a, *parts = (np.asarray(x, np.float64) for x in (a, u, delta, b, c))
    parts = [sequence(x) for x in parts]
    for i in range(len(u)):
        h = np.zeros(a.shape)
        places = range(y.shape[1])
        for t in reversed(places) if reverse else places:
            u_t, delta_t, b_t, c_t = (x[i, t] for x in parts)
            h = np.exp(delta_t[:, None] * a) * h + (delta_t * u_t)[:, None] * b_t
            y[i, t] = h @ c_t
    return as_map(y, u)


def by_autodiff(u, delta, a, b, c, reverse):
    """The same in JAX, for gradients."""
    return sum(one_by_autodiff(u, *scan, back) for *scan, back in zip(delta, a, b, c, reverse, strict=True))


def one_by_autodiff(u, delta, a, b, c, reverse):

    def step(h, place):
        u, delta, b, c = place
        h = jnp.exp(delta[..., None] * a) * h + (delta * u)[..., None] * b[:, None]
        return h, (h * c[:, None]).sum(-1)

    places = tuple(jnp.moveaxis(sequence(x), 1, 0) for x in (u, delta, b, c))
    y = lax.scan(step, jnp.zeros((len(u), *a.shape)), places, reverse=reverse)[1]
    return as_map(jnp.moveaxis(y, 0, 1), u)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([(2, 3, 13, 4), (1, 1, 7, 2), (2, 6, 1, 3), (1, 1, 1, 1), (1, 5, 8, 2)]),
    states=st.sampled_from([1, 3, 4]),
    reverse=st.sampled_from([(False, True), (True,), (False,), (True, True, False)]),
)
def test_values_and_gradients_are_those_of_a_loop_over_places(size, states, reverse):
    args = draw(*size, states, len(reverse))
    weight = np.random.default_rng(1).normal(size=size).astype(np.float32)

    def weighted(scan):
        def loss(*args):
            y = scan(*args, reverse)
            return (y * weight).sum(), y

        return jax.jit(jax.value_and_grad(loss, range(5), has_aux=True))(*args)

    (_, found), gradients = weighted(selective_scan)
    np.testing.assert_allclose(found, by_hand(*args, reverse), atol=2e-5)
    for name, gradient, expected in zip(
        ["u", "delta", "a", "b", "c"], gradients, weighted(by_autodiff)[1], strict=True
    ):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * scale, err_msg=name)


def test_the_state_is_float32_and_the_gradient_has_the_input_s_type():
    args = draw(1, 4, 6, 8, 2)
    u = jnp.asarray(args[0], jnp.bfloat16)
    y, pull = jax.vjp(jax.jit(lambda u: ISOLATED.selective_scan(u, *args[1:], "cols")), u)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, by_hand(u, *args[1:]), atol=2e-5)
    assert pull(jnp.ones_like(y))[0].dtype == jnp.bfloat16


def test_long_memory_and_forgetting_at_once_stay_finite():
    u, delta, a, b, c = draw(1, 16, 16, 2, 1)
    delta = delta.at[..., 0].set(1e-6).at[..., 1].set(200.0)
    y, pull = jax.vjp(jax.jit(selective_scan), u, delta, a, b, c)
    np.testing.assert_allclose(y, by_hand(u, delta, a, b, c), rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in pull(jnp.ones_like(y)))


def test_memory_does_not_grow_with_the_states():
    def scratch(states):
        shapes = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in draw(1, 64, 64, 32, states)]
        gradient = jax.jit(jax.grad(lambda *args: jnp.sin(selective_scan(*args)).sum(), range(5)))
        return gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes / (4 * 64 * 64 * 32)

    # In maps: of one state a channel y, its gradient, transposed copies; of 16 what is kept of 16 would be 16 more.
    one, many = scratch(1), scratch(16)
    assert one < 10
    assert many < one + 10


def test_softplus_is_that_of_float64():
    x = np.linspace(-80, 80, 20001, dtype=np.float32)
    value, slope = jax.jit(lambda x: jax.jvp(softplus, (x,), (jnp.ones_like(x),)))(x)
    exact = np.logaddexp(0, x.astype(np.float64))
    np.testing.assert_allclose(value, exact, rtol=4e-7)
    np.testing.assert_allclose(slope, np.exp(x.astype(np.float64) - exact), rtol=1e-5)


def test_every_scan_has_its_direction():
    with pytest.raises(ConfigError, match="each of 2 scans, found"):
        selective_scan(*draw(1, 2, 2, 1, 1, scans=2))
