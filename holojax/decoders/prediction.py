"""What decoders answer, at their own resolution: scores of classes, or queries with masks."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from holojax.borders import Borders
from holojax.types import Float

_EPSILON = 1e-8


@functools.partial(jax.tree_util.register_dataclass, data_fields=["scores"], meta_fields=["enlarged"])
@dataclasses.dataclass(frozen=True)
class Dense:
    """Scores of the classes at every place.

    Attributes:
        scores: [n h w k].
        enlarged: how many times larger the decoder means its map to be, before it is resized to the image.
    """

    scores: Float[jax.Array, "n h w k"]
    enlarged: int = 1

    @property
    def source(self) -> Float[jax.Array, "n h w c"]:
        """Return the map that is resized to the image."""
        return self.scores.astype(jnp.float32)

    def spread(self, borders: Borders) -> Float[jax.Array, "n i j k"]:
        """Return the scores on a map as large as it is meant to be."""
        x, factor = self.scores, self.enlarged
        return borders.resize(x, (x.shape[1] * factor, x.shape[2] * factor))

    def towards(self, size: tuple[int, int], borders: Borders) -> Dense:
        """Return an answer whose map may be resized to `size` at once: enlarging to the image itself is that."""
        height, width = (extent * self.enlarged for extent in self.scores.shape[1:3])
        return self if (height, width) == size or self.enlarged == 1 else Dense(self.spread(borders))

    def of_region(self, number: jax.Array, count: int) -> Dense:
        """Return what painting `count` regions needs beside the map's rows."""
        return self

    def paint(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into scores of the classes."""
        return rows

    def logits(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into what losses take: the logarithm of probabilities, up to a constant."""
        return rows


_LEAVES = dict(data_fields=["classes", "masks", "earlier"], meta_fields=["by_class"])


@functools.partial(jax.tree_util.register_dataclass, **_LEAVES)
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

    def towards(self, size: tuple[int, int], borders: Borders) -> Queries:
        """Return an answer whose map may be resized to `size` at once."""
        return self

    def of_region(self, number: jax.Array, count: int) -> Queries:
        """Return what painting `count` regions, from region `number` on, needs beside the map's rows."""
        classes, masks = (jax.lax.dynamic_slice_in_dim(x, number, count) for x in (self.classes, self.masks))
        return Queries(classes, masks)

    def paint(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into scores: the sum over queries of p(class) sigmoid(mask)."""
        chances = jax.nn.softmax(self.classes.astype(jnp.float32), -1)[..., :-1]
        return jnp.einsum("niwq,nqk->niwk", jax.nn.sigmoid(rows), chances)

    def logits(self, rows: Float[jax.Array, "n i W c"]) -> Float[jax.Array, "n i W k"]:
        """Turn resized rows of `source` into what losses take: the logarithm of the scores."""
        return jnp.log(self.paint(rows) + _EPSILON)


Prediction = Dense | Queries
