"""Attention of local queries over local keys, by the best kernel that the hardware has."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from holojax.errors import ConfigError
from holojax.ops.blockwise import attend_blockwise

_FLASH_DTYPES = (jnp.float16, jnp.bfloat16)


def check_tokens(q: jax.Array, k: jax.Array, v: jax.Array, kv_mask: jax.Array | None) -> None:
    """Raise a ConfigError unless queries, keys, values and mask fit each other."""
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (q, k, v)):
        raise ConfigError(f"Attention needs floating-point inputs, found {q.dtype}, {k.dtype}, {v.dtype}.")
    if q.ndim != 4 or k.shape != v.shape or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ConfigError(
            "Attention needs q [b n k d] and k, v [b m k d] of one batch, head count and head width; "
            f"found q {q.shape}, k {k.shape}, v {v.shape}."
        )
    if not (q.shape[1] and k.shape[1] and q.shape[2] and q.shape[3]):
        raise ConfigError(
            f"Attention needs at least one query, key, head and channel; found q {q.shape} and k {k.shape}."
        )
    if kv_mask is None:
        return
    if kv_mask.shape != k.shape[:2]:
        raise ConfigError(f"kv_mask: expected shape [b m] = {k.shape[:2]}, found {kv_mask.shape}.")
    if kv_mask.dtype != jnp.bool:
        raise ConfigError(
            f"kv_mask: expected bool {k.shape[:2]}, True where a key may be seen, found {kv_mask.dtype}. "
            "A mask of zeros and ones: pass mask != 0; one that is added to the scores: pass mask == 0."
        )


def hide_keys(k: jax.Array, v: jax.Array, kv_mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Set keys and values that the mask hides to zero, so that NaN and infinity behind it get out nowhere.

    A weight of zero is not enough: 0 * NaN is NaN. The gradient of what is hidden is zero.
    """
    return (k, v) if kv_mask is None else tuple(jnp.where(kv_mask[..., None, None], x, 0) for x in (k, v))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, kv_mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Attend from q to k, v: softmax(q k^T / sqrt(d)) v, exact, without an array of all scores.

    The kernel is chosen by `choose_kernel` for the devices of the surrounding `shard_map`, else the default ones.
    cuDNN gives no float32 log-sum-exp that can be differentiated, so that always comes from the blockwise pass, of
    which nothing is left in the compiled program where nobody reads it.

    Args:
        q: queries [b n k d], float16, bfloat16 or float32.
        k: keys [b m k d].
        v: values [b m k d].
        kv_mask: bool [b m]; False keys are seen by nobody.

    Returns:
        The output [b n k d] in q's dtype and the float32 log-sum-exp of the scores [b k n]; both differentiable.
        Nothing of a masked key gets out, not even NaN; a query without other keys gives zeros and zero gradient.

    Raises:
        ConfigError: shapes or dtypes do not fit.
    """
    check_tokens(q, k, v, kv_mask)
    return attend_visible(q, *hide_keys(k, v, kv_mask), kv_mask)


def attend_visible(q: jax.Array, k: jax.Array, v: jax.Array, kv_mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Attend as `attend`, to keys and values that have been through `hide_keys`."""
    out, lse = attend_blockwise(q, k, v, kv_mask)
    if choose_kernel(*_hardware(), [x.dtype for x in (q, k, v)], q.shape[-1]) == "cudnn":
        out = attend_flash(q, k, v, kv_mask)
    return out, lse


def choose_kernel(platform: str, capability: tuple[int, int] | None, dtypes: Sequence[jnp.dtype], width: int) -> str:
    """Name the kernel for attention: "cudnn" (flash attention) where it runs, else "blockwise".

    cuDNN needs a CUDA GPU of compute capability 8.0, one 16-bit dtype, and heads whose width is a multiple of 8, up
    to 128 or from capability 9.0 on 256 (the conditions of `jax.nn.dot_product_attention`). Masks are no hindrance.

    Args:
        platform: of the devices, "cpu", "gpu" or "cuda".
        capability: compute capability of the GPU (major, minor); None where there is none to ask, or no CUDA.
        dtypes: of queries, keys and values.
        width: d of a head.
    """
    if platform not in ("gpu", "cuda") or capability is None or capability < (8, 0):
        return "blockwise"
    flash_dtype = len(set(dtypes)) == 1 and dtypes[0] in _FLASH_DTYPES
    widest = 256 if capability >= (9, 0) else 128
    return "cudnn" if flash_dtype and width % 8 == 0 and width <= widest else "blockwise"


def attend_flash(
    q: jax.Array, k: jax.Array, v: jax.Array, kv_mask: jax.Array | None, implementation: str = "cudnn"
) -> jax.Array:
    """Attend by `jax.nn.dot_product_attention`; the output of `attend_visible` alone.

    cuDNN takes an arbitrary mask only as an array of all scores, but a number of leading keys as it is. The order of
    keys is of no account to attention, so the visible ones are moved to the front and counted.
    """
    if kv_mask is None:
        return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    order = jnp.argsort(~kv_mask, axis=1, stable=True)
    scene = jnp.arange(k.shape[0])[:, None]
    # Told that no index comes twice, the gradient's scatter needs no atomic additions.
    k, v = (x.at[scene, order].get(unique_indices=True, mode="promise_in_bounds") for x in (k, v))
    count = kv_mask.sum(1, dtype=jnp.int32)
    # A scene without keys is let to see one hidden key, a zero, because kernels disagree on a softmax over nothing.
    lengths = jnp.maximum(count, 1)
    out = jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation=implementation)
    return jnp.where((count > 0)[:, None, None, None], out, 0)


def _hardware() -> tuple[str, tuple[int, int] | None]:
    """Return platform and compute capability of the devices for which the present function is traced."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    if platform not in ("gpu", "cuda") or jax.default_backend() != "gpu":
        return platform, None
    major, _, minor = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")
    return platform, (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
