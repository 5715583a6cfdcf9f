"""Selective scans and VMamba-T on a CPU against torch and other ways, as ratios beside their limits.

    python benchmarks/selective_scan.py --torch torch.npz  # where torch is installed; needs no JAX
    python benchmarks/selective_scan.py torch.npz          # without the file: JAX alone

In torch, the four scans of a block are written as a loop over places (what runs where VMamba's CUDA kernel does not)
and as cumulative sums in chunks. In JAX they are scanned line by line (ours), by `lax.associative_scan`, and place by
place. Then whole encoders: VMamba-T against ViT-S, and exact borders on one device against isolated ones.
"""

import os
import pathlib
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

SIDE, CHANNELS = 128, 192  # of the first stage of VMamba-T at 512 x 512 pixels


def measure_torch(path):
    """Time four scans of the first stage in torch, and write the seconds."""
    import numpy as np
    import torch

    torch.set_num_threads(2)
    length = SIDE * SIDE
    u, delta, b, c = (torch.randn(4, size, length) for size in (CHANNELS, CHANNELS, 1, 1))
    delta, a = torch.nn.functional.softplus(delta - 3), -torch.ones(CHANNELS, 1)

    def by_place():
        decay, new = torch.exp(delta * a), delta * u * b
        h, ys = torch.zeros(4, CHANNELS), []
        for t in range(length):
            h = decay[..., t] * h + new[..., t]
            ys.append(h * c[..., t])
        return torch.stack(ys, -1)

    def cumulative(chunk=32):
        """Within a chunk h_t = exp(s_t) (h + sum of exp(-s_i) new_i), s the sum of the decays' logarithms."""
        logs, new = (x.unflatten(-1, (-1, chunk)) for x in (delta * a, delta * u * b))
        sums = logs.cumsum(-1)
        inner = torch.exp(sums) * (torch.exp(-sums) * new).cumsum(-1)
        decay, h, begins = torch.exp(sums[..., -1]), torch.zeros(4, CHANNELS), []
        for i in range(length // chunk):
            begins.append(h)
            h = decay[..., i] * h + inner[..., i, -1]
        states = inner + torch.exp(sums) * torch.stack(begins, -1)[..., None]
        return states.flatten(-2) * c

    seconds = {}
    with torch.no_grad():
        for f in (by_place, cumulative):
            f()
            times = []
            for _ in range(3):
                started = time.perf_counter()
                f()
                times.append(time.perf_counter() - started)
            seconds[f.__name__] = min(times)
    np.savez(path, **seconds)
    print(seconds)


def compare(torch_seconds):
    """Print the ratios."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax import lax
    from jax.sharding import PartitionSpec as P
    from ratios import race, report

    import holojax
    from holojax.borders import Exact
    from holojax.ops.selective_scan import selective_scan, softplus
    from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard

    keys = jax.random.split(jax.random.key(0), 5)
    u = jax.random.normal(keys[0], (1, SIDE, SIDE, CHANNELS))
    delta = softplus(jax.random.normal(keys[1], (2, *u.shape)) - 3)
    b, c = (jax.random.normal(key, (2, *u.shape[:3], 1)) for key in keys[2:4])
    a, both = -jnp.ones((2, CHANNELS, 1)), (False, True)

    def by_line(u, delta, b, c):
        rows = selective_scan(u.swapaxes(1, 2), delta, a, b, c, both).swapaxes(1, 2)
        return rows + selective_scan(u, delta, a, b, c, both)

    def by_sequence(scan):
        """Scan flat sequences, u turned for columns as in by_line."""

        def four(u, delta, b, c):
            total = 0
            for x in (u, u.swapaxes(1, 2)):
                for k, reverse in enumerate(both):
                    flat = (y.reshape(-1, y.shape[-1]) for y in (x[0], delta[k], b[k], c[k]))
                    total += scan(*flat, reverse).reshape(u.shape)
            return total

        return four

    def associative(u, delta, b, c, reverse):
        def compose(x, y):
            return y[0] * x[0], y[0] * x[1] + y[1]

        return c * lax.associative_scan(compose, (jnp.exp(-delta), delta * u * b), reverse=reverse)[1]

    def place_by_place(u, delta, b, c, reverse):
        def step(h, x):
            u, delta, b, c = x
            h = jnp.exp(-delta) * h + delta * u * b
            return h, c * h

        return lax.scan(step, jnp.zeros(CHANNELS), (u, delta, b, c), reverse=reverse)[1]

    ways = {"lines": by_line, "associative": by_sequence(associative), "sequential": by_sequence(place_by_place)}
    compiled = {name: jax.jit(f) for name, f in ways.items()}
    gradients = {name: jax.jit(jax.grad(lambda *x, f=f: f(*x).sum(), range(4))) for name, f in ways.items()}
    for what, functions in (("forward", compiled), ("forward + backward", gradients)):
        best = race({name: lambda f=f: f(u, delta, b, c) for name, f in functions.items()}, 5)
        for name in list(ways)[1:]:
            ratio = best[name] / best["lines"]
            report(f"4 scans of {SIDE} x {SIDE} x {CHANNELS}, {what}: {name} / lines", ratio, at_least=1)
        if what == "forward":
            for name, seconds in torch_seconds.items():
                report(f"the same, forward: torch {name} / ours", float(seconds) / best["lines"], at_least=3)

    images = jax.random.normal(keys[4], (1, 512, 512, 3))
    models = {"vmamba": dict(name="vmamba", size="tiny"), "vit": dict(name="vit", size="small")}
    encoders = {name: holojax.build_encoder(config) for name, config in models.items()}
    run = {name: nnx.jit(lambda encoder, x: encoder(x)[-1]) for name in encoders}
    graph, state = nnx.split(encoders["vmamba"])

    def exact(state, images):
        borders = Exact(shard=RegionShard(RegionGrid(1, 1)), scenes=1, axes=(DATA, REGION))
        return nnx.merge(graph, state)(images[0], borders)[-1][None]

    place = P(DATA, REGION)
    across = jax.jit(Layout.create(region=1).shard(exact, in_specs=(P(), place), out_specs=place))
    state = nnx.as_pure(state)
    best = race(
        {name: lambda name=name: run[name](encoders[name], images) for name in encoders}
        | {"exact": lambda: across(state, images[None])},
        5,
    )
    print({name: f"{seconds * 1000:.0f} ms" for name, seconds in best.items()})
    report("512 x 512: VMamba-T / ViT-S, forward", best["vmamba"] / best["vit"], 2)
    report("512 x 512: VMamba-T exact on 1 device / isolated, forward", best["exact"] / best["vmamba"], 1.1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch"]:
        measure_torch(pathlib.Path(sys.argv[2]))
    else:
        import numpy as np

        compare(dict(np.load(sys.argv[1])) if sys.argv[1:] else {})
