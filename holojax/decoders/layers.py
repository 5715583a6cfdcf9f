"""Layers that several decoders are built from; numerics of torch and mmcv."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import Borders
from holojax.errors import ConfigError
from holojax.ops.drop_path import drop_channels
from holojax.ops.layer_norm import LayerNorm
from holojax.ops.varying import align
from holojax.types import Float, Keys

GROUPS = 32


class BatchNorm(nnx.Module):
    """Normalise by the statistics of the batch: all valid places of all scenes, regions and devices.

    In evaluation (`use_running_average`, the state after construction; switched by the module's `train()` and
    `eval()`) the running averages are used. As torch, the running variance is the unbiased one, and torch's
    momentum m is 1 - m here.
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = True
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w c"]:
        """Normalise a map, and in training move the running averages."""
        if self.use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            mean, variance, count = borders.moments(x)
            unbiased = variance * count / jnp.maximum(count - 1, 1)
            self._move(self.mean, mean, count)
            self._move(self.var, unbiased, count)
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        return ((x.astype(jnp.float32) - mean) * factor + self.bias[...]).astype(x.dtype)

    def _move(self, average: nnx.BatchStat, value: jax.Array, count: jax.Array) -> None:
        moved = self.momentum * average[...] + (1 - self.momentum) * jax.lax.stop_gradient(value)
        # A batch without data has no statistics.
        average[...] = jnp.where(count > 0, moved, average[...])


class GroupNorm(nnx.Module):
    """Normalise groups of channels by their statistics over the surroundings (Wu and He 2018), each scene by its own.

    There are 32 groups, or as many fewer as divide the channels.
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        self.groups = next(g for g in range(min(GROUPS, channels), 0, -1) if channels % g == 0)
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w c"]:
        """Normalise a map."""
        y, scale, bias = align(x.astype(jnp.float32), self.scale[...], self.bias[...])
        y = y - self._of_groups(borders.mean(y))
        variance = self._of_groups(borders.mean(jnp.square(y)))
        return (y * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(x.dtype)

    def _of_groups(self, mean: jax.Array) -> jax.Array:
        """Average over the channels of each group: [n 1 1 c] to the same."""
        n, channels = mean.shape[0], mean.shape[-1]
        groups = mean.reshape(n, 1, 1, self.groups, -1).mean(-1)
        return jnp.repeat(groups, channels // self.groups, axis=-1)


class PlaceNorm(LayerNorm):
    """Normalise every place over its channels."""

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        super().__init__(channels, epsilon=epsilon, rngs=nnx.Rngs(0))

    def __call__(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w c"]:
        """Normalise a map."""
        return super().__call__(x).astype(x.dtype)


NORMS = {"batch": BatchNorm, "group": GroupNorm, "layer": PlaceNorm}


class ConvNormAct(nnx.Module):
    """Convolve (odd kernel, same size, no bias), normalise, apply ReLU: mmcv's ConvModule.

    Args:
        inputs: channels of the map.
        outputs: channels of the result.
        kernel: side of the kernel, odd.
        norm: "batch", over all scenes; "group", over the surroundings; "layer", at every place.
        rngs: source of the first weights.

    Raises:
        ConfigError: there is no such norm, or the kernel is even.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, norm: str = "batch", rngs: nnx.Rngs):
        if norm not in NORMS:
            raise ConfigError(f"norm: expected one of {', '.join(NORMS)}, found {norm!r}.")
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"kernel: expected an odd number, found {kernel}.")
        self.reach = kernel // 2
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            padding="VALID",
            use_bias=False,
            kernel_init=jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=rngs,
        )
        self.norm = NORMS[norm](outputs)

    def __call__(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w d"]:
        """Map [n h w inputs] to [n h w outputs]."""
        return self.finish(self.convolve(x, borders), borders)

    def convolve(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w d"]:
        """Do the first step alone."""
        return self.conv(borders.pad(x, *[self.reach] * 4))

    def kernels(self, widths: Sequence[int], x: jax.Array) -> list[Float[jax.Array, "i j c d"]]:
        """Return the parts of the kernel that meet maps of `widths` channels, typed to meet those like `x`.

        What a kernel makes of joined maps is the sum of what its parts make of them: nothing needs to be joined.
        """
        # Cast once, so that the gradient of the whole is summed over devices once.
        _, kernel = align(x, self.conv.kernel[...])
        ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
        return jnp.split(kernel, ends, axis=2)

    def finish(self, x: Float[jax.Array, "n h w d"], borders: Borders) -> Float[jax.Array, "n h w d"]:
        """Do what comes after the convolution."""
        return jax.nn.relu(self.norm(x, borders))


class Classifier(nnx.Module):
    """Drop whole channels in training, then score the classes place by place."""

    def __init__(self, channels: int, classes: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.linear = nnx.Linear(channels, classes, kernel_init=jax.nn.initializers.normal(0.01), rngs=rngs)

    def __call__(self, x: Float[jax.Array, "n h w c"], keys: Keys | None) -> Float[jax.Array, "n h w k"]:
        """Map [n h w c] to scores [n h w classes]."""
        return self.linear(drop_channels(x, keys, self.dropout))
