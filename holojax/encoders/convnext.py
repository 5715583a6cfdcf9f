"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023), with the numerics of mmseg's, timm's and others'."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import Borders
from holojax.encoders.base import STAGES, Encoder
from holojax.encoders.layers import drop_rates, layer_norm, linear
from holojax.errors import ConfigError, LayoutError
from holojax.ops.depthwise import depthwise
from holojax.ops.drop_path import derive_keys, drop_path
from holojax.ops.gelu import gelu
from holojax.ops.varying import align
from holojax.types import Float, Keys

_PATCH, _SIDE, _RATIO = 4, 7, 4


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What a library computes that its weights do not say."""

    norm: float  # epsilon of all LayerNorms
    response: float  # what GRN adds to the mean over the channels


# All follow the first code of the authors. Only output norms differ (`output_norms`): timm and torchvision have none.
NUMERICS = {
    "mmseg": Numerics(1e-6, 1e-6),
    "timm": Numerics(1e-6, 1e-6),
    # Also of its backbones' output norms; `config.layer_norm_eps` (1e-12) belongs to the classifier's alone.
    "transformers": Numerics(1e-6, 1e-6),
    "torchvision": Numerics(1e-6, 1e-6),
}


class ConvNeXt(Encoder):
    """Encode images by depthwise convolutions of 7 x 7 and an MLP for every place.

    Stem and downsampling have no padding: in isolated mode sizes that they do not divide are rounded down, as in the
    libraries that are matched (a map of 102 x 70 pixels has 25 x 17 places).

    Args:
        bands: channels of the images.
        dims: channels per stage, four.
        depths: blocks per stage, four.
        layer_scale: end a block by a factor per channel; it begins at 1e-6 (V1), beside GRN at 1 (REST's code).
        grn: global response normalisation in the MLP (V2).
        drop_path: probability of dropping the last block; grows linearly from 0 over the blocks.
        output_norms: normalise the maps that leave the encoder.
        numerics: a name of `NUMERICS`.
        rngs: source of the first weights: truncated normal of 0.02, biases and GRN 0.

    Raises:
        ConfigError: not four stages, or unknown numerics.
    """

    def __init__(
        self,
        *,
        bands: int,
        dims: Sequence[int],
        depths: Sequence[int],
        layer_scale: bool = False,
        grn: bool = True,
        drop_path: float = 0.0,
        output_norms: bool = True,
        numerics: str = "mmseg",
        rngs: nnx.Rngs,
    ):
        if len(depths) != STAGES or len(dims) != STAGES:
            raise ConfigError(
                f"convnext: expected {STAGES} dims and {STAGES} depths, found dims={tuple(dims)}, "
                f"depths={tuple(depths)}; give one number per stage."
            )
        self.channels = tuple(dims)
        self.strides = tuple(_PATCH * 2**i for i in range(STAGES))
        epsilon = _numerics(numerics).norm
        self.stem = Stem(bands=bands, channels=dims[0], epsilon=epsilon, rngs=rngs)
        rates = drop_rates(drop_path, sum(depths))
        self.stages = nnx.List()
        for i in range(STAGES):
            first = sum(depths[:i])
            self.stages.append(
                nnx.List(
                    ConvNeXtBlock(
                        channels=dims[i],
                        layer_scale=layer_scale,
                        grn=grn,
                        drop=(first + j, rates[first + j]),
                        epsilon=epsilon,
                        rngs=rngs,
                    )
                    for j in range(depths[i])
                )
            )
        self.downsamples = nnx.List(
            Downsample(channels=a, outputs=b, epsilon=epsilon, rngs=rngs) for a, b in itertools.pairwise(dims)
        )
        self.norms = nnx.List([layer_norm(c, epsilon, rngs) for c in dims] if output_norms else [])
        self.output_norms = output_norms
        self.adopt(numerics, output_norms)

    def adopt(self, numerics, output_norms):
        """Take over epsilons and output norms; norms that are made begin as LayerNorms do."""
        found = _numerics(numerics)
        if output_norms and not self.norms:
            self.norms = nnx.List([layer_norm(c, found.norm, nnx.Rngs(0)) for c in self.channels])
            self.norms.set_attributes(dtype=self.stem.norm.dtype)
        if not output_norms:
            self.norms = nnx.List([])
        self.numerics, self.output_norms = numerics, output_norms
        self.set_attributes(nnx.LayerNorm, epsilon=found.norm)
        self.set_attributes(ResponseNorm, epsilon=found.response, raise_if_not_found=False)

    def modules_of(self, i):
        """Name the stem or downsampling before stage `i` and its blocks; as in mmseg, output norms always learn."""
        return ("stem" if i == 0 else f"downsamples.{i - 1}", f"stages.{i}")

    def embed(self, images, borders):
        """Turn images into patches of 4 x 4: [n h w bands] to [n h//4 w//4 c].

        Raises LayoutError where a map would have no place left.
        """
        least = self.strides[-1]
        if min(images.shape[1:3]) < least:
            raise LayoutError(
                f"convnext: a region needs at least {least} x {least} pixels, found "
                f"{images.shape[1]} x {images.shape[2]}; give larger images, or cut the scene into fewer regions."
            )
        return self.stem(images, borders), None

    def stage(self, i, x, extra, borders, keys):
        """Run the blocks of stage `i`."""
        for block in self.stages[i]:
            x = self.run(lambda x, block=block: block(x, borders, keys), x)
        return x, extra

    def normalize(self, i, x):
        """Apply the LayerNorm of stage `i`, where there is one."""
        return self.norms[i](x) if self.norms else x

    def downsample(self, i, x, borders):
        """Halve the map, rounding down, and change its channels to those of the next stage."""
        return self.downsamples[i](x, borders)


class Stem(nnx.Module):
    """Project every patch of 4 x 4 pixels to a token and normalise it."""

    def __init__(self, *, bands: int, channels: int, epsilon: float, rngs: nnx.Rngs):
        self.projection = _patches(bands, channels, _PATCH, rngs)
        self.norm = layer_norm(channels, epsilon, rngs)

    def __call__(self, images: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w bands] to [n h//4 w//4 c]."""
        return self.norm(self.projection(borders.hide(images)))


class Downsample(nnx.Module):
    """Normalise, then join 2 x 2 places to one."""

    def __init__(self, *, channels: int, outputs: int, epsilon: float, rngs: nnx.Rngs):
        self.norm = layer_norm(channels, epsilon, rngs)
        self.reduction = _patches(channels, outputs, 2, rngs)

    def __call__(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w c] to [n h//2 w//2 outputs]."""
        return self.reduction(borders.hide(self.norm(x)))


class ConvNeXtBlock(nnx.Module):
    """Join neighbours channel by channel, then apply an MLP to every place; a residual around both.

    `drop` is the block's number in the encoder and its drop path rate.
    """

    def __init__(
        self,
        *,
        channels: int,
        layer_scale: bool,
        grn: bool,
        drop: tuple[int, float],
        epsilon: float = 1e-6,
        rngs: nnx.Rngs,
    ):
        self.number, self.rate = drop
        self.depthwise = Depthwise(channels=channels, rngs=rngs)
        self.norm = layer_norm(channels, epsilon, rngs)
        self.fc1 = linear(channels, _RATIO * channels, rngs)
        self.grn = ResponseNorm(channels=_RATIO * channels) if grn else None
        self.fc2 = linear(_RATIO * channels, channels, rngs)
        # REST's code has both, its layer scale beginning at 1: at 1e-6 GRN, which begins at 0, would not learn.
        self.gamma = nnx.Param(jnp.full(channels, 1.0 if grn else 1e-6)) if layer_scale else None

    def __call__(self, x: jax.Array, borders: Borders, keys: Keys | None) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        y = gelu(self.fc1(self.norm(self.depthwise(x, borders))))
        y = self.fc2(y) if self.grn is None else self._respond(y, borders)
        if self.gamma is not None:
            gamma, _ = align(self.gamma[...].astype(y.dtype), y)
            y = y * gamma
        return x + drop_path(y, derive_keys(keys, self.number), self.rate)

    def _respond(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Apply GRN and the second linear layer: [n h w 4c] to [n h w c].

        GRN multiplies each channel of a region by one number, so the weights of the layer can be multiplied in place of
        the map: the largest map of the network is then read once, not written and read again.
        """
        _, h, w, _ = x.shape
        if h * w <= self.fc2.out_features:
            return self.fc2(self.grn(x, borders))
        kernel, beta, bias, _ = align(self.fc2.kernel[...], self.grn.beta[...], self.fc2.bias[...], x)
        weights = jnp.swapaxes(self.grn.factors(x, borders)[:, 0], 1, 2) * kernel
        return jnp.einsum("nhwk,nkc->nhwc", x, weights.astype(x.dtype)) + (beta @ kernel + bias).astype(x.dtype)


class Depthwise(nnx.Module):
    """Convolve every channel by itself with 7 x 7 weights; zeros lie beyond the surroundings' edge."""

    def __init__(self, *, channels: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.truncated_normal(0.02)
        self.kernel = nnx.Param(init(rngs.params(), (_SIDE, _SIDE, 1, channels)))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        reach = _SIDE // 2
        bias, _ = align(self.bias[...].astype(x.dtype), x)
        return depthwise(borders.pad(x, reach, reach, reach, reach), self.kernel[...].astype(x.dtype)) + bias


class ResponseNorm(nnx.Module):
    """Strengthen the channels that respond most over the surroundings: GRN (Woo et al. 2023).

    y = gamma x n + beta + x, with n a channel's Euclidean norm over the surroundings (float32) over the mean of all
    channels' norms plus epsilon.
    """

    def __init__(self, *, channels: int, epsilon: float = 1e-6):
        self.epsilon = epsilon
        self.gamma, self.beta = nnx.Param(jnp.zeros(channels)), nnx.Param(jnp.zeros(channels))

    def factors(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n 1 1 c"]:
        """Return 1 + gamma n in float32: y = x factors + beta."""
        norm = borders.norm(x.astype(jnp.float32))
        gamma, _ = align(self.gamma[...], x)
        return 1 + gamma * norm / (norm.mean(-1, keepdims=True) + self.epsilon)

    def __call__(self, x: jax.Array, borders: Borders) -> jax.Array:
        """Map [n h w c] to [n h w c]."""
        beta, _ = align(self.beta[...].astype(x.dtype), x)
        return x * self.factors(x, borders).astype(x.dtype) + beta


def _patches(inputs: int, outputs: int, side: int, rngs: nnx.Rngs) -> nnx.Conv:
    init = jax.nn.initializers.truncated_normal(0.02)
    return nnx.Conv(inputs, outputs, (side, side), strides=(side, side), padding="VALID", kernel_init=init, rngs=rngs)


def _numerics(name: str) -> Numerics:
    if name not in NUMERICS:
        raise ConfigError(f"convnext: unknown numerics {name!r}; known: {', '.join(NUMERICS)}.")
    return NUMERICS[name]
