"""VMamba (Liu et al. 2024) as its code's "v05_noz": selective scans of a map in four directions, without a gate."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from holojax.borders import Borders
from holojax.encoders.base import STAGES, Encoder
from holojax.encoders.layers import Mlp, drop_rates, layer_norm, linear
from holojax.errors import ConfigError
from holojax.ops.depthwise import depthwise
from holojax.ops.drop_path import derive_keys, drop_path
from holojax.ops.gelu import gelu
from holojax.ops.selective_scan import softplus
from holojax.ops.varying import align
from holojax.types import Keys

# The four directions, in the order of the weights: rows, columns, both of them back.
LINES, BACK = ("rows", "cols"), (False, True)


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What a library computes that its weights do not say."""

    norm: float  # epsilon of all LayerNorms


# The authors' classifiers ("vmamba") have no output norms, their segmentation models and REST's have (`output_norms`).
NUMERICS = {"mmseg": Numerics(1e-5), "vmamba": Numerics(1e-5)}


class VMamba(Encoder):
    """Encode images by selective scans of rows and columns, forth and back.

    Convolutions of stride 2 are padded by 1: sizes are rounded up (a map of 33 places a side becomes one of 17).

    Args:
        bands: channels of the images.
        dims: channels per stage, four.
        depths: blocks per stage, four.
        state: numbers of state per channel of the scans.
        ssm_ratio: channels of the scans over the stage's.
        mlp_ratio: hidden width of a block's MLP over its channels.
        drop_path: probability of dropping a branch of the last block; grows linearly from 0 over the blocks.
        output_norms: normalise the maps that leave the encoder.
        numerics: a name of `NUMERICS`.
        rngs: source of the first weights.

    Raises:
        ConfigError: not four stages, no state, or unknown numerics.
    """

    def __init__(
        self,
        *,
        bands: int,
        dims: Sequence[int],
        depths: Sequence[int],
        state: int = 1,
        ssm_ratio: float = 2.0,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        output_norms: bool = True,
        numerics: str = "mmseg",
        rngs: nnx.Rngs,
    ):
        if len(depths) != STAGES or len(dims) != STAGES:
            raise ConfigError(
                f"vmamba: expected {STAGES} dims and {STAGES} depths, found dims={tuple(dims)}, "
                f"depths={tuple(depths)}; give one number per stage."
            )
        if state < 1:
            raise ConfigError(f"vmamba: expected at least 1 number of state per channel, found state={state}.")
        self.channels = tuple(dims)
        self.strides = tuple(4 * 2**i for i in range(STAGES))
        epsilon = _numerics(numerics).norm
        self.patch_embed = PatchEmbed(bands=bands, channels=dims[0], epsilon=epsilon, rngs=rngs)
        rates = drop_rates(drop_path, sum(depths))
        self.stages = nnx.List()
        for i in range(STAGES):
            first = sum(depths[:i])
            self.stages.append(
                nnx.List(
                    VMambaBlock(
                        channels=dims[i],
                        state=state,
                        ssm_ratio=ssm_ratio,
                        mlp_ratio=mlp_ratio,
                        drop=(first + j, rates[first + j]),
                        epsilon=epsilon,
                        rngs=rngs,
                    )
                    for j in range(depths[i])
                )
            )
        self.downsamples = nnx.List(
            Halving(channels=a, outputs=b, epsilon=epsilon, rngs=rngs) for a, b in itertools.pairwise(dims)
        )
        self.norms = nnx.List([layer_norm(c, epsilon, rngs) for c in dims] if output_norms else [])
        self.adopt(numerics, output_norms)

    def adopt(self, numerics, output_norms):
        """Take over epsilons and output norms; norms that are made begin as LayerNorms do."""
        found = _numerics(numerics)
        if output_norms and not self.norms:
            self.norms = nnx.List([layer_norm(c, found.norm, nnx.Rngs(0)) for c in self.channels])
            self.norms.set_attributes(dtype=self.patch_embed.first.norm.dtype)
        if not output_norms:
            self.norms = nnx.List([])
        self.numerics, self.output_norms = numerics, output_norms
        self.set_attributes(nnx.LayerNorm, epsilon=found.norm)

    def modules_of(self, i):
        """Name the embedding or the halving before stage `i`, its blocks and its output norm."""
        before = "patch_embed" if i == 0 else f"downsamples.{i - 1}"
        return (before, f"stages.{i}", *([f"norms.{i}"] if self.output_norms else []))

    def embed(self, images, borders):
        """Turn images into a map of stride 4: [n h w bands] to [n ceil(h / 4) ceil(w / 4) c]."""
        return self.patch_embed(images, borders), None

    def stage(self, i, x, extra, borders, keys):
        """Run the blocks of stage `i`."""
        for block in self.stages[i]:
            x = self.run(lambda x, block=block: block(x, borders, keys), x)
        return x, extra

    def normalize(self, i, x):
        """Apply the LayerNorm of stage `i`, where there is one."""
        return self.norms[i](x) if self.norms else x

    def downsample(self, i, x, borders):
        """Halve the map, rounding up, and change its channels to those of the next stage."""
        return self.downsamples[i](x, borders)


class Halving(nnx.Module):
    """Convolve by 3 x 3 at every second place, then normalise; zeros lie beyond the surroundings' edge."""

    def __init__(self, *, channels: int, outputs: int, epsilon: float, rngs: nnx.Rngs):
        self.reduction = nnx.Conv(channels, outputs, (3, 3), strides=(2, 2), padding="VALID", rngs=rngs)
        self.norm = layer_norm(outputs, epsilon, rngs)

    def __call__(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w c] to [n ceil(h / 2) ceil(w / 2) outputs]."""
        _, h, w, _ = x.shape
        # Of an even size the last place is no centre, so that the padding after it would not be read.
        return self.norm(self.reduction(borders.pad(x, 1, h % 2, 1, w % 2)))


class PatchEmbed(nnx.Module):
    """Halve an image twice, with a GELU in between."""

    def __init__(self, *, bands: int, channels: int, epsilon: float, rngs: nnx.Rngs):
        self.first = Halving(channels=bands, outputs=channels // 2, epsilon=epsilon, rngs=rngs)
        self.second = Halving(channels=channels // 2, outputs=channels, epsilon=epsilon, rngs=rngs)

    def __call__(self, images: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w bands] to [n ceil(h / 4) ceil(w / 4) c]."""
        return self.second(gelu(self.first(images, borders)), borders)


class VMambaBlock(nnx.Module):
    """Scan in four directions, then apply an MLP; both with a norm before and a residual around.

    `drop` is the block's number in the encoder and its drop path rate.
    """

    def __init__(
        self,
        *,
        channels: int,
        state: int,
        ssm_ratio: float,
        mlp_ratio: float,
        drop: tuple[int, float],
        epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ):
        self.number, self.rate = drop
        self.norm1 = layer_norm(channels, epsilon, rngs)
        self.scan = CrossScan(channels=channels, state=state, ratio=ssm_ratio, epsilon=epsilon, rngs=rngs)
        self.norm2 = layer_norm(channels, epsilon, rngs)
        self.mlp = Mlp(channels=channels, ratio=mlp_ratio, rngs=rngs)

    def __call__(self, x: jax.Array, borders: Borders, keys: Keys | None) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        y = self.scan(self.norm1(x), borders)
        x = x + drop_path(y, derive_keys(keys, 2 * self.number), self.rate)
        y = self.mlp(self.norm2(x))
        return x + drop_path(y, derive_keys(keys, 2 * self.number + 1), self.rate)


class CrossScan(nnx.Module):
    """Scan a map selectively in four directions and add up what they read: "SS2D".

    Step sizes, writing and reading depend on the place: softplus of a product of low rank, and linear.
    """

    def __init__(self, *, channels: int, state: int, ratio: float, epsilon: float = 1e-5, rngs: nnx.Rngs):
        width, self.rank, self.state = int(channels * ratio), math.ceil(channels / 16), state
        directions = len(LINES) * len(BACK)
        self.in_proj = linear(channels, width, rngs, use_bias=False)
        self.kernel = nnx.Param(_uniform(rngs, (3, 3, 1, width), 1 / 3))
        self.x_proj = nnx.Param(_uniform(rngs, (directions, width, self.rank + 2 * state), width**-0.5))
        self.dt_proj = nnx.Param(_uniform(rngs, (directions, self.rank, width), self.rank**-0.5))
        # As Mamba: first steps between 0.001 and 0.1, evenly on a logarithmic scale; decay rates 1, 2, 3, ...
        low, high = math.log(0.001), math.log(0.1)
        steps = jnp.exp(jax.random.uniform(rngs.params(), (directions, width), minval=low, maxval=high))
        self.dt_bias = nnx.Param(steps + jnp.log(-jnp.expm1(-steps)))  # softplus of it is the step
        rates = jnp.log(jnp.arange(1, state + 1, dtype=jnp.float32))
        self.a_log = nnx.Param(jnp.broadcast_to(rates, (directions, width, state)) + 0)
        self.skip = nnx.Param(jnp.ones((directions, width)))
        self.norm = layer_norm(width, epsilon, rngs)
        self.out_proj = linear(width, channels, rngs, use_bias=False)

    def __call__(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        x = borders.pad(self.in_proj(x), 1, 1, 1, 1)
        x = jax.nn.silu(depthwise(x, self.kernel[...].astype(x.dtype)))
        return self.out_proj(self.norm(self._scan(x, borders)).astype(x.dtype))

    def _scan(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Return the sum over the directions, float32. What places say of a direction does not depend on its order."""
        # Typed as differing between devices before they are expanded: so their gradients are summed over them once.
        skip, bias, a, _ = align(self.skip[...].sum(0), self.dt_bias[...], -jnp.exp(self.a_log[...]), x)
        weight = rearrange(self.x_proj[...].astype(x.dtype), "k d p -> d (k p)")
        said = jnp.matmul(x, weight, preferred_element_type=jnp.float32)
        said = rearrange(said, "n h w (k p) -> k n h w p", k=len(a))
        dt_proj = self.dt_proj[...].astype(x.dtype)
        y = skip * x
        for i, lines in enumerate(LINES):
            # Axes are swapped before steps are computed: the scan wants steps before lines.
            turn = functools.partial(jnp.swapaxes, axis1=-3, axis2=-2) if lines == "rows" else lambda x: x
            low, b, c = jnp.split(turn(said[i::2]), [self.rank, self.rank + self.state], -1)
            low = low.astype(x.dtype)
            dt = jnp.einsum("knhwr,krd->knhwd", low, dt_proj[i::2], preferred_element_type=jnp.float32)
            delta = softplus(dt + bias[i::2, None, None, None])
            y += turn(borders.selective_scan(turn(x), delta, a[i::2], b, c, lines, BACK))
        return y


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float) -> jax.Array:
    return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)


def _numerics(name: str) -> Numerics:
    if name not in NUMERICS:
        raise ConfigError(f"vmamba: unknown numerics {name!r}; known: {', '.join(NUMERICS)}.")
    return NUMERICS[name]
