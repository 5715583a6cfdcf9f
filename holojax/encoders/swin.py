"""Swin transformer (Liu et al. 2021) with the numerics of mmseg, timm, transformers or torchvision."""

from __future__ import annotations

import dataclasses
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
from holojax.ops.windows import relative_index, sides, table_steps
from holojax.types import Keys

_EPSILON = 1e-5  # of every norm, in all four libraries


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What a library computes that weights do not carry.

    Attributes:
        merging: order of the channels of 2 x 2 merged tokens: "channels", the four places of a channel together (as
            torch's Unfold); "blocks", the channels of a place together, places (0, 0), (1, 0), (0, 1), (1, 1).
        small: what a map no larger than a window is to a shifted block: "shift", nothing special; "rest", the windows
            are not shifted along that axis; "rest together", along neither; "shrink", nor are they larger than the map.
        roll_first: the map is padded to whole windows after it was rolled, so that padding comes between its two parts.
        whole_patches: pixels at the bottom and right that make no whole patch are left out, not padded. In exact mode,
            where regions consist of whole patches, those at the scene's edge are filled up.
    """

    merging: str
    small: str
    roll_first: bool = False
    whole_patches: bool = False

    def windows(self, window: int, shift: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return size and shift of the windows on a map of this size, each as (rows, columns)."""
        fits = [extent <= window for extent in (height, width)]
        if self.small == "shift":
            fits = [False, False]
        elif self.small == "rest together":
            fits = [any(fits)] * 2
        size = (min(window, height), min(window, width)) if self.small == "shrink" else (window, window)
        return size, (0 if fits[0] else shift, 0 if fits[1] else shift)


NUMERICS = {
    "mmseg": Numerics("channels", "shift"),
    # Made for one size of images: windows, and tables of positions with them, are cut down to its maps.
    "timm": Numerics("blocks", "shrink", roll_first=True),
    # Its backbones, which have output norms, are run with always_partition=True.
    "transformers": Numerics("blocks", "shift"),
    # Its convolution of patches has no padding.
    "torchvision": Numerics("blocks", "rest", whole_patches=True),
}
# transformers' SwinModel, which has no output norms: a window stops shifting where the shorter side fits into it.
_CLASSIFIER = Numerics("blocks", "rest together")


class Swin(Encoder):
    """Encode images by attention in shifted windows.

    Args:
        bands: channels of the images.
        embed_dim: channels of the first stage; doubled at each following one.
        depths: blocks per stage, four.
        heads: attention heads per stage, four.
        window: side of a window in tokens, or one per stage.
        patch: side of a patch in pixels; images are zero-padded at the bottom and right to whole patches (cut to them
            as torchvision).
        mlp_ratio: hidden width of a block's MLP over its channels.
        drop_path: probability of dropping a branch of the last block; grows linearly from 0 over the blocks.
        output_norms: normalise the map of every stage that leaves the encoder.
        numerics: whose details, a key of `NUMERICS`.
        rngs: source of the first weights.

    Raises:
        ConfigError: not four stages, heads that do not divide a stage's channels, or unknown numerics.
    """

    def __init__(
        self,
        *,
        bands: int,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int | Sequence[int] = 7,
        patch: int = 4,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        output_norms: bool = True,
        numerics: str = "mmseg",
        rngs: nnx.Rngs,
    ):
        windows = (window,) * STAGES if isinstance(window, int) else tuple(window)
        if not len(depths) == len(heads) == len(windows) == STAGES:
            raise ConfigError(
                f"swin: expected {STAGES} depths and {STAGES} heads, and one window or {STAGES}; found "
                f"depths={tuple(depths)}, heads={tuple(heads)}, window={window}; give one number per stage."
            )
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
                        window=windows[i],
                        shift=j % 2 * (windows[i] // 2),
                        mlp_ratio=mlp_ratio,
                        drop=(first + j, rates[first + j]),
                        rngs=rngs,
                    )
                    for j in range(depths[i])
                )
            )
        self.downsamples = nnx.List(PatchMerging(channels=c, rngs=rngs) for c in self.channels[:-1])
        self.norms = nnx.List(layer_norm(c, _EPSILON, rngs) for c in self.channels)
        self.adopt(numerics, output_norms)

    def adopt(self, numerics: str, output_norms: bool) -> None:
        """Take over the order of merging, the treatment of small maps and whether the stages' maps are normalised."""
        if numerics not in NUMERICS:
            raise ConfigError(f"swin: unknown numerics {numerics!r}; known: {', '.join(NUMERICS)}.")
        self.numerics, self.output_norms = numerics, output_norms
        if not output_norms:
            self.norms = nnx.List([])
        elif not self.norms:
            self.norms = nnx.List(layer_norm(c, _EPSILON, nnx.Rngs(0)) for c in self.channels)
            self.norms.set_attributes(dtype=self.patch_embed.norm.dtype)

    @property
    def details(self) -> Numerics:
        """What `numerics` stands for."""
        return _CLASSIFIER if self.numerics == "transformers" and not self.output_norms else NUMERICS[self.numerics]

    def modules_of(self, i):
        """Name the embedding, the blocks, the merging and the norm that belong to stage `i`."""
        norm = [f"norms.{i}"] if self.output_norms else []
        merging = [f"downsamples.{i}"] if i + 1 < STAGES else []
        return (*(["patch_embed"] if i == 0 else []), f"stages.{i}", *merging, *norm)

    def embed(self, images, borders):
        """Cut images into patches: [n h w bands] to [n ceil(h / patch) ceil(w / patch) embed_dim].

        As torchvision, [n floor(h / patch) floor(w / patch) embed_dim].
        """
        return self.patch_embed(images, borders, self.details), None

    def stage(self, i, x, extra, borders, keys):
        """Run the blocks of stage `i`; every second one has its windows shifted by half a window."""
        for block in self.stages[i]:
            x = self.run(lambda x, block=block: block(x, borders, keys, self.details), x)
        return x, extra

    def normalize(self, i, x):
        """Apply the LayerNorm of stage `i`, if there is one."""
        return self.norms[i](x) if self.output_norms else x

    def downsample(self, i, x, borders):
        """Halve the map and double its channels."""
        return self.downsamples[i](x, borders, self.details)


class PatchEmbed(nnx.Module):
    """Project every patch of an image to a token and normalise it."""

    def __init__(self, *, bands: int, channels: int, patch: int, rngs: nnx.Rngs):
        self.patch = patch
        side = (patch, patch)
        self.projection = nnx.Conv(bands, channels, side, strides=side, padding="VALID", rngs=rngs)
        self.norm = layer_norm(channels, _EPSILON, rngs)

    def __call__(self, images: jax.Array, borders: Borders, numerics: Numerics) -> jax.Array:
        """Map [n h w bands] to [n ceil(h / patch) ceil(w / patch) c]; rounded down where only whole patches count."""
        _, h, w, _ = images.shape
        down, right = (0, 0) if numerics.whole_patches else (-h % self.patch, -w % self.patch)
        images = borders.pad(images, 0, down, 0, right)
        return self.norm(self.projection(images))


class PatchMerging(nnx.Module):
    """Join 2 x 2 tokens into one of twice the channels; odd sizes are zero-padded at the bottom and right."""

    def __init__(self, *, channels: int, rngs: nnx.Rngs):
        self.norm = layer_norm(4 * channels, _EPSILON, rngs)
        self.reduction = linear(4 * channels, 2 * channels, rngs, use_bias=False)

    def __call__(self, x: jax.Array, borders: Borders, numerics: Numerics) -> jax.Array:
        """Map [n h w c] to [n ceil(h / 2) ceil(w / 2) 2c]."""
        _, h, w, _ = x.shape
        x = borders.pad(x, 0, h % 2, 0, w % 2)
        order = "(c a b)" if numerics.merging == "channels" else "(b a c)"
        x = rearrange(x, f"n (h a) (w b) c -> n h w {order}", a=2, b=2)
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

    def __call__(self, x: jax.Array, borders: Borders, keys: Keys | None, numerics: Numerics) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        y = self.attention(self.norm1(x), borders, self.shift, numerics)
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

    def __call__(self, x: jax.Array, borders: Borders, shift: int, numerics: Numerics) -> jax.Array:
        """Map [n h w c] to [n h w c]; the windows are shifted by `shift` rows and columns.

        Raises:
            ConfigError: the numerics change the windows of small maps, and how large the scene is, is known on the
                device alone (exact borders with padding or holes).
        """
        height, width, known = borders.extent(*x.shape[1:3])
        size, steps = numerics.windows(self.window, shift, height, width)
        if not known and (size, steps) != (sides(self.window), sides(shift)):
            raise ConfigError(
                f"swin: a map of {height} x {width} tokens is no larger than a window of {self.window}, where these "
                'numerics change the windows by the size of the scene; with border="exact" and padding or holes that '
                'is not known beforehand. Use larger scenes, a smaller window, numerics="mmseg" or border="isolated".'
            )

        # Projected before the windows are cut, each token once. What padding becomes is then said by `fill`: zeros
        # that come after the norm, as all four libraries have them, are tokens made of biases alone.
        def attend(qkv: jax.Array, allowed: jax.Array | None) -> jax.Array:
            return self._attend(qkv, allowed, size)

        fill = self.qkv.bias[...]
        return self.proj(borders.map_windows(attend, self.qkv(x), size, steps, fill, numerics.roll_first))

    def _attend(self, qkv: jax.Array, allowed: jax.Array | None, size: tuple[int, int]) -> jax.Array:
        """Map windows [m t 3c] to [m t c]; `allowed` [m t t] or [m 1 t] says which tokens (last axis) each may see."""
        q, k, v = rearrange(qkv, "m t (s k d) -> s m k t d", s=3, k=self.heads)
        q = q * q.shape[-1] ** -0.5
        scores = jnp.einsum("mkqd,mksd->mkqs", q, k, preferred_element_type=jnp.float32)
        # Typed as differing between devices before it is expanded: so its gradient is summed over them once, as it is.
        table, _ = align(self.bias_table[...], qkv)
        scores += self._bias(table, size)
        if allowed is not None:
            # mmseg adds -100; the same in float32. Finite, since a window may lie outside the scene altogether.
            scores = jnp.where(allowed[:, None], scores, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        y = jnp.einsum("mkqs,mksd->mkqd", weights, v)
        return rearrange(y, "m k t d -> m t (k d)")

    def _bias(self, table: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Look up the bias of every pair of tokens of a window, [k t t]; the table is resized to a smaller window."""
        if size != (self.window, self.window):
            side = 2 * self.window - 1
            rows, cols = (jnp.asarray(table_steps(self.window, length), table.dtype) for length in size)
            table = jnp.einsum("hi,ijk,wj->hwk", rows, table.reshape(side, side, -1), cols, precision="highest")
            table = table.reshape(-1, self.heads)
        return rearrange(table[relative_index(size)], "q s k -> k q s")
