"""One step of training: arrays in, arrays out, the same on any number of devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, UInt8

from holojax.borders import Exact
from holojax.errors import ConfigError
from holojax.losses import build_losses
from holojax.losses.whole import batch_losses
from holojax.ops.normalize import normalize
from holojax.ops.photometry import distort, white_noise
from holojax.ops.varying import vary
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum
from holojax.training.optimizer import map_frozen
from holojax.training.state import State, Structure, Weights, put_together

IGNORE = 255
AXES = (DATA, REGION)
# Beyond it, counts of pixels would wrap.
MOST_PIXELS = 2**31 - 1
BATCH_SPECS = {
    "image": P(DATA, REGION),
    "label": P(DATA, REGION),
    "valid": P(DATA, REGION),
    "gain": P(DATA),
    "offset": P(DATA),
}  # what every batch has; what augmentation adds, see `data.photometry`, is of scenes

Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step needs to know beside the state: all of it static."""

    structure: Structure
    layout: Layout
    grid: RegionGrid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    losses: tuple[tuple[str, Any, float], ...] = ()  # (name, loss, weight)
    aux_losses: tuple[tuple[str, Any, float], ...] = ()  # of auxiliary heads
    aux_weight: float = 0.0
    classes: int = 0


def make_recipe(cfg: Any, structure: Structure, layout: Layout) -> Recipe:
    """Read from a whole configuration what a step needs to know."""
    losses = build_losses(cfg.train)
    # An auxiliary head is dense: what matches queries is for the main one alone.
    dense = tuple(one for one in losses if one[1].reads != "queries")
    aux_losses = dense or build_losses({**cfg.train, "loss": (("ce", 1.0),)})
    return Recipe(
        structure=structure,
        layout=layout,
        grid=structure.grid,
        mean=tuple(cfg.data.mean),
        std=tuple(cfg.data.std),
        losses=losses,
        aux_losses=aux_losses,
        aux_weight=cfg.model.aux.weight if cfg.model.aux else 0.0,
        classes=cfg.model.classes,
    )


def normalized(batch: Batch, recipe: Recipe) -> Float[Array, "b r h w c"]:
    """Return the images of a batch as the model sees them, augmented as the batch says."""
    image, valid = batch["image"], batch["valid"]
    if "distortion" in batch:
        image = distort(image.astype(jnp.float32), batch["distortion"])
    image = normalize(image, valid, recipe.mean, recipe.std, batch["gain"], batch["offset"])
    if "noise" in batch:
        regions, h, w, bands = image.shape[1:]
        down, right = RegionShard(recipe.grid).places(regions)
        rows, cols = down[:, None] * h + jnp.arange(h), right[:, None] * w + jnp.arange(w)
        noise = white_noise(batch["grain"], rows, cols, bands) * batch["noise"][:, None, None, None, None]
        image = jnp.where(valid[..., None], image + noise, 0)
    if "keep" in batch:
        image = jnp.where(batch["keep"][:, None, None, None], image, 0)
    return image


def scene_keys(seed: int, step: Array, scenes: int) -> Array:
    """Return one random key per scene of a step, by its number in the batch: the same on any mesh."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(scenes))


def make_train_step(
    recipe: Recipe, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """Build the jitted step: (state, batch) -> (new state, figures); the old state is used up.

    Figures: `loss`, one entry per part of it, `gradient` (global norm) and `labelled` (pixels that count). Local sums
    of every loss are added over all devices before the loss is taken, so it is that of the whole batch; the gradient is
    taken outside `shard_map`.
    """

    def local_loss(weights: Weights, constants: Any, batch: Batch, keys: Array) -> tuple[Array, Any]:
        # Typed as differing between devices before an encoder casts them to bfloat16: gradients are summed in float32.
        params = {**weights.params, "encoder": vary(weights.params["encoder"], AXES)}
        model = put_together(recipe.structure.training, Weights(params, weights.stats), constants)
        valid = batch["valid"]
        image = normalized(batch, recipe)
        out = model(image, valid, RegionShard(recipe.grid), keys=keys, output="train")
        parts = total_loss(recipe, out, batch["label"], valid, keys)
        labelled = psum((valid & (batch["label"] != IGNORE)).sum(dtype=jnp.int32), AXES)
        return sum(parts.values()), (running_stats(model), {**parts, "labelled": labelled})

    structure = recipe.structure

    def step(state: State, constants: Any, batch: Batch) -> tuple[State, dict[str, Array]]:
        if batch["label"].size > MOST_PIXELS:
            raise ConfigError(
                f"A batch of {batch['label'].size:,} pixels: losses count up to {MOST_PIXELS:,}. Lower data.batch, or "
                f"take windows (data.window)."
            )
        keys = scene_keys(seed, state.step, batch["label"].shape[0])
        specs = (P(), P(), {name: BATCH_SPECS.get(name, P(DATA)) for name in batch}, P(DATA))
        sharded = recipe.layout.shard(local_loss, in_specs=specs, out_specs=(P(), (P(), P())))

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
    out: dict[str, tuple[Any, ...]],
    labels: UInt8[Array, "b r h w"],
    valid: Bool[Array, "b r h w"],
    keys: Array | None = None,
) -> dict[str, Array]:
    """Return the weighted parts of the loss of the whole batch; those of auxiliary heads begin with aux_.

    Args:
        recipe: names the losses.
        out: painters of the model's answers.
        labels: of this device's regions.
        valid: where there are data.
        keys: one PRNG key a scene, for losses that draw points.
    """
    scenes, regions = labels.shape[:2]
    labels, valid = (x.reshape(-1, *x.shape[2:]) for x in (labels, valid))
    labels = jnp.where(valid, labels, IGNORE)
    scene = Exact(shard=RegionShard(recipe.grid), scenes=scenes, valid=valid, axes=AXES)
    keys = None if keys is None else jnp.repeat(keys, regions, axis=0)
    total = functools.partial(psum, axes=AXES)
    parts: dict[str, Array] = {}
    for prefix, painters, share in (("", out["main"], 1.0), ("aux_", out["aux"], recipe.aux_weight)):
        for painter in painters:
            losses = recipe.aux_losses if prefix else recipe.losses
            weights = {name: share * weight for name, _, weight in losses}
            values = batch_losses({name: loss for name, loss, _ in losses}, painter, labels, valid, total, scene, keys)
            for name, value in values.items():
                key = prefix + name
                parts[key] = parts.get(key, 0.0) + weights[name] * value
    return parts


def running_stats(model: Any) -> Any:
    """Return the running statistics of a model as plain arrays."""
    return nnx.as_pure(nnx.state(model, nnx.BatchStat))
