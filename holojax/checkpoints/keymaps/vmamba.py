"""Names of VMamba: the authors' code and REST's."""

import dataclasses

import numpy as np

from holojax.checkpoints.keymaps.rules import (
    ANY_LINEAR,
    CONV,
    NORM,
    SAME,
    STEM,
    KeyMap,
    Leaves,
    Rule,
    Transform,
)

_DIRECTIONS = 4


def _turned(x: np.ndarray) -> np.ndarray:
    """Swap inputs and outputs of the matrices of all directions."""
    return x.swapaxes(1, 2)


def _apart(x: np.ndarray) -> np.ndarray:
    return x.reshape(_DIRECTIONS, -1, *x.shape[1:])


def _joined(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, *x.shape[2:])


_TURNED, _APART = Transform(_turned, _turned), Transform(_apart, _joined)
_SCAN: Leaves = {
    "x_proj_weight": ("x_proj", _TURNED),
    "dt_projs_weight": ("dt_proj", _TURNED),
    "dt_projs_bias": ("dt_bias", SAME),
    "A_logs": ("a_log", _APART),
    "Ds": ("skip", _APART),
}
_OUR_BLOCK, _BLOCK = "encoder.stages.{s}.{b}", "backbone.layers.{s}.blocks.{b}"

MMSEG = KeyMap(
    rules=(
        Rule("encoder.patch_embed.first.reduction", "backbone.patch_embed.0", STEM),
        Rule("encoder.patch_embed.first.norm", "backbone.patch_embed.2", NORM),
        Rule("encoder.patch_embed.second.reduction", "backbone.patch_embed.5", CONV),
        Rule("encoder.patch_embed.second.norm", "backbone.patch_embed.7", NORM),
        Rule(_OUR_BLOCK + ".norm1", _BLOCK + ".norm", NORM),
        Rule(_OUR_BLOCK + ".scan", _BLOCK + ".op", _SCAN),
        Rule(_OUR_BLOCK + ".scan.in_proj", _BLOCK + ".op.in_proj", ANY_LINEAR),
        Rule(_OUR_BLOCK + ".scan", _BLOCK + ".op.conv2d", {"weight": CONV["weight"]}),
        Rule(_OUR_BLOCK + ".scan.norm", _BLOCK + ".op.out_norm", NORM),
        Rule(_OUR_BLOCK + ".scan.out_proj", _BLOCK + ".op.out_proj", ANY_LINEAR),
        Rule(_OUR_BLOCK + ".norm2", _BLOCK + ".norm2", NORM),
        Rule(_OUR_BLOCK + ".mlp.fc{n}", _BLOCK + ".mlp.fc{n}", ANY_LINEAR),
        Rule("encoder.downsamples.{s}.reduction", "backbone.layers.{s}.downsample.1", CONV),
        Rule("encoder.downsamples.{s}.norm", "backbone.layers.{s}.downsample.3", NORM),
        Rule("encoder.norms.{i}", "backbone.outnorm{i}", NORM),
    ),
    parts={"encoder": "backbone."},
    numerics="mmseg",
)

VMAMBA = {
    "rest": MMSEG,
    "mmseg": MMSEG,
    "vmamba": dataclasses.replace(
        MMSEG,
        ignored={r"classifier\..*": "the classifier, with a norm of its own"},
        numerics="vmamba",
        output_norms=r"backbone\.outnorm\d\..*",
    ),
}
