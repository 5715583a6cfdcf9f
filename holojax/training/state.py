"""What training changes, as plain arrays, and the structure that makes a model of them again."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from holojax.models.base import SceneModel
from holojax.parallel import Layout, RegionGrid


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """Everything of a model that is learned: parameters and running statistics, as nested dicts of arrays."""

    params: Any
    stats: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a step changes."""

    step: Int[Array, ""]  # steps done
    loss: Float[Array, ""]  # of the last of them
    weights: Weights
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Structure:
    """A model without its weights: what `nnx.merge` needs beside them, once for training and once for use.

    They differ in whether batch norms take the statistics of the batch or the running ones, and in whether decoders
    answer with what earlier layers found, too.
    """

    training: nnx.GraphDef
    inference: nnx.GraphDef
    constants: Any  # arrays that nobody learns, such as index tables
    grid: RegionGrid  # how the model wants scenes cut
    frozen: tuple[str, ...] = ()  # paths of parameters that do not learn


def take_apart(model: SceneModel) -> tuple[Structure, Weights]:
    """Split a model into its structure and its weights (the arrays themselves, not copies).

    The model is left in inference mode.
    """
    model.train()
    training = nnx.split(model, nnx.Param, nnx.BatchStat, ...)[0]
    model.eval()
    inference, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, constants = (nnx.as_pure(state) for state in states)
    frozen = tuple(f"encoder.{name}" for name in model.encoder.frozen())
    return Structure(training, inference, constants, model.grid, frozen), Weights(params, stats)


def put_together(structure: nnx.GraphDef, weights: Weights, constants: Any) -> nnx.Module:
    """Make a model of a structure and weights; inside a traced function too."""
    return nnx.merge(structure, weights.params, weights.stats, constants)


def first_state(weights: Weights, optimizer: optax.GradientTransformation, layout: Layout) -> State:
    """Make the state before the first step, on every device of the layout; `weights` are copied."""

    def make(weights: Weights) -> State:
        weights = jax.tree.map(jnp.copy, weights)
        return State(
            step=jnp.zeros((), jnp.int32),
            loss=jnp.zeros((), jnp.float32),
            weights=weights,
            opt_state=optimizer.init(weights.params),
        )

    return jax.jit(make, out_shardings=layout.replicated)(jax.device_put(weights, layout.replicated))


def fingerprint(params: Any) -> str:
    """Return the SHA-256 of the parameters' bytes in the order of their sorted paths, in hexadecimal."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    digest = hashlib.sha256()
    for path in sorted(leaves):
        digest.update(np.ascontiguousarray(leaves[path]).tobytes())
    return digest.hexdigest()
