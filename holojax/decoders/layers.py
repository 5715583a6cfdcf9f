"""Layers that several decoders are built from; numerics of torch and mmcv."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import Borders
from holojax.ops.drop_path import drop_channels
from holojax.types import Float, Keys


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
            self._move(self.mean, mean)
            self._move(self.var, unbiased)
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        return ((x.astype(jnp.float32) - mean) * factor + self.bias[...]).astype(x.dtype)

    def _move(self, average: nnx.BatchStat, value: jax.Array) -> None:
        average[...] = self.momentum * average[...] + (1 - self.momentum) * jax.lax.stop_gradient(value)


class ConvNormAct(nnx.Module):
    """Convolve (odd kernel, same size, no bias), normalise by the batch, apply ReLU: mmcv's ConvModule."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, rngs: nnx.Rngs):
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
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w d"]:
        """Map [n h w inputs] to [n h w outputs]."""
        x = borders.pad(x, *[self.reach] * 4)
        return jax.nn.relu(self.norm(self.conv(x), borders))


class Classifier(nnx.Module):
    """Drop whole channels in training, then score the classes place by place."""

    def __init__(self, channels: int, classes: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.linear = nnx.Linear(channels, classes, kernel_init=jax.nn.initializers.normal(0.01), rngs=rngs)

    def __call__(self, x: Float[jax.Array, "n h w c"], keys: Keys | None) -> Float[jax.Array, "n h w k"]:
        """Map [n h w c] to scores [n h w classes]."""
        return self.linear(drop_channels(x, keys, self.dropout))
