"""Names of ConvNeXt and ConvNeXt V2."""

import dataclasses

import numpy as np

from holojax.checkpoints.keymaps.rules import (
    ANY_LINEAR,
    CONV,
    NORM,
    SAME,
    STEM,
    KeyMap,
    Rule,
    Transform,
)

_OUR_BLOCK = "encoder.stages.{s}.{b}"
# Official V2 weights have no layer scale: beside GRN ours begins at 1, which changes nothing.
_NO_GAMMA = (r"encoder\.stages\.\d+\.\d+\.gamma",)


def _shaped(*ones: int) -> Transform:
    """Return the transform of a vector that has axes of length 1 in the file: -1 is where its own axis lies."""
    return Transform(np.ravel, lambda x: x.reshape(ones))


MMSEG = KeyMap(
    rules=(
        Rule("encoder.stem.projection", "backbone.downsample_layers.0.0", STEM),
        Rule("encoder.stem.norm", "backbone.downsample_layers.0.1", NORM),
        Rule("encoder.downsamples.{s}.norm", "backbone.downsample_layers.{s+1}.0", NORM),
        Rule("encoder.downsamples.{s}.reduction", "backbone.downsample_layers.{s+1}.1", CONV),
        Rule(_OUR_BLOCK, "backbone.stages.{s}.{b}", {"gamma": ("gamma", SAME)}),
        Rule(_OUR_BLOCK + ".depthwise", "backbone.stages.{s}.{b}.depthwise_conv", CONV),
        Rule(_OUR_BLOCK + ".norm", "backbone.stages.{s}.{b}.norm", NORM),
        Rule(_OUR_BLOCK + ".fc{n}", "backbone.stages.{s}.{b}.pointwise_conv{n}", ANY_LINEAR),
        Rule(_OUR_BLOCK + ".grn", "backbone.stages.{s}.{b}.grn", {"gamma": ("gamma", SAME), "beta": ("beta", SAME)}),
        Rule("encoder.norms.{i}", "backbone.norm{i}", NORM),
    ),
    parts={"encoder": "backbone."},
    ignored={r"head\..*": "mmpretrain's classifier"},
    numerics="mmseg",
    # A classifier of mmpretrain has the last of the norms alone.
    optional=(*_NO_GAMMA, r"encoder\.norms\.[012]\..*"),
)


def _timm(stem: str, stage: str) -> tuple[Rule, ...]:
    stem, stage = "backbone." + stem, "backbone." + stage
    block = stage + ".blocks.{b}"
    return (
        Rule("encoder.stem.projection", stem.format(0), STEM),
        Rule("encoder.stem.norm", stem.format(1), NORM),
        Rule("encoder.downsamples.{s}.norm", stage.replace("{s}", "{s+1}") + ".downsample.0", NORM),
        Rule("encoder.downsamples.{s}.reduction", stage.replace("{s}", "{s+1}") + ".downsample.1", CONV),
        Rule(_OUR_BLOCK, block, {"gamma": ("gamma", SAME)}),
        Rule(_OUR_BLOCK + ".depthwise", block + ".conv_dw", CONV),
        Rule(_OUR_BLOCK + ".norm", block + ".norm", NORM),
        Rule(_OUR_BLOCK + ".fc{n}", block + ".mlp.fc{n}", ANY_LINEAR),
        Rule(_OUR_BLOCK + ".grn", block + ".mlp.grn", {"weight": ("gamma", SAME), "bias": ("beta", SAME)}),
    )


TIMM = KeyMap(
    # The second names are those of `create_model(features_only=True)`.
    rules=(*_timm("stem.{}", "stages.{s}"), *_timm("stem_{}", "stages_{s}")),
    parts={"encoder": "backbone."},
    ignored={
        r"head\..*": "timm's classifier",
        r"(backbone\.)?norm_pre\..*": "a norm of the classifier, no part of the stages' maps",
    },
    numerics="timm",
    output_norms=False,
    optional=_NO_GAMMA,
)

_HF_BLOCK = "backbone.encoder.stages.{s}.layers.{b}"
_GRN = _shaped(1, 1, 1, -1)

TRANSFORMERS = KeyMap(
    rules=(
        Rule("encoder.stem.projection", "backbone.embeddings.patch_embeddings", STEM),
        Rule("encoder.stem.norm", "backbone.embeddings.layernorm", NORM),
        Rule("encoder.downsamples.{s}.norm", "backbone.encoder.stages.{s+1}.downsampling_layer.0", NORM),
        Rule("encoder.downsamples.{s}.reduction", "backbone.encoder.stages.{s+1}.downsampling_layer.1", CONV),
        Rule(_OUR_BLOCK, _HF_BLOCK, {"layer_scale_parameter": ("gamma", SAME)}),
        Rule(_OUR_BLOCK + ".depthwise", _HF_BLOCK + ".dwconv", CONV),
        Rule(_OUR_BLOCK + ".norm", _HF_BLOCK + ".layernorm", NORM),
        Rule(_OUR_BLOCK + ".fc{n}", _HF_BLOCK + ".pwconv{n}", ANY_LINEAR),
        Rule(_OUR_BLOCK + ".grn", _HF_BLOCK + ".grn", {"weight": ("gamma", _GRN), "bias": ("beta", _GRN)}),
        Rule("encoder.norms.{i}", "backbone.hidden_states_norms.stage{i+1}", NORM),
    ),
    parts={"encoder": "backbone."},
    prefixes=("convnextv2.", "convnext."),
    ignored={
        r"backbone\.layernorm\..*": "a norm of the pooled map, for classifiers",
        r"classifier\..*": "transformers' classifier",
    },
    numerics="transformers",
    output_norms=r".*hidden_states_norms\..*",
    # A backbone has norms for the maps alone that it was asked for.
    optional=(*_NO_GAMMA, r"encoder\.norms\.\d\..*"),
)

_TV_BLOCK = "backbone.features.{2*s+1}.{b}"

TORCHVISION = KeyMap(
    rules=(
        Rule("encoder.stem.projection", "backbone.features.0.0", STEM),
        Rule("encoder.stem.norm", "backbone.features.0.1", NORM),
        Rule("encoder.downsamples.{s}.norm", "backbone.features.{2*s+2}.0", NORM),
        Rule("encoder.downsamples.{s}.reduction", "backbone.features.{2*s+2}.1", CONV),
        Rule(_OUR_BLOCK, _TV_BLOCK, {"layer_scale": ("gamma", _shaped(-1, 1, 1))}),
        Rule(_OUR_BLOCK + ".depthwise", _TV_BLOCK + ".block.0", CONV),
        Rule(_OUR_BLOCK + ".norm", _TV_BLOCK + ".block.2", NORM),
        Rule(_OUR_BLOCK + ".fc1", _TV_BLOCK + ".block.3", ANY_LINEAR),
        Rule(_OUR_BLOCK + ".fc2", _TV_BLOCK + ".block.5", ANY_LINEAR),
    ),
    parts={"encoder": "backbone."},
    ignored={r"classifier\..*": "torchvision's classifier, which has a norm of its own"},
    numerics="torchvision",
    output_norms=False,
)

CONVNEXT = {
    # A file of REST is a whole model of its own: it lacks nothing.
    "rest": dataclasses.replace(MMSEG, ignored={}, optional=()),
    "mmseg": MMSEG,
    "timm": TIMM,
    "transformers": TRANSFORMERS,
    "torchvision": TORCHVISION,
}
