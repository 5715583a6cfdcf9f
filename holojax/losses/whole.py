"""The losses of a batch of whole scenes: sums of every block of rows and every device, then one number each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array, lax

from holojax.borders import Borders

# Adds up a tree of arrays over all devices.
Total = Callable[[Any], Any]


def batch_losses(
    losses: Mapping[str, Any],
    painter: Any,
    labels: Array,
    valid: Array,
    total: Total,
    scene: Borders,
    keys: Array | None = None,
) -> dict[str, Array]:
    """Return the value of every loss for the regions of all devices.

    Losses of pixels are taken block by block of rows while the answer is painted, all in one pass a round; nothing of
    a block is kept for the gradient. Those that look round a pixel get the whole map, which is painted again for the
    gradient too.

    Args:
        losses: by name; `reads` of each says what it takes: "pixels", "map" or "queries".
        painter: the answer of a decoder and its resizing (`decoders.painter`).
        labels: integers [n h w].
        valid: bool [n h w], False on padding and where there is no data.
        total: adds up over devices.
        scene: borders that see the scene, whatever the model's see.
        keys: one PRNG key a region, the same for all regions of a scene.
    """
    values = _of_pixels({k: v for k, v in losses.items() if v.reads == "pixels"}, painter, labels, valid, total)
    for name, loss in losses.items():
        if loss.reads == "map":

            @jax.checkpoint
            def sums(answer: Any, loss: Any = loss) -> Any:
                return loss.sums(dataclasses.replace(painter, answer=answer).logits(), labels, valid, scene)

            values[name] = loss.value(total(sums(painter.answer)))
        elif loss.reads == "queries":
            values[name] = loss.value(total(loss.sums(painter.answer, labels, valid, painter.borders, keys)))
    return values


def _of_pixels(losses: Mapping[str, Any], painter: Any, labels: Array, valid: Array, total: Total) -> dict[str, Array]:
    totals: dict[str, tuple] = dict.fromkeys(losses, ())
    for number in range(max((loss.rounds for loss in losses.values()), default=0)):
        now = {name: loss for name, loss in losses.items() if number < loss.rounds}
        # What a later round needs of the totals is worked out once for all blocks.
        known = {name: loss.known(*totals[name]) if number else () for name, loss in now.items()}

        def sums(
            logits: Array, labels: Array, valid: Array, now: Any = now, number: int = number, known: Any = known
        ) -> Any:
            fixed = lax.stop_gradient(logits)  # the last round alone has a gradient
            return {
                name: loss.sums(logits if number + 1 == loss.rounds else fixed, labels, valid, *known[name])
                for name, loss in now.items()
            }

        found = total(painter.sum_rows(sums, labels, valid))
        for name in now:
            totals[name] += (found[name],)
    return {name: loss.value(*totals[name]) for name, loss in losses.items()}
