"""SPIM, REST's Spatial Parallel Interaction Mechanism: every region attends to the whole scene."""

from __future__ import annotations

import jax
from flax import nnx

from holojax.context.layer import SceneLayer
from holojax.errors import ConfigError
from holojax.parallel.exchange import EXCHANGES, Topology, legal_plan
from holojax.parallel.regions import RegionShard
from holojax.types import Bool, Float, Keys

_RESIDUALS = ("double", "single")


class Spim(SceneLayer):
    """Let all regions attend to the whole scene.

    Dense multi-head attention over the tokens of all regions, in any order, whatever the devices.
    REST's code adds the input once more to the layer's output (`residual="double"`), its paper does not
    (`"single"`). In the official code the head count is the number of GPUs; here it is a setting.

    Args:
        channels: width c of the tokens.
        heads: attention heads over the scene; divides `channels`.
        exchange: the preferred way, "all_to_all", "ring" or "hybrid" (the one that sends least); where the mesh does
            not allow it another is taken.
        residual: "double" or "single".
        kv_pool: keys and values are averaged over kv_pool x kv_pool tokens of the scene grid before they travel.
        position: "none" or "rope2d", rotary positions in the scene.
        mlp_ratio: hidden width of the MLP over `channels`.
        drop_path: probability of dropping the MLP branch of a scene (0.3 in REST's ConvNeXt).
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int = 8,
        exchange: str = "all_to_all",
        residual: str = "double",
        kv_pool: int = 1,
        position: str = "none",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        for name, value, known in (
            ("exchange", exchange, EXCHANGES),
            ("residual", residual, _RESIDUALS),
        ):
            if value not in known:
                raise ConfigError(f"context.{name}: expected one of {', '.join(known)}, found {value!r}.")
        super().__init__(
            channels=channels,
            heads=heads,
            kv_pool=kv_pool,
            position=position,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            rngs=rngs,
        )
        self.exchange, self.residual = exchange, residual

    def plan(self, held, devices):
        """Take the preferred exchange where heads and devices allow it, else the cheapest of the others."""
        return legal_plan(self.exchange, held, devices, Topology.of_processes())

    def __call__(
        self,
        x: Float[jax.Array, "b r h w c"],
        valid: Bool[jax.Array, "b r h w"] | None,
        shard: RegionShard,
        keys: Keys | None = None,
    ) -> Float[jax.Array, "b r h w c"]:
        """Mix this device's regions with the scene, inside `Layout.shard`.

        Args:
            x: tokens of this device's regions [b r h w c].
            valid: bool [b r h w], False for tokens that cover no valid pixel (nobody attends to them); None: all valid.
            shard: place of the regions on the mesh.
            keys: one PRNG key a scene [b] for drop path, or None.
        """
        y = self.layer(x, valid, shard, keys)
        return x + y if self.residual == "double" else y
