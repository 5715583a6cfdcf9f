"""What a training step costs in Python, against an empty jitted step of the same arguments.

    python benchmarks/step_overhead.py [--blocks=12] [--calls=50]

Both take and return the same state and the same batch, both donate the state; the empty one only adds 1 to
the step counter, so what it costs is what JAX asks for handing over that many arrays. Prints milliseconds per
call as seen by Python (the time until the call returns, the devices still at work), the time until the result
is there, and the ratio of the former.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from holojax import config
from holojax.models import build_model
from holojax.parallel import Layout, RegionGrid
from holojax.training.optimizer import make_optimizer
from holojax.training.state import first_state, take_apart
from holojax.training.step import make_recipe, make_train_step


def toy(blocks):
    return config.experiment(
        model=dict(
            name="ringformer",
            bands=3,
            classes=2,
            regions=(1, 1),
            encoder=dict(name="vit", dim=4, depth=blocks, heads=1, patch=8, pos="none", mlp_ratio=1.0),
            context=dict(name="none"),
            decoder=dict(name="setr", channels=4),
        )
    )


def a_batch(layout, grid):
    shape = (1, grid.count, 8, 8)
    scenes = dict(
        image=jnp.ones((*shape, 3)),
        label=jnp.zeros(shape, jnp.uint8),
        valid=jnp.ones(shape, bool),
    )
    photometry = dict(gain=jnp.ones(1), offset=jnp.zeros(1))
    return jax.device_put(scenes, layout.scenes) | jax.device_put(photometry, layout.per_scene)


def measure(step, state, batch, calls):
    """Return the median milliseconds until the call returns, and until its result is there."""
    returned, ready = [], []
    for _ in range(calls + 5):
        jax.block_until_ready(state)
        started = time.perf_counter()
        state, _ = step(state, batch)
        returned.append(time.perf_counter() - started)
        jax.block_until_ready(state)
        ready.append(time.perf_counter() - started)
    return 1e3 * statistics.median(returned[5:]), 1e3 * statistics.median(ready[5:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--calls", type=int, default=50)
    options = parser.parse_args()

    cfg, layout, grid = toy(options.blocks), Layout.create(1, 1), RegionGrid(1, 1)
    structure, weights = take_apart(build_model(cfg.model.to_dict()))
    optimizer, batch = make_optimizer(cfg.train), a_batch(layout, grid)

    def empty_step(state, batch):
        return jax.tree.map(lambda leaf: leaf, state), {"loss": state.loss + 1}

    empty = jax.jit(empty_step, donate_argnums=0, out_shardings=layout.replicated)
    steps = {"empty": empty, "train": make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)}
    figures = {}
    for name, step in steps.items():
        figures[name] = measure(step, first_state(weights, optimizer, layout), batch, options.calls)
        print(f"{name:5}: returns after {figures[name][0]:7.3f} ms, done after {figures[name][1]:7.3f} ms")
    leaves = len(jax.tree.leaves(weights.params))
    print(f"{leaves} parameter arrays; Python overhead ratio {figures['train'][0] / figures['empty'][0]:.2f}")


if __name__ == "__main__":
    main()
