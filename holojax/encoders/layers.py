"""Layers that several encoders are built from."""

from __future__ import annotations

import jax
from flax import nnx

from holojax.errors import ConfigError
from holojax.ops.gelu import gelu
from holojax.ops.layer_norm import LayerNorm


def layer_norm(channels: int, epsilon: float, rngs: nnx.Rngs) -> LayerNorm:
    """Make a LayerNorm with torch's numerics."""
    return LayerNorm(channels, epsilon=epsilon, rngs=rngs)


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, use_bias: bool = True) -> nnx.Linear:
    """Make a linear layer with the usual start of transformers: truncated normal of 0.02, bias 0."""
    init = jax.nn.initializers.truncated_normal(0.02)
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=init, rngs=rngs)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between them, for every place by itself."""

    def __init__(self, *, channels: int, ratio: float, rngs: nnx.Rngs):
        hidden = round(channels * ratio)
        self.fc1 = linear(channels, hidden, rngs)
        self.fc2 = linear(hidden, channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [... c] to [... c]."""
        return self.fc2(gelu(self.fc1(x)))


def check_heads(owner: str, channels: int, heads: int) -> None:
    """Raise a ConfigError unless `heads` divide `channels`."""
    if heads < 1 or channels % heads:
        raise ConfigError(
            f"{owner}: {channels} channels cannot be shared equally by {heads} heads; "
            "choose a number of heads that divides the channels."
        )


def drop_rates(last: float, blocks: int) -> list[float]:
    """Return the drop path rate of each block: growing linearly from 0 to `last`."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]
