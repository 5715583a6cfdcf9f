"""The loss of decoders that answer with queries: each class in sight is matched to a query (Mask2Former, SegViT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from holojax.borders import ISOLATED, Borders
from holojax.losses.common import Labels, Valid, expect, ratio
from holojax.losses.points import Reader
from holojax.ops.assignment import assign
from holojax.schema import is_number
from holojax.types import Float, Keys


class SetSums(NamedTuple):
    """Sums over surroundings, one per layer, which add up over devices."""

    entropy: Float[Array, " l"]  # weighted cross entropy of the queries' classes
    weight: Float[Array, " l"]  # of the queries
    mask: Float[Array, " l"]  # mean loss at points, summed over masks
    dice: Float[Array, " l"]
    masks: Float[Array, ""]  # classes in sight of each surrounding


@dataclass(frozen=True)
class SetLoss:
    """Mask2Former's loss (Cheng et al. 2022) in two parts, so that the step can add the sums of all devices.

    The truth of a surrounding (region, or scene in exact mode) is one mask for each class in sight. Each is matched to
    a query at least cost, or to the query of that class where an answer says so (`by_class`: SegViT's ATM loss). The
    loss is `class_weight` times the cross entropy of the queries' classes, where those without a mask shall say "no
    object" with weight `no_object`, plus `mask_weight` and `dice_weight` times the losses of the masks, averaged over
    all masks of the batch; earlier layers are added up alike. Numerics of transformers' Mask2FormerLoss; one set of
    random points serves all masks of a layer, of which each takes those where it is least sure.

    Masks are read at points, each in the region in which it lies; matching and loss see these alone. What is ignored,
    padded or without data weighs nothing, and surroundings without a label add nothing.

    Args:
        ignore: label of pixels that count nowhere.
        class_weight: of the cross entropy, and of the probability of the class in matching.
        mask_weight: of the masks' cross entropy, or focal loss.
        dice_weight: of the masks' Dice loss.
        no_object: weight of queries without a mask.
        points: at which masks are compared; may be more than there are pixels.
        oversample: points drawn for each that is chosen for importance.
        importance: share of the points that are chosen; the others are random.
        mask_loss: "bce", or "focal" with alpha 0.25 and gamma 2 (SegViT; matching takes the cross entropy).

    Raises:
        ConfigError: an option does not fit.
    """

    reads = "queries"
    rounds = 1

    ignore: int = 255
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    mask_loss: str = "bce"

    def __post_init__(self) -> None:
        for key in ("class_weight", "mask_weight", "dice_weight", "no_object"):
            expect("set", key, getattr(self, key), "a number of at least 0", is_number(getattr(self, key), 0))
        for key in ("points", "oversample"):
            expect("set", key, getattr(self, key), "a number of at least 1", is_number(getattr(self, key), 1))
        expect("set", "importance", self.importance, "a share from 0 to 1", is_number(self.importance, 0, 1))
        expect("set", "mask_loss", self.mask_loss, "'bce' or 'focal'", self.mask_loss in ("bce", "focal"))

    def sums(
        self, answer: Any, labels: Labels, valid: Valid = None, borders: Borders = ISOLATED, keys: Keys | None = None
    ) -> SetSums:
        """Add up over the surroundings of the regions at hand.

        A label that is neither a class nor `ignore` makes the loss NaN.

        Args:
            answer: `decoders.prediction.Queries`.
            labels: integers [n h w].
            valid: bool [n h w]; None: all.
            borders: what the decoder saw beyond its regions' edges.
            keys: one key per region, the same for all of a scene, from which points are drawn; None: always the same.
        """
        n, classes = len(labels), answer.classes.shape[-1] - 1
        truth = Truth.of(labels, valid, self.ignore, classes, borders)
        keys = jnp.broadcast_to(jax.random.key(0), (n,)) if keys is None else keys
        # Those of a scene's first region on this device; they are all the same.
        keys = keys[:: n // borders.surroundings(n)]
        # What each region has of a surrounding's numbers, so that sums over regions and devices are those of scenes.
        parts = borders.add_regions(jnp.ones_like(answer.classes[:, 0, 0]))

        def share(x: Array) -> Array:
            return borders.per_region(x / parts).sum()

        layers = []
        for i, one in enumerate([answer, *answer.earlier]):
            asked = borders.add_regions(one.classes.astype(jnp.float32)) / parts[:, None, None]
            compare, learn = self.draw(jax.vmap(jax.random.fold_in, (0, None))(keys, i), i)
            layer = self._layer(asked, one.masks, truth, compare, learn, answer.by_class, borders)
            layers.append([share(x) for x in layer])
        entropy, weight, mask, dice = (jnp.stack(x) for x in zip(*layers, strict=True))
        return SetSums(entropy + truth.alarm, weight, mask, dice, share(truth.present.sum(-1, dtype=jnp.float32)))

    def value(self, sums: SetSums) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where nothing is labelled."""
        masks = jnp.maximum(sums.masks, 1)
        layers = (
            self.class_weight * ratio(sums.entropy, sums.weight)
            + self.mask_weight * sums.mask / masks
            + self.dice_weight * sums.dice / masks
        )
        return layers.sum()

    def draw(self, keys: Keys, layer: int) -> tuple[Float[Array, "m p 2"], Float[Array, "m s 2"]]:
        """Draw points for a layer: where masks are compared, and where they learn, those to choose from first."""
        chosen = int(self.oversample * self.points)

        def of(key: Array) -> tuple[Array, Array]:
            first, second = jax.random.split(key)
            total = chosen + self.points - self._chosen
            return jax.random.uniform(first, (self.points, 2)), jax.random.uniform(second, (total, 2))

        return jax.vmap(of)(keys)

    @property
    def _chosen(self) -> int:
        return int(self.importance * self.points)

    def _layer(self, asked, masks, truth, compare, learn, by_class, borders) -> tuple[Array, Array, Array, Array]:
        """Return the sums of one layer for each surrounding [m]: entropy, weight, mask and dice."""
        size, classes = masks.shape[1:3], truth.present.shape[-1]
        if by_class:
            assigned = jnp.broadcast_to(jnp.eye(classes, dtype=bool), (len(asked), classes, classes))
        else:
            read = Reader(compare, truth.pixels, size, borders).bilinear(lax.stop_gradient(masks))
            assigned = self._match(lax.stop_gradient(asked), read, *truth.at(compare, borders), truth.present)
        assigned &= truth.present[:, None]

        @jax.checkpoint
        def learn_masks(masks: Array) -> tuple[Array, Array]:
            chosen = jnp.einsum(
                "nhwq,nqk->nhwk",
                masks.astype(jnp.float32),
                borders.per_region(assigned.astype(jnp.float32)),
                precision=lax.Precision.HIGHEST,
            )
            read = Reader(learn, truth.pixels, size, borders).bilinear(chosen)
            return self._of_masks(read, *truth.at(learn, borders), assigned.any(1))

        return *self._of_classes(asked, assigned, truth.present.any(-1)), *learn_masks(masks)

    def _match(self, asked, read, target, weight, present) -> Array:
        """Match classes in sight to queries: bool [m q k]. `read` [m p q], `target` [m p k], `weight` [m p]."""
        total = jnp.maximum(weight.sum(-1), 1e-6)[:, None, None]
        chance = jax.nn.sigmoid(read)
        both = jnp.einsum("mpq,mpk->mqk", read, target)
        entropy = ((weight[..., None] * jax.nn.softplus(read)).sum(1)[..., None] - both) / total
        overlap = 2 * jnp.einsum("mpq,mpk->mqk", chance, target)
        sizes = (weight[..., None] * chance).sum(1)[..., None] + target.sum(1)[:, None]
        cost = (
            self.mask_weight * entropy
            - self.class_weight * jax.nn.softmax(asked, -1)[..., :-1]
            + self.dice_weight * (1 - (overlap + 1) / (sizes + 1))
        )
        cost = jnp.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9)
        queries, classes = cost.shape[1:]
        # A class that is not in sight costs the same everywhere, and more than all others together.
        most = jnp.abs(cost).max((1, 2), keepdims=True) * (2 * min(queries, classes)) if queries < classes else 0
        cost = jnp.where(present[:, None], cost, most)
        if queries < classes:
            return assign(cost, jnp.ones_like(cost[..., 0], dtype=bool))[..., None] == jnp.arange(classes)
        return (assign(cost.swapaxes(1, 2), present)[..., None] == jnp.arange(queries)).swapaxes(1, 2)

    def _of_classes(self, asked, assigned, active) -> tuple[Array, Array]:
        """Return the cross entropy of each surrounding's queries, weighted, and its weight, [m] each."""
        target = jnp.concatenate([assigned, ~assigned.any(-1, keepdims=True)], -1)
        weight = jnp.where(target[..., -1], self.no_object, 1.0) * active[:, None]
        entropy = -jnp.where(target, jax.nn.log_softmax(asked, -1), 0).sum(-1)
        return (weight * entropy).sum(-1), weight.sum(-1)

    def _of_masks(self, read, target, weight, there) -> tuple[Array, Array]:
        """Return the mask losses of each surrounding, [m] each; `read` [m p k] are the masks of the classes."""
        number = read.shape[1] - (self.points - self._chosen)
        doubt = jnp.where(weight[..., None] > 0, -jnp.abs(lax.stop_gradient(read)), -jnp.inf)[:, :number]
        if self._chosen:
            last = lax.top_k(doubt.swapaxes(1, 2), self._chosen)[0][..., -1]
            chosen = doubt >= last[:, None]
        else:
            chosen = jnp.zeros_like(doubt, dtype=bool)
        chosen = jnp.concatenate([chosen, jnp.ones_like(read[:, number:], dtype=bool)], 1)
        weight = jnp.where(chosen, weight[..., None], 0)
        target = jnp.where(chosen, target, 0)
        chance = jax.nn.sigmoid(read)
        if self.mask_loss == "bce":
            losses = weight * jax.nn.softplus(read) - target * read
        else:
            losses = 0.25 * target * (1 - chance) ** 2 * jax.nn.softplus(-read)
            losses += 0.75 * (weight - target) * chance**2 * jax.nn.softplus(read)
        mean = ratio(losses.sum(1), weight.sum(1))
        overlap, sizes = 2 * (chance * target).sum(1), (weight * chance).sum(1) + target.sum(1)
        dice = 1 - (overlap + 1) / (sizes + 1)
        return jnp.where(there, mean, 0).sum(-1), jnp.where(there, dice, 0).sum(-1)


class Truth(NamedTuple):
    """The labels of regions, and which classes their surroundings show."""

    marks: Float[Array, "n h w 1"]  # class + 1 where a pixel counts, else 0
    present: Array  # bool [m k]
    alarm: Float[Array, ""]  # 0, or NaN if a label is no class

    @classmethod
    def of(cls, labels: Labels, valid: Valid, ignore: int, classes: int, borders: Borders) -> Truth:
        """Look at labels [n h w]."""
        labels = jnp.asarray(labels).astype(jnp.int32)
        counts = labels != ignore if valid is None else (labels != ignore) & valid
        beyond = counts & ((labels < 0) | (labels >= classes))
        counts &= ~beyond
        seen = ((labels[..., None] == jnp.arange(classes)) & counts[..., None]).any((1, 2))
        present = borders.add_regions(seen.astype(jnp.float32)) > 0
        marks = jnp.where(counts, labels + 1, 0).astype(jnp.float32)[..., None]
        return cls(marks, present, jnp.where(beyond.any(), jnp.nan, 0.0))

    @property
    def pixels(self) -> tuple[int, int]:
        """Return rows and columns of a region."""
        return self.marks.shape[1:3]

    def at(self, points: Float[Array, "m p 2"], borders: Borders) -> tuple[Array, Array]:
        """Return what share of each point belongs to each class [m p k], and what share counts [m p]."""
        return Reader(points, self.pixels, self.pixels, borders).truth(self.marks, self.present.shape[-1])
