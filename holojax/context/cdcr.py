"""CDCR, RingFormer-Seg's Cross-Device Context Ring: keys and values travel from region to region."""

from __future__ import annotations

import jax
from flax import nnx

from holojax.attention import hop_attention
from holojax.context.layer import SceneLayer
from holojax.errors import ConfigError
from holojax.parallel.exchange import hop_plan, legal_plan
from holojax.parallel.regions import RegionShard
from holojax.types import Bool, Float, Keys

_MODES = ("exact", "paper")


class Cdcr(SceneLayer):
    """Let context travel round the ring of regions.

    `mode="exact"` takes one softmax over the whole ring: dense attention over the scene. `mode="paper"` is the
    paper's section 2.4: region i takes in the other regions one hop after the other, never itself, with a softmax
    and a residual on the queries a hop; what the hops added is projected onto the tokens. Hops are between regions,
    so neither mode depends on the number of devices; "paper" depends on the region grid (and so refuses
    `border="exact"`), and one region alone hears nobody.

    The paper leaves norms, projection and MLP open: they are those of a pre-norm transformer layer.

    Args:
        channels: width c of the tokens.
        heads: attention heads; divides `channels`.
        mode: "exact" or "paper".
        kv_pool: keys and values are averaged over kv_pool x kv_pool tokens of the scene grid before they travel.
        position: "none" or "rope2d", rotary positions in the scene (mode="exact" alone).
        mlp_ratio: hidden width of the MLP over `channels`.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int = 8,
        mode: str = "exact",
        kv_pool: int = 1,
        position: str = "none",
        mlp_ratio: float = 4.0,
        rngs: nnx.Rngs,
    ) -> None:
        if mode not in _MODES:
            raise ConfigError(f"context.mode: expected one of {', '.join(_MODES)}, found {mode!r}.")
        if mode == "paper" and position != "none":
            raise ConfigError(
                f'context.position: mode="paper" adds values to its queries at every hop, and position={position!r} '
                'would turn these too. Use position="none", or mode="exact".'
            )
        super().__init__(
            channels=channels, heads=heads, kv_pool=kv_pool, position=position, mlp_ratio=mlp_ratio, rngs=rngs
        )
        self.mode = mode

    def plan(self, held, devices):
        """Send keys and values round, whatever it costs: that is what this mixer is."""
        return legal_plan("ring", held, devices) if self.mode == "exact" else hop_plan(held, devices)

    def attend(self, q, k, v, kv_mask, shard, held):
        """Take one softmax once round, or one softmax a hop."""
        if self.mode == "exact":
            return super().attend(q, k, v, kv_mask, shard, held)
        return hop_attention(q, k, v, axis_name=shard.axis, regions=held.regions, kv_mask=kv_mask) - q

    def __call__(
        self,
        x: Float[jax.Array, "b r h w c"],
        valid: Bool[jax.Array, "b r h w"] | None,
        shard: RegionShard,
        keys: Keys | None = None,
    ) -> Float[jax.Array, "b r h w c"]:
        """Mix this device's regions with the scene, inside `Layout.shard`; arguments as `Spim`."""
        return self.layer(x, valid, shard, keys)
