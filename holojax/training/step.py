"""One step of training: arrays in, arrays out, the same on any number of devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, UInt8

from holojax.losses import LOSSES
from holojax.ops.normalize import normalize
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum
from holojax.training.optimizer import map_frozen
from holojax.training.state import State, Structure, Weights, put_together

IGNORE = 255
AXES = (DATA, REGION)
BATCH_SPECS = {
    "image": P(DATA, REGION),
    "label": P(DATA, REGION),
    "valid": P(DATA, REGION),
    "gain": P(DATA),
    "offset": P(DATA),
}

Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step needs to know beside the state: all of it static."""

    structure: Structure
    layout: Layout
    grid: RegionGrid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    losses: tuple[tuple[Any, float], ...] = ()  # (loss, weight)
    aux_weight: float = 0.0
    classes: int = 0


def make_recipe(cfg: Any, structure: Structure, layout: Layout) -> Recipe:
    """Read from a whole configuration what a step needs to know."""
    options = {
        "cross_entropy": {
            "average": cfg.train.average,
            "class_weights": cfg.train.class_weights,
            "smoothing": cfg.train.smoothing,
        }
    }
    losses = tuple((LOSSES[name](ignore=IGNORE, **options.get(name, {})), weight) for name, weight in cfg.train.loss)
    return Recipe(
        structure=structure,
        layout=layout,
        grid=structure.grid,
        mean=tuple(cfg.data.mean),
        std=tuple(cfg.data.std),
        losses=losses,
        aux_weight=cfg.model.aux.weight if cfg.model.aux else 0.0,
        classes=cfg.model.classes,
    )


def normalized(batch: Batch, recipe: Recipe) -> Float[Array, "b r h w c"]:
    """Return the images of a batch as the model sees them."""
    return normalize(batch["image"], batch["valid"], recipe.mean, recipe.std, batch["gain"], batch["offset"])


def scene_keys(seed: int, step: Array, scenes: int) -> Array:
    """Return one random key per scene of a step, by its number in the batch: the same on any mesh."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(scenes))


def make_train_step(
    recipe: Recipe, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """Build the jitted step: (state, batch) -> (new state, figures); the old state is used up.

    Figures: `loss`, one entry per part of it, and `gradient` (global norm). Local sums of every loss are
    added over all devices before the loss is taken, so it is that of the whole batch, and the gradient is
    taken outside `shard_map`.
    """

    def local_loss(weights: Weights, constants: Any, batch: Batch, keys: Array) -> tuple[Array, Any]:
        model = put_together(recipe.structure.training, weights, constants)
        valid = batch["valid"]
        image = normalized(batch, recipe)
        out = model(image, valid, RegionShard(recipe.grid), keys=keys, output="train")
        parts = total_loss(recipe, out, batch["label"], valid)
        return sum(parts.values()), (running_stats(model), parts)

    structure = recipe.structure
    sharded = recipe.layout.shard(local_loss, in_specs=(P(), P(), BATCH_SPECS, P(DATA)), out_specs=(P(), (P(), P())))

    def step(state: State, constants: Any, batch: Batch) -> tuple[State, dict[str, Array]]:
        keys = scene_keys(seed, state.step, batch["label"].shape[0])

        def loss_of(params: Any) -> tuple[Array, Any]:
            params = map_frozen(lambda x, frozen: lax.stop_gradient(x) if frozen else x, params, structure.frozen)
            return sharded(Weights(params, state.weights.stats), constants, batch, keys)

        (loss, (stats, parts)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.weights.params)
        params = optax.apply_updates(state.weights.params, updates)
        new = State(state.step + 1, loss, Weights(params, stats), opt_state)
        return new, {"loss": loss, "gradient": optax.tree.norm(gradient), **parts}

    jitted = jax.jit(step, donate_argnums=0, out_shardings=recipe.layout.replicated)
    constants = jax.device_put(recipe.structure.constants, recipe.layout.replicated)
    return lambda state, batch: jitted(state, constants, batch)


def total_loss(
    recipe: Recipe,
    out: dict[str, Array | None],
    labels: UInt8[Array, "b r h w"],
    valid: Bool[Array, "b r h w"],
) -> dict[str, Array]:
    """Return the weighted parts of the loss of the whole batch; the auxiliary head's begin with aux_."""
    labels = jnp.where(valid, labels, IGNORE)
    heads = [("", out["logits"], 1.0)]
    if out["aux"] is not None:
        heads.append(("aux_", out["aux"], recipe.aux_weight))
    parts = {}
    for prefix, logits, share in heads:
        for loss, weight in recipe.losses:
            sums = psum(loss.sums(logits, labels, valid), AXES)
            parts[prefix + _name(loss)] = share * weight * loss.value(sums)
    return parts


def _name(loss: Any) -> str:
    return next(name for name, kind in LOSSES.items() if isinstance(loss, kind))


def running_stats(model: Any) -> Any:
    """Return the running statistics of a model as plain arrays."""
    return nnx.as_pure(nnx.state(model, nnx.BatchStat))
