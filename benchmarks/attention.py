"""Memory, time and error of attention across devices, as ratios, each beside the limit that it must keep.

    python benchmarks/attention.py [--only=memory,flat,local,ring,peer,error] [--rounds=3] [--ringattention=FOLDER]

Runs on virtual CPU devices. Memory is what XLA plans for temporaries on one device (nothing is run), forward and
backward; times are the least of `rounds` turns, contestants taking turns. The peer is the package `ringattention`
0.1.2 of PyPI, fetched by `pip install --no-deps --target FOLDER ringattention==0.1.2`: its `ringattention_jax.py` is
loaded as it is, because the package itself asks for modules that JAX has dropped.
"""

import argparse
import functools
import importlib.util
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=16".strip()

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from ratios import race, report

from holojax.attention import all_to_all_attention, hop_attention, hybrid_attention, ring_attention
from holojax.ops.attention import attend
from holojax.parallel import DATA, REGION, Layout

HEADS, WIDTH = 8, 64


def autodiff_ring(q, k, v, *, axis_name):
    """The ring as one would write it first: whole blocks of scores, the gradient left to JAX."""
    devices = lax.axis_size(axis_name)
    pairs = [(d, (d + 1) % devices) for d in range(devices)]

    def hop(carry, _):
        (k, v), (top, weight, total) = carry
        following = jax.tree.map(lambda x: lax.ppermute(x, axis_name, pairs), (k, v))
        score = jnp.einsum("bnkd,bmkd->bknm", q, k) / q.shape[-1] ** 0.5
        new_top = jnp.maximum(top, score.max(-1))
        part, shrink = jnp.exp(score - new_top[..., None]), jnp.exp(top - new_top)
        total = total * jnp.moveaxis(shrink, 1, 2)[..., None] + jnp.einsum("bknm,bmkd->bnkd", part, v)
        return (following, (new_top, weight * shrink + part.sum(-1), total)), None

    zeros = jnp.zeros_like(q)
    row = jnp.moveaxis(zeros[..., 0], 1, 2)
    (_, (_, weight, total)), _ = lax.scan(hop, ((k, v), (row - 1e30, row, zeros)), None, length=devices)
    return total / jnp.moveaxis(weight, 1, 2)[..., None]


def autodiff_hops(q, k, v, *, axis_name):
    """The hops of `hop_attention` with the gradient left to JAX (through `attend`, which is lean)."""
    devices = lax.axis_size(axis_name)
    pairs = [(d, (d + 1) % devices) for d in range(devices)]
    send_on = functools.partial(jax.tree.map, lambda x: lax.ppermute(x, axis_name, pairs))

    def hop(carry, _):
        q, kv = carry
        following = send_on(kv)
        return (q + attend(q, *kv)[0], following), None

    (q, kv), _ = lax.scan(hop, (q, send_on((k, v))), None, length=devices - 2)
    return q + attend(q, *kv)[0]


def peer_ring(folder):
    """The ring of the package `ringattention`; no masks, and not written for `check_vma`."""
    path = pathlib.Path(folder) / "ringattention" / "ringattention_jax.py"
    spec = importlib.util.spec_from_file_location("ringattention_jax", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = dict(
        causal_block_size=None,
        query_chunk_size=512,
        key_chunk_size=512,
        deterministic=True,
        dropout_rng=None,
        attn_pdrop=0.0,
        dtype=jnp.float32,
        policy=jax.checkpoint_policies.nothing_saveable,
        precision=None,
        prevent_cse=False,
    )
    return lambda q, k, v, *, axis_name: module.ring_attention(q, k, v, None, None, None, axis_name, True, settings)


def gradient(attention, devices, check_vma=True):
    """Return a jitted function: output and gradients of whole q, k, v, tokens over `devices`."""
    place = P(DATA, REGION)
    f = jax.shard_map(
        functools.partial(attention, axis_name=REGION),
        mesh=Layout.create(region=devices).mesh,
        in_specs=(place,) * 3,
        out_specs=place,
        check_vma=check_vma,
    )

    def pull_back(q, k, v, out_grad):
        out, pullback = jax.vjp(f, q, k, v)
        return out, *pullback(out_grad)

    return jax.jit(pull_back)


def temporaries(attention, devices, tokens):
    """Return MiB of temporaries on one device, forward and backward."""
    shape = (1, tokens, HEADS, WIDTH)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=Layout.create(region=devices).scenes)
    return gradient(attention, devices).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes / 2**20


def draw(tokens, heads=HEADS, count=4):
    return [jax.random.normal(key, (1, tokens, heads, WIDTH)) for key in jax.random.split(jax.random.key(0), count)]


def memory(_):
    tokens, devices = 16384, 8
    ring = temporaries(ring_attention, devices, tokens)
    report("ring, MiB (16384 tokens, 8 heads of 64, float32, 8 devices)", ring, 200)
    report("autodiff through the ring's scan, MiB", temporaries(autodiff_ring, devices, tokens))
    report("all_to_all / ring", temporaries(all_to_all_attention, devices, tokens) / ring, 2)
    for size in (2, 4):
        hybrid = functools.partial(hybrid_attention, heads_parallel=size)
        report(f"hybrid, groups of {size} / ring", temporaries(hybrid, devices, tokens) / ring, 2)
    for count in (8, 16):
        hops, plain = (temporaries(f, count, 2048 * count) for f in (hop_attention, autodiff_hops))
        report(f"hops / autodiff through their scan ({count} devices; {hops:.0f} and {plain:.0f} MiB)", hops / plain)


def flat(_):
    hybrid = functools.partial(hybrid_attention, heads_parallel=2)
    # On 4 devices the hybrid's ring has a single hop, which XLA unrolls.
    contestants = (("ring", ring_attention, 4), ("all_to_all", all_to_all_attention, 4), ("hybrid (2)", hybrid, 8))
    for name, f, few in contestants:
        growth = temporaries(f, 2 * few, 4096 * few) / temporaries(f, few, 2048 * few)
        report(f"{name}: temporaries on {2 * few} devices / {few}, 2048 tokens a device", growth, 1.05)


def local(rounds):
    for tokens in (4096, 576):
        local_at(tokens, rounds)


def local_at(tokens, rounds):
    q, k, v, weights = draw(tokens)

    def dense(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    def blockwise(q, k, v):
        return attend(q, k, v)[0]

    for name, derive in (("forward", False), ("forward and backward", True)):
        compiled = {}
        for f in (dense, blockwise):
            g = jax.grad(lambda *x, f=f: (f(*x) * weights).sum(), (0, 1, 2)) if derive else f
            compiled[f.__name__] = jax.jit(g).lower(q, k, v).compile()
        seconds = race({name: functools.partial(f, q, k, v) for name, f in compiled.items()}, rounds)
        size = {name: f.memory_analysis().temp_size_in_bytes for name, f in compiled.items()}
        limits = (None, None) if derive or tokens < 4096 else (1.2, 0.1)
        for what, figure, limit in zip(("time", "memory"), (seconds, size), limits, strict=True):
            ratio = figure["blockwise"] / figure["dense"]
            report(f"attend / jax.nn.dot_product_attention, {tokens} tokens, {name}: {what}", ratio, limit)


def ring(rounds):
    contestants = {"ours": gradient(ring_attention, 8), "autodiff": gradient(autodiff_ring, 8)}
    arrays = draw(4096)
    seconds = race({name: functools.partial(f, *arrays) for name, f in contestants.items()}, rounds)
    report("ring / autodiff through its scan, forward and backward: time", seconds["ours"] / seconds["autodiff"], 0.6)


def peer(rounds, folder):
    arrays = draw(4096)
    contestants = {"ours": gradient(ring_attention, 8), "peer": gradient(peer_ring(folder), 8, check_vma=False)}
    ours, theirs = (f(*arrays) for f in contestants.values())
    apart = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(ours, theirs, strict=True))
    seconds = race({name: functools.partial(f, *arrays) for name, f in contestants.items()}, rounds)
    report(f"ring / ringattention 0.1.2 (results {apart:.0e} apart): time", seconds["ours"] / seconds["peer"], 1.0)


def error(_):
    tokens, heads = 2048, 2
    half = [x.astype(jnp.bfloat16) for x in draw(tokens, heads)]
    exact = dense_in_float64(*(np.asarray(x, np.float64) for x in half))
    errors = {}
    for devices in (1, 2, 4, 8):
        found = gradient(ring_attention, devices)(*half)
        errors[devices] = [
            np.linalg.norm(np.asarray(x, np.float64) - y) / np.linalg.norm(y) for x, y in zip(found, exact, strict=True)
        ]
    for index, name in enumerate(("output", "dq", "dk", "dv")):
        alone = errors[1][index]
        for devices in (2, 4, 8):
            what = f"bfloat16 {name}: error on a ring of {devices} / on one device ({alone:.1e})"
            report(what, errors[devices][index] / alone, 1.2)


def dense_in_float64(q, k, v, out_grad):
    q, k, v, out_grad = (np.moveaxis(x[0], 1, 0) for x in (q, k, v, out_grad))
    score = q @ k.swapaxes(1, 2) / np.sqrt(WIDTH)
    part = np.exp(score - score.max(-1, keepdims=True))
    part /= part.sum(-1, keepdims=True)
    dpart = out_grad @ v.swapaxes(1, 2)
    dscore = part * (dpart - (dpart * part).sum(-1, keepdims=True)) / np.sqrt(WIDTH)
    results = part @ v, dscore @ k, dscore.swapaxes(1, 2) @ q, part.swapaxes(1, 2) @ out_grad
    return [np.moveaxis(x, 0, 1)[None] for x in results]


FIGURES = dict(memory=memory, flat=flat, local=local, ring=ring, peer=peer, error=error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FIGURES), help="which figures, by comma")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ringattention", metavar="FOLDER", help="where the peer is installed; without it, no `peer`")
    options = parser.parse_args()
    for name in options.only.split(","):
        if name not in FIGURES:
            parser.error(f"--only: expected some of {', '.join(FIGURES)}, found {name!r}")
        if name != "peer":
            FIGURES[name](options.rounds)
        elif options.ringattention:
            peer(options.rounds, options.ringattention)


if __name__ == "__main__":
    main()
