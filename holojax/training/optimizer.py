"""AdamW and its learning rate."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

# Biases, scales and tables of positions are no weights of a linear map: decay would only pull them to zero.
UNDECAYED = ("bias", "scale", "position", "pos_embed", "class_token", "a_log", "skip")


def learning_rate(train: Any) -> optax.Schedule:
    """Return the learning rate as a function of the step, from `cfg.train`.

    Linear growth from 0 over `warmup` steps, then from `learning_rate` to 0 at `steps`: linearly (`poly`,
    power 1, as REST), as half a cosine, or constant.
    """
    peak, rest = train.learning_rate, max(train.steps - train.warmup, 1)
    after = {
        "poly": optax.polynomial_schedule(peak, 0.0, power=1, transition_steps=rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }[train.schedule]
    if not train.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, train.warmup), after], [train.warmup])


def make_optimizer(train: Any, frozen: Sequence[str] = ()) -> optax.GradientTransformation:
    """Build AdamW from `cfg.train`, with torch's constants, after clipping by the global norm if asked for.

    Weight decay leaves out what has one dimension, biases, norms and position tables, as REST and mmseg do. Parameters
    at or under a path of `frozen` stay as they are, and take no memory here.
    """
    adamw = optax.adamw(learning_rate(train), b1=0.9, b2=0.999, eps=1e-8, weight_decay=train.weight_decay, mask=decayed)
    whole = optax.chain(optax.clip_by_global_norm(train.clip), adamw) if train.clip else adamw
    if not frozen:
        return whole

    def kinds(params: Any) -> Any:
        return map_frozen(lambda leaf, still: "frozen" if still else "learned", params, frozen)

    return optax.partition({"learned": whole, "frozen": optax.set_to_zero()}, kinds)


def map_frozen(f: Callable[[Any, bool], Any], params: Any, frozen: Sequence[str]) -> Any:
    """Map f(leaf, whether it lies at or under a path of `frozen`) over a tree of parameters."""

    def decide(path: tuple, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return f(leaf, any(name == prefix or name.startswith(prefix + ".") for prefix in frozen))

    return jax.tree_util.tree_map_with_path(decide, params)


def decayed(params: Any) -> Any:
    """Return, for every parameter, whether weight decay applies to it."""

    def decide(path: tuple, leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf.ndim > 1 and not any(word in name for word in UNDECAYED)

    return jax.tree_util.tree_map_with_path(decide, params)
