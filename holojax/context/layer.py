"""What the mixers share: a pre-norm transformer layer whose attention spans the scene."""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from holojax.attention import hybrid_attention
from holojax.context.kv_pool import pool_scene_tokens, token_positions
from holojax.errors import ConfigError
from holojax.ops.drop_path import drop_path
from holojax.ops.gelu import gelu
from holojax.ops.layer_norm import LayerNorm
from holojax.ops.rotary import check_rotary_width, rotate
from holojax.parallel.exchange import Held, Plan
from holojax.parallel.regions import RegionShard
from holojax.types import Bool, Float, Keys

_INIT = nnx.initializers.xavier_uniform()
_POSITIONS = ("none", "rope2d")


class SceneLayer(nnx.Module):
    """A transformer layer over the tokens of all regions: a = x + attention(norm(x)), y = a + mlp(norm(a)).

    Norms have eps 1e-5, the activation is the exact GELU (PARITY of REST's `MYTransformerEncoderLayer`). Sub-classes
    say by which plan the regions exchange keys and values.

    Args:
        channels: width c of the tokens.
        heads: attention heads over the scene; divides `channels`. Never taken from the number of devices.
        kv_pool: keys and values are averaged over kv_pool x kv_pool tokens of the scene grid before they travel.
        position: "none", or "rope2d": queries and keys are turned by where in the scene's token grid they lie
            (`ops.rotary`), whatever regions and devices; pooled keys lie at the centre of their square.
        mlp_ratio: hidden width of the MLP over `channels`.
        drop_path: probability of dropping the MLP branch of a scene.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        kv_pool: int = 1,
        position: str = "none",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        if channels % heads:
            raise ConfigError(
                f"context.heads: expected a divisor of the {channels} channels of the stage, found {heads}."
            )
        if position not in _POSITIONS:
            raise ConfigError(f"context.position: expected one of {', '.join(_POSITIONS)}, found {position!r}.")
        if position == "rope2d":
            check_rotary_width(channels // heads)
        self.heads, self.kv_pool, self.position, self.drop_path = heads, kv_pool, position, drop_path
        self.norm1 = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, kernel_init=_INIT, rngs=rngs)
        self.proj = nnx.Linear(channels, channels, kernel_init=_INIT, rngs=rngs)
        self.norm2 = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        hidden = int(channels * mlp_ratio)
        self.fc1 = nnx.Linear(channels, hidden, kernel_init=_INIT, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, channels, kernel_init=_INIT, rngs=rngs)

    @abc.abstractmethod
    def plan(self, held: Held, devices: int) -> Plan:
        """Say which way attention goes for the tokens that one of so many devices holds."""

    def attend(self, q, k, v, kv_mask, shard: RegionShard, held: Held) -> jax.Array:
        """Attend from local queries to the scene as `plan` says: [b n k d] tokens, one region after the other."""
        size = self.plan(held, jax.lax.axis_size(shard.axis)).heads_parallel
        return hybrid_attention(q, k, v, axis_name=shard.axis, heads_parallel=size, kv_mask=kv_mask)

    def held(self, block: tuple[int, ...], dtype: jnp.dtype, masked: bool) -> Held:
        """Count the tokens of a device that holds maps [b r h w c] of this shape and dtype."""
        b, r, h, w, c = block
        keys = -(-h // self.kv_pool) * -(-w // self.kv_pool)
        itemsize = jnp.result_type(dtype, self.qkv.kernel.dtype).itemsize
        return Held(r * h * w, r * keys, self.heads, c // self.heads, itemsize, b, masked, r)

    def layer(
        self,
        x: Float[jax.Array, "b r h w c"],
        valid: Bool[jax.Array, "b r h w"] | None,
        shard: RegionShard,
        keys: Keys | None,
    ) -> Float[jax.Array, "b r h w c"]:
        """Return y above, for the tokens of this device's regions; `keys` [b] one a scene, or None."""
        a = x + self.proj(self._attention(self.norm1(x), valid, shard))
        branch = self.fc2(gelu(self.fc1(self.norm2(a))))
        return a + drop_path(branch, keys, self.drop_path)

    def _attention(self, x, valid, shard):
        _, r, h, w, c = x.shape
        pooled, mask = pool_scene_tokens(x, valid, self.kv_pool, shard)
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        # Averaging and projecting commute, so the pooled tokens are projected: kv_pool^2 times fewer.
        q = x @ kernel[:, :c] + bias[:c]
        k, v = (pooled @ kernel[:, i * c : (i + 1) * c] + bias[i * c : (i + 1) * c] for i in (1, 2))
        q, k, v = (rearrange(t, "b r h w (k d) -> b (r h w) k d", k=self.heads) for t in (q, k, v))
        if self.position == "rope2d":
            q = rotate(q, *token_positions(h, w, 1, r, shard))
            k = rotate(k, *token_positions(h, w, self.kv_pool, r, shard))
        if mask is not None:
            mask = rearrange(mask, "b r h w -> b (r h w)")
        out = self.attend(q, k, v, mask, shard, self.held(x.shape, x.dtype, mask is not None))
        return rearrange(out, "b (r h w) k d -> b r h w (k d)", r=r, h=h, w=w)
