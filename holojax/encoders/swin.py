"""Swin transformer (Liu et al. 2021) with the numerics of mmseg's, which REST's checkpoints come from."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from holojax.borders import Borders
from holojax.encoders.base import STAGES, Encoder
from holojax.encoders.layers import Mlp, check_heads, drop_rates, layer_norm, linear
from holojax.errors import ConfigError
from holojax.ops.drop_path import derive_keys, drop_path
from holojax.ops.varying import align
from holojax.ops.windows import relative_index
from holojax.types import Keys

_EPSILON = 1e-5


class Swin(Encoder):
    """Encode images by attention in shifted windows.

    Args:
        bands: channels of the images.
        embed_dim: channels of the first stage; doubled at each following one.
        depths: blocks per stage, four.
        heads: attention heads per stage, four.
        window: side of a window in tokens.
        patch: side of a patch in pixels; images are zero-padded at the bottom and right to whole patches.
        mlp_ratio: hidden width of a block's MLP over its channels.
        drop_path: probability of dropping a branch of the last block; grows linearly from 0 over the blocks.
        rngs: source of the first weights.

    Raises:
        ConfigError: not four stages, or heads that do not divide a stage's channels.
    """

    def __init__(
        self,
        *,
        bands: int,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int = 7,
        patch: int = 4,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        output_norms: bool = True,
        numerics: str = "mmseg",
        rngs: nnx.Rngs,
    ):
        if len(depths) != STAGES or len(heads) != STAGES:
            raise ConfigError(
                f"swin: expected {STAGES} depths and {STAGES} heads, found depths={tuple(depths)}, "
                f"heads={tuple(heads)}; give one number per stage."
            )
        self.numerics, self.output_norms = numerics, output_norms
        self.channels = tuple(embed_dim * 2**i for i in range(STAGES))
        self.strides = tuple(patch * 2**i for i in range(STAGES))
        self.patch_embed = PatchEmbed(bands=bands, channels=embed_dim, patch=patch, rngs=rngs)
        rates = drop_rates(drop_path, sum(depths))
        self.stages = nnx.List()
        for i in range(STAGES):
            first = sum(depths[:i])
            self.stages.append(
                nnx.List(
                    SwinBlock(
                        channels=self.channels[i],
                        heads=heads[i],
                        window=window,
                        shift=j % 2 * (window // 2),
                        mlp_ratio=mlp_ratio,
                        drop=(first + j, rates[first + j]),
                        rngs=rngs,
                    )
                    for j in range(depths[i])
                )
            )
        self.downsamples = nnx.List(PatchMerging(channels=c, rngs=rngs) for c in self.channels[:-1])
        self.norms = nnx.List(layer_norm(c, _EPSILON, rngs) for c in self.channels)

    def modules_of(self, i):
        """Name the embedding, the blocks, the merging and the norm that belong to stage `i`."""
        return (*(["patch_embed"] if i == 0 else []), f"stages.{i}", f"downsamples.{i}", f"norms.{i}")

    def embed(self, images, borders):
        """Cut images into patches: [n h w bands] to [n ceil(h / patch) ceil(w / patch) embed_dim]."""
        return self.patch_embed(images, borders), None

    def stage(self, i, x, extra, borders, keys):
        """Run the blocks of stage `i`; every second one has its windows shifted by half a window."""
        for block in self.stages[i]:
            x = self.run(lambda x, block=block: block(x, borders, keys), x)
        return x, extra

    def normalize(self, i, x):
        """Apply the LayerNorm of stage `i`."""
        return self.norms[i](x)

    def downsample(self, i, x, borders):
        """Halve the map and double its channels."""
        return self.downsamples[i](x, borders)


class PatchEmbed(nnx.Module):
    """Project every patch of an image to a token and normalise it."""

    def __init__(self, *, bands: int, channels: int, patch: int, rngs: nnx.Rngs):
        self.patch = patch
        side = (patch, patch)
        self.projection = nnx.Conv(bands, channels, side, strides=side, padding="VALID", rngs=rngs)
        self.norm = layer_norm(channels, _EPSILON, rngs)

    def __call__(self, images: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w bands] to [n ceil(h / patch) ceil(w / patch) c]."""
        _, h, w, _ = images.shape
        images = borders.pad(images, 0, -h % self.patch, 0, -w % self.patch)
        return self.norm(self.projection(images))


class PatchMerging(nnx.Module):
    """Join 2 x 2 tokens into one of twice the channels; odd sizes are zero-padded at the bottom and right."""

    def __init__(self, *, channels: int, rngs: nnx.Rngs):
        self.norm = layer_norm(4 * channels, _EPSILON, rngs)
        self.reduction = linear(4 * channels, 2 * channels, rngs, use_bias=False)

    def __call__(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w c] to [n ceil(h / 2) ceil(w / 2) 2c]."""
        _, h, w, _ = x.shape
        x = borders.pad(x, 0, h % 2, 0, w % 2)
        # Channel-major as mmseg (torch's Unfold); the first Swin code has the channels in blocks.
        x = rearrange(x, "n (h a) (w b) c -> n h w (c a b)", a=2, b=2)
        return self.reduction(self.norm(x))


class SwinBlock(nnx.Module):
    """Attend within windows, then apply an MLP; both with a norm before and a residual around.

    `drop` is the block's number in the encoder and its drop path rate.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        drop: tuple[int, float],
        rngs: nnx.Rngs,
    ):
        self.shift = shift
        self.number, self.rate = drop
        self.norm1 = layer_norm(channels, _EPSILON, rngs)
        self.attention = WindowAttention(channels=channels, heads=heads, window=window, rngs=rngs)
        self.norm2 = layer_norm(channels, _EPSILON, rngs)
        self.mlp = Mlp(channels=channels, ratio=mlp_ratio, rngs=rngs)

    def __call__(self, x: jax.Array, borders: Borders, keys: Keys | None) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        y = self.attention(self.norm1(x), borders, self.shift)
        x = x + drop_path(y, derive_keys(keys, 2 * self.number), self.rate)
        y = self.mlp(self.norm2(x))
        return x + drop_path(y, derive_keys(keys, 2 * self.number + 1), self.rate)


class WindowAttention(nnx.Module):
    """Attend within each window, with a learned bias for every distance between two tokens."""

    def __init__(self, *, channels: int, heads: int, window: int, rngs: nnx.Rngs):
        check_heads("swin", channels, heads)
        self.heads, self.window = heads, window
        self.qkv = linear(channels, 3 * channels, rngs)
        self.proj = linear(channels, channels, rngs)
        init = jax.nn.initializers.truncated_normal(0.02)
        self.bias_table = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, heads)))

    def __call__(self, x: jax.Array, borders: Borders, shift: int) -> jax.Array:
        """Map [n h w c] to [n h w c]; the windows are shifted by `shift` rows and columns."""
        # Projected before the windows are cut, each token once. What padding becomes is then said by `fill`: zeros
        # that come after the norm, as mmseg has them, are tokens made of biases alone.
        qkv = self.qkv(x)
        return self.proj(borders.map_windows(self._attend, qkv, self.window, shift, self.qkv.bias[...]))

    def _attend(self, qkv: jax.Array, allowed: jax.Array | None) -> jax.Array:
        """Map windows [m t 3c] to [m t c]; `allowed` [m t t] or [m 1 t] says which tokens (last axis) each may see."""
        q, k, v = rearrange(qkv, "m t (s k d) -> s m k t d", s=3, k=self.heads)
        q = q * q.shape[-1] ** -0.5
        scores = jnp.einsum("mkqd,mksd->mkqs", q, k, preferred_element_type=jnp.float32)
        # Typed as differing between devices before it is expanded: so its gradient is summed over them once, as it is.
        table, _ = align(self.bias_table[...], qkv)
        scores += rearrange(table[relative_index(self.window)], "q s k -> k q s")
        if allowed is not None:
            # mmseg adds -100; the same in float32. Finite, since a window may lie outside the scene altogether.
            scores = jnp.where(allowed[:, None], scores, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        y = jnp.einsum("mkqs,mksd->mkqd", weights, v)
        return rearrange(y, "m k t d -> m t (k d)")
