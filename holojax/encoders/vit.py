"""Vision transformer (Dosovitskiy et al. 2021) with the numerics of four libraries, in four stages."""

from __future__ import annotations

import dataclasses

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
from holojax.types import Float, Keys

POSITIONS = ("learned", "sincos", "none")


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What a library computes that weights do not carry: the norms' epsilon, and how learned positions are resized."""

    epsilon: float
    resize: str


NUMERICS = {
    "timm": Numerics(1e-6, "bicubic antialias"),
    "mmseg": Numerics(1e-6, "bicubic"),  # as its configurations of ViT have it; its default is 1e-5
    "transformers": Numerics(1e-12, "bicubic"),  # the default of its ViTConfig, which published ones keep
    "torchvision": Numerics(1e-6, "bicubic corners"),
}


class ViT(Encoder):
    """Encode images by attention over all tokens that a region may see.

    Blocks are pre-norm. Stage i ends after block ceil((i + 1) depth / 4), all stages have one resolution,
    and the final norm belongs to the last map.

    Args:
        bands: channels of the images.
        dim: channels of the tokens.
        depth: blocks.
        heads: attention heads.
        patch: side of a patch in pixels; images are zero-padded at the bottom and right to whole patches.
        pos: "learned" (a table for the class token, if there is one, and for `grid` row by row, which is resized to
            the tokens of a region, or in exact mode of the scene), "sincos" (computed for them) or "none".
        class_token: let one extra token a region (in exact mode: a scene), which is no part of the maps, take part in
            attention.
        mlp_ratio: hidden width of a block's MLP over its channels.
        drop_path: probability of dropping a branch of the last block; grows linearly from 0 over the blocks.
        grid: rows and columns of the table of learned positions. Weights do not say what grid they have: an import
            takes it to be square if its number of places is a square, else to be this one, and resizes it to this one.
        output_norms: normalise the last map.
        numerics: whose details, a key of `NUMERICS`.
        rngs: source of the first weights.

    Raises:
        ConfigError: heads that do not divide `dim`, an unknown `pos`, a `dim` that sincos cannot use, or unknown
            numerics.
    """

    def __init__(
        self,
        *,
        bands: int,
        dim: int,
        depth: int,
        heads: int,
        patch: int = 16,
        pos: str = "learned",
        class_token: bool = False,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        grid: tuple[int, int] = (14, 14),
        output_norms: bool = True,
        numerics: str = "timm",
        rngs: nnx.Rngs,
    ):
        if pos not in POSITIONS:
            raise ConfigError(f"vit: unknown pos {pos!r}; known: {', '.join(POSITIONS)}.")
        if pos == "sincos" and dim % 4:
            raise ConfigError(f"vit: pos='sincos' needs a dim that 4 divides, found {dim}.")
        self.channels, self.strides = (dim,) * STAGES, (patch,) * STAGES
        self.patch, self.pos, self.grid = patch, pos, tuple(grid)
        self.ends = tuple(-(-(i + 1) * depth // STAGES) for i in range(STAGES))
        side = (patch, patch)
        self.patch_embed = nnx.Conv(bands, dim, side, strides=side, padding="VALID", rngs=rngs)
        init = jax.nn.initializers.truncated_normal(0.02)
        rows = grid[0] * grid[1] + class_token
        self.positions = nnx.Param(init(rngs.params(), (rows, dim))) if pos == "learned" else None
        self.class_token = nnx.Param(init(rngs.params(), (dim,))) if class_token else None
        self.blocks = nnx.List(
            ViTBlock(dim=dim, heads=heads, mlp_ratio=mlp_ratio, drop=(number, rate), rngs=rngs)
            for number, rate in enumerate(drop_rates(drop_path, depth))
        )
        self.norms = nnx.List([layer_norm(dim, 1.0, rngs)])
        self.adopt(numerics, output_norms)

    def adopt(self, numerics: str, output_norms: bool) -> None:
        """Take over the norms' epsilon, how positions are resized, and whether the last map is normalised."""
        if numerics not in NUMERICS:
            raise ConfigError(f"vit: unknown numerics {numerics!r}; known: {', '.join(NUMERICS)}.")
        self.numerics, self.output_norms = numerics, output_norms
        if not output_norms:
            self.norms = nnx.List([])
        elif not self.norms:
            self.norms = nnx.List([layer_norm(self.channels[0], 1.0, nnx.Rngs(0))])
            self.norms.set_attributes(dtype=self.patch_embed.dtype)
        self.set_attributes(nnx.LayerNorm, epsilon=NUMERICS[numerics].epsilon, raise_if_not_found=False)

    def modules_of(self, i):
        """Name the embedding and the blocks that belong to stage `i`, and with the last the norm."""
        first = ["patch_embed", "positions", "class_token"] if i == 0 else []
        blocks = [f"blocks.{j}" for j in range(self.ends[i - 1] if i else 0, self.ends[i])]
        return (*first, *blocks, *(["norms"] if i == STAGES - 1 and self.output_norms else []))

    def embed(self, images, borders):
        """Cut images into patches, add positions; beside the map [n h w dim] goes the class token [n 1
        dim]."""
        n, h, w, _ = images.shape
        images = borders.pad(images, 0, -h % self.patch, 0, -w % self.patch)
        x = self.patch_embed(images)
        _, h, w, dim = x.shape
        place, grid = self._positions(x)
        if self.pos == "learned":
            x = x + borders.spread(grid, h, w, NUMERICS[self.numerics].resize).astype(x.dtype)
        elif self.pos == "sincos":
            x = x + sincos_positions(*borders.places(h, w), dim).astype(x.dtype)
        if self.class_token is None:
            return x, None
        token, _ = align(self.class_token[...], x)
        token = token if place is None else token + place
        return x, jnp.broadcast_to(token.astype(x.dtype), (n, 1, dim))

    def _positions(self, x: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        """Return the learned positions of the class token [1, dim] and of the grid [rows columns dim], where there are.

        Typed as differing between devices like `x` before they are repeated: so the gradient is summed over them once.
        """
        if self.pos != "learned":
            return None, None
        table, _ = align(self.positions[...], x)
        first = 0 if self.class_token is None else 1
        return table[:first] if first else None, table[first:].reshape(*self.grid, -1)

    def stage(self, i, x, extra, borders, keys):
        """Run the blocks of stage `i`; there may be none."""
        _, h, w, _ = x.shape
        tokens = rearrange(x, "n h w c -> n (h w) c")
        if extra is not None:
            tokens = jnp.concatenate([extra, tokens], axis=1)
        kv_mask = borders.key_mask(h, w, 0 if extra is None else extra.shape[1])
        for block in self.blocks[self.ends[i - 1] if i else 0 : self.ends[i]]:
            tokens = self.run(lambda x, block=block: block(x, borders, keys, kv_mask), tokens)
        if extra is not None:
            extra, tokens = tokens[:, :1], tokens[:, 1:]
        return rearrange(tokens, "n (h w) c -> n h w c", h=h, w=w), extra

    def normalize(self, i, x):
        """Apply the final norm, if there is one, to the last map; the others stay as they are."""
        return self.norms[0](x) if i == STAGES - 1 and self.output_norms else x


class ViTBlock(nnx.Module):
    """Attend over the tokens, then apply an MLP; both with a norm before and a residual around.

    `drop` is the block's number in the encoder and its drop path rate.
    """

    def __init__(self, *, dim: int, heads: int, mlp_ratio: float, drop: tuple[int, float], rngs: nnx.Rngs):
        check_heads("vit", dim, heads)
        self.heads = heads
        self.number, self.rate = drop
        self.norm1 = layer_norm(dim, 1.0, rngs)
        self.qkv = linear(dim, 3 * dim, rngs)
        self.proj = linear(dim, dim, rngs)
        self.norm2 = layer_norm(dim, 1.0, rngs)
        self.mlp = Mlp(channels=dim, ratio=mlp_ratio, rngs=rngs)

    def __call__(self, x: jax.Array, borders: Borders, keys: Keys | None, kv_mask: jax.Array | None) -> jax.Array:
        """Map tokens [n t c] to [n t c]; `kv_mask` [n t] hides tokens from the others."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "n t (s k d) -> s n t k d", s=3, k=self.heads)
        y = self.proj(rearrange(borders.attend(q, k, v, kv_mask), "n t k d -> n t (k d)"))
        x = x + drop_path(y, derive_keys(keys, 2 * self.number), self.rate)
        y = self.mlp(self.norm2(x))
        return x + drop_path(y, derive_keys(keys, 2 * self.number + 1), self.rate)


def sincos_positions(
    rows: Float[jax.Array, "n h"], cols: Float[jax.Array, "n w"], dim: int
) -> Float[jax.Array, "n h w c"]:
    """Compute two-dimensional sine and cosine positions of rows and columns, as MAE (He et al. 2022).

    The first half of the channels tells the column, the second the row; each has dim / 4 wavelengths from 2
    pi to 20000 pi tokens, first as sines, then as cosines.
    """
    frequencies = 10000.0 ** (-jnp.arange(dim // 4) / (dim // 4))

    def along(places: jax.Array) -> jax.Array:
        angle = places[..., None] * frequencies
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

    shape = (rows.shape[0], rows.shape[1], cols.shape[1], dim // 2)
    columns, rows = along(cols)[:, None], along(rows)[:, :, None]
    return jnp.concatenate([jnp.broadcast_to(columns, shape), jnp.broadcast_to(rows, shape)], axis=-1)
