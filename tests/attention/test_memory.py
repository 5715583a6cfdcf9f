"""What the gradient keeps: compiled temporaries do not grow with the devices, tokens a device held fixed."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from holojax.attention import all_to_all_attention, hop_attention, ring_attention
from holojax.parallel import DATA, REGION, Layout

TOKENS, HEADS, WIDTH = 256, 8, 16  # a device
QUERIES = TOKENS * HEADS * WIDTH * 4  # bytes


def temporaries(attention, devices):
    layout, place = Layout.create(region=devices), P(DATA, REGION)
    f = layout.shard(functools.partial(attention, axis_name=REGION), in_specs=(place,) * 3, out_specs=place)
    x = jax.ShapeDtypeStruct((1, TOKENS * devices, HEADS, WIDTH), jnp.float32, sharding=layout.scenes)

    def pull_back(out_grad, *x):
        out, pullback = jax.vjp(f, *x)
        return out, pullback(out_grad)

    return jax.jit(pull_back).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("attention", [ring_attention, all_to_all_attention])
def test_memory_does_not_grow_with_the_devices(attention):
    assert temporaries(attention, 8) <= 1.05 * temporaries(attention, 4)


def test_hops_keep_the_queries_before_each_hop_and_no_keys():
    growth = (temporaries(hop_attention, 8) - temporaries(hop_attention, 6)) / 2
    assert growth <= 1.05 * QUERIES
