"""What decoders answer, at their own resolution: scores of classes, or queries with masks."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from holojax.types import Float

_EPSILON = 1e-8
_register = functools.partial(functools.partial, jax.tree_util.register_dataclass)


@_register(data_fields=["scores"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Dense:
    """Scores of the classes at every place [n h w k]."""

    scores: Float[jax.Array, "n h w k"]

    @property
    def source(self) -> Float[jax.Array, "n h w c"]:
        """Return the map that is resized to the image."""
        return self.scores.astype(jnp.float32)

    def paint(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into scores of the classes."""
        return rows

    def logits(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into what losses take: the logarithm of probabilities, up to a constant."""
        return rows


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["classes", "masks", "earlier"], meta_fields=["by_class"]
)
@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries, each with a class and a mask, as Mask2Former and SegViT answer.

    Attributes:
        classes: logits of the classes of each query [n q k + 1], "no object" last; a copy for every region.
        masks: logits of each query's mask at every place [n h w q].
        earlier: the answers of earlier layers, for deep supervision; () outside training.
        by_class: query i stands for class i (SegViT), so that nothing needs to be matched.
    """

    classes: Float[jax.Array, "n q j"]
    masks: Float[jax.Array, "n h w q"]
    earlier: tuple[Queries, ...] = ()
    by_class: bool = False

    @property
    def source(self) -> Float[jax.Array, "n h w c"]:
        """Return the map that is resized to the image."""
        return self.masks.astype(jnp.float32)

    def paint(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into scores: the sum over queries of p(class) sigmoid(mask)."""
        chances = jax.nn.softmax(self.classes.astype(jnp.float32), -1)[..., :-1]
        return jnp.einsum("niwq,nqk->niwk", jax.nn.sigmoid(rows), chances)

    def logits(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into what losses take: the logarithm of the scores."""
        return jnp.log(self.paint(rows) + _EPSILON)


Prediction = Dense | Queries
